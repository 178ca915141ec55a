//! A search path for a program that has none, or a longer one, without moving anything in the file.
//!
//! Linkers leave room: empty lines at the end of the dynamic section, and zeros behind a segment, up to
//! the next one's page. The path goes there, and the segment grows over it. As RPATH and not as
//! RUNPATH: that of a program counts for all the libraries that it loads, and for those that they load.
//! <https://man7.org/linux/man-pages/man8/ld.so.8.html>

use std::io;
use std::path::Path;

use goblin::elf::dynamic::{DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB};
use goblin::elf::program_header::PT_LOAD;

use super::layout::{Layout, Read, Segment, with_tables};

/// Bytes in the place of others, by where they begin.
type Patches = Vec<(u64, Vec<u8>)>;

/// What to change in a program so that its search path is this one; nothing if there is no room.
pub(crate) fn with_search_path(program: &Path, path: &str) -> io::Result<Option<Patches>> {
    with_tables(program, |header, read| patches(header, read, path))
}

/// What makes search paths count for whatever a library loads in turn, by where their tags stand.
pub(crate) fn inherited(runpaths: &[u64]) -> Patches {
    let tag = DT_RPATH.to_le_bytes().to_vec();
    runpaths.iter().map(|&at| (at, tag.clone())).collect()
}

fn patches(header: &[u8; 64], read: Read<'_>, path: &str) -> Option<Patches> {
    let layout = Layout::of(header, read)?;
    let strings_at = layout.value(DT_STRTAB)?;
    let (segment, _) = layout.within(strings_at)?;
    // What is zero in memory alone begins where the file ends.
    if segment.length != segment.size {
        return None;
    }
    let mut text = path.as_bytes().to_vec();
    text.push(0);
    let length = text.len() as u64;
    let begin = segment.offset.checked_add(segment.length)?;
    let end = begin.checked_add(length)?;
    let in_memory = segment.address.checked_add(segment.length)?;
    let is_free = |other: &Segment| {
        let page = other.alignment.max(4096);
        let file = other.offset..other.offset.saturating_add(other.length.max(1));
        let before = file.end <= begin || file.start >= end;
        let pages = other.address - other.address % page;
        let above = in_memory.saturating_add(length);
        before && (other.kind != PT_LOAD || other.address < in_memory || pages >= above)
    };
    let table = u64::from_le_bytes(header[40..48].try_into().ok()?);
    let is_table = (begin..end).contains(&table);
    if is_table
        || !layout.segments.iter().all(is_free)
        || read(begin, length)?.iter().any(|&b| b != 0)
    {
        return None;
    }
    let place = in_memory.checked_sub(strings_at)?;
    let line = |tag: u64, value: u64| [tag.to_le_bytes(), value.to_le_bytes()].concat();
    let is_path = |tag: u64| tag == DT_RPATH || tag == DT_RUNPATH;
    let mut patches: Patches = layout
        .entries()
        .filter(|each| is_path(each.tag))
        .map(|each| (each.at, line(DT_RPATH, place)))
        .collect();
    if patches.is_empty() {
        // One more empty line has to stay behind it.
        let mut empty = layout.dynamic.iter().skip_while(|each| each.tag != DT_NULL);
        let first = empty.next()?;
        empty.next().filter(|next| next.tag == DT_NULL)?;
        patches.push((first.at, line(DT_RPATH, place)));
    }
    let sizes = layout.entries().filter(|each| each.tag == DT_STRSZ);
    patches.extend(sizes.map(|each| (each.at, line(DT_STRSZ, place.saturating_add(length)))));
    let grown = (segment.length + length).to_le_bytes();
    patches.push((segment.header_at + 32, [grown, grown].concat()));
    patches.push((begin, text));
    Some(patches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::linkage;

    fn patched(bytes: &mut [u8], patches: &Patches) {
        for (at, patch) in patches {
            let at = usize::try_from(*at).unwrap();
            bytes[at..at + patch.len()].copy_from_slice(patch);
        }
    }

    #[test]
    fn a_program_with_another_search_path_is_read_so_and_starts() {
        let Ok(me) = std::env::current_exe() else {
            return;
        };
        let root = tempfile::tempdir().unwrap();
        // `true` is small, and whoever made it left room in it on every system that was looked at.
        for program in ["/bin/true", "/usr/bin/env"] {
            let program = Path::new(program).canonicalize().unwrap();
            let Some(patches) = with_search_path(&program, "$ORIGIN/../lib/htmap-exec").unwrap()
            else {
                continue;
            };
            let copy = root.path().join("copy");
            let mut bytes = std::fs::read(&program).unwrap();
            patched(&mut bytes, &patches);
            std::fs::copy(&program, &copy).unwrap();
            std::fs::write(&copy, &bytes).unwrap();
            let found = linkage::read(&copy).unwrap().unwrap();
            assert_eq!(found.search.len(), 1);
            assert_eq!(found.search[0].1, "$ORIGIN/../lib/htmap-exec");
            assert!(found.runpaths.is_empty());
            let before = linkage::read(&program).unwrap().unwrap();
            assert_eq!(
                (found.needed, found.versions),
                (before.needed, before.versions)
            );
            // Once more, over what is there by now.
            assert!(with_search_path(&copy, "x").unwrap().is_some());
        }
        assert!(
            with_search_path(&me, &"x".repeat(1 << 20))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn nothing_that_is_bent_makes_it_panic() {
        let whole = std::fs::read("/bin/true").unwrap();
        for at in 0..whole.len().min(2048) {
            for bits in [0xff, 0x01, 0x80] {
                let mut bent = whole.clone();
                bent[at] ^= bits;
                let header: [u8; 64] = bent[..64].try_into().unwrap();
                let read = |offset: u64, length: u64| {
                    let begin = usize::try_from(offset).ok()?;
                    let end = begin.checked_add(usize::try_from(length).ok()?)?;
                    bent.get(begin..end).map(<[u8]>::to_vec)
                };
                patches(&header, &read, "$ORIGIN");
            }
        }
    }
}
