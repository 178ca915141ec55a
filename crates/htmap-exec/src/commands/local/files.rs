//! Files on their way between the map directory and scratch directories: copied, moved, removed.
//!
//! What comes back appears whole or not at all, since somebody may be waiting for it, and is on the disk when it does.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

/// Directories within one another.
const DEEPEST: usize = 200;

/// Opens a regular file, or a link to one: a FIFO would wait for a writer for ever.
pub(super) fn open(path: &Path) -> io::Result<File> {
    require_regular(&path.metadata()?)?;
    let file = File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)?;
    require_regular(&file.metadata()?)?;
    Ok(file)
}

/// Reads a whole text file of at most so many bytes.
pub(super) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Creates a file that nobody else has open: a runner of an earlier run may still write to the one in its place.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options()
        .write(true)
        .create_new(true)
        .custom_flags(O_NOFOLLOW)
        .open(path)
}

/// Copies a file, or a directory with all that it holds. Links that lead out of the directory lead where they led.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = from.metadata()?;
    if metadata.is_dir() {
        return copy_directory(from, to, &from.canonicalize()?, DEEPEST);
    }
    require_regular(&metadata)?;
    fs::copy(from, to).map(drop)
}

fn copy_directory(from: &Path, to: &Path, root: &Path, left: usize) -> io::Result<()> {
    if left == 0 {
        return Err(io::Error::other("its directories are too deep"));
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_directory(&path, &target, root, left - 1)?;
        } else if kind.is_symlink() {
            symlink(link_text(&path, root)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&path, &target)?;
        }
        // A FIFO, a socket or a device is nothing that can be copied.
    }
    fs::set_permissions(to, from.metadata()?.permissions())
}

/// What a link is to say in the copy of the directory that it lies in.
fn link_text(link: &Path, root: &Path) -> io::Result<PathBuf> {
    let text = fs::read_link(link)?;
    if text.is_absolute() {
        return Ok(text);
    }
    match link.canonicalize() {
        Ok(target) if !target.starts_with(root) => Ok(target),
        _ => Ok(text),
    }
}

/// Moves a file or directory, across file systems if need be, in the place of what is there.
pub(super) fn bring(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    let replaced = set_aside(to)?;
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let unfinished = beside(to, "part");
            let copied = remove(&unfinished)
                .and_then(|()| copy(from, &unfinished))
                .and_then(|()| sync(&unfinished))
                .and_then(|()| fs::rename(&unfinished, to));
            if let Err(error) = copied {
                remove(&unfinished).ok();
                restore(replaced, to);
                return Err(error);
            }
        }
        Err(error) => {
            restore(replaced, to);
            return Err(error);
        }
        Ok(()) => {}
    }
    if let Some(replaced) = replaced {
        remove(&replaced)?;
    }
    // Not every file system can sync a directory.
    if let Some(Ok(directory)) = to.parent().map(File::open) {
        directory.sync_all().ok();
    }
    Ok(())
}

/// A rename replaces files, but no directory that holds anything.
fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.is_dir() || path.is_symlink() {
        return Ok(None);
    }
    let aside = beside(path, "old");
    remove(&aside)?;
    fs::rename(path, &aside)?;
    Ok(Some(aside))
}

fn restore(replaced: Option<PathBuf>, to: &Path) {
    if let Some(replaced) = replaced {
        fs::rename(replaced, to).ok();
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn sync(path: &Path) -> io::Result<()> {
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_file() {
        return File::open(path)?.sync_all();
    }
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    }
    Ok(())
}

/// Removes whatever is there, directories that may not be written to among it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.is_dir() => {
            open_up(path);
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_up(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).ok();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn require_regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_replaces_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for (name, file) in [("from", "new"), ("to", "old")] {
            fs::create_dir(at(name)).expect(name);
            fs::write(at(name).join(file), file).expect(file);
        }
        bring(&at("from"), &at("to")).expect("it is moved");
        assert!(at("to/new").is_file() && !at("to/old").exists());
        assert_eq!(
            fs::read_dir(directory.path()).expect("it is there").count(),
            1
        );
    }

    #[test]
    fn links_lead_where_they_led() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("from/deep")).expect("directories");
        fs::write(at("outside"), "outside").expect("a file");
        fs::write(at("from/inside"), "inside").expect("a file");
        symlink("../inside", at("from/deep/in")).expect("a link");
        symlink("../../outside", at("from/deep/out")).expect("a link");
        symlink("nowhere", at("from/broken")).expect("a link");
        nix::unistd::mkfifo(&at("from/fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        fs::create_dir(at("elsewhere")).expect("a directory");
        copy(&at("from"), &at("elsewhere/to")).expect("it is copied");
        let read = |name: &str| fs::read_to_string(at("elsewhere/to/deep").join(name));
        assert_eq!(read("in").expect("it leads inside"), "inside");
        assert_eq!(read("out").expect("it leads outside"), "outside");
        assert!(at("elsewhere/to/broken").is_symlink());
        assert!(!at("elsewhere/to/fifo").exists());
        assert_eq!(
            fs::read_link(at("elsewhere/to/deep/in")).expect("a link"),
            Path::new("../inside")
        );
    }
}
