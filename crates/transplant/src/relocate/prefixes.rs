//! Files that name the place of the environment, and are made to name another one.
//!
//! A conda prefix has them: its libraries find their data by a path that is compiled in. The tree
//! holds a list of them, so whoever has unpacked it can change them, and whoever mounts it can show
//! them changed.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::archive::place::{MTIME, RECORD};
use crate::error::Error;

/// Of text, before and after; and of the list. What is longer is none that anybody installed.
const LARGEST_TEXT: u64 = 64 << 20;

/// What names the old prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// The old prefix.
    pub old: String,
    /// Files of text, which name it anywhere: they may get longer or shorter.
    pub text: Vec<String>,
    /// Strings in binaries.
    pub binary: Vec<Field>,
}

/// A string in a binary, with NUL up to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The file, below the root.
    pub path: String,
    /// Where in the file.
    pub offset: u64,
    /// Bytes, without the NUL that ends the longest string.
    pub length: u64,
    /// What is between one naming of the prefix and the next.
    pub pieces: Vec<String>,
}

impl Field {
    /// The bytes to put there for another prefix, or nothing if there is no room for it.
    pub fn bytes(&self, prefix: &str) -> Option<Vec<u8>> {
        let length = usize::try_from(self.length).ok()?;
        let gaps = self.pieces.len().saturating_sub(1);
        let named = self.pieces.iter().map(String::len).sum::<usize>() + gaps * prefix.len();
        (named <= length).then(|| {
            let mut bytes = self.pieces.join(prefix).into_bytes();
            bytes.resize(length, 0);
            bytes
        })
    }
}

/// Makes the tree in `root` name the place `new`, where it lies or will lie; the sentences say what
/// could not be changed. The list is not to be trusted: nothing outside of `root` is touched, and no
/// file through a link.
pub fn apply(root: &Path, new: &Path) -> Result<Vec<String>, Error> {
    let record = root.join(RECORD);
    let read = |path: &Path| -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(path)?;
        file.take(LARGEST_TEXT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read(&record) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io("read", &record)(error)),
    };
    let refused = |reason: String| Error::Hostile {
        path: record.clone(),
        reason,
    };
    let prefixes: Prefixes =
        serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    if !prefixes.old.starts_with('/') || prefixes.old.len() < 2 {
        return Err(refused(format!("`{}` is no prefix", prefixes.old)));
    }
    let real = root.canonicalize().map_err(Error::io("find", root))?;
    let Some(new) = new.to_str() else {
        return Ok(vec![format!(
            "files that name their place are left as they are: `{}` is no text",
            new.display()
        )]);
    };
    let place = |path: &str| -> Result<PathBuf, Error> {
        let is_plain = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let place = real.join(path);
        let parent = place.parent().unwrap_or(&place);
        let is_here = parent
            .canonicalize()
            .is_ok_and(|parent| parent.starts_with(&real));
        let is_file = fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_file());
        if is_plain && is_here && is_file {
            Ok(place)
        } else {
            Err(refused(format!(
                "it names `{path}`, which is no file of the archive"
            )))
        }
    };
    let mut left = Vec::new();
    for field in &prefixes.binary {
        let file = place(&field.path)?;
        let end = field.offset.checked_add(field.length);
        let size = fs::metadata(&file).map_err(Error::io("read", &file))?.len();
        if end.is_none_or(|end| end > size) {
            return Err(refused(format!(
                "it names bytes behind the end of `{}`",
                field.path
            )));
        }
        let Some(bytes) = field.bytes(new) else {
            left.push(format!(
                "`{}` still names `{}`: there is no room for `{new}`",
                field.path, prefixes.old
            ));
            continue;
        };
        change(&file, |opened| opened.write_all_at(&bytes, field.offset))?;
    }
    let mut changed = HashSet::new();
    for path in &prefixes.text {
        let file = place(path)?;
        // Else a name of itself in the new prefix would grow with each time.
        if !changed.insert(file.clone()) {
            return Err(refused(format!("it names `{path}` twice")));
        }
        let bytes = read(&file).map_err(Error::io("read", &file))?;
        let text = match String::from_utf8(bytes) {
            Ok(text) if text.len() as u64 <= LARGEST_TEXT => text,
            _ => {
                left.push(format!(
                    "`{path}` still names `{}`: it is no text",
                    prefixes.old
                ));
                continue;
            }
        };
        let more = new.len().saturating_sub(prefixes.old.len());
        if (text.len() + text.matches(&prefixes.old).count() * more) as u64 > LARGEST_TEXT {
            return Err(refused(format!("`{path}` would become too long")));
        }
        let text = text.replace(&prefixes.old, new);
        change(&file, |opened| {
            opened.set_len(text.len() as u64)?;
            opened.write_all_at(text.as_bytes(), 0)
        })?;
    }
    Ok(left)
}

