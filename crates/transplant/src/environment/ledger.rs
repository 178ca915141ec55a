//! Every path that was looked at while an environment was collected, and what was seen there.
//!
//! An environment is unchanged if its ledger still holds, and nothing else decides it. Change times
//! cannot be set back, so a file whose metadata is the same has the same content. The time of a
//! directory says nothing here: Python writes `.pyc` files into it, which show by themselves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use htmap_exec_interpreter::Interpreter;

use crate::archive::encoding::{Reader, put, put_bytes};
use crate::environment::listed::{Listed, listed};
use crate::parallel;
use crate::relocate::content::Stamp;

const SIGNATURE: &[u8] = b"htmap-exec ledger 1\n";

/// The longest that kernels are built with, twice.
const TICK: Duration = Duration::from_millis(20);
/// The coarsest times that file systems keep: FAT's. ext3's are whole seconds, as are those of ext4 with
/// small inodes and of NFS servers that have such a disk.
const COARSEST: i64 = 2;
/// The longest that it takes until a later change shows, unless a clock is wrong.
const LONGEST: Duration = Duration::from_millis(2020);

/// Half of a BLAKE3 digest of what was seen.
type Mark = [u8; 16];

/// How a path was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// The names in a directory, and what they are; links are not followed.
    Listing = 0,
    /// What a path leads to through all links, or that there is nothing.
    Target = 1,
}

/// What was seen at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    mark: Mark,
    /// From when on every change of a file shows in its times, but for the kernel's tick: seconds and
    /// nanoseconds since 1970.
    shows: (i64, i64),
}

/// What was seen, by path.
#[derive(Debug)]
pub struct Ledger {
    begun: SystemTime,
    shows: (i64, i64),
    seen: BTreeMap<(PathBuf, Look), Mark>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            begun: SystemTime::now(),
            shows: (0, 0),
            seen: BTreeMap::new(),
        }
    }

    /// Of a directory that was listed.
    pub(super) fn put_listing(&mut self, directory: &Path, seen: Seen) {
        self.put(directory, Look::Listing, seen);
    }

    /// Lists a directory for this ledger alone.
    pub(super) fn list(&mut self, directory: &Path) {
        self.put(directory, Look::Listing, Look::Listing.at(directory));
    }

    /// What lies at a path, or that nothing does, had a say in what was collected.
    pub(super) fn look(&mut self, path: &Path) {
        if !self.seen.contains_key(&(path.to_path_buf(), Look::Target)) {
            self.put(path, Look::Target, Look::Target.at(path));
        }
    }

    fn put(&mut self, path: &Path, look: Look, seen: Seen) {
        self.shows = self.shows.max(seen.shows);
        self.seen.insert((path.to_path_buf(), look), seen.mark);
    }

    /// Whether a later change of any file will show in its metadata. One within the same tick of the
    /// kernel's clock would not, nor one within the same second where the file system keeps no finer
    /// times; git calls such files racy: <https://git-scm.com/docs/racy-git>
    pub fn is_settled(&self) -> bool {
        self.unsettled().is_zero()
    }

    /// How much later it would have to be begun to be settled.
    fn unsettled(&self) -> Duration {
        let (seconds, nanoseconds) = self.shows;
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let nanoseconds = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
        let settled = UNIX_EPOCH + seconds + nanoseconds + TICK;
        settled.duration_since(self.begun).unwrap_or_default()
    }

    /// Until another one would be settled, if that is soon: it never is where a clock is far ahead.
    pub(super) fn wait(&self) -> bool {
        let left = self.unsettled();
        let is_soon = left <= LONGEST;
        if is_soon {
            thread::sleep(left);
        }
        is_soon
    }

    /// Remembers what was built of it. `checked`: the packed Python was started before.
    pub fn keep(
        &self,
        place: &Path,
        interpreter: &Interpreter,
        archive: &Path,
        checked: bool,
    ) -> io::Result<()> {
        let archive = std::path::absolute(archive)?;
        let mut out = SIGNATURE.to_vec();
        put_bytes(&mut out, archive.as_os_str().as_bytes());
        out.extend_from_slice(&Stamp::of(&fs::metadata(&archive)?).bytes());
        out.push(u8::from(checked));
        out.extend_from_slice(&search_path(interpreter));
        put(&mut out, self.seen.len() as u64);
        for ((path, look), mark) in &self.seen {
            out.push(*look as u8);
            put_bytes(&mut out, path.as_os_str().as_bytes());
            out.extend_from_slice(mark);
        }
        let place = of(place);
        let directory = place.parent().unwrap_or(&place);
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&out)?;
        file.persist(&place)?;
        Ok(())
    }
}

/// The archive in `directory` that this environment gave before, if nothing has changed since: neither
/// what was looked at, nor the archive. One that was not checked will not do for a build that checks.
pub fn unchanged(
    place: &Path,
    interpreter: &Interpreter,
    directory: &Path,
    check: bool,
) -> Option<PathBuf> {
    let bytes = fs::read(of(place)).ok()?;
    let kept = parse(&bytes)?;
    let there = directory.join(kept.archive.file_name()?);
    let metadata = fs::metadata(&there).ok()?;
    let is_the_one = std::path::absolute(&there).ok()? == kept.archive
        && Stamp::of(&metadata).bytes() == kept.stamp
        && there.with_extension("pip").is_file()
        && (kept.is_checked || !check)
        && kept.search_path == search_path(interpreter);
    if !is_the_one {
        return None;
    }
    let holds = parallel::map(&kept.seen, |(look, path, mark)| {
        let holds = look.at(path).mark == *mark;
        if !holds {
            tracing::debug!("`{}` is not as it was", path.display());
        }
        holds
    });
    holds.into_iter().all(|holds| holds).then_some(there)
}

