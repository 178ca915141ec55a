//! Where the environment lies while it is packed, by every name that its files may call the place.

use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Interpreter, PythonVersion};

use super::naming::namings;
use crate::error::Error;

/// An environment and the Python that it was made from: both places become the root of the tree.
pub(crate) struct Old {
    pub(crate) version: PythonVersion,
    /// Without links.
    pub(crate) prefix: PathBuf,
    pub(crate) base: PathBuf,
    /// Both, and by the names that they were reached by.
    places: Vec<PathBuf>,
    /// Those that Python's own files name, and without one that other files name for their own
    /// reasons: as they are written in a text.
    built: Vec<String>,
    named: Vec<String>,
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
        let texts = |but: &[&str]| -> Vec<String> {
            let texts = places.iter().filter_map(|place| place.to_str());
            let texts = texts.filter(|place| !but.contains(place));
            texts.map(str::to_owned).collect()
        };
        Ok(Self {
            version: interpreter.version,
            prefix,
            base,
            built: texts(&["/", "/usr"]),
            named: texts(&["/", "/usr", "/usr/local"]),
            places,
            moved: Vec::new(),
        })
    }

    /// Where a text names it, and with how many bytes.
    pub(crate) fn namings(&self, text: &[u8]) -> Vec<(usize, usize)> {
        all_namings(&self.named, text)
    }

    /// The same of what Python says of its own build, where even `/usr/local` is its own.
    pub(super) fn namings_of_build(&self, text: &[u8]) -> Vec<(usize, usize)> {
        all_namings(&self.built, text)
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

fn all_namings(places: &[String], text: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for place in places {
        let here = namings(text, place.as_bytes()).into_iter();
        found.extend(here.map(|at| (at, place.len())));
    }
    // An environment may lie in the Python that it was made from: the longer path is the one.
    found.sort_unstable_by_key(|&(at, length)| (at, std::cmp::Reverse(length)));
    let mut end = 0;
    found.retain(|&(at, length)| {
        let is_apart = at >= end;
        if is_apart {
            end = at + length;
        }
        is_apart
    });
    found
}
