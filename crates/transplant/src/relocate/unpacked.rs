//! Makes a tree that was unpacked name the place where it lies.
//!
//! Its list of edits says what to change. Nothing in it is trusted.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::edits::{Edits, Unfit};
use super::first_list::{Prefixes, read};
use crate::archive::place::{EDITS, MTIME, RECORD};
use crate::error::Error;

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
        let mut parts = Path::new(path).components();
        let is_plain = parts.all(|part| matches!(part, Component::Normal(_)))
            // One file has one path, and `a/./b` is none.
            && Path::new(path).components().collect::<PathBuf>().as_os_str() == path;
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
}

/// Makes the tree in `root` name the place `new`, where it lies or will lie; the sentences say what
/// could not be changed. The list is not to be trusted: nothing outside of `root` is touched, and no
/// file through a link.
pub fn apply(root: &Path, new: &Path) -> Result<Vec<String>, Error> {
    let list_at = |path: &str| -> Result<Option<(PathBuf, Vec<u8>)>, Error> {
        let path = root.join(path);
        if !is_plain_file(&path) {
            return Ok(None);
        }
        let bytes = read(&path).map_err(Error::io("read", &path))?;
        Ok(Some((path, bytes)))
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
        let list = serde_json::from_slice::<Prefixes>(&bytes);
        let list = list.map_err(|error| tree.refused(error.to_string()))?;
        list.edits(&|path| tree.file(path), &|reason| tree.refused(reason))?
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

/// Whether it is a file in a directory, neither of them a link: as it is looked for where an archive is
/// mounted.
fn is_plain_file(path: &Path) -> bool {
    let is = |path: &Path, of_kind: fn(&fs::Metadata) -> bool| {
        fs::symlink_metadata(path).is_ok_and(|metadata| of_kind(&metadata))
    };
    path.parent()
        .is_some_and(|parent| is(parent, fs::Metadata::is_dir))
        && is(path, fs::Metadata::is_file)
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
    use crate::noise::Noise;
    use crate::relocate::content::{Content, Stamp};
    use crate::relocate::edits::{Edit, Field, LARGEST_TEXT};

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
        let many = Field {
            pieces: vec![String::new(); 10_000_000],
            ..field("a", 10)
        };
        assert_eq!(many.bytes(&"x".repeat(1 << 20)), None);
    }

    /// Where it is mounted nothing looks for the list through links.
    #[test]
    fn a_list_behind_a_link_is_none() {
        let edits = Edits {
            old: "/old".to_owned(),
            files: [("file".to_owned(), vec![Edit::Text { at: 0, length: 4 }])].into(),
        };
        let list = Path::new(EDITS).file_name().expect("a file");
        for target in ["lib", "elsewhere"] {
            let root = tempfile::tempdir().expect("a directory");
            fs::create_dir(root.path().join("elsewhere")).expect("made");
            fs::write(root.path().join("elsewhere").join(list), edits.encode()).expect("written");
            fs::write(root.path().join("file"), "/old").expect("written");
            std::os::unix::fs::symlink(target, root.path().join("lib")).expect("made");
            apply(root.path(), Path::new("/new")).expect("nothing to do");
            assert_eq!(fs::read(root.path().join("file")).expect("read"), b"/old");
        }
    }

    /// Lists without offsets are read by today's rule for names.
    #[test]
    fn a_first_list_knows_where_names_end() {
        let string = b"\0/srv/o/x:/o/x:/o2\0\0\0\0\0\0\0\0\0";
        let field = |offset, length, pieces: &[&str]| Field {
            path: "lib".to_owned(),
            offset,
            length,
            pieces: pieces.iter().map(|&piece| piece.to_owned()).collect(),
        };
        let root = tree(&Prefixes {
            old: "/o".to_owned(),
            text: vec!["a.py".to_owned(); 2],
            // As they were written: from the first `/o` on, whatever it is a part of.
            binary: vec![field(5, 18, &["", "/x:", "/x:", "2"]); 2],
        });
        fs::write(root.path().join("a.py"), "/o /o2 x/o -I/o/y").expect("written");
        fs::write(root.path().join("lib"), string).expect("written");
        let left = apply(root.path(), Path::new("/new")).expect("applied");
        assert!(left.is_empty(), "{left:?}");
        let text = fs::read_to_string(root.path().join("a.py")).expect("read");
        assert_eq!(text, "/new /o2 x/o -I/new/y");
        let bytes = fs::read(root.path().join("lib")).expect("read");
        assert!(bytes.starts_with(b"\0/srv/o/x:/new/x:/o2\0"), "{bytes:?}");
        assert_eq!(bytes.len(), string.len());
        // Bytecode of every other module counts; of this one it was compiled before.
        let mtime = |name: &str| {
            let metadata = fs::metadata(root.path().join(name)).expect("there");
            std::os::unix::fs::MetadataExt::mtime(&metadata)
        };
        assert_eq!((mtime("lib"), mtime("a.py")), (MTIME, MTIME + 1));
    }

    /// Some edits of a file, made when it is packed, after it was unpacked, and as it is read from a
    /// mount, which asks for any part of it.
    #[test]
    fn whoever_applies_an_edit_has_the_same_bytes() {
        let mut noise = Noise(1);
        let mut below = |bound: usize| noise.below(bound);
        for _ in 0..100 {
            let (mut old, mut table) = (Vec::new(), Vec::new());
            let is_text = below(2) == 0;
            for _ in 0..below(20) {
                old.extend(vec![b'x'; below(30)]);
                let at = old.len() as u64;
                if is_text {
                    old.extend_from_slice(b"/old");
                    table.push(Edit::Text { at, length: 4 });
                } else {
                    let room = below(12);
                    let pieces = vec![String::new(), ":".to_owned(), "/x".to_owned()];
                    old.extend_from_slice(b"/old:/old/x");
                    old.extend(vec![0; room + 1]);
                    table.push(Edit::Field(Field {
                        path: "file".to_owned(),
                        offset: at,
                        length: 11 + room as u64,
                        pieces,
                    }));
                }
            }
            let edits = Edits {
                old: "/old".to_owned(),
                files: [("file".to_owned(), table)].into(),
            };
            let root = tempfile::tempdir().expect("a directory");
            let file = root.path().join("file");
            fs::create_dir(root.path().join("lib")).expect("made");
            fs::write(root.path().join(EDITS), edits.encode()).expect("written");
            fs::write(&file, &old).expect("written");
            let new = format!("/{}", "n".repeat(below(8) + 1));
            let edits = Edits::decode(&edits.encode()).expect("a list");
            let size = old.len() as u64;
            let (spliced, _) = edits.spliced("file", &new, size).expect("they fit");
            let metadata = fs::metadata(&file).expect("there");
            let packed = Content::Patched(file.clone(), Stamp::of(&metadata), spliced.clone());
            let packed = packed.whole().expect("read");
            apply(root.path(), Path::new(&new)).expect("applied");
            let unpacked = fs::read(&file).expect("read");
            assert_eq!(packed, unpacked);
            assert_eq!(spliced.size(), unpacked.len() as u64);
            let mut mounted = Vec::new();
            while mounted.len() < unpacked.len() {
                let (from, length) = (mounted.len() as u64, below(9) as u64 + 1);
                let part = |at: u64, length: u64, out: &mut Vec<u8>| {
                    let at = usize::try_from(at)?;
                    out.extend_from_slice(&old[at..at + usize::try_from(length)?]);
                    Ok::<_, std::num::TryFromIntError>(())
                };
                spliced
                    .read(from, length, &mut mounted, part)
                    .expect("read");
            }
            assert_eq!(mounted, unpacked);
        }
    }
}
