//! What can go wrong with a recipe, or with an image.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no recipe, or nothing to say of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read, made or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A tool that ought to be there could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A tool ended with an error.
    #[error("{what} failed ({status}): {said}")]
    Tool {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines of what it said.
        said: String,
    },
    /// The directory of a recipe holds something else.
    #[error("`{path}` is not empty, and no recipe")]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// `--conda` of a Python that is none of conda's.
    #[error("`{prefix}` is no conda environment: it has no `conda-meta`")]
    NotConda {
        /// Where its packages would be listed.
        prefix: PathBuf,
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
}
