//! Room on the disk that is kept for the report of a component that fails.
//!
//! A function that fills the disk would leave no room to say so, and HTCondor would hold the job
//! without a reason. So a file of a mebibyte is made first, and given up when something has to be
//! written that does not fit without it. It has no name: the function does not see it, and a runner
//! that is killed leaves nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::regular;

/// The largest error record there is, and a run record.
const SIZE: usize = 1 << 20;

/// Some room, as long as nobody needs it.
#[derive(Debug)]
pub(crate) struct Reserve(Mutex<Option<File>>);

impl Reserve {
    /// Takes the room, if there is that much. Where there is not, what is written later may still fit.
    pub(crate) fn take(path: &Path) -> Self {
        let taken = regular::create(path).and_then(|file| {
            fs::remove_file(path)?;
            let size = i64::try_from(SIZE).unwrap_or(i64::MAX);
            match fallocate(&file, FallocateFlags::empty(), 0, size) {
                // NFS before 4.2, among others.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => (&file).write_all(&vec![1; SIZE])?,
                other => other?,
            }
            Ok(file)
        });
        if let Err(error) = &taken {
            tracing::debug!("no room could be kept for a report: {error}");
        }
        Self(Mutex::new(taken.ok()))
    }

    /// Gives the room up; whether there was any left to give.
    pub(crate) fn give_up(&self) -> bool {
        self.file().take().is_some()
    }

    fn file(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            Err(error) if regular::is_lack_of_room(&error) && self.reserve.give_up() => {
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
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// Full for as long as the reserve is held.
    struct Full<'a>(&'a Reserve, Vec<u8>);

    impl Write for Full<'_> {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.0.file().is_some() {
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
        assert!(!path.exists());
        let held = reserve.file().as_ref().unwrap().metadata().unwrap();
        assert!(held.blocks() * 512 >= SIZE as u64);
        let mut file = WithReserve::new(Full(&reserve, Vec::new()), &reserve);
        file.write_all(b"a report").unwrap();
        assert_eq!(file.into_inner().1, b"a report");
        assert!(!reserve.give_up());
    }

    #[test]
    fn what_cannot_be_reserved_is_done_without() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::take(&directory.path().join("nowhere/reserve"));
        assert!(!reserve.give_up());
    }
}
