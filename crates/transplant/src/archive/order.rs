//! In which order an archive holds its files: what an import may read lies together, apart from the
//! tests, sources and headers around it.
//!
//! A frame is read whole, and a package's bytecode is a tenth of it: so arranged, a mounted archive
//! reads half as much until a program has started, and all of it stands at its beginning.

use crate::archive::entry::{Entry, Kind};
use crate::archive::listing::CHUNK;
use crate::archive::place::EDITS;

/// Of the standard library, what `site`, the driver and cloudpickle import, in about this order.
const EARLY: [&[u8]; 6] = [
    b"encodings",
    b"__pycache__",
    b"collections",
    b"importlib",
    b"re",
    b"lib-dynload",
];
/// No import of a package needs its tests.
const NEVER: [&[u8]; 2] = [b"tests", b"test"];

/// When a file is likely to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// By every Python: the interpreter, its library, what it starts with.
    Start,
    /// By an import of the package that it belongs to.
    Import,
    /// By whoever asks what is installed: a little of each package.
    Metadata,
    /// Seldom.
    Else,
}

/// Files by their use; of those that a start reads, what comes early; then those that are small, since
/// large ones are read in parts, and last by path. The rest of an archive follows from that.
pub(crate) fn order(entries: &[Entry]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.retain(|&index| matches!(entries[index].kind, Kind::File(_)));
    order.sort_by_cached_key(|&index| {
        let Entry { path, kind, .. } = &entries[index];
        let is_large = matches!(kind, Kind::File(size) if *size > piece(use_of(path)));
        let is_long = path.ends_with(b"/RECORD") || path.ends_with(b"/SOURCES.txt");
        (use_of(path), is_large, is_long, rank(path), index)
    });
    order
}

/// How much of a large file lies in one frame: a larger one has frames of its own.
pub(crate) fn piece(group: Use) -> u64 {
    if group == Use::Else { 4 * CHUNK } else { CHUNK }
}

/// By its path.
pub(crate) fn use_of(path: &[u8]) -> Use {
    let mut names = path.split(|&byte| byte == b'/');
    let mut next = || names.next().unwrap_or(b"");
    let (first, second, third) = (next(), next(), next());
    let is_library = first == b"lib" && second.starts_with(b"python3.");
    let begins = |start: &[u8]| second.starts_with(start);
    if first == b"bin" && begins(b"python") || first == b"lib" && begins(b"libpython") {
        return Use::Start;
    }
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    // A mount reads its edits before anything else, and `site` all `.pth` files:
    // https://docs.python.org/3/library/site.html
    if name.ends_with(b".pth") || path == EDITS.as_bytes() {
        return Use::Start;
    }
    let parent = path.rsplit(|&byte| byte == b'/').nth(1).unwrap_or(b"");
    if parent.ends_with(b".dist-info") || parent.ends_with(b".egg-info") {
        return Use::Metadata;
    }
    if !is_code(name)
        || path
            .split(|&byte| byte == b'/')
            .any(|name| NEVER.contains(&name))
    {
        return Use::Else;
    }
    if is_library && EARLY.contains(&third) {
        return Use::Start;
    }
    Use::Import
}

/// Of what a start reads in the library: what comes early has a low one.
pub(crate) fn rank(path: &[u8]) -> Option<usize> {
    if use_of(path) != Use::Start {
        return None;
    }
    let directory = path.split(|&byte| byte == b'/').nth(2)?;
    let early = EARLY.iter().position(|early| *early == directory);
    Some(early.unwrap_or(EARLY.len()))
}

fn is_code(name: &[u8]) -> bool {
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    // What `python -O` reads is of no interest to the others, and named `.opt-1.pyc`: PEP 488.
    // Made to fit its place, `_sysconfigdata` has no bytecode.
    name.ends_with(b".pyc") && !has(b".opt-")
        || name.starts_with(b"_sysconfigdata")
        || name.ends_with(b".so")
        || has(b".so.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_first_comes_first() {
        let site = "lib/python3.11/site-packages";
        for (path, expected) in [
            ("bin/python3.11".to_owned(), Use::Start),
            ("lib/libpython3.11.so.1.0".to_owned(), Use::Start),
            (
                "lib/python3.11/__pycache__/os.cpython-311.pyc".to_owned(),
                Use::Start,
            ),
            (
                "lib/python3.11/__pycache__/os.cpython-311.opt-1.pyc".to_owned(),
                Use::Else,
            ),
            ("lib/python3.11/os.py".to_owned(), Use::Else),
            (
                "lib/python3.11/json/__pycache__/decoder.cpython-311.pyc".to_owned(),
                Use::Import,
            ),
            (
                format!("{site}/p/_c.cpython-311-x86_64-linux-gnu.so"),
                Use::Import,
            ),
            (format!("{site}/p.libs/libz-1.so.1"), Use::Import),
            (
                format!("{site}/p/tests/__pycache__/t.cpython-311.pyc"),
                Use::Else,
            ),
        ] {
            assert_eq!(use_of(path.as_bytes()), expected, "{path}");
        }
    }
}
