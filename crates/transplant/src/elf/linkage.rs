//! What an ELF file asks of the machine that runs it: libraries, versions of their symbols, loader,
//! processor.
//!
//! Only headers and the tables they point to are read, some kilobytes of files of many megabytes, so
//! that an audit of a whole environment costs next to nothing. Files of other processors, and what
//! does not parse, ask for nothing. <https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html>,
//! <https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/symversion.html>

use std::io;
use std::path::Path;

use goblin::elf::dynamic::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRSZ, DT_STRTAB, DT_VERDEF, DT_VERDEFNUM,
    DT_VERNEED, DT_VERNEEDNUM,
};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_NOTE};

use super::layout::{Layout, Read, half, with_tables, word};

/// No name of ours is longer, nor are there more of one kind.
const LONGEST_NAME: usize = 4096;
const MOST_NAMES: usize = 4096;
/// `NT_GNU_PROPERTY_TYPE_0` and `GNU_PROPERTY_X86_ISA_1_NEEDED` of the x86-64 psABI:
/// <https://gitlab.com/x86-psABIs/x86-64-ABI>
const GNU_PROPERTY: u32 = 5;
const X86_ISA_NEEDED: u32 = 0xc000_8002;

/// What one file asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Linkage {
    /// Its own name as a library.
    pub(crate) soname: Option<String>,
    /// The loader, if it is a program.
    pub(crate) loader: Option<String>,
    /// Libraries, by name.
    pub(crate) needed: Vec<String>,
    /// Where it looks for them first: lists of directories, and where in the file each stands.
    pub(crate) search: Vec<(u64, String)>,
    /// Where in the file the tags stand that make a search path one that nobody inherits (RUNPATH).
    pub(crate) runpaths: Vec<u64>,
    /// Versions of symbols, such as `GLIBC_2.34`, each with the library that is to have it.
    pub(crate) versions: Vec<(String, String)>,
    /// Versions of its own symbols, such as `GLIBCXX_3.4.30`.
    pub(crate) defined: Vec<String>,
    /// The x86-64 level, if the linker noted one.
    pub(crate) x86_64_level: Option<u8>,
}

/// Nothing for what is no dynamically linked file of this machine's kind.
pub(crate) fn read(path: &Path) -> io::Result<Option<Linkage>> {
    with_tables(path, parse)
}

fn parse(header: &[u8; 64], read: Read<'_>) -> Option<Linkage> {
    let layout = Layout::of(header, read)?;
    let mut linkage = Linkage::default();
    for segment in &layout.segments {
        match segment.kind {
            PT_INTERP => linkage.loader = text(&read(segment.offset, segment.length)?, 0),
            PT_NOTE => {
                let level = level(&read(segment.offset, segment.length)?);
                linkage.x86_64_level = linkage.x86_64_level.max(level);
            }
            _ => {}
        }
    }
    layout
        .segments
        .iter()
        .find(|each| each.kind == PT_DYNAMIC)?;
    // A table is named by where it will be in memory: where it is in the file, and how far its segment
    // goes.
    let place = |address: u64| {
        let (segment, within) = layout.within(address)?;
        Some((segment.offset.checked_add(within)?, segment.length - within))
    };
    let table = |address: u64, length: Option<u64>| {
        let (offset, rest) = place(address)?;
        read(offset, length.unwrap_or(rest))
    };
    let strings_at = layout.value(DT_STRTAB)?;
    let strings = table(strings_at, layout.value(DT_STRSZ))?;
    let string = |at: u64| text(&strings, usize::try_from(at).ok()?);
    linkage.soname = layout.value(DT_SONAME).and_then(string);
    linkage.needed = layout
        .entries()
        .filter(|each| each.tag == DT_NEEDED)
        .filter_map(|each| string(each.value))
        .take(MOST_NAMES)
        .collect();
    linkage.search = layout
        .entries()
        .filter(|each| each.tag == DT_RPATH || each.tag == DT_RUNPATH)
        .filter_map(|each| {
            let at = place(strings_at)?.0.checked_add(each.value)?;
            Some((at, string(each.value)?))
        })
        .take(MOST_NAMES)
        .collect();
    linkage.runpaths = layout
        .entries()
        .filter(|each| each.tag == DT_RUNPATH)
        .map(|each| each.at)
        .take(MOST_NAMES)
        .collect();
    // The section lies right before others of the same segment; this much is always enough.
    let names = |at, count, each: u64| -> Option<(Vec<u8>, u64)> {
        let (address, count) = (layout.value(at)?, layout.value(count)?);
        let length = count.checked_mul(each)?.min(1 << 16);
        let bytes = table(address, Some(length)).or_else(|| table(address, None))?;
        Some((bytes, count))
    };
    if layout.value(DT_VERNEED).is_some() && layout.value(DT_VERNEEDNUM).is_some() {
        let (bytes, count) = names(DT_VERNEED, DT_VERNEEDNUM, 16 + 16 * 64)?;
        linkage.versions = versions(&bytes, count, &string);
    }
    if let Some((bytes, count)) = names(DT_VERDEF, DT_VERDEFNUM, 20 + 8 * 8) {
        linkage.defined = defined(&bytes, count, &string);
    }
    Some(linkage)
}

