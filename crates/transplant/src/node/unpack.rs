//! Unpacks an archive on all processors, and checks every byte before it reaches a file.
//!
//! The subtlety: links are made last, and every file is made new, so that nothing in an archive can
//! lead a write to somewhere else. Until [`unpack`] returns, the directory is not to be used, and
//! if it fails, it is to be removed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use walkdir::WalkDir;

use crate::archive::entry::{Entry, Kind};
use crate::archive::frame::{FrameReader, offsets};
use crate::archive::index::Archive;
use crate::archive::outline::Outline;
use crate::archive::place::MTIME;
use crate::error::Error;
use crate::node::extent::{Extent, Extents};
use crate::parallel;

/// Frames that one thread takes in a row: two threads in one directory wait for each other.
const RUN: usize = 4;

/// A tree that stands.
#[derive(Debug)]
pub struct Unpacked {
    /// Entries of all kinds.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// The bytes of one file in one frame.
pub(crate) struct Piece {
    pub(crate) entry: usize,
    pub(crate) frame: usize,
    /// In the content of the frame.
    pub(crate) offset: usize,
    pub(crate) length: usize,
    /// In the file.
    pub(crate) at: u64,
    /// Whether the file has no other piece.
    pub(crate) whole: bool,
}

/// Checks all of an archive, and what tar reads of it as well, and writes nothing.
pub fn verify(archive: &Archive, file: &File) -> Result<(), Error> {
    let outline = Outline::of(archive)?;
    each_frame(archive, file, |frame, content| {
        outline.compare(frame, content)
    })
}

/// Unpacks into `root`, a directory that exists and is empty. Modes are the archive's, as they are
/// where it is mounted, whatever the umask.
pub fn unpack(archive: &Archive, file: &File, root: &Path) -> Result<Unpacked, Error> {
    let tree = Target::new(archive, root)?;
    let (pieces, first) = pieces(archive);
    // Of several threads that write to one file none can be the one that makes it.
    for piece in pieces.iter().filter(|piece| !piece.whole && piece.at == 0) {
        tree.create(&archive.entries[piece.entry])
            .map_err(tree.failed("write", piece.entry))?;
    }
    each_frame(archive, file, |frame, content| {
        for piece in &pieces[first[frame]..first[frame + 1]] {
            let bytes = &content[piece.offset..piece.offset + piece.length];
            tree.write(&archive.entries[piece.entry], piece, bytes)
                .map_err(tree.failed("write", piece.entry))?;
        }
        Ok(())
    })?;
    for (index, entry) in archive.entries.iter().enumerate() {
        tree.finish(entry).map_err(tree.failed("make", index))?;
    }
    for (index, entry) in archive.entries.iter().enumerate() {
        if entry.kind == Kind::Directory && (entry.mode & 0o700 != 0o700 || tree.masks(entry.mode))
        {
            tree.chmod(&entry.path, entry.mode)
                .map_err(tree.failed("make", index))?;
        }
    }
    // Files in several pieces, of which the last one to be written would have changed it again.
    for piece in pieces.iter().filter(|piece| !piece.whole && piece.at == 0) {
        let entry = &archive.entries[piece.entry];
        tree.open(entry, OFlag::O_WRONLY)
            .and_then(|file| tree.settle(&file, entry))
            .map_err(tree.failed("write", piece.entry))?;
    }
    Ok(Unpacked {
        entries: archive.entries.len(),
        bytes: archive.bytes(),
    })
}

/// Removes a tree, or whatever has its place, also one whose directories nobody may write to.
pub fn remove(root: &Path) -> io::Result<()> {
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.is_dir() => {}
        _ => return fs::remove_file(root),
    }
    // Each before what is in it is looked for.
    for entry in WalkDir::new(root).into_iter().filter_map(Result::ok) {
        if entry.file_type().is_dir() {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700)).ok();
        }
    }
    fs::remove_dir_all(root)
}

/// Where it is unpacked to. Directories are made when something is to lie in them, so that all
/// processors share that work as well.
struct Target<'a> {
    archive: &'a Archive,
    path: &'a Path,
    /// Paths are looked up from here, not from `/` each time.
    root: OwnedFd,
    directories: HashMap<&'a [u8], Directory>,
    umask: u32,
}

