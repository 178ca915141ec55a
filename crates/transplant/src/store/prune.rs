//! What of a directory of archives, and of what is remembered of them, is of no more use.
//!
//! Nothing is removed here: who asks says which of it goes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::archive::encoding::Reader;
use crate::archive::listing::LONGEST_PATH;
use crate::environment::ledger;
use crate::error::Error;
use crate::store::names::is_digest;

/// What remembers a build begins with this, the version of its format, and the archive's path.
pub(crate) const BUILD: &str = "htmap-exec build ";

/// Younger files may belong to a build that runs: packages are there before their archive.
const SETTLED: Duration = Duration::from_hours(24);
/// As far as what remembers a build has to be read.
const LONGEST: u64 = LONGEST_PATH as u64 + 64;

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

/// What the cache remembers of archives that are in none of these directories, or of builds whose
/// archive is gone, and what else builds left there.
pub fn forgotten(cache: &Path, directories: &[PathBuf]) -> Result<Vec<Leftover>, Error> {
    let is_forgotten =
        |name: &str| archive_of(&cache.join(name)).is_some_and(|archive| !archive.exists());
    files(cache, |name| {
        if name.starts_with(".tmp") {
            return Some("a build that was ended left it");
        }
        match name.rsplit_once('.') {
            Some((_, "build")) => {
                return is_forgotten(name).then_some("remembers an archive that is gone");
            }
            Some((_, "ledger")) => {
                let archive = ledger::archive(&cache.join(name));
                return archive
                    .is_none_or(|archive| !archive.exists())
                    .then_some("remembers an archive that is gone");
            }
            Some((stem, "compiled")) => {
                let build = format!("{stem}.build");
                return (!cache.join(&build).exists() || is_forgotten(&build))
                    .then_some("has bytecode of an archive that is gone");
            }
            Some((stem, "lock")) => {
                let build = format!("{stem}.build");
                let is_alone = !cache.join(&build).exists() || is_forgotten(&build);
                return (is_alone && is_free(&cache.join(name)))
                    .then_some("kept builds apart that nothing is remembered of");
            }
            _ => {}
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

/// The archive that a build remembers, whatever version of this program wrote it down.
fn archive_of(build: &Path) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let file = File::open(build).ok()?;
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(BUILD.as_bytes())?;
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    let archive = Reader(&rest[end + 1..]).sized()?;
    Some(Path::new(OsStr::from_bytes(archive)).to_path_buf())
}

fn is_free(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|lock| lock.try_lock().is_ok())
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
