//! Finds what in a tree names its old place, by reading it: for the list in the tree.
//!
//! Not by a list of places or tools: a kernel's JSON, a `.pc` file and a script in `share` are texts
//! like any other. What is not read is what cannot matter or is too much: modules, headers and data of
//! packages. What conda changed when it installed it is read wherever it lies.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::conda::{self, Changed};
use super::content::{Content, read};
use super::edits::{Edit, Edits, LARGEST_TEXT};
use super::naming::BEFORE;
use super::old::Old;
use crate::error::Error;
use crate::parallel;

/// How much of a file is looked at before all of it is: data mostly have a zero byte there.
const BEGINNING: u64 = 64 << 10;

/// What no text is edited in is only read through, in pieces of this.
const PIECE: u64 = 4 << 20;
const OVERLAP: u64 = 8 << 10;

/// The edits of a tree that depend on its place; nothing if nothing names it. `named` is the prefix as
/// the interpreter calls it, and `files` are those of the tree, with their paths below its root.
pub(crate) fn edits<'a>(
    old: &Old,
    named: &Path,
    files: impl Iterator<Item = (&'a [u8], &'a Content)>,
    remarks: &mut Vec<String>,
) -> Result<Option<Edits>, Error> {
    let changed = conda::changed(&old.base, remarks)?;
    let changed: BTreeMap<&[u8], &Changed> = changed
        .iter()
        .map(|changed| (changed.path.as_bytes(), changed))
        .collect();
    let candidates: Vec<(&[u8], &Content, Option<&Changed>)> = files
        .filter_map(|(path, content)| {
            let listed = changed.get(path).copied();
            let is_read = listed.is_some() || is_text(path);
            // Made to fit any place already, but for what surrounds that.
            (is_read && content.size() > 0).then_some((path, content, listed))
        })
        .collect();
    let named = named.to_string_lossy();
    let found = parallel::map(&candidates, |&(path, content, listed)| {
        if listed.is_none() && content.size() > BEGINNING {
            if part(content, 0, BEGINNING)?.contains(&0) {
                return Ok(Vec::new());
            }
            if content.size() > LARGEST_TEXT {
                return too_long(old, content);
            }
        }
        let bytes = content.whole()?;
        Ok::<_, Error>(match listed.map(|changed| changed.binary) {
            Some(Some(placeholder)) => {
                let path = String::from_utf8_lossy(path);
                let fields = conda::fields(&path, &bytes, &named, placeholder);
                fields.into_iter().map(Edit::Field).collect()
            }
            None if bytes.contains(&0) => Vec::new(),
            _ => texts(old, &bytes),
        })
    });
    let mut edits = Edits {
        old: named.clone().into_owned(),
        ..Edits::default()
    };
    for ((path, content, _), found) in candidates.into_iter().zip(found) {
        let found = found?;
        let is_text = found.iter().any(|edit| matches!(edit, Edit::Text { .. }));
        let why = match std::str::from_utf8(path) {
            _ if found.is_empty() => continue,
            Err(_) => "its own name is no text",
            Ok(_) if is_text && content.size() > LARGEST_TEXT => "it is too long",
            Ok(path) => {
                edits.files.insert(path.to_owned(), found);
                continue;
            }
        };
        let path = String::from_utf8_lossy(path);
        remarks.push(format!("`{path}` will still name `{named}`: {why}"));
    }
    Ok((!edits.files.is_empty()).then_some(edits))
}

/// Where a text names it that is too long to be edited, in the first piece that does; nothing if it is no text.
fn too_long(old: &Old, content: &Content) -> Result<Vec<Edit>, Error> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < content.size() {
        // The end of the piece before as well: what surrounds a name decides.
        let from = at.saturating_sub(OVERLAP);
        let piece = part(content, from, at + PIECE - from)?;
        if piece.contains(&0) {
            return Ok(Vec::new());
        }
        let is_first = from == 0;
        at += PIECE;
        let is_last = at >= content.size();
        if found.is_empty() {
            let length = piece.len();
            let mut named = old.namings(&piece);
            named.retain(|&(at, named)| {
                (is_first || at >= BEFORE) && (is_last || at + named + BEFORE <= length)
            });
            found = named.into_iter().map(edit).collect();
        }
    }
    Ok(found)
}

fn part(content: &Content, from: u64, length: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    read(content, from, length.min(content.size() - from), &mut bytes)?;
    Ok(bytes)
}

fn texts(old: &Old, bytes: &[u8]) -> Vec<Edit> {
    old.namings(bytes).into_iter().map(edit).collect()
}

fn edit((at, length): (usize, usize)) -> Edit {
    Edit::Text {
        at: at as u64,
        length: length as u64,
    }
}

