//! Moving and removing whole trees that somebody else made: they may be read-only, or links.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Removes what is there, whatever it is. Nothing there is fine; a link is not followed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => match fs::remove_dir_all(path) {
            // A directory of mode 0555 does not let go of its files, except to root.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                unlock(path)?;
                fs::remove_dir_all(path)
            }
            done => done,
        },
        Ok(_) => fs::remove_file(path),
    }
}

/// Lets the owner into every directory of a tree.
fn unlock(root: &Path) -> io::Result<()> {
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Removes what is in the place of a path of the contract, unless it is what is wanted.
pub(crate) fn clear(path: &Path, wanted: impl Fn(&fs::Metadata) -> bool) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if wanted(&metadata) => Ok(()),
        Ok(_) => remove(path),
        Err(_) => Ok(()),
    }
}

/// Moves what is in `from` into `into`, which both stay directories: files are replaced,
/// directories are joined, and no link is followed.
pub(crate) fn merge(from: &Path, into: &Path) -> io::Result<()> {
    let mut left: Vec<(PathBuf, PathBuf)> = vec![(from.to_path_buf(), into.to_path_buf())];
    let mut emptied = Vec::new();
    while let Some((from, into)) = left.pop() {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let target = into.join(entry.file_name());
            let there = target.symlink_metadata().ok();
            let there_is_directory = there.as_ref().is_some_and(fs::Metadata::is_dir);
            if entry.file_type()?.is_dir() {
                if there_is_directory {
                    left.push((entry.path(), target));
                    continue;
                }
                if there.is_some() {
                    fs::remove_file(&target)?;
                }
            } else if there_is_directory {
                remove(&target)?;
            }
            relocate(&entry.path(), &target)?;
        }
        emptied.push(from);
    }
    for directory in emptied.into_iter().rev() {
        fs::remove_dir(directory)?;
    }
    Ok(())
}

/// Renames; a directory that its owner may not write cannot change its parent as it is.
pub(crate) fn relocate(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let metadata = from.symlink_metadata()?;
            if !metadata.is_dir() {
                return Err(error);
            }
            fs::set_permissions(from, fs::Permissions::from_mode(0o700))?;
            let moved = fs::rename(from, to);
            let place = if moved.is_ok() { to } else { from };
            fs::set_permissions(place, metadata.permissions())?;
            moved
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn merging_joins_directories_and_follows_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("from/both")).unwrap();
        fs::create_dir_all(at("from/linked")).unwrap();
        fs::create_dir_all(at("from/was-file")).unwrap();
        fs::create_dir_all(at("into/both")).unwrap();
        fs::create_dir_all(at("into/was-directory/full")).unwrap();
        fs::create_dir_all(at("elsewhere")).unwrap();
        symlink(at("elsewhere"), at("into/linked")).unwrap();
        fs::write(at("into/was-file"), "").unwrap();
        fs::write(at("into/both/old"), "").unwrap();
        for name in ["both/new", "linked/file", "was-directory", "was-file/new"] {
            fs::write(at("from").join(name), name).unwrap();
        }
        merge(&at("from"), &at("into")).unwrap();
        assert!(at("into/both/old").exists());
        for name in ["both/new", "linked/file", "was-directory", "was-file/new"] {
            assert_eq!(fs::read_to_string(at("into").join(name)).unwrap(), name);
        }
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0);
        assert!(!at("from").exists());
    }

    #[test]
    fn what_is_read_only_can_be_removed() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        for name in ["a/b", "a", "."] {
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o555)).unwrap();
        }
        unlock(&tree).unwrap();
        assert_eq!(
            tree.join("a/b").metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        remove(&tree).unwrap();
        assert!(!tree.exists());
        remove(&tree).unwrap();
    }
}
