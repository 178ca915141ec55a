//! Where the environment lies while it is packed, by every name that its files may call the place.

use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Interpreter, PythonVersion};

use crate::error::Error;

/// An environment and the Python that it was made from: both places become the root of the tree.
pub(crate) struct Old {
    pub(crate) version: PythonVersion,
    /// Without links.
    pub(crate) prefix: PathBuf,
    pub(crate) base: PathBuf,
    /// Both, and by the names that they were reached by.
    places: Vec<PathBuf>,
    /// Directories of them that lie elsewhere in the tree.
    pub(crate) moved: Vec<(PathBuf, PathBuf)>,
}

impl Old {
    pub(crate) fn new(interpreter: &Interpreter) -> Result<Self, Error> {
        let canonical = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
        let prefix = canonical(&interpreter.prefix)?;
        let base = canonical(&interpreter.base_prefix)?;
        let mut places = vec![prefix.clone(), base.clone()];
        for named in [&interpreter.prefix, &interpreter.base_prefix] {
            if !places.contains(named) {
                places.push(named.clone());
            }
        }
        Ok(Self {
            version: interpreter.version,
            prefix,
            base,
            places,
            moved: Vec::new(),
        })
    }

    /// Where below the root lies what had this absolute path, if it was in the environment. A home
    /// directory is often reached through a link, so there are several paths to the same place.
    pub(crate) fn inside(&self, path: &Path) -> Option<PathBuf> {
        if !path.is_absolute() {
            return None;
        }
        let below = |path: &Path| {
            let moved = |(from, to): &(PathBuf, PathBuf)| {
                let below = path.strip_prefix(from).ok()?;
                Some(to.components().chain(below.components()).collect())
            };
            let below = |root| path.strip_prefix(root).ok().map(Path::to_path_buf);
            let moved = self.moved.iter().find_map(moved);
            moved.or_else(|| self.places.iter().find_map(below))
        };
        below(path).or_else(|| {
            let (parent, name) = (path.parent()?, path.file_name()?);
            below(&parent.canonicalize().ok()?.join(name))
        })
    }
}
