//! Unpacked trees that a node keeps from one job to the next, by the digests of their archives.
//!
//! Nothing in here is trusted for being there. A tree counts only if whoever runs now unpacked it
//! since this machine was booted (what a crash leaves is unknown), and if no directory of it has
//! changed since: the kernel sets the time of a directory's last change whenever a name in it comes,
//! goes or is replaced, and nobody can set that back. Whatever is wrong with a cache, the answer is
//! [`PassedOver`], and the job goes without.
//!
//!     CACHE/UID/NODE/DIGEST/lock     held while the tree is made or used; its size in bytes; time of last use
//!     CACHE/UID/NODE/DIGEST/tree     the tree, its directories read-only
//!     CACHE/UID/NODE/DIGEST/ready    what the tree was when it was complete; written last
//!     CACHE/UID/NODE/DIGEST/partial  a tree that is being made or removed

mod place;
mod ready;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use self::place::is_private;
use self::ready::{check, publish};
use crate::archive::digest::Digest;
use crate::archive::index::Archive;
use crate::node::requirements::{no_room, room};
use crate::node::unpack::{remove, unpack};
use crate::relocate::unpacked::apply;

const LOCK: &str = "lock";
const TREE: &str = "tree";
const READY: &str = "ready";
const PARTIAL: &str = "partial";

/// Random, and the same until the machine is booted again.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Another job may be unpacking the same archive: longer than this, and this one does so itself.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);
/// A tree that is damaged and in use cannot be replaced; jobs that look at the same moment can wait.
const DAMAGED_PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no help from the cache.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PassedOver(String);

impl PassedOver {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self(format!("cannot {action} `{}`: {error}", path.display()))
    }
}

impl From<crate::Error> for PassedOver {
    fn from(error: crate::Error) -> Self {
        Self(match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

/// The part of a cache that is this user's on this node.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    /// The boot of this machine.
    boot: String,
    limit: u64,
}

/// A tree in the cache. It stays as long as this does.
#[derive(Debug)]
pub struct Held {
    /// Where.
    pub tree: PathBuf,
    /// Whether it was there already.
    pub hit: bool,
    _lock: File,
}

impl Cache {
    /// A cache directory that nobody else can bend, with a bound for all trees of this user.
    pub fn open(directory: &Path, limit: u64) -> Result<Self, PassedOver> {
        if !directory.is_absolute() {
            return Err(PassedOver(format!(
                "`{}` is no absolute path",
                directory.display()
            )));
        }
        make(directory, 0o755)?;
        let directory = directory
            .canonicalize()
            .map_err(PassedOver::io("find", directory))?;
        place::suits(&directory)?;
        let boot = fs::read_to_string(BOOT).map_err(PassedOver::io("read", Path::new(BOOT)))?;
        let user = directory.join(nix::unistd::geteuid().to_string());
        let root = user.join(place::of_this_node(&boot));
        for part in [&user, &root] {
            make(part, 0o700)?;
            is_private(part)?;
        }
        Ok(Self { root, boot, limit })
    }

    /// The tree of an archive, unpacked now if it is not there. `ending` says whether there is no more
    /// time to wait for others.
    pub fn hold(
        &self,
        digest: Digest,
        ending: impl Fn() -> bool,
        open: impl FnOnce() -> Result<(Arc<Archive>, File), crate::Error>,
    ) -> Result<Held, PassedOver> {
        let entry = self.root.join(digest.to_string());
        make(&entry, 0o700)?;
        is_private(&entry)?;
        let begun = Instant::now();
        let mut damaged: Option<(Instant, String)> = None;
        loop {
            let lock = open_lock(&entry)?;
            if has(&lock, File::try_lock_shared, &entry)? {
                match check(&entry, &self.boot) {
                    Ok(()) => {
                        // For whoever has to make room; a read-only cache is as good.
                        let _ = lock.set_modified(SystemTime::now());
                        return Ok(Held {
                            tree: entry.join(TREE),
                            hit: true,
                            _lock: lock,
                        });
                    }
                    Err(reason) => {
                        damaged.get_or_insert_with(|| (Instant::now(), reason));
                    }
                }
                // The kernel may hand it to another one in between; then this one waits like any other.
                if has(&lock, File::try_lock, &entry)? {
                    if check(&entry, &self.boot).is_err() {
                        if let Some((_, reason)) = &damaged
                            && entry.join(READY).exists()
                        {
                            tracing::info!("unpacking `{}` again: {reason}", entry.display());
                        }
                        return self.fill(&entry, lock, open);
                    }
                    continue;
                }
            } else {
                damaged = None;
            }
            if let Some((since, reason)) = &damaged
                && since.elapsed() > DAMAGED_PATIENCE
            {
                return Err(PassedOver(format!(
                    "another job uses `{}`, which is not whole: {reason}",
                    entry.display()
                )));
            }
            if begun.elapsed() > PATIENCE {
                return Err(PassedOver(format!(
                    "another job has been unpacking into `{}` for {} s",
                    entry.display(),
                    PATIENCE.as_secs()
                )));
            }
            if ending() {
                return Err(PassedOver("the job is to end".to_owned()));
            }
            drop(lock);
            std::thread::sleep(PAUSE);
        }
    }

    /// Unpacks, with the lock held for this process alone.
    fn fill(
        &self,
        entry: &Path,
        mut lock: File,
        open: impl FnOnce() -> Result<(Arc<Archive>, File), crate::Error>,
    ) -> Result<Held, PassedOver> {
        clear(entry, &mut lock)?;
        keeps_fine_times(&lock, entry)?;
        let (archive, file) = open().map_err(PassedOver::from)?;
        self.make_room(&archive, &mut lock)?;
        let partial = entry.join(PARTIAL);
        let made = make(&partial, 0o755)
            .and_then(|()| unpack(&archive, &file, &partial).map_err(PassedOver::from))
            .and_then(|_| apply(&partial, &entry.join(TREE)).map_err(PassedOver::from))
            .inspect(|left| left.iter().for_each(|left| tracing::warn!("{left}")))
            .and_then(|_| publish(entry, &archive, &self.boot));
        if let Err(error) = made {
            clear(entry, &mut lock)?;
            return Err(error);
        }
        // Not in one step: whoever makes room may come in between.
        if !has(&lock, File::try_lock_shared, entry)? || !entry.join(READY).exists() {
            return Err(PassedOver(format!(
                "another job removed `{}` at once",
                entry.display()
            )));
        }
        Ok(Held {
            tree: entry.join(TREE),
            hit: false,
            _lock: lock,
        })
    }

    /// Removes trees until this one fits, those that were not used for the longest time first. What is
    /// in use stays.
    fn make_room(&self, archive: &Archive, own: &mut File) -> Result<(), PassedOver> {
        let needed = room(archive, 4096);
        if needed > self.limit {
            return Err(PassedOver(format!(
                "it takes {} MB, and the cache may take {} MB",
                needed.div_ceil(1_000_000),
                self.limit / 1_000_000
            )));
        }
        // One at a time: two that look at the same moment would both find the room.
        let turn = open_lock(&self.root)?;
        let begun = Instant::now();
        while !has(&turn, File::try_lock, &self.root)? {
            if begun.elapsed() > PATIENCE {
                return Err(PassedOver("other jobs keep making room in it".to_owned()));
            }
            std::thread::sleep(PAUSE);
        }
        let mut others = Vec::new();
        let entries = fs::read_dir(&self.root).map_err(PassedOver::io("read", &self.root))?;
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if let Ok(mut lock) = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path.join(LOCK))
            {
                let used = lock.metadata().and_then(|metadata| metadata.modified());
                let bytes = size(&mut lock);
                if bytes > 0 {
                    others.push((used.unwrap_or(SystemTime::UNIX_EPOCH), bytes, path, lock));
                }
            }
        }
        others.sort_by_key(|(used, ..)| *used);
        let mut total: u64 = others.iter().map(|(_, bytes, ..)| bytes).sum();
        let mut others = others.into_iter();
        loop {
            let lacking = if total.saturating_add(needed) > self.limit {
                Some(format!("its {} MB are taken", self.limit / 1_000_000))
            } else {
                no_room(archive, &self.root).map(|lacking| lacking.to_string())
            };
            let Some(lacking) = lacking else {
                break;
            };
            let Some((_, bytes, path, mut lock)) = others.next() else {
                return Err(PassedOver(lacking));
            };
            if lock.try_lock().is_ok() {
                tracing::info!("making room in the cache: removing `{}`", path.display());
                clear(&path, &mut lock)?;
                total -= bytes;
            }
        }
        own.rewind()
            .and_then(|()| write!(own, "{needed}"))
            .map_err(PassedOver::io("write into", &self.root))
    }
}

