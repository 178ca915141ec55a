//! Where the scratch directories are: one directory for a run, which goes with it.
//!
//! A run that was killed could not remove its own: the next one does, once it is sure that nobody uses it any more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::Pid;

use super::files;

/// Locked for as long as the run lasts.
const LOCK: &str = "lock";
/// How long a directory may be without its lock: between the two lies an instant.
const SETTLED: Duration = Duration::from_mins(1);

pub(super) struct Scratches {
    path: PathBuf,
    _lock: File,
}

impl Scratches {
    pub(super) fn make() -> anyhow::Result<Self> {
        let parent = std::env::temp_dir();
        let prefix = prefix();
        sweep(&parent, &prefix);
        let cannot = || {
            format!(
                "cannot create a directory for the scratch directories in `{}`\nhint: name another place by TMPDIR",
                parent.display()
            )
        };
        let directory = tempfile::Builder::new()
            .prefix(&format!("{prefix}{}-", std::process::id()))
            .tempdir_in(&parent)
            .with_context(cannot)?;
        // It goes by a way of our own: a function may have made directories that cannot be written to.
        let path = directory.keep().canonicalize().with_context(cannot)?;
        let lock = File::create_new(path.join(LOCK)).with_context(cannot)?;
        // Where locks are unknown, the process id has to do.
        lock.try_lock().ok();
        Ok(Self { path, _lock: lock })
    }

    /// Of a component; not made yet.
    pub(super) fn of(&self, component: u64) -> PathBuf {
        self.path.join(component.to_string())
    }
}

impl Drop for Scratches {
    fn drop(&mut self) {
        if let Err(error) = files::remove(&self.path) {
            tracing::warn!("cannot remove `{}`: {error}", self.path.display());
        }
    }
}

/// With the host: another one may see the same directory, and not our processes.
fn prefix() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host: String = host
        .to_string_lossy()
        .chars()
        .map(|character| if character == '/' { '_' } else { character })
        .collect();
    format!("htmap-exec-local-{host}-")
}

/// Removes what runs that were killed have left.
fn sweep(parent: &Path, prefix: &str) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.split_once('-')?.0.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            continue;
        };
        let path = entry.path();
        if is_left_behind(&path, pid).unwrap_or(false) {
            match files::remove(&path) {
                Ok(()) => tracing::info!("removed `{}`, which a run left behind", path.display()),
                Err(error) => tracing::info!("cannot remove `{}`: {error}", path.display()),
            }
        }
    }
}

fn is_left_behind(path: &Path, pid: i32) -> io::Result<bool> {
    let found = path.symlink_metadata()?;
    let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
    let is_dead = nix::sys::signal::kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH);
    if !ours || !is_dead {
        return Ok(false);
    }
    // A process of another container has a number that means nothing here, but it holds the lock.
    let lock = File::options()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path.join(LOCK));
    match lock {
        Ok(lock) => Ok(lock.try_lock().is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(found.modified()?.elapsed().is_ok_and(|age| age > SETTLED))
        }
        Err(error) => Err(error),
    }
}
