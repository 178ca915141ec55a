//! Everything in some directories, looked at once and on all processors.
//!
//! What was seen here is what a build goes by: whether anything changed since the last one, what goes
//! into the archive, and whether a file is still the same when it is read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use htmap_exec_interpreter::Interpreter;

use crate::environment::{self, Included};

/// The longest that kernels are built with, twice.
const TICK: Duration = Duration::from_millis(20);

/// A file, directory or link (which is not followed).
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Metadata,
    /// Whether it is a directory that could not be read.
    pub(crate) is_closed: bool,
}

/// What an environment consists of.
#[derive(Debug)]
pub struct Walk {
    roots: Vec<Vec<Found>>,
    begun: SystemTime,
}

impl Walk {
    /// Looks at everything that [`crate::collect`] may take; twice where something was changed just before.
    pub fn new(interpreter: &Interpreter, included: &[Included]) -> Self {
        let roots = environment::roots(interpreter);
        let included = included.iter().map(|included| included.path.clone());
        let roots: Vec<PathBuf> = roots.into_iter().chain(included).collect();
        let walk = Self::over(&roots);
        if walk.is_settled() {
            return walk;
        }
        thread::sleep(TICK);
        Self::over(&roots)
    }

    fn over(roots: &[PathBuf]) -> Self {
        Self {
            begun: SystemTime::now(),
            roots: roots
                .iter()
                .filter_map(|root| below(&root.canonicalize().ok()?).ok())
                .collect(),
        }
    }

    /// Whether a later change of any file will show in its metadata. One within the same tick of the
    /// kernel's clock would not; git calls such files racy:
    /// <https://git-scm.com/docs/racy-git>
    pub fn is_settled(&self) -> bool {
        let before = self.begun.checked_sub(TICK);
        let before = before.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let (seconds, nanoseconds) = before.map_or((0, 0), |time| {
            (time.as_secs().cast_signed(), i64::from(time.subsec_nanos()))
        });
        self.all().all(|found| {
            let metadata = &found.metadata;
            (metadata.ctime(), metadata.ctime_nsec()) < (seconds, nanoseconds)
        })
    }

    /// All of it: each root, then what is in it.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Found> {
        self.roots.iter().flatten()
    }

    /// A directory, then what is in it, sorted by name; looked at now if it is none of the roots.
    pub(crate) fn of(&self, directory: &Path) -> io::Result<Cow<'_, [Found]>> {
        for root in &self.roots {
            let is_above = root
                .first()
                .is_some_and(|first| directory.starts_with(&first.path));
            if !is_above {
                continue;
            }
            if let Some(begin) = root.iter().position(|found| found.path == directory) {
                let count = root[begin..]
                    .iter()
                    .take_while(|found| found.path.starts_with(directory))
                    .count();
                return Ok(Cow::Borrowed(&root[begin..begin + count]));
            }
        }
        below(directory).map(Cow::Owned)
    }
}

/// What is left to be read, and what was.
struct Reading {
    waiting: Vec<PathBuf>,
    busy: usize,
    read: HashMap<PathBuf, Option<Vec<Found>>>,
}

fn below(root: &Path) -> io::Result<Vec<Found>> {
    let metadata = fs::symlink_metadata(root)?;
    let is_directory = metadata.is_dir();
    let mut all = vec![Found {
        path: root.to_path_buf(),
        metadata,
        is_closed: false,
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
            let found = entries(&directory).ok();
            state = reading.lock().unwrap_or_else(PoisonError::into_inner);
            let inner = found.iter().flatten();
            let inner = inner.filter(|found| found.metadata.is_dir());
            state.waiting.extend(inner.map(|found| found.path.clone()));
            state.read.insert(directory, found);
            state.busy -= 1;
            moved.notify_all();
        }
    };
    // Of a disk or a network, not of the processors alone.
    let threads = thread::available_parallelism().map_or(1, usize::from) * 2;
    thread::scope(|scope| {
        for _ in 1..threads.min(16) {
            scope.spawn(worker);
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
            && last.metadata.is_dir()
        {
            match read.remove(&last.path).flatten() {
                Some(inner) => waiting.extend(inner.into_iter().rev()),
                None => last.is_closed = true,
            }
        }
        let Some(found) = waiting.pop() else {
            return Ok(all);
        };
        all.push(found);
        next += 1;
    }
}

fn entries(directory: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) => found.push(Found {
                path: entry.path(),
                metadata,
                is_closed: false,
            }),
            // Gone since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable_by(|one, other| one.path.file_name().cmp(&other.path.file_name()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_right_before_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        // Before anything is made, however long that takes.
        let begun = SystemTime::now();
        for file in ["b/x", "b/c/d/e", "b-c/x", "a"] {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        fs::create_dir(root.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("b", root.path().join("link")).unwrap();
        let shown = |found: &[Found]| -> Vec<String> {
            let name = |found: &Found| {
                let name = found.path.strip_prefix(root.path()).unwrap();
                name.display().to_string()
            };
            found.iter().map(name).collect()
        };
        let found = below(root.path()).unwrap();
        let expected = [
            "", "a", "b", "b/c", "b/c/d", "b/c/d/e", "b/x", "b-c", "b-c/x", "empty", "link",
        ];
        assert_eq!(shown(&found), expected);
        let walk = Walk {
            roots: vec![found],
            begun,
        };
        assert!(!walk.is_settled());
        let inner = walk.of(&root.path().join("b")).unwrap();
        assert!(matches!(inner, Cow::Borrowed(_)));
        assert_eq!(shown(&inner), ["b", "b/c", "b/c/d", "b/c/d/e", "b/x"]);
        assert!(walk.of(&root.path().join("none")).is_err());
    }
}
