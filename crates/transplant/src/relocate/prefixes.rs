//! Makes a tree that was unpacked name the place where it lies.
//!
//! Its list of edits says what to change; nothing in it is trusted. The first lists, which named
//! files of text without offsets, are made into ones of today by reading the files.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::edits::{Edit, Edits, Field, LARGEST_TEXT, Unfit};
use super::naming::{BEFORE, namings};
use crate::archive::place::{EDITS, MTIME, RECORD};
use crate::error::Error;

/// The first list: what names the old prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// The old prefix.
    pub old: String,
    /// Files of text, which name it anywhere: they may get longer or shorter.
    pub text: Vec<String>,
    /// Strings in binaries.
    pub binary: Vec<Field>,
}

/// A tree that was just unpacked, and the list that it is edited by.
struct Unpacked {
    root: PathBuf,
    list: PathBuf,
}

impl Unpacked {
    fn refused(&self, reason: String) -> Error {
        let path = self.list.clone();
        Error::Hostile { path, reason }
    }

    /// A file of the tree; nothing outside, and none through a link.
    fn file(&self, path: &str) -> Result<PathBuf, Error> {
        let is_plain = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let place = self.root.join(path);
        let parent = place.parent().unwrap_or(&place);
        let is_here = parent
            .canonicalize()
            .is_ok_and(|parent| parent.starts_with(&self.root));
        let is_file = fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_file());
        if is_plain && is_here && is_file {
            Ok(place)
        } else {
            Err(self.refused(format!(
                "it names `{path}`, which is no file of the archive"
            )))
        }
    }

    /// The list of today that says what a first list says; and what it cannot say, in sentences.
    fn first(&self, list: Prefixes) -> Result<(Edits, Vec<String>), Error> {
        let Prefixes { old, text, binary } = list;
        if !old.starts_with('/') || old.len() < 2 {
            return Err(self.refused(format!("`{old}` is no prefix")));
        }
        let mut left = Vec::new();
        let mut edits = Edits {
            old: old.clone(),
            ..Edits::default()
        };
        let mut seen = HashSet::new();
        for path in text {
            let file = self.file(&path)?;
            if !seen.insert(file.clone()) {
                return Err(self.refused(format!("it names `{path}` twice")));
            }
            let bytes = read(&file).map_err(Error::io("read", &file))?;
            if bytes.len() as u64 > LARGEST_TEXT || std::str::from_utf8(&bytes).is_err() {
                left.push(format!("`{path}` still names `{old}`: it is no text"));
                continue;
            }
            let found = namings(&bytes, old.as_bytes()).into_iter();
            let edit = |at| Edit::Text {
                at: at as u64,
                length: old.len() as u64,
            };
            edits.files.insert(path, found.map(edit).collect());
        }
        for field in binary {
            let file = self.file(&field.path)?;
            let Some(field) = renamed(&file, &old, field).map_err(Error::io("read", &file))? else {
                continue;
            };
            let path = field.path.clone();
            let field = Edit::Field(field);
            let others = edits.files.entry(path).or_default();
            // Two packages that have the same file name it twice.
            if !others.contains(&field) {
                others.push(field);
            }
        }
        Ok((edits, left))
    }
}

/// Of a first list, which knew no boundary of names: another naming of the prefix alone counts.
fn renamed(file: &Path, old: &str, field: Field) -> std::io::Result<Option<Field>> {
    let length = field.pieces.iter().map(String::len).sum::<usize>()
        + field.pieces.len().saturating_sub(1) * old.len();
    let end = field.offset.checked_add(field.length);
    let is_there = end.is_some_and(|end| fs::metadata(file).is_ok_and(|file| end <= file.len()));
    // Else it is refused for that.
    if length as u64 > field.length || !is_there {
        return Ok(Some(field));
    }
    let text = field.pieces.join(old);
    let begin = field.offset.saturating_sub(BEFORE as u64);
    let mut bytes = Vec::new();
    let mut opened = fs::File::open(file)?;
    opened.seek(SeekFrom::Start(begin))?;
    opened.take(field.offset - begin).read_to_end(&mut bytes)?;
    let before = bytes.len();
    bytes.extend_from_slice(text.as_bytes());
    let found = namings(&bytes, old.as_bytes());
    let mut pieces = Vec::new();
    let mut from = 0;
    for at in found.into_iter().filter_map(|at| at.checked_sub(before)) {
        let piece = text.get(from..at).unwrap_or_default();
        pieces.push(piece.to_owned());
        from = at + old.len();
    }
    pieces.push(text.get(from..).unwrap_or_default().to_owned());
    Ok((pieces.len() > 1).then_some(Field { pieces, ..field }))
}

