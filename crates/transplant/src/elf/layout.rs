//! Where everything is in an ELF file: its program headers and its dynamic section, which are all that
//! the loader goes by. <https://refspecs.linuxfoundation.org/elf/gabi4+/ch5.dynamic.html>

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use goblin::elf::dynamic::DT_NULL;
use goblin::elf::header::{EM_AARCH64, EM_X86_64};
use goblin::elf::program_header::{PF_W, PF_X, PT_DYNAMIC, PT_LOAD};

/// No table of ours is longer; what claims more is no file that runs.
const LARGEST_TABLE: u64 = 64 << 20;

/// Of a file whose header and tables can be asked for.
pub(crate) fn with_tables<T>(
    path: &Path,
    of: impl FnOnce(&[u8; 64], Read<'_>) -> Option<T>,
) -> io::Result<Option<T>> {
    let file = File::open(path)?;
    let mut header = [0; 64];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let size = file.metadata()?.len();
    Ok(of(&header, &|offset, length| {
        if length > LARGEST_TABLE || offset.checked_add(length)? > size {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }))
}

/// The same of bytes that lie anywhere.
pub(crate) fn of_bytes<T>(
    read: Read<'_>,
    of: impl FnOnce(&[u8; 64], Read<'_>) -> Option<T>,
) -> Option<T> {
    let header = read(0, 64)?;
    of(header.as_slice().try_into().ok()?, read)
}

/// A line of the program headers.
pub(crate) struct Segment {
    /// Where that line stands in the file.
    pub(crate) header_at: u64,
    pub(crate) kind: u32,
    flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    /// In the file.
    pub(crate) length: u64,
    /// In memory.
    pub(crate) size: u64,
    pub(crate) alignment: u64,
}

/// A line of the dynamic section.
pub(crate) struct Dynamic {
    /// Where it stands in the file.
    pub(crate) at: u64,
    pub(crate) tag: u64,
    pub(crate) value: u64,
}

/// What the loader goes by: where everything is, in the file and in memory.
pub(crate) struct Layout {
    pub(crate) segments: Vec<Segment>,
    /// With the empty lines at its end.
    pub(crate) dynamic: Vec<Dynamic>,
}

/// The bytes at a place of the file, if it is as long as that.
pub(crate) type Read<'a> = &'a dyn Fn(u64, u64) -> Option<Vec<u8>>;

impl Layout {
    /// Nothing for what is no 64-bit file of this machine's kind.
    pub(crate) fn of(header: &[u8; 64], read: Read<'_>) -> Option<Self> {
        let segments = segments(header, read)?;
        let mut dynamic = Vec::new();
        if let Some(segment) = segments.iter().find(|each| each.kind == PT_DYNAMIC) {
            let lines = read(segment.offset, segment.length)?;
            dynamic.extend(
                lines
                    .chunks_exact(16)
                    .zip(0..)
                    .filter_map(|(entry, index)| {
                        Some(Dynamic {
                            at: segment.offset.checked_add(16 * index)?,
                            tag: long(entry, 0)?,
                            value: long(entry, 8)?,
                        })
                    }),
            );
        }
        Some(Self { segments, dynamic })
    }

    /// The lines that count.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Dynamic> {
        self.dynamic.iter().take_while(|each| each.tag != DT_NULL)
    }

    pub(crate) fn value(&self, wanted: u64) -> Option<u64> {
        let mut entries = self.entries();
        entries
            .find(|each| each.tag == wanted)
            .map(|each| each.value)
    }

    /// The segment that an address of the memory lies in, and how far into it.
    pub(crate) fn within(&self, address: u64) -> Option<(&Segment, u64)> {
        let segment = self.segments.iter().find(|each| {
            each.kind == PT_LOAD
                && (each.address..each.address.saturating_add(each.length)).contains(&address)
        })?;
        Some((segment, address - segment.address))
    }
}

/// The program headers alone, which stand at the beginning of nearly every file.
fn segments(header: &[u8; 64], read: Read<'_>) -> Option<Vec<Segment>> {
    let machine = if cfg!(target_arch = "aarch64") {
        EM_AARCH64
    } else {
        EM_X86_64
    };
    // 64 bits, little endian.
    if header[..6] != *b"\x7fELF\x02\x01" || half(header, 18)? != machine {
        return None;
    }
    let (at, size, count) = (
        long(header, 32)?,
        u64::from(half(header, 54)?),
        u64::from(half(header, 56)?),
    );
    let table = read(at, size.checked_mul(count)?)?;
    table
        .chunks_exact(usize::try_from(size.max(1)).ok()?)
        .zip(0..)
        .map(|(entry, index)| {
            Some(Segment {
                header_at: at.checked_add(size * index)?,
                kind: word(entry, 0)?,
                flags: word(entry, 4)?,
                offset: long(entry, 8)?,
                address: long(entry, 16)?,
                length: long(entry, 32)?,
                size: long(entry, 40)?,
                alignment: long(entry, 48)?,
            })
        })
        .collect()
}

/// Which pieces of a library the loader reads whenever it is loaded: what is found by name, and what is
/// moved to fit its place. Of the rest, its program, a little is read now and then.
pub(crate) fn loaded(header: &[u8; 64], read: Read<'_>) -> Option<Vec<(u64, u64)>> {
    let mut is_before = true;
    let mut pieces = Vec::new();
    for segment in mapped(header, read)? {
        is_before &= segment.flags & PF_X == 0;
        if is_before || segment.flags & PF_W != 0 {
            pieces.push((segment.offset, segment.length));
        }
    }
    Some(pieces)
}

/// Where what the loader reads of a file ends: only debuggers go by what lies behind that.
pub(crate) fn loaded_end(header: &[u8; 64], read: Read<'_>) -> Option<u64> {
    let ends = mapped(header, read)?.map(|each| each.offset.saturating_add(each.length));
    ends.max()
}

fn mapped(header: &[u8; 64], read: Read<'_>) -> Option<impl Iterator<Item = Segment>> {
    let segments = segments(header, read)?.into_iter();
    Some(segments.filter(|each| each.kind == PT_LOAD))
}

pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use goblin::elf::program_header::PF_R;

    /// A file of so many bytes with these segments: kind, flags, where they begin, and how long they are.
    fn file(size: usize, segments: &[(u32, u32, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let machine = if cfg!(target_arch = "aarch64") {
            EM_AARCH64
        } else {
            EM_X86_64
        };
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"\x7fELF\x02\x01");
        put(18, &machine.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (index, (kind, flags, offset, length)) in segments.iter().enumerate() {
            let at = 64 + 56 * index;
            put(at, &kind.to_le_bytes());
            put(at + 4, &flags.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 32, &length.to_le_bytes());
            // In memory there is more.
            put(at + 40, &(length + 5000).to_le_bytes());
        }
        bytes
    }

    fn ask<T>(bytes: &[u8], of: impl FnOnce(&[u8; 64], Read<'_>) -> Option<T>) -> Option<T> {
        let place = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(place.path(), bytes).unwrap();
        with_tables(place.path(), of).unwrap()
    }

    const DYNAMIC: (u32, u32, u64, u64) = (PT_DYNAMIC, PF_R | PF_W, 3600, 100);

    #[test]
    fn names_and_what_is_moved_are_read_and_the_program_is_not() {
        let linked = file(
            9000,
            &[
                (PT_LOAD, PF_R, 0, 1000),
                (PT_LOAD, PF_R | PF_X, 1000, 2000),
                (PT_LOAD, PF_R, 3000, 500),
                (PT_LOAD, PF_R | PF_W, 3500, 700),
                DYNAMIC,
            ],
        );
        assert_eq!(ask(&linked, loaded), Some(vec![(0, 1000), (3500, 700)]));
        // Symbols lie behind that, which only a debugger reads.
        assert_eq!(ask(&linked, loaded_end), Some(4200));
    }

    /// As older linkers make it: names and the program in one.
    #[test]
    fn a_program_that_lies_with_its_names_is_read_now_and_then() {
        let linked = file(
            9000,
            &[
                DYNAMIC,
                (PT_LOAD, PF_R | PF_W, 6000, 700),
                (PT_LOAD, PF_R | PF_X, 0, 3000),
            ],
        );
        assert_eq!(ask(&linked, loaded), Some(vec![(6000, 700)]));
        assert_eq!(ask(&linked, loaded_end), Some(6700));
    }

    #[test]
    fn of_no_program_nothing_is_said() {
        let linked = file(9000, &[(PT_LOAD, PF_R, 0, 1000)]);
        let other = [b"#!/bin/sh", &linked[9..]].concat();
        let cut = &linked[..100];
        for bytes in [&other, cut, b"\x7fELF"] {
            assert_eq!(ask(bytes, loaded), None);
            assert_eq!(ask(bytes, loaded_end), None);
        }
        assert_eq!(ask(&file(9000, &[DYNAMIC]), loaded_end), None);
        let wrong = file(9000, &[(PT_LOAD, PF_R, u64::MAX, 2)]);
        assert_eq!(ask(&wrong, loaded_end), Some(u64::MAX));
    }

    #[test]
    fn it_holds_of_a_program_that_runs() {
        let program = std::env::current_exe().unwrap();
        let size = std::fs::metadata(&program).unwrap().len();
        let end = with_tables(&program, loaded_end).unwrap().unwrap();
        let pieces = with_tables(&program, loaded).unwrap().unwrap();
        assert!(end < size, "the names of its sections lie behind");
        let read: u64 = pieces.iter().map(|(_, length)| length).sum();
        assert!(0 < read && read < end, "its program is not read");
        let last = pieces.iter().map(|(from, length)| from + length).max();
        assert!(last <= Some(end));
    }
}
