//! In which order an archive holds its files: what an import may read lies together, apart from the
//! tests, sources and headers around it.
//!
//! A frame is read whole, and a package's bytecode is a tenth of it: so arranged, a mounted archive
//! reads half as much until a program has started, and all of it stands at its beginning.

use crate::archive::entry::{Entry, Kind};
use crate::archive::listing::CHUNK;
use crate::archive::place::{EDITS, LIBRARIES};

/// What `site`, the driver and cloudpickle import of the standard library, by directory: on one of Python 3.6
/// to 3.14 or another, as `sys.modules` has it when a function is called.
const EARLY: [(&[u8], &[&str]); 7] = [
    (
        b"__pycache__",
        &[
            "_bootlocale",
            "_collections_abc",
            "_colorize",
            "_compat_pickle",
            "_opcode_metadata",
            "_py_warnings",
            "_sitebuiltins",
            "_weakrefset",
            "abc",
            "annotationlib",
            "ast",
            "codecs",
            "contextlib",
            "copy",
            "copyreg",
            "dataclasses",
            "dis",
            "enum",
            "functools",
            "genericpath",
            "heapq",
            "inspect",
            "io",
            "keyword",
            "linecache",
            "opcode",
            "operator",
            "os",
            "pickle",
            "platform",
            "posixpath",
            "re",
            "reprlib",
            "selectors",
            "signal",
            "site",
            "sitecustomize",
            "sre_compile",
            "sre_constants",
            "sre_parse",
            "stat",
            "string",
            "struct",
            "subprocess",
            "textwrap",
            "threading",
            "token",
            "tokenize",
            "traceback",
            "types",
            "typing",
            "uuid",
            "warnings",
            "weakref",
            "zipimport",
        ],
    ),
    (b"collections", &["__init__", "abc"]),
    (b"encodings", &["__init__", "aliases", "latin_1", "utf_8"]),
    (
        b"importlib",
        &[
            "__init__",
            "_bootstrap",
            "_bootstrap_external",
            "abc",
            "machinery",
        ],
    ),
    (
        b"lib-dynload",
        &[
            "_heapq",
            "_opcode",
            "_pickle",
            "_posixsubprocess",
            "_socket",
            "_struct",
            "_typing",
            "_uuid",
            "grp",
            "math",
            "select",
        ],
    ),
    (b"logging", &["__init__"]),
    (
        b"re",
        &["__init__", "_casefix", "_compiler", "_constants", "_parser"],
    ),
];
/// Packages that nearly every start imports: the second one by the `.pth` file of setuptools.
const PACKAGES: [&[u8]; 2] = [b"cloudpickle", b"_distutils_hack"];
/// Where packages are installed, below the standard library.
const INSTALLED: [&[u8]; 2] = [b"site-packages", b"dist-packages"];
/// No import of a package needs its tests.
const NEVER: [&[u8]; 2] = [b"tests", b"test"];

/// When a file is likely to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// By every Python: the interpreter, its library, what it starts with.
    Start,
    /// By an import of the standard library.
    Standard,
    /// By an import of the package that it belongs to.
    Import,
    /// By whoever asks what is installed: a little of each package.
    Metadata,
    /// Seldom.
    Else,
}

/// Files by their use; then those that are small, since large ones are read in parts, and last by path.
/// The interpreter comes last of what a start reads: what only a debugger reads of it stands at its end,
/// so that all of the hot list lies together. The rest of an archive follows from that.
pub(crate) fn order(entries: &[Entry]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.retain(|&index| matches!(entries[index].kind, Kind::File(_)));
    order.sort_by_cached_key(|&index| {
        let Entry { path, kind, .. } = &entries[index];
        let group = use_of(path);
        let is_large = matches!(kind, Kind::File(size) if *size > piece(group));
        let is_long = path.ends_with(b"/RECORD") || path.ends_with(b"/SOURCES.txt");
        (group, is_large, is_interpreter(path), is_long, index)
    });
    order
}

/// How much of a large file lies in one frame: a larger one has frames of its own.
pub(crate) fn piece(group: Use) -> u64 {
    if group == Use::Else { 4 * CHUNK } else { CHUNK }
}