/// The names of a table of versions that a library has itself, without its own.
fn defined(bytes: &[u8], count: u64, string: &dyn Fn(u64) -> Option<String>) -> Vec<String> {
    /// `VER_FLG_BASE`: the library's name.
    const BASE: u16 = 1;
    let mut found = Vec::new();
    let mut each = 0_usize;
    for _ in 0..count.min(MOST_NAMES as u64) {
        let (Some(flags), Some(first), Some(next)) = (
            half(bytes, each + 2),
            word(bytes, each + 12),
            word(bytes, each + 16),
        ) else {
            break;
        };
        if flags & BASE == 0
            && let Some(name) = word(bytes, each + first as usize)
            && let Some(version) = string(u64::from(name))
        {
            found.push(version);
        }
        if next == 0 {
            break;
        }
        each += next as usize;
    }
    found
}

fn versions(
    bytes: &[u8],
    count: u64,
    string: &dyn Fn(u64) -> Option<String>,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut each = 0;
    for _ in 0..count {
        let (Some(names), Some(file), Some(first), Some(next)) = (
            half(bytes, each + 2),
            word(bytes, each + 4),
            word(bytes, each + 8),
            word(bytes, each + 12),
        ) else {
            break;
        };
        let library = string(u64::from(file)).unwrap_or_default();
        let mut name = each + first as usize;
        for _ in 0..names {
            let (Some(at), Some(after)) = (word(bytes, name + 8), word(bytes, name + 12)) else {
                break;
            };
            if let Some(version) = string(u64::from(at)) {
                found.push((version, library.clone()));
            }
            if after == 0 || found.len() > MOST_NAMES {
                break;
            }
            name += after as usize;
        }
        if next == 0 || found.len() > MOST_NAMES {
            break;
        }
        each += next as usize;
    }
    found
}

/// The highest level among the notes of a segment.
fn level(notes: &[u8]) -> Option<u8> {
    let mut level = None;
    let mut at = 0;
    while let (Some(name), Some(length), Some(kind)) =
        (word(notes, at), word(notes, at + 4), word(notes, at + 8))
    {
        let begin = at + 12 + (name as usize).next_multiple_of(4);
        let end = begin.checked_add(length as usize)?;
        let content = notes.get(begin..end)?;
        if kind == GNU_PROPERTY && notes.get(at + 12..at + 16) == Some(b"GNU\0") {
            level = level.max(property(content));
        }
        // Property notes are padded to 8 bytes, and lie in a segment of their own.
        at = if kind == GNU_PROPERTY {
            end.next_multiple_of(8)
        } else {
            end.next_multiple_of(4)
        };
    }
    level
}