/// The archive that a ledger was kept for.
pub(crate) fn archive(ledger: &Path) -> Option<PathBuf> {
    let bytes = fs::read(ledger).ok()?;
    Some(parse(&bytes)?.archive.to_path_buf())
}

/// Beside what else is remembered of the environment.
fn of(place: &Path) -> PathBuf {
    place.with_extension("ledger")
}

struct Kept<'a> {
    archive: &'a Path,
    stamp: &'a [u8],
    is_checked: bool,
    search_path: Mark,
    seen: Vec<(Look, &'a Path, Mark)>,
}

fn parse(bytes: &[u8]) -> Option<Kept<'_>> {
    fn path(bytes: &[u8]) -> &Path {
        Path::new(OsStr::from_bytes(bytes))
    }
    let mut reader = Reader(bytes.strip_prefix(SIGNATURE)?);
    let mut kept = Kept {
        archive: path(reader.sized()?),
        stamp: reader.bytes(48)?,
        is_checked: reader.byte()? == 1,
        search_path: reader.bytes(16)?.try_into().ok()?,
        seen: Vec::new(),
    };
    for _ in 0..reader.count(18)? {
        let look = match reader.byte()? {
            0 => Look::Listing,
            1 => Look::Target,
            _ => return None,
        };
        let path = path(reader.sized()?);
        kept.seen
            .push((look, path, reader.bytes(16)?.try_into().ok()?));
    }
    reader.0.is_empty().then_some(kept)
}

/// What variables lead to: what Python adds to its path by itself depends on them as well.
fn search_path(interpreter: &Interpreter) -> Mark {
    let mut hash = blake3::Hasher::new();
    for directory in &interpreter.sys_path {
        hash.update(directory.as_os_str().as_bytes());
        hash.update(b"\0");
    }
    // So does where libraries are found.
    hash.update(
        std::env::var_os("LD_LIBRARY_PATH")
            .unwrap_or_default()
            .as_bytes(),
    );
    half(&hash)
}

fn half(hash: &blake3::Hasher) -> Mark {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    half
}

impl Look {
    fn at(self, path: &Path) -> Seen {
        match self {
            Self::Listing => seen(&listed(path)),
            Self::Target => target(&fs::metadata(path)),
        }
    }
}

/// What a listing says, or why there is none.
pub(super) fn seen(listed: &io::Result<Vec<Listed>>) -> Seen {
    let mut hash = blake3::Hasher::new();
    let mut shows = (0, 0);
    match listed {
        Ok(listed) => {
            for (name, metadata) in listed {
                hash.update(name.as_bytes());
                hash.update(b"\0");
                put_metadata(&mut hash, &mut shows, metadata);
            }
        }
        Err(error) => put_error(&mut hash, error),
    }
    let mark = half(&hash);
    Seen { mark, shows }
}

fn target(metadata: &io::Result<Metadata>) -> Seen {
    let mut hash = blake3::Hasher::new();
    let mut shows = (0, 0);
    match metadata {
        Ok(metadata) => {
            // Which directory: what is in it is listed where it matters.
            hash.update(&metadata.ino().to_le_bytes());
            put_metadata(&mut hash, &mut shows, metadata);
        }
        Err(error) => put_error(&mut hash, error),
    }
    let mark = half(&hash);
    Seen { mark, shows }
}

fn put_metadata(hash: &mut blake3::Hasher, shows: &mut (i64, i64), metadata: &Metadata) {
    hash.update(&metadata.mode().to_le_bytes());
    if !metadata.is_dir() {
        hash.update(&Stamp::of(metadata).bytes());
        *shows = (*shows).max(match (metadata.ctime(), metadata.ctime_nsec()) {
            // In whole seconds: hardly by chance.
            (seconds, 0) => (seconds.saturating_add(COARSEST), 0),
            fine => fine,
        });
    }
}

fn put_error(hash: &mut blake3::Hasher, error: &io::Error) {
    hash.update(b"error");
    hash.update(&error.raw_os_error().unwrap_or(0).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_shows_and_what_does_not() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), "1").unwrap();
        fs::write(at("outside"), "1").unwrap();
        symlink("../outside", at("d/link")).unwrap();
        let list = || Look::Listing.at(&at("d")).mark;
        let look = |name: &str| Look::Target.at(&at(name)).mark;
        let (listing, linked, nothing) = (list(), look("d/link"), look("d/none"));
        // Through the link, and not in the directory.
        fs::write(at("outside"), "22").unwrap();
        assert_eq!(list(), listing);
        assert_ne!(look("d/link"), linked);
        assert_eq!(look("d/none"), nothing);
        // What lies in a directory below shows there.
        fs::create_dir(at("d/cache")).unwrap();
        let (listing, directory) = (list(), look("d/cache"));
        fs::write(at("d/cache/new.pyc"), "").unwrap();
        assert_eq!((list(), look("d/cache")), (listing, directory));
        fs::write(at("d/file"), "2").unwrap();
        assert_ne!(list(), listing);
    }

    #[test]
    fn half_a_ledger_is_none() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("x.build");
        let archive = root.path().join("archive");
        fs::write(&archive, "").unwrap();
        let interpreter = super::super::tests::interpreter(root.path());
        let mut ledger = Ledger::new();
        ledger.list(root.path());
        ledger.look(&archive);
        assert!(!ledger.is_settled());
        ledger.keep(&place, &interpreter, &archive, true).unwrap();
        let bytes = fs::read(root.path().join("x.ledger")).unwrap();
        assert_eq!(parse(&bytes).unwrap().seen.len(), 2);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_none(), "{end}");
        }
    }
}