/// Changes a file, and nothing else about it.
fn change(file: &Path, write: impl FnOnce(&fs::File) -> std::io::Result<()>) -> Result<(), Error> {
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(MTIME).unwrap_or(0));
    let changed = || -> std::io::Result<()> {
        let mode = fs::metadata(file)?.permissions().mode();
        if mode & 0o200 == 0 {
            fs::set_permissions(file, fs::Permissions::from_mode(mode | 0o200))?;
        }
        let opened = fs::OpenOptions::new().write(true).open(file)?;
        write(&opened)?;
        opened.set_modified(mtime)?;
        opened.set_permissions(fs::Permissions::from_mode(mode))
    };
    changed().map_err(Error::io("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(prefixes: &Prefixes) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("conda-meta")).expect("made");
        let json = serde_json::to_vec(prefixes).expect("text");
        fs::write(root.path().join(RECORD), json).expect("written");
        root
    }

    fn field(path: &str, length: u64) -> Field {
        Field {
            path: path.to_owned(),
            offset: 1,
            length,
            pieces: vec![String::new(), "/x".to_owned()],
        }
    }

    #[test]
    fn a_field_is_filled_or_left() {
        let prefixes = Prefixes {
            old: "/o".to_owned(),
            text: vec![],
            binary: vec![field("a", 200), field("b", 4)],
        };
        let root = tree(&prefixes);
        fs::write(root.path().join("a"), [1; 300]).expect("written");
        fs::write(root.path().join("b"), b"1/o/x\0").expect("written");
        let real = root.path().canonicalize().expect("there");
        let left = apply(root.path(), &real).expect("applied");
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].starts_with("`b` still names `/o`"), "{left:?}");
        let bytes = fs::read(root.path().join("a")).expect("read");
        let string = format!("{}/x\0", real.display());
        assert!(bytes[1..].starts_with(string.as_bytes()));
        assert_eq!((bytes[0], bytes[200], bytes[201]), (1, 0, 1));
        assert_eq!(fs::read(root.path().join("b")).expect("read"), b"1/o/x\0");
    }

    #[test]
    fn nothing_else_is_touched() {
        let outside = tempfile::NamedTempFile::new().expect("a file");
        fs::write(outside.path(), [7; 300]).expect("written");
        for path in [
            "../x",
            outside.path().to_str().expect("text"),
            "link",
            "gone",
            "short",
        ] {
            let prefixes = Prefixes {
                old: "/o".to_owned(),
                text: vec![],
                binary: vec![field(path, 200)],
            };
            let root = tree(&prefixes);
            std::os::unix::fs::symlink(outside.path(), root.path().join("link")).expect("made");
            fs::write(root.path().join("short"), "x").expect("written");
            assert!(apply(root.path(), Path::new("/new")).is_err(), "{path}");
            assert_eq!(fs::read(outside.path()).expect("read"), [7; 300]);
            assert_eq!(fs::read(root.path().join("short")).expect("read"), b"x");
        }
    }

    /// Each of these asked for more memory than there is, or filled the disk.
    #[test]
    fn little_that_becomes_much_is_refused() {
        let apply_to = |old: &str, text: &[&str], binary: Vec<Field>| {
            let root = tree(&Prefixes {
                old: old.to_owned(),
                text: text.iter().map(|&path| path.to_owned()).collect(),
                binary,
            });
            fs::write(root.path().join("a"), "/o ".repeat(100_000)).expect("written");
            let new = format!("/{}", "/o".repeat(2_000));
            let done = apply(root.path(), Path::new(&new));
            let kept = fs::metadata(root.path().join("a")).expect("there").len();
            assert!(kept <= LARGEST_TEXT, "{kept}");
            done.expect_err("refused").to_string()
        };
        let said = apply_to("/o", &[], vec![field("a", 1 << 50)]);
        assert!(said.contains("behind the end"), "{said}");
        for old in ["", "o", "/"] {
            let said = apply_to(old, &["a"], vec![]);
            assert!(said.contains("is no prefix"), "{said}");
        }
        let said = apply_to("/o", &["a"], vec![]);
        assert!(said.contains("would become too long"), "{said}");
        let said = apply_to("/x", &["a", "a"], vec![]);
        assert!(said.contains("twice"), "{said}");
        let many = Field {
            pieces: vec![String::new(); 10_000_000],
            ..field("a", 10)
        };
        assert_eq!(many.bytes(&"x".repeat(1 << 20)), None);
    }
}