/// Makes the tree in `root` name the place `new`, where it lies or will lie; the sentences say what
/// could not be changed. The list is not to be trusted: nothing outside of `root` is touched, and no
/// file through a link.
pub fn apply(root: &Path, new: &Path) -> Result<Vec<String>, Error> {
    let list_at = |path: &str| -> Result<Option<(PathBuf, Vec<u8>)>, Error> {
        let path = root.join(path);
        match read(&path) {
            Ok(bytes) => Ok(Some((path, bytes))),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    };
    let (found, is_first) = match list_at(EDITS)? {
        Some(found) => (Some(found), false),
        None => (list_at(RECORD)?, true),
    };
    let Some((list, bytes)) = found else {
        return Ok(Vec::new());
    };
    let tree = Unpacked {
        root: root.canonicalize().map_err(Error::io("find", root))?,
        list,
    };
    let Some(new) = new.to_str() else {
        return Ok(vec![format!(
            "files that name their place are left as they are: `{}` is no text",
            new.display()
        )]);
    };
    let (edits, mut left) = if is_first {
        let list = serde_json::from_slice(&bytes).map_err(|error| tree.refused(error.to_string()));
        tree.first(list?)?
    } else {
        let edits = Edits::decode(&bytes).map_err(|reason| tree.refused(reason))?;
        (edits, Vec::new())
    };
    for path in edits.files.keys() {
        let file = tree.file(path)?;
        let size = fs::metadata(&file).map_err(Error::io("read", &file))?.len();
        let (spliced, remark) = edits.spliced(path, new, size).map_err(|unfit| {
            tree.refused(match unfit {
                Unfit::Apart => format!("it names bytes behind the end of `{path}`, or twice"),
                Unfit::TooLong => format!("`{path}` would become too long"),
            })
        })?;
        left.extend(remark);
        let mut mtime = MTIME;
        if is_first && Path::new(path).extension().is_some_and(|end| end == "py") {
            // The archive may hold its bytecode, which names the old place and is of this very time.
            mtime += 1;
        }
        if spliced.is_in_place() && spliced.splices().is_empty() && mtime == MTIME {
            continue;
        }
        if spliced.is_in_place() {
            change(&file, mtime, |opened| {
                let mut splices = spliced.splices().iter();
                splices.try_for_each(|splice| opened.write_all_at(&splice.bytes, splice.at))
            })?;
        } else {
            let text = spliced.whole(&read(&file).map_err(Error::io("read", &file))?);
            change(&file, mtime, |opened| {
                opened.set_len(text.len() as u64)?;
                opened.write_all_at(&text, 0)
            })?;
        }
    }
    Ok(left)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(LARGEST_TEXT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Changes a file, and nothing else about it.
fn change(
    file: &Path,
    mtime: i64,
    write: impl FnOnce(&fs::File) -> std::io::Result<()>,
) -> Result<(), Error> {
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(mtime).unwrap_or(0));
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
        fs::write(root.path().join("b"), b"\0/o/x\0").expect("written");
        let real = root.path().canonicalize().expect("there");
        let left = apply(root.path(), &real).expect("applied");
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].starts_with("`b` still names `/o`"), "{left:?}");
        let bytes = fs::read(root.path().join("a")).expect("read");
        let string = format!("{}/x\0", real.display());
        assert!(bytes[1..].starts_with(string.as_bytes()));
        assert_eq!((bytes[0], bytes[200], bytes[201]), (1, 0, 1));
        assert_eq!(fs::read(root.path().join("b")).expect("read"), b"\0/o/x\0");
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
