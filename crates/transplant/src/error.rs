//! What can go wrong with an archive, or with the tree that goes into one.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no archive, or no tree.
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
    /// Somebody writes to the environment while it is packed.
    #[error("`{path}` changed while it was packed")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Files and directories that this user may not read.
    #[error("cannot read {}", named(paths))]
    Unreadable {
        /// All of them.
        paths: Vec<PathBuf>,
    },
    /// The environment is of a kind that cannot be moved.
    #[error("cannot pack `{path}`: {reason}")]
    Unsupported {
        /// What of it.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Two names of an archive that a file system takes for one, as some do with capital letters.
    #[error("`{path}` and `{other}` are one name on this file system, and two in the archive")]
    Folded {
        /// What could not be made.
        path: PathBuf,
        /// What was there.
        other: PathBuf,
    },
    /// There is no such archive, or there are several.
    #[error("`{name}` does not name an archive: {reason}")]
    Unknown {
        /// As it was given.
        name: PathBuf,
        /// What it may be instead.
        reason: String,
    },
    /// The archive is cut off, damaged, or none of ours.
    #[error("`{path}` is no whole transplant: {reason}")]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive would write outside of the directory that it is unpacked to, or is a bomb.
    #[error("`{path}` is refused: {reason}")]
    Hostile {
        /// The archive.
        path: PathBuf,
        /// What it would do.
        reason: String,
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

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => {
                    Some("free some space, or request more disk (request_disk)")
                }
                io::ErrorKind::PermissionDenied => {
                    Some("make it readable, or leave it out with --exclude")
                }
                _ => None,
            },
            Self::Changed { .. } => Some(
                "wait until nothing installs into the environment, or leave it out with --exclude, and build again",
            ),
            Self::Unreadable { .. } => Some("make them readable, or leave them out with --exclude"),
            Self::Unsupported { .. } => None,
            Self::Folded { .. } => {
                Some("unpack it where capital letters and small ones are not the same")
            }
            Self::Unknown { .. } => {
                Some("`htmap-exec transplant list` shows which there are, `--dir` says where")
            }
            Self::Damaged { .. } => Some("copy or build it again"),
            Self::Hostile { .. } => {
                Some("do not use it; build one with `htmap-exec transplant build`")
            }
        }
    }
}

fn named(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths
        .iter()
        .map(|path| format!("`{}`", path.display()))
        .collect();
    match names.as_slice() {
        [name] => name.clone(),
        names => format!("{} files:\n    {}", names.len(), names.join("\n    ")),
    }
}