fn property(content: &[u8]) -> Option<u8> {
    let mut at = 0;
    while let (Some(kind), Some(length)) = (word(content, at), word(content, at + 4)) {
        if kind == X86_ISA_NEEDED {
            let bits = word(content, at + 8)?;
            return (bits & 0xf != 0).then(|| {
                u8::try_from(32 - (bits & 0xf).leading_zeros()).expect("four bits at most")
            });
        }
        at += 8 + (length as usize).next_multiple_of(8);
    }
    None
}

fn text(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let rest = &rest[..rest.len().min(LONGEST_NAME)];
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_very_program() {
        let linkage = read(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert!(
            linkage
                .needed
                .iter()
                .any(|name| name.starts_with("libc.so"))
        );
        assert!(linkage.loader.unwrap().contains("/ld-"));
        assert!(
            linkage
                .versions
                .iter()
                .any(|(version, library)| version.starts_with("GLIBC_2.")
                    && library.starts_with("libc.so"))
        );
    }

    #[test]
    fn what_is_cut_off_or_damaged_asks_for_nothing() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        for length in (0..1024).step_by(7) {
            let cut = whole[..length].to_vec();
            let mut header = [0; 64];
            let known = length.min(64);
            header[..known].copy_from_slice(&cut[..known]);
            let read = |offset: u64, length: u64| {
                let begin = usize::try_from(offset).ok()?;
                let end = begin.checked_add(usize::try_from(length).ok()?)?;
                cut.get(begin..end).map(<[u8]>::to_vec)
            };
            parse(&header, &read);
        }
        // Every byte of the header and of the first segments, bent.
        for at in 0..1024 {
            let mut bent = whole[..whole.len().min(1 << 20)].to_vec();
            bent[at] ^= 0xff;
            let header: [u8; 64] = bent[..64].try_into().unwrap();
            let read = |offset: u64, length: u64| {
                let begin = usize::try_from(offset).ok()?;
                let end = begin.checked_add(usize::try_from(length).ok()?)?;
                bent.get(begin..end).map(<[u8]>::to_vec)
            };
            parse(&header, &read);
        }
    }

    /// Of 65535 names each, in tables that overlap: more than fit into memory.
    #[test]
    fn versions_that_lead_to_themselves_end() {
        let table = [1, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0].repeat(4096);
        let found = versions(&table, u64::MAX, &|_| Some("x".repeat(LONGEST_NAME)));
        assert!(found.len() <= MOST_NAMES + 1);
    }

    #[test]
    fn own_versions_are_read_without_the_name() {
        // Flags at 2, where the name is at 12, the next one at 16.
        let entry = |flags: u16, next: u32| {
            let mut bytes = vec![1, 0];
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(&20_u32.to_le_bytes());
            bytes.extend_from_slice(&next.to_le_bytes());
            bytes.extend_from_slice(&[u8::try_from(flags).unwrap(), 0, 0, 0, 0, 0, 0, 0]);
            bytes
        };
        let table = [entry(1, 28), entry(0, 28), entry(4, 0)].concat();
        let found = defined(&table, 3, &|at| Some(format!("V_{at}")));
        assert_eq!(found, ["V_0", "V_4"]);
        // One that leads to itself, and one that is cut off.
        assert!(defined(&entry(0, u32::MAX), u64::MAX, &|_| Some(String::new())).len() <= 1);
        assert!(defined(&table[..19], 3, &|_| Some(String::new())).is_empty());
    }

    #[test]
    fn reads_the_level_of_the_processor() {
        let mut note = Vec::new();
        for number in [4_u32, 16, GNU_PROPERTY] {
            note.extend_from_slice(&number.to_le_bytes());
        }
        note.extend_from_slice(b"GNU\0");
        for number in [X86_ISA_NEEDED, 4, 0b0101, 0] {
            note.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(level(&note), Some(3));
        assert_eq!(level(&note[..20]), None);
        assert_eq!(level(b""), None);
    }
}