/// Whether a file may be a text that matters where it says it lies.
fn is_text(path: &[u8]) -> bool {
    const DATA: [&[u8]; 8] = [
        b"include",
        b"conda-meta",
        b"share/doc",
        b"share/info",
        b"share/locale",
        b"share/man",
        b"share/terminfo",
        b"share/zoneinfo",
    ];
    const ENDS: [&[u8]; 40] = [
        b"a", b"bz2", b"c", b"cc", b"cpp", b"css", b"csv", b"dat", b"eot", b"gif", b"gz", b"h",
        b"hpp", b"html", b"ico", b"jar", b"jpeg", b"jpg", b"js", b"map", b"mo", b"npy", b"npz",
        b"o", b"otf", b"parquet", b"pdf", b"png", b"pyc", b"pyi", b"rst", b"so", b"svg", b"ttf",
        b"whl", b"woff", b"woff2", b"xz", b"zip", b"zst",
    ];
    // Of packages, which have far more data than this.
    const SETTINGS: [&[u8]; 14] = [
        b"cfg", b"cmake", b"conf", b"csh", b"env", b"fish", b"ini", b"json", b"la", b"pc", b"sh",
        b"toml", b"yaml", b"yml",
    ];
    let is_below = |directory: &&[u8]| {
        path.strip_prefix(*directory)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    if DATA.iter().any(is_below) {
        return false;
    }
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let name = names[names.len() - 1];
    let end = name.rsplit(|&byte| byte == b'.').next().unwrap_or(name);
    let is_library = name.windows(4).any(|four| four == b".so.");
    if is_library || end != name && ENDS.contains(&end) {
        return false;
    }
    let Some(at) = names.iter().position(|name| name.starts_with(b"python3")) else {
        // Modules are no matter of where they lie; scripts may be called so.
        return end != b"py" || !names[0].starts_with(b"lib");
    };
    if !matches!(&names[..at], [b"lib" | b"lib64"] | [b"local", b"lib"]) {
        return true;
    }
    // Of Python's library and its packages: what says where things are.
    match &names[at + 1..] {
        [b"site-packages" | b"dist-packages", _] => end == b"pth" || end == b"egg-link",
        [b"site-packages" | b"dist-packages", below @ ..] => {
            let is_record = |name: &&[u8]| name.ends_with(b"-info");
            end != name && SETTINGS.contains(&end) && !below.iter().any(is_record)
        }
        [first, _, ..] => first.starts_with(b"config-") || name == b"distutils.cfg",
        _ => false,
    }
}

/// The modules whose bytes are not those that their bytecode was compiled from, so that none of it
/// counts any more.
pub(crate) fn edited_modules<'a>(
    edits: Option<&Edits>,
    files: impl Iterator<Item = (&'a [u8], &'a Content)>,
) -> HashSet<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let listed = edits.into_iter().flat_map(|edits| edits.files.keys());
    let listed = listed.map(Path::new);
    let packed = files
        .filter(|(_, content)| !matches!(content, Content::OnDisk(..)))
        .map(|(path, _)| Path::new(std::ffi::OsStr::from_bytes(path)));
    listed
        .chain(packed)
        .filter(|path| path.extension().is_some_and(|end| end == "py"))
        .map(Path::to_path_buf)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        for path in [
            "bin/tool",
            "bin/tool.py",
            "etc/x.conf",
            "share/jupyter/kernels/python3/kernel.json",
            "share/tool/run",
            "lib/pkgconfig/x.pc",
            "lib/tool/settings.cmake",
            "lib/python3.11/site-packages/x-nspkg.pth",
            "local/lib/python3.11/dist-packages/x.pth",
            "lib/python3.11/config-3.11-x86_64-linux-gnu/Makefile",
            "lib/python3.11/distutils/distutils.cfg",
            "lib/python3.11/site-packages/mpi4py/mpi.cfg",
            "lib/python3.11/site-packages/x/share/kernel.json",
        ] {
            assert!(is_text(path.as_bytes()), "{path}");
        }
        for path in [
            "include/python3.11/pyconfig.h",
            "conda-meta/x.json",
            "share/doc/x/README",
            "share/icon.png",
            "lib/libx.so.1",
            "lib/libx.a",
            "lib/tool/module.py",
            "lib/python3.11/os.py",
            "lib/python3.11/LICENSE.txt",
            "lib/python3.11/site-packages/x/data.csv",
            "lib/python3.11/site-packages/x/module.py",
            "lib/python3.11/site-packages/cfg",
            "lib/python3.11/site-packages/x-1.dist-info/direct_url.json",
            "lib/python3.11/__pycache__/os.cpython-311.pyc",
        ] {
            assert!(!is_text(path.as_bytes()), "{path}");
        }
    }
}
