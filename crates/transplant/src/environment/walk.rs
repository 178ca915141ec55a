//! Everything below a directory, looked at once and on all processors.
//!
//! What was seen here is what a build goes by: what goes into the archive, whether a file is still the
//! same when it is read, and whether anything changed when it is built again.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Builder};

use super::ledger::{self, Seen};
use super::listed::{Listed, listed};

/// A file, directory or link.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Metadata,
    /// Of a directory.
    pub(crate) inside: Option<Inside>,
}

/// What became of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// What is in it comes behind it, as it was seen.
    Listed(Seen),
    /// It could not be read.
    Closed(Seen),
    /// An environment of its own, or packages that conda keeps for all of them: nobody's part.
    Apart,
}

/// What is left to be read, and what was.
struct Reading {
    waiting: Vec<PathBuf>,
    busy: usize,
    read: HashMap<PathBuf, (Vec<Found>, Inside)>,
}

/// A directory, then what is in it, sorted by name.
pub(super) fn below(root: &Path) -> io::Result<Vec<Found>> {
    let metadata = fs::symlink_metadata(root)?;
    let is_directory = metadata.is_dir();
    let mut all = vec![Found {
        path: root.to_path_buf(),
        metadata,
        inside: None,
    }];
    if !is_directory {
        return Ok(all);
    }
    let reading = Mutex::new(Reading {
        waiting: vec![root.to_path_buf()],
        busy: 0,
        read: HashMap::new(),
    });
    let moved = Condvar::new();
    let worker = || {
        let mut state = reading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(directory) = state.waiting.pop() else {
                if state.busy == 0 {
                    moved.notify_all();
                    return;
                }
                state = moved.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let (found, inside) = entries(&directory, directory == root);
            state = reading.lock().unwrap_or_else(PoisonError::into_inner);
            let inner = found.iter().filter(|found| found.metadata.is_dir());
            state.waiting.extend(inner.map(|found| found.path.clone()));
            state.read.insert(directory, (found, inside));
            state.busy -= 1;
            moved.notify_all();
        }
    };
    // Of a disk or a network, not of the processors alone.
    let threads = thread::available_parallelism().map_or(1, usize::from) * 2;
    thread::scope(|scope| {
        for _ in 1..threads.min(16) {
            // Limits of processes count threads as well.
            if Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    let mut read = reading
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .read;
    // Sorted as paths are: each directory right before what is in it.
    let mut next = 0;
    let mut waiting: Vec<Found> = Vec::new();
    loop {
        if let Some(last) = all.get_mut(next)
            && let Some((inner, inside)) = read.remove(&last.path)
        {
            waiting.extend(inner.into_iter().rev());
            last.inside = Some(inside);
        }
        let Some(found) = waiting.pop() else {
            return Ok(all);
        };
        all.push(found);
        next += 1;
    }
}

fn entries(directory: &Path, is_root: bool) -> (Vec<Found>, Inside) {
    let listed = listed(directory);
    let seen = ledger::seen(&listed);
    let Ok(listed) = listed else {
        return (Vec::new(), Inside::Closed(seen));
    };
    if !is_root && is_apart(directory, &listed) {
        return (Vec::new(), Inside::Apart);
    }
    let found = listed.into_iter().map(|(name, metadata)| Found {
        path: directory.join(name),
        metadata,
        inside: None,
    });
    (found.collect(), Inside::Listed(seen))
}

/// What makes a directory an environment, or conda's store of packages.
pub(super) const MARKS: [&str; 3] = ["pyvenv.cfg", "conda-meta", "urls.txt"];

fn is_apart(directory: &Path, listed: &[Listed]) -> bool {
    let has = |name: &str, is_directory: bool| {
        listed
            .binary_search_by(|(listed, _)| listed.as_os_str().cmp(name.as_ref()))
            .is_ok_and(|at| listed[at].1.is_dir() == is_directory)
    };
    let [venv, conda, packages] = MARKS;
    has(venv, false)
        || has(conda, true)
        || directory.file_name().is_some_and(|name| name == "pkgs") && has(packages, false)
}

/// Of a directory that is about to be taken for a part of an environment.
pub(super) fn is_environment(directory: &Path) -> bool {
    listed(directory).is_ok_and(|listed| is_apart(directory, &listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(root: &Path) -> Vec<String> {
        let found = below(root).unwrap();
        let name = |found: &Found| {
            let name = found.path.strip_prefix(root).unwrap();
            name.display().to_string()
        };
        found.iter().map(name).collect()
    }

    fn write(root: &Path, files: &[&str]) {
        for file in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
    }

    #[test]
    fn a_directory_comes_right_before_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &["b/x", "b/c/d/e", "b-c/x", "a"]);
        fs::create_dir(root.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("b", root.path().join("link")).unwrap();
        let expected = [
            "", "a", "b", "b/c", "b/c/d", "b/c/d/e", "b/x", "b-c", "b-c/x", "empty", "link",
        ];
        assert_eq!(shown(root.path()), expected);
        assert!(below(&root.path().join("none")).is_err());
    }

    #[test]
    fn environments_stay_apart() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            "pyvenv.cfg",
            "envs/one/pyvenv.cfg",
            "envs/one/secret",
            "envs/two/conda-meta/history",
            "pkgs/urls.txt",
            "pkgs/numpy/x",
            "lib/pkgs/x",
        ];
        write(root.path(), &files);
        let expected = [
            "",
            "envs",
            "envs/one",
            "envs/two",
            "lib",
            "lib/pkgs",
            "lib/pkgs/x",
            "pkgs",
            "pyvenv.cfg",
        ];
        assert_eq!(shown(root.path()), expected);
    }
}
