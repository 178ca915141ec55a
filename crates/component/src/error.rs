//! The errors of running a component: each means that no output could be written.
//!
//! Whatever happens to Python is no error here: it becomes the component's error record.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Cause, Failure, Stage};
use crate::regular;

/// Why no output stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the contract could not be made, read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried: a verb and its object.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The checkpoint could not be brought back, and is kept: an output would drop it.
    #[error("{message}")]
    NotRestored {
        /// Why not.
        message: String,
        /// What the user can do about it.
        hint: String,
    },
    /// The kernel refused something that supervision needs.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }

    /// What the kernel said, where it said something.
    fn refusal(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } | Self::System { source, .. } => Some(source),
            Self::NotRestored { .. } => None,
        }
    }

    /// Together with what the kernel said.
    pub(crate) fn whole(&self) -> String {
        match self.refusal() {
            Some(refusal) => format!("{self}: {refusal}"),
            None => self.to_string(),
        }
    }

    /// As the failure of a component: whether a record of it can be written is another question.
    pub(crate) fn failure(&self, stage: Stage) -> Failure {
        let is_full = self.refusal().is_some_and(|refusal| {
            regular::is_lack_of_room(refusal) || refusal.kind() == io::ErrorKind::FileTooLarge
        });
        let cause = if is_full {
            Cause::NoRoom
        } else {
            Cause::NodeFile
        };
        let failure = Failure::new(stage, cause, self.whole());
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<&str> {
        if let Self::NotRestored { hint, .. } = self {
            return Some(hint);
        }
        match self.refusal()?.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Some("the disk is full: ask for more with request_disk")
            }
            io::ErrorKind::FileTooLarge => Some(
                "a limit of file size is in the way (`ulimit -f`): the site or the job's wrapper sets it",
            ),
            io::ErrorKind::ReadOnlyFilesystem => {
                Some("the scratch directory is on a read-only file system")
            }
            io::ErrorKind::PermissionDenied => {
                Some("the scratch directory must belong to the user that the job runs as")
            }
            _ => None,
        }
    }
}