/// Python itself: a program, or the library that it is made of.
pub(crate) fn is_interpreter(path: &[u8]) -> bool {
    let named = |start: &[u8]| {
        path.strip_prefix(start)
            .is_some_and(|rest| !rest.contains(&b'/'))
    };
    named(b"bin/python") || named(b"lib/libpython")
}

/// By its path.
pub(crate) fn use_of(path: &[u8]) -> Use {
    let mut ends = path.rsplit(|&byte| byte == b'/');
    let (name, parent) = (ends.next().unwrap_or(path), ends.next().unwrap_or(b""));
    // A mount reads its edits before anything else, and `site` all `.pth` files:
    // https://docs.python.org/3/library/site.html
    if is_interpreter(path) || name.ends_with(b".pth") || path == EDITS.as_bytes() {
        return Use::Start;
    }
    if parent.ends_with(b".dist-info") || parent.ends_with(b".egg-info") {
        return Use::Metadata;
    }
    let mut names = path.split(|&byte| byte == b'/');
    if !is_code(name) || names.clone().any(|name| NEVER.contains(&name)) {
        return Use::Else;
    }
    let mut next = || names.next().unwrap_or(b"");
    let (first, second, third, fourth) = (next(), next(), next(), next());
    // Of `uuid`, which cloudpickle imports.
    if path.starts_with(LIBRARIES.as_bytes()) && name.starts_with(b"libuuid.so") {
        return Use::Start;
    }
    if first != b"lib" || !second.starts_with(b"python3") {
        return Use::Import;
    }
    if INSTALLED.contains(&third) {
        return if PACKAGES.contains(&fourth) {
            Use::Start
        } else {
            Use::Import
        };
    }
    let stem = name.split(|&byte| byte == b'.').next().unwrap_or(name);
    let is_early = EARLY.iter().any(|(directory, modules)| {
        third == *directory && modules.iter().any(|module| module.as_bytes() == stem)
    });
    if is_early { Use::Start } else { Use::Standard }
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
        let library = "lib/python3.11";
        let site = "lib/python3.11/site-packages";
        for (path, expected) in [
            ("bin/python3.11".to_owned(), Use::Start),
            ("lib/libpython3.11.so.1.0".to_owned(), Use::Start),
            ("lib/libpython/x.so".to_owned(), Use::Import),
            ("lib/htmap-exec/libuuid.so.1".to_owned(), Use::Start),
            ("lib/htmap-exec/libssl.so.3".to_owned(), Use::Import),
            (
                format!("{library}/__pycache__/os.cpython-311.pyc"),
                Use::Start,
            ),
            (
                format!("{library}/__pycache__/os.cpython-311.opt-1.pyc"),
                Use::Else,
            ),
            (format!("{library}/os.py"), Use::Else),
            (
                format!("{library}/encodings/__pycache__/utf_8.cpython-311.pyc"),
                Use::Start,
            ),
            (
                format!("{library}/encodings/__pycache__/big5.cpython-311.pyc"),
                Use::Standard,
            ),
            (
                format!("{library}/json/__pycache__/decoder.cpython-311.pyc"),
                Use::Standard,
            ),
            (
                format!("{library}/lib-dynload/_pickle.cpython-311-x86_64-linux-gnu.so"),
                Use::Start,
            ),
            (format!("{site}/x.pth"), Use::Start),
            (
                format!("{site}/cloudpickle/__pycache__/compat.cpython-311.pyc"),
                Use::Start,
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

    /// So that all that is read first lies together.
    #[test]
    fn the_interpreter_comes_last_of_a_start() {
        let paths = [
            "bin/python3.11",
            "lib/libpython3.11.so.1.0",
            "lib/python3.11/__pycache__/os.cpython-311.pyc",
            "lib/python3.11/json/__pycache__/decoder.cpython-311.pyc",
            "lib/python3.11/lib-dynload/_pickle.cpython-311-x86_64-linux-gnu.so",
        ];
        let sizes = [10_000, 23_000_000, 30_000, 30_000, 600_000];
        let entries: Vec<Entry> = (paths.iter().zip(sizes))
            .map(|(path, size)| Entry {
                path: (*path).into(),
                kind: Kind::File(size),
                mode: 0o644,
            })
            .collect();
        assert_eq!(order(&entries), [2, 0, 4, 1, 3]);
    }
}