struct Directory {
    mode: u32,
    is_made: AtomicBool,
}

impl<'a> Target<'a> {
    fn new(archive: &'a Archive, path: &'a Path) -> Result<Self, Error> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty())
            .map_err(|error| Error::io("open", path)(error.into()))?;
        let directories = archive
            .entries
            .iter()
            .filter(|entry| entry.kind == Kind::Directory)
            .map(|entry| {
                let directory = Directory {
                    mode: entry.mode,
                    is_made: AtomicBool::new(false),
                };
                (entry.path.as_slice(), directory)
            })
            .collect();
        Ok(Self {
            archive,
            path,
            root,
            directories,
            umask: umask(),
        })
    }

    /// Whether a new file does not get this mode by itself.
    fn masks(&self, mode: u32) -> bool {
        mode & self.umask != 0
    }

    fn chmod(&self, path: &[u8], mode: u32) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(&self.root, path, mode, FchmodatFlags::FollowSymlink)
    }

    fn failed(&self, action: &'static str, entry: usize) -> impl FnOnce(Errno) -> Error {
        let name = OsStr::from_bytes(&self.archive.entries[entry].path);
        let path = self.path.join(name);
        move |error| {
            // In a directory that was empty.
            let twin = (error == Errno::EEXIST).then(|| self.twin(entry)).flatten();
            match twin {
                Some(other) => Error::Folded { path, other },
                None => Error::io(action, &path)(error.into()),
            }
        }
    }

    /// What differs from an entry by capital letters alone.
    fn twin(&self, entry: usize) -> Option<PathBuf> {
        let folded = |entry: &Entry| String::from_utf8_lossy(&entry.path).to_lowercase();
        let name = folded(&self.archive.entries[entry]);
        let mut others = (self.archive.entries.iter().enumerate())
            .filter(|(index, other)| *index != entry && folded(other) == name);
        let (_, other) = others.next()?;
        Some(self.path.join(OsStr::from_bytes(&other.path)))
    }

    /// A new file, empty.
    fn create(&self, entry: &Entry) -> nix::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = match self.open(entry, flags) {
            Err(Errno::ENOENT) => {
                self.make(parent(&entry.path))?;
                self.open(entry, flags)
            }
            opened => opened,
        }?;
        if self.masks(0o700) {
            // It may have to be opened again.
            fchmod(&file, Mode::from_bits_truncate(entry.mode | 0o200))?;
        }
        Ok(file)
    }

    fn write(&self, entry: &Entry, piece: &Piece, bytes: &[u8]) -> nix::Result<()> {
        let file = if piece.whole {
            self.create(entry)?
        } else {
            self.open(entry, OFlag::O_WRONLY)?
        };
        file.write_all_at(bytes, piece.at)
            .map_err(|error| errno(&error))?;
        if piece.whole {
            self.settle(&file, entry)?;
        }
        Ok(())
    }

    /// The time and mode of a file that is complete.
    fn settle(&self, file: &File, entry: &Entry) -> nix::Result<()> {
        // A `.pyc` is good for a source of this very time (PEP 552), and other programs compare the times
        // of what they made with those of what they made it from. What Python compiled may be newer.
        if !entry.path.ends_with(b".pyc") {
            let time = TimeSpec::new(MTIME, 0);
            futimens(file, &time, &time)?;
        }
        if entry.mode & 0o200 == 0 || self.masks(entry.mode) {
            fchmod(file, Mode::from_bits_truncate(entry.mode))?;
        }
        Ok(())
    }

    fn open(&self, entry: &Entry, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Opened twice where it is large, whatever its mode will be.
        let mode = Mode::from_bits_truncate(entry.mode | 0o200);
        let file = nix::fcntl::openat(&self.root, entry.path.as_slice(), flags, mode)?;
        Ok(File::from(file))
    }

    fn make(&self, path: &[u8]) -> nix::Result<()> {
        let directory = self.directories.get(path);
        // Writable for now, whatever it will be: there is more to come.
        let mode = directory.map_or(0o755, |directory| directory.mode) | 0o700;
        let is_new = match mkdirat(&self.root, path, Mode::from_bits_truncate(mode)) {
            Err(Errno::ENOENT) if !path.is_empty() => {
                self.make(parent(path))?;
                return self.make(path);
            }
            // Another thread was faster, or this is another name for the same, which shows in the end.
            Err(Errno::EEXIST) => false,
            made => made.map(|()| true)?,
        };
        if self.masks(0o700) {
            self.chmod(path, mode)?;
        }
        if let (Some(directory), true) = (directory, is_new) {
            directory.is_made.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What is not written: links, directories without files, and modes that would have been in the way.
    fn finish(&self, entry: &Entry) -> nix::Result<()> {
        let path = entry.path.as_slice();
        match &entry.kind {
            Kind::Symlink(target) => {
                let link = || nix::unistd::symlinkat(target.as_slice(), &self.root, path);
                match link() {
                    Err(Errno::ENOENT) => {
                        self.make(parent(path))?;
                        link()
                    }
                    made => made,
                }
            }
            Kind::Directory => match self.directories.get(path) {
                Some(directory) if directory.is_made.load(Ordering::Relaxed) => Ok(()),
                // There are no other threads any more.
                made => self.make(path).and_then(|()| match made {
                    Some(directory) if !directory.is_made.load(Ordering::Relaxed) => {
                        Err(Errno::EEXIST)
                    }
                    _ => Ok(()),
                }),
            },
            Kind::File(_) => Ok(()),
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    &path[..end]
}

/// This process's, which cannot be asked for without being changed for a moment. Where it is not
/// known, modes are set all the same.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o777)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Sorted by frame, and where those of each frame begin.
pub(crate) fn pieces(archive: &Archive) -> (Vec<Piece>, Vec<usize>) {
    let extents = Extents::new(archive);
    let mut pieces = Vec::new();
    for (entry, (each, place)) in archive.entries.iter().zip(&archive.places).enumerate() {
        let (Kind::File(size), Some(place)) = (&each.kind, place) else {
            continue;
        };
        // In the frame where it would begin.
        let empty = (*size == 0).then_some(Extent {
            frame: place.frame,
            offset: place.offset,
            length: 0,
        });
        let mut at = 0;
        for extent in extents.of_file(*place, *size).chain(empty) {
            pieces.push(Piece {
                entry,
                frame: extent.frame,
                offset: usize::try_from(extent.offset).expect("within a frame"),
                length: usize::try_from(extent.length).expect("within a frame"),
                at,
                whole: extent.length == *size,
            });
            at += extent.length;
        }
    }
    pieces.sort_by_key(|piece| piece.frame);
    let first = (0..=archive.frames.len())
        .map(|frame| pieces.partition_point(|piece| piece.frame < frame))
        .collect();
    (pieces, first)
}

/// Decompresses and checks each frame, and hands its content over, on all processors.
fn each_frame(
    archive: &Archive,
    file: &File,
    take: impl Fn(usize, &[u8]) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let offsets = offsets(archive);
    let counter = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let one = |reader: &mut FrameReader, content: &mut Vec<u8>, index: usize| {
        reader.read(archive, file, index, offsets[index], content)?;
        take(index, content)
    };
    let worker = || {
        let mut content = Vec::new();
        let mut reader = match FrameReader::new(archive) {
            Ok(reader) => reader,
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                failed
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .get_or_insert(error);
                return;
            }
        };
        while !stop.load(Ordering::Relaxed) {
            let begin = counter.fetch_add(RUN, Ordering::Relaxed);
            if begin >= archive.frames.len() {
                return;
            }
            let end = (begin + RUN).min(archive.frames.len());
            let done = (begin..end).try_for_each(|index| one(&mut reader, &mut content, index));
            if let Err(error) = done {
                stop.store(true, Ordering::Relaxed);
                failed
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .get_or_insert(error);
            }
        }
    };
    parallel::share(archive.frames.len(), worker);
    let failed = failed
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}
