//! What a generation consists of, as the driver's `htmap` module wrote it down.
//!
//! Version 2 has percent-encoded names (a name need not be UTF-8), modes, times, and digests that
//! leave blocks of zeros out; version 1 has plain names and a SHA-256 of the whole file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::names;
use crate::regular;

/// Some 250 bytes a file: more than a million files.
const MOST: u64 = 1 << 28;
const NEWEST: u64 = 2;

/// A generation that was complete when this was written.
#[derive(Debug)]
pub(super) struct Manifest {
    /// The higher, the newer.
    pub generation: u64,
    /// By path below the scratch directory.
    pub files: BTreeMap<PathBuf, Entry>,
}

/// What is at one path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file.
    File {
        /// Unknown in HTMap's own layout.
        size: Option<u64>,
        digest: Digest,
        attributes: Attributes,
    },
    /// A symbolic link, and where it leads.
    Link(PathBuf),
    /// A directory, maybe with more in it.
    Directory(Attributes),
}

/// How the content of a file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// Not at all: HTMap's own layout.
    None,
    /// SHA-256 of the content.
    Whole(String),
    /// SHA-256 of the blocks that are not all zeros, each after its number.
    Blocks(String),
}

/// What HTCondor's transfer does not keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Nanoseconds since 1970.
    pub modified: Option<i64>,
}

/// What is in the place of a manifest.
#[derive(Debug)]
pub(super) enum Opened {
    /// Nothing.
    Nothing,
    /// Something that is no manifest, and why not.
    Refused(String),
    /// A manifest.
    Manifest(Manifest),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default = "first")]
    version: u64,
    generation: u64,
    files: BTreeMap<String, RawEntry>,
}

fn first() -> u64 {
    1
}

#[derive(Deserialize)]
struct RawEntry {
    size: Option<u64>,
    sha256: Option<String>,
    blocks: Option<String>,
    link: Option<String>,
    directory: Option<bool>,
    mode: Option<u32>,
    mtime: Option<i64>,
}

#[derive(Deserialize)]
struct Head {
    version: u64,
}

/// Reads the manifest of a directory. An error is the file system's: the manifest may be good.
pub(super) fn read(directory: &Path) -> io::Result<Opened> {
    let mut bytes = Vec::new();
    let read = regular::open(&directory.join(names::CHECKPOINT_MANIFEST))
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Nothing),
        // Ours: it is no regular file.
        Err(error) if error.raw_os_error().is_none() => {
            return Ok(Opened::Refused(error.to_string()));
        }
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    if bytes.len() as u64 > MOST {
        return Ok(Opened::Refused(format!("it is larger than {MOST} bytes")));
    }
    Ok(parse(&bytes).map_or_else(Opened::Refused, Opened::Manifest))
}

fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let raw: Result<Raw, _> = serde_json::from_slice(bytes);
    let version = match &raw {
        Ok(raw) => Some(raw.version),
        Err(_) => serde_json::from_slice::<Head>(bytes)
            .ok()
            .map(|head| head.version),
    };
    if let Some(version) = version
        && !(1..=NEWEST).contains(&version)
    {
        return Err(format!(
            "it has format version {version}, and this htmap-exec reads versions 1 to {NEWEST}"
        ));
    }
    let raw = raw.map_err(|error| error.to_string())?;
    let decode = |name: String| match raw.version {
        1 => Ok(PathBuf::from(name)),
        _ => unquote(&name).ok_or_else(|| format!("`{name}` is no percent-encoded name")),
    };
    let mut files = BTreeMap::new();
    for (name, entry) in raw.files {
        let path = decode(name)?;
        let inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.as_os_str().is_empty() {
            return Err(format!("`{}` leads out of it", path.display()));
        }
        let attributes = Attributes {
            mode: entry.mode,
            modified: entry.mtime,
        };
        let entry = match (entry.size, entry.link, entry.directory) {
            (Some(size), None, None) => Entry::File {
                size: Some(size),
                digest: match (entry.blocks, entry.sha256) {
                    (Some(digest), None) => Digest::Blocks(digest),
                    (None, Some(digest)) => Digest::Whole(digest),
                    _ => return Err(format!("`{}` has no digest", path.display())),
                },
                attributes,
            },
            (None, Some(link), None) => Entry::Link(decode(link)?),
            (None, None, Some(true)) => Entry::Directory(attributes),
            _ => return Err(format!("`{}` is of an unknown kind", path.display())),
        };
        files.insert(path, entry);
    }
    // Sorted: what is below a path follows it at once.
    let mut leaf: Option<&Path> = None;
    for (path, entry) in &files {
        if leaf.is_some_and(|leaf| path.starts_with(leaf)) {
            return Err(format!("`{}` lies below a file", path.display()));
        }
        if !matches!(entry, Entry::Directory(_)) {
            leaf = Some(path);
        }
    }
    Ok(Manifest {
        generation: raw.generation,
        files,
    })
}

/// The bytes of a name that Python's `urllib.parse.quote` wrote.
fn unquote(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    (!bytes.contains(&0)).then(|| PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn refused(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn names_are_bytes() {
        let text = r#"{"version": 2, "generation": 3, "files": {
            "caf%E9/a%0Ab%25": {"size": 1, "blocks": "d", "mode": 292, "mtime": -1},
            "l": {"link": "%FF"}, "d": {"directory": true}}}"#;
        let manifest = parse(text.as_bytes()).unwrap();
        let names: Vec<_> = manifest
            .files
            .keys()
            .map(|p| p.as_os_str().as_bytes())
            .collect();
        assert_eq!(names, [&b"caf\xe9/a\nb%"[..], b"d", b"l"]);
        let file = manifest.files.values().next().unwrap();
        let attributes = Attributes {
            mode: Some(0o444),
            modified: Some(-1),
        };
        assert_eq!(
            *file,
            Entry::File {
                size: Some(1),
                digest: Digest::Blocks("d".to_owned()),
                attributes
            }
        );
    }

    #[test]
    fn version_1_has_plain_names() {
        let text = r#"{"version": 1, "generation": 3, "files": {"100%25": {"size": 1, "sha256": "d", "source": [1, 2]}}}"#;
        let manifest = parse(text.as_bytes()).unwrap();
        assert!(manifest.files.contains_key(Path::new("100%25")));
    }

    #[test]
    fn what_is_refused_says_why() {
        let future = refused(r#"{"version": 3, "layers": []}"#);
        assert!(future.contains("version 3"), "{future}");
        assert!(refused("{").contains("EOF"));
        assert!(refused(r#"{"generation": 1, "files": {"a": {}}}"#).contains("`a`"));
        for name in ["../../evil", "/evil", "a/../../evil", ""] {
            let text =
                format!(r#"{{"generation": 9, "files": {{"{name}": {{"directory": true}}}}}}"#);
            assert!(refused(&text).contains("leads out of it"), "{name}");
        }
        let below = r#"{"generation": 1, "files": {"a": {"link": "/"}, "a/b/c": {"link": "x"}, "a-b": {"link": "x"}}}"#;
        assert!(refused(below).contains("`a/b/c` lies below a file"));
        for name in ["%", "%4", "%zz", "a%00b"] {
            let text = format!(
                r#"{{"version": 2, "generation": 9, "files": {{"{name}": {{"directory": true}}}}}}"#
            );
            assert!(refused(&text).contains("percent"), "{name}");
        }
    }

    #[test]
    fn a_manifest_that_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path()).unwrap(), Opened::Nothing));
        let path = directory.path().join(names::CHECKPOINT_MANIFEST);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            read(directory.path()).unwrap(),
            Opened::Refused(_)
        ));
    }
}
