//! What of an archive's tar is of no file: headers, and the zeros behind files and at the end.
//!
//! It follows from the entries and from where their files lie. So it has no digest, and who gives the
//! tar to others compares it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::archive::entry::{Entry, Kind};
use crate::archive::frame::Place;
use crate::archive::index::Archive;
use crate::archive::place::MTIME;
use crate::error::Error;

/// A tar ends with two blocks of zeros.
pub(crate) const END: usize = 1024;
pub(crate) const BLOCK: u64 = 512;

/// By frame: where in its content something of no file begins, and what that is.
pub(crate) struct Outline<'a> {
    archive: &'a Archive,
    gaps: Vec<Vec<(usize, Gap)>>,
    same: HashMap<usize, usize>,
}

#[derive(Debug, Clone, Copy)]
enum Gap {
    /// Of an entry.
    Header(usize),
    Zeros(usize),
}

impl<'a> Outline<'a> {
    /// What an archive's ought to be. In format 1 there is none: digests are those of whole frames.
    pub(crate) fn of(archive: &'a Archive) -> Result<Self, Error> {
        let mut outline = Self {
            archive,
            gaps: vec![Vec::new(); archive.frames.len()],
            same: HashMap::new(),
        };
        if archive.is_first_format() || outline.fill().is_some() {
            return Ok(outline);
        }
        Err(Error::Damaged {
            path: archive.path().to_path_buf(),
            reason: "its files do not lie where a tar has them".to_owned(),
        })
    }

    /// Whether the content of a frame has it.
    pub(crate) fn compare(&self, frame: usize, content: &[u8]) -> Result<(), Error> {
        let is_there = |(offset, gap): &(usize, Gap)| match *gap {
            Gap::Header(entry) => {
                (self.header(entry)).is_some_and(|header| content[*offset..].starts_with(&header))
            }
            Gap::Zeros(count) => {
                let zeros = content.get(*offset..*offset + count);
                zeros.is_some_and(|zeros| zeros.iter().all(|&byte| byte == 0))
            }
        };
        if self.gaps[frame].iter().all(is_there) {
            return Ok(());
        }
        Err(Error::Damaged {
            path: self.archive.path().to_path_buf(),
            reason: format!("frame {frame} is not what its index says"),
        })
    }

    fn header(&self, entry: usize) -> Option<Vec<u8>> {
        let entries = &self.archive.entries;
        let first = self.same.get(&entry).map(|&first| &entries[first]);
        header(&entries[entry], first).ok()
    }

    /// Nothing, if the files do not lie where a tar has them.
    fn fill(&mut self) -> Option<()> {
        let (entries, frames) = (&self.archive.entries, &self.archive.frames);
        let mut files: Vec<(Place, u64, usize)> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if let (Kind::File(size), Some(place)) = (&entry.kind, self.archive.places[index]) {
                files.push((place, *size, index));
            }
        }
        files.sort_unstable();
        for alike in files.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)) {
            for (_, _, other) in &alike[1..] {
                self.same.insert(*other, alike[0].2);
            }
        }
        let mut begins = vec![0];
        for frame in frames {
            begins.push(begins.last()? + frame.length);
        }
        let order = files.iter().map(|(_, _, index)| *index);
        let mut at = 0;
        for index in sequence(entries, &self.same, order) {
            at = self.put(&begins, at, Gap::Header(index))?;
            if let (Kind::File(size), Some(place)) =
                (&entries[index].kind, self.archive.places[index])
                && !self.same.contains_key(&index)
            {
                if begins[place.frame] + place.offset != at {
                    return None;
                }
                at = self.put(&begins, at + size, Gap::Zeros(zeros(*size)))?;
            }
        }
        let end = self.put(&begins, at, Gap::Zeros(END))?;
        (Some(&end) == begins.last()).then_some(())
    }

    /// Where it ends, if it lies in one frame.
    fn put(&mut self, begins: &[u64], at: u64, gap: Gap) -> Option<u64> {
        let length = match gap {
            Gap::Header(entry) => self.header(entry)?.len(),
            Gap::Zeros(0) => return Some(at),
            Gap::Zeros(count) => count,
        };
        let end = at + length as u64;
        let frame = begins
            .partition_point(|begin| *begin <= at)
            .checked_sub(1)?;
        if end > *begins.get(frame + 1)? {
            return None;
        }
        let offset = usize::try_from(at - begins[frame]).ok()?;
        self.gaps[frame].push((offset, gap));
        Some(end)
    }
}

/// In which order the tar holds the entries: directories; files, as `order` has them; and links, those
/// to files that are the same as others among them.
pub(crate) fn sequence(
    entries: &[Entry],
    same: &HashMap<usize, usize>,
    order: impl Iterator<Item = usize>,
) -> Vec<usize> {
    let all = 0..entries.len();
    let is_file =
        |index: &usize| matches!(entries[*index].kind, Kind::File(_)) && !same.contains_key(index);
    let is_directory = |index: &usize| entries[*index].kind == Kind::Directory;
    let mut sequence: Vec<usize> = all.clone().filter(is_directory).collect();
    sequence.extend(order.filter(is_file));
    sequence.extend(all.filter(|index| !is_directory(index) && !is_file(index)));
    sequence
}

/// How many there are behind a file of this size, up to the end of its last block.
pub(crate) fn zeros(size: u64) -> usize {
    let padding = size.next_multiple_of(BLOCK) - size;
    usize::try_from(padding).expect("less than a block")
}

/// The blocks before the data of an entry: longer than one for a long path. One that has the bytes of
/// an earlier one is a hard link to it.
pub(crate) fn header(entry: &Entry, same: Option<&Entry>) -> io::Result<Vec<u8>> {
    let path = Path::new(OsStr::from_bytes(&entry.path));
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(u64::try_from(MTIME).expect("after 1970"));
    header.set_uid(0);
    header.set_gid(0);
    let mut builder = tar::Builder::new(Vec::new());
    match &entry.kind {
        _ if let Some(first) = same => {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            builder.append_link(&mut header, path, OsStr::from_bytes(&first.path))?;
        }
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, path, io::empty())?;
        }
        Kind::File(size) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(*size);
            builder.append_data(&mut header, path, io::empty())?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, OsStr::from_bytes(target))?;
        }
    }
    // Without the end that it would add.
    Ok(builder.get_ref().clone())
}
