//! Opens files in places where anybody may have put anything, and tells why one cannot be written.
//!
//! A FIFO at `N.out` would wait for a writer for ever, and a link at `N.json` would have the runner
//! write somewhere else. So only regular files are opened, and nothing here ever waits.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

/// Opens a regular file for reading. A link is refused.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    require(path.symlink_metadata()?.file_type())?;
    checked(
        File::options()
            .read(true)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK),
        path,
    )
}

/// The same for what users and HTCondor put there: a link to a regular file will do.
pub(crate) fn open_linked(path: &Path) -> io::Result<File> {
    // Before it is opened: opening a device may do something.
    require(path.metadata()?.file_type())?;
    checked(File::options().read(true).custom_flags(O_NONBLOCK), path)
}

/// Reads a whole regular file, or a link to one, of at most so many bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_linked(path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {most} bytes"),
        ));
    }
    Ok(bytes)
}

/// Creates a file that nobody else has; what is in its place goes, unless it is a directory.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    File::options()
        .write(true)
        .create_new(true)
        .custom_flags(O_NOFOLLOW)
        .open(path)
}

/// Whether this error means that something does not fit.
pub(crate) fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn checked(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.open(path)?;
    // Once more: somebody may have been faster.
    require(file.metadata().as_ref().map(Metadata::file_type).map_err(
        // The kind is enough: an error cannot be cloned.
        |error| io::Error::from(error.kind()),
    )?)?;
    Ok(file)
}

fn require(kind: FileType) -> io::Result<()> {
    let (found, error) = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        ("a directory", io::ErrorKind::IsADirectory)
    } else if kind.is_symlink() {
        ("a symbolic link", io::ErrorKind::Unsupported)
    } else if kind.is_fifo() {
        ("a FIFO", io::ErrorKind::Unsupported)
    } else if kind.is_socket() {
        ("a socket", io::ErrorKind::Unsupported)
    } else {
        ("a device", io::ErrorKind::Unsupported)
    };
    Err(io::Error::new(
        error,
        format!("it is {found}, not a regular file"),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_but_regular_files_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink(at("fifo"), at("link-to-fifo")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(open(&at("file")).is_ok());
        assert!(open_linked(&at("link")).is_ok());
        for (name, said) in [
            ("link", "it is a symbolic link, not a regular file"),
            ("fifo", "it is a FIFO, not a regular file"),
            ("socket", "it is a socket, not a regular file"),
            (".", "it is a directory, not a regular file"),
        ] {
            assert_eq!(open(&at(name)).unwrap_err().to_string(), said);
        }
        for name in ["fifo", "link-to-fifo", "socket", "."] {
            assert!(open_linked(&at(name)).is_err(), "{name}");
        }
        assert!(open_linked(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn reading_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"text");
        assert_eq!(
            read(&path, 3).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn creating_writes_through_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (
            directory.path().join("target"),
            directory.path().join("link"),
        );
        std::fs::write(&target, "whole").unwrap();
        symlink(&target, &link).unwrap();
        drop(create(&link).unwrap());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "whole");
        assert!(link.symlink_metadata().unwrap().is_file());
    }
}
