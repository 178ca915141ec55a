//! What of a directory of archives, and of what is remembered of them, is of no more use.
//!
//! Nothing is removed here: who asks says which of it goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::environment::ledger;
use crate::error::Error;
use crate::store::names::is_digest;

/// Younger files may belong to a build that runs: packages are there before their archive.
const SETTLED: Duration = Duration::from_hours(24);

/// A file that nothing uses.
#[derive(Debug)]
pub struct Leftover {
    /// Where it lies.
    pub path: PathBuf,
    /// What it takes up.
    pub bytes: u64,
    /// What it is.
    pub what: &'static str,
}

/// What builds that were killed left in a directory of archives, and packages without an archive.
pub fn leftovers(directory: &Path) -> Result<Vec<Leftover>, Error> {
    files(directory, |name| {
        if name.starts_with(".making-") && has_end(name, "pip") {
            return Some("a build that was ended left it");
        }
        let archive = name.strip_suffix(".pip").filter(|name| is_digest(name))?;
        (!directory.join(archive).exists()).then_some("packages without an archive")
    })
}

/// What the cache remembers of archives that are in none of these directories.
pub fn forgotten(cache: &Path, directories: &[PathBuf]) -> Result<Vec<Leftover>, Error> {
    files(cache, |name| {
        if has_end(name, "ledger") {
            let archive = ledger::archive(&cache.join(name));
            return archive
                .is_none_or(|archive| !archive.exists())
                .then_some("remembers an archive that is gone");
        }
        if !is_digest(name) {
            return None;
        }
        let digest = fs::read_to_string(cache.join(name)).ok()?;
        let digest = digest.trim();
        let is_there = |directory: &PathBuf| directory.join(digest).exists();
        (is_digest(digest) && !directories.iter().any(is_there))
            .then_some("remembers an archive that is gone")
    })
}

fn has_end(name: &str, wanted: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == wanted)
}

fn files(
    directory: &Path,
    what: impl Fn(&str) -> Option<&'static str>,
) -> Result<Vec<Leftover>, Error> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(Error::io("read", directory)(error)),
    };
    let now = SystemTime::now();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", directory))?;
        let path = entry.path();
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // A build has just finished.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let age = metadata
            .modified()
            .ok()
            .and_then(|time| now.duration_since(time).ok());
        if !metadata.is_file() || age.is_none_or(|age| age < SETTLED) {
            continue;
        }
        if let Some(what) = entry.file_name().to_str().and_then(&what) {
            let bytes = metadata.len();
            found.push(Leftover { path, bytes, what });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}
