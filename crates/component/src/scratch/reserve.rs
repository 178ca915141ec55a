//! Room on the disk that is kept for the report of a component that fails.
//!
//! A function that fills the disk would leave no room to say so, and HTCondor would hold the job
//! without a reason. So a file of a mebibyte is made first, and given up when something has to be
//! written that does not fit without it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::regular;

/// The largest error record there is, and a run record.
const SIZE: usize = 1 << 20;

/// Some room, as long as nobody needs it.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    held: AtomicBool,
}

impl Reserve {
    /// Takes the room, if there is that much. Where there is not, what is written later may still fit.
    pub(crate) fn take(path: &Path) -> Self {
        let taken = regular::create(path).and_then(|file| {
            let size = i64::try_from(SIZE).unwrap_or(i64::MAX);
            match fallocate(&file, FallocateFlags::empty(), 0, size) {
                // NFS before 4.2, among others.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => (&file).write_all(&vec![1; SIZE]),
                other => other.map_err(io::Error::from),
            }
        });
        let held = match taken {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("no room could be kept for a report: {error}");
                fs::remove_file(path).ok();
                false
            }
        };
        Self {
            path: path.to_path_buf(),
            held: AtomicBool::new(held),
        }
    }

    /// Gives the room up; whether there was any left to give.
    pub(crate) fn give_up(&self) -> bool {
        self.held.swap(false, Ordering::Relaxed) && fs::remove_file(&self.path).is_ok()
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Whether this error means that something does not fit.
pub(crate) fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Writes to a file, and gives the reserve up before it gives up itself.
pub(crate) struct WithReserve<'a, W> {
    inner: W,
    reserve: &'a Reserve,
}

impl<'a, W> WithReserve<'a, W> {
    /// Nothing is written yet.
    pub(crate) fn new(inner: W, reserve: &'a Reserve) -> Self {
        Self { inner, reserve }
    }

    /// The file.
    pub(crate) fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for WithReserve<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.inner.write(data) {
            Err(error) if is_lack_of_room(&error) && self.reserve.give_up() => {
                self.inner.write(data)
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Full for as long as the reserve is held.
    struct Full<'a>(&'a Reserve, Vec<u8>);

    impl Write for Full<'_> {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.0.held.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.write(data)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_room_is_there_until_something_needs_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        let reserve = Reserve::take(&path);
        assert_eq!(path.metadata().unwrap().len(), SIZE as u64);
        let mut file = WithReserve::new(Full(&reserve, Vec::new()), &reserve);
        file.write_all(b"a report").unwrap();
        assert_eq!(file.into_inner().1, b"a report");
        assert!(!path.exists());
        assert!(!reserve.give_up());
    }

    #[test]
    fn what_cannot_be_reserved_is_done_without() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::take(&directory.path().join("nowhere/reserve"));
        assert!(!reserve.give_up());
    }

    #[test]
    fn nothing_stays_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        drop(Reserve::take(&path));
        assert!(!path.exists());
    }
}