/// Whether the file system writes down when exactly a directory changed: where it only does so to the
/// second, a change right after the tree was complete would not be seen.
fn keeps_fine_times(lock: &File, entry: &Path) -> Result<(), PassedOver> {
    for _ in 0..3 {
        lock.set_modified(SystemTime::now())
            .map_err(PassedOver::io("write into", entry))?;
        let metadata = lock.metadata().map_err(PassedOver::io("look at", entry))?;
        if metadata.ctime_nsec() != 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(PassedOver(format!(
        "the file system of `{}` keeps times in whole seconds only",
        entry.display()
    )))
}

/// How much an entry takes, or is going to take.
fn size(lock: &mut File) -> u64 {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok();
    text.trim().parse().unwrap_or(0)
}

/// The directory, whether it was there or not.
fn make(path: &Path, mode: u32) -> Result<(), PassedOver> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if !path.is_dir() => Err(PassedOver::io("make", path)(error)),
        _ => Ok(()),
    }
}

fn open_lock(directory: &Path) -> Result<File, PassedOver> {
    let path = directory.join(LOCK);
    let open = |writable: bool| {
        OpenOptions::new()
            .read(true)
            .write(writable)
            .create(writable)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
    };
    // What is on a read-only file system can be locked and used all the same.
    open(true)
        .or_else(|error| open(false).map_err(|_| error))
        .map_err(PassedOver::io("open", &path))
}

fn has(
    lock: &File,
    kind: impl Fn(&File) -> Result<(), TryLockError>,
    path: &Path,
) -> Result<bool, PassedOver> {
    match kind(lock) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(PassedOver::io("lock", path)(error)),
    }
}

/// Back to an entry with nothing in it. A kill in between leaves one without `ready`.
fn clear(entry: &Path, lock: &mut File) -> Result<(), PassedOver> {
    for path in [entry.join(READY), entry.join(TREE), entry.join(PARTIAL)] {
        remove(&path).map_err(PassedOver::io("remove", &path))?;
    }
    lock.set_len(0).map_err(PassedOver::io("write into", entry))
}
