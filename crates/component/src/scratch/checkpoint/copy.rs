//! Copies a file of a checkpoint, and holds its bytes against their digest on the way.
//!
//! Blocks of zeros become holes, and holes are neither read nor written: a file of 10 GB with
//! nothing in it costs nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};

use super::manifest::{Attributes, Digest};
use crate::hex::hex;
use crate::regular;

/// The unit of digests, as in `htmap.py`.
const BLOCK: usize = 1 << 20;
/// The unit of holes.
const PAGE: usize = 1 << 12;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Why a file did not come out.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The machine is to be given back.
    Stopped,
    /// It is not what was checkpointed.
    Damaged(String),
    /// The file system refused something.
    Failed(&'static str, io::Error),
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> Trouble {
    move |error| Trouble::Failed(action, error)
}

/// Copies `from` to `to`, which must not exist.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    size: Option<u64>,
    digest: &Digest,
    attributes: Attributes,
    stop: &AtomicBool,
) -> Result<(), Trouble> {
    let source = regular::open(from).map_err(|error| match error.raw_os_error() {
        Some(_) if error.kind() != io::ErrorKind::NotFound => Trouble::Failed("read", error),
        _ => Trouble::Damaged(error.to_string()),
    })?;
    let metadata = source.metadata().map_err(failed("read"))?;
    if size.is_some_and(|size| size != metadata.len()) {
        return Err(Trouble::Damaged("it has another size".to_owned()));
    }
    let target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(failed("write"))?;
    let mut hasher = Hasher::new(digest);
    transfer(&source, &target, metadata.len(), &mut hasher, stop)?;
    if !hasher.agrees(digest) {
        return Err(Trouble::Damaged("its digest is another one".to_owned()));
    }
    let modified = attributes
        .modified
        .map(time)
        .or_else(|| metadata.modified().ok());
    let mode = attributes
        .mode
        .unwrap_or_else(|| metadata.permissions().mode());
    // The mode comes last: it may take the right to write. Neither is worth a run: some file
    // systems have no modes.
    let dressed = modified
        .map_or(Ok(()), |modified| target.set_modified(modified))
        .and_then(|()| target.set_permissions(fs::Permissions::from_mode(mode & 0o7777)));
    if let Err(error) = dressed {
        tracing::debug!(
            "mode or time of `{}` is not restored: {error}",
            from.display()
        );
    }
    Ok(())
}

/// A time as manifests have it.
pub(super) fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    if nanoseconds < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

fn transfer(
    source: &File,
    target: &File,
    size: u64,
    hasher: &mut Hasher,
    stop: &AtomicBool,
) -> Result<(), Trouble> {
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(BLOCK).min(BLOCK)];
    let mut at = 0;
    let mut data_from = 0;
    while at < size {
        if stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped);
        }
        let length = (BLOCK as u64).min(size - at);
        let block = &mut buffer[..usize::try_from(length).unwrap_or(BLOCK)];
        if data_from < at {
            data_from = next_data(source, at).unwrap_or(size);
        }
        if data_from >= at + length {
            // A hole.
            hasher.zeros(&ZEROS[..block.len()]);
        } else {
            source
                .read_exact_at(block, at)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        Trouble::Damaged("it became shorter".to_owned())
                    }
                    _ => Trouble::Failed("read", error),
                })?;
            if *block == ZEROS[..block.len()] {
                hasher.zeros(block);
            } else {
                hasher.block(at / BLOCK as u64, block);
                write(source, target, block, at).map_err(failed("write"))?;
            }
            data_from = at;
        }
        at += length;
    }
    target.set_len(size).map_err(failed("write"))
}

/// Where the next data begins. Without an answer all of it is data.
fn next_data(file: &File, at: u64) -> Option<u64> {
    match lseek(file, i64::try_from(at).ok()?, Whence::SeekData) {
        Ok(found) => u64::try_from(found).ok(),
        // Only a hole is left.
        Err(Errno::ENXIO) => None,
        Err(_) => Some(at),
    }
}

fn write(source: &File, target: &File, block: &[u8], at: u64) -> io::Result<()> {
    let is_zero = |page: &[u8]| *page == ZEROS[..page.len()];
    if block.len() == BLOCK && !block.chunks(PAGE).any(is_zero) && share(source, target, at) {
        return Ok(());
    }
    let mut start = 0;
    while start < block.len() {
        let rest = &block[start..];
        let empty = rest.chunks(PAGE).take_while(|page| is_zero(page)).count() * PAGE;
        let rest = &rest[empty.min(rest.len())..];
        let full = rest.chunks(PAGE).take_while(|page| !is_zero(page)).count() * PAGE;
        let full = full.min(rest.len());
        start = block.len() - rest.len();
        target.write_all_at(&rest[..full], at + start as u64)?;
        start += full;
    }
    Ok(())
}

/// Has the kernel copy a block: file systems with reflinks then store it once.
fn share(source: &File, target: &File, at: u64) -> bool {
    let Ok(offset) = i64::try_from(at) else {
        return false;
    };
    let (mut from, mut to) = (offset, offset);
    let copied = nix::fcntl::copy_file_range(source, Some(&mut from), target, Some(&mut to), BLOCK);
    copied == Ok(BLOCK)
}

enum Hasher {
    None,
    Whole(Sha256),
    Blocks(Sha256),
}

impl Hasher {
    fn new(digest: &Digest) -> Self {
        match digest {
            Digest::None => Self::None,
            Digest::Whole(_) => Self::Whole(Sha256::new()),
            Digest::Blocks(_) => Self::Blocks(Sha256::new()),
        }
    }

    fn block(&mut self, number: u64, block: &[u8]) {
        match self {
            Self::None => {}
            Self::Whole(hasher) => hasher.update(block),
            Self::Blocks(hasher) => {
                hasher.update(number.to_le_bytes());
                hasher.update(block);
            }
        }
    }

    fn zeros(&mut self, block: &[u8]) {
        if let Self::Whole(hasher) = self {
            hasher.update(block);
        }
    }

    fn agrees(self, digest: &Digest) -> bool {
        match (self, digest) {
            (Self::Whole(hasher), Digest::Whole(wanted))
            | (Self::Blocks(hasher), Digest::Blocks(wanted)) => hex(&hasher.finalize()) == *wanted,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn copied(content: &[u8], digest: &Digest) -> Result<Vec<u8>, Trouble> {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, content).unwrap();
        let attributes = Attributes {
            mode: Some(0o444),
            modified: Some(1_000_000_007),
        };
        copy(
            &from,
            &to,
            None,
            digest,
            attributes,
            &AtomicBool::new(false),
        )?;
        let metadata = to.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o444);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 7));
        Ok(fs::read(&to).unwrap())
    }

    #[test]
    fn contents_of_every_shape_come_out_as_they_are() {
        let mut holes = vec![0; 3 * BLOCK + 5000];
        holes[2 * BLOCK + PAGE + 1] = 1;
        holes[3 * BLOCK + 4999] = 2;
        let full = vec![7; 2 * BLOCK + 1];
        for content in [&holes[..], &full, b"", b"x", &ZEROS] {
            let mut hasher = Sha256::new();
            for (number, block) in content.chunks(BLOCK).enumerate() {
                if block != &ZEROS[..block.len()] {
                    hasher.update((number as u64).to_le_bytes());
                    hasher.update(block);
                }
            }
            let blocks = Digest::Blocks(hex(&hasher.finalize()));
            let whole = Digest::Whole(hex(&Sha256::digest(content)));
            for digest in [blocks, whole, Digest::None] {
                assert!(copied(content, &digest).unwrap() == content);
            }
        }
        let wrong = Digest::Blocks("00".to_owned());
        assert!(matches!(copied(b"x", &wrong), Err(Trouble::Damaged(_))));
    }

    #[test]
    fn holes_cost_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(100 << 30).unwrap();
        file.write_all_at(b"end", (100 << 30) - 3).unwrap();
        let stop = AtomicBool::new(false);
        copy(
            &from,
            &to,
            None,
            &Digest::None,
            Attributes::default(),
            &stop,
        )
        .unwrap();
        let metadata = to.metadata().unwrap();
        assert_eq!(metadata.len(), 100 << 30);
        assert!(metadata.blocks() < 100, "{}", metadata.blocks());
    }

    #[test]
    fn a_copy_can_be_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "content").unwrap();
        let stop = AtomicBool::new(true);
        let copied = copy(
            &from,
            &to,
            None,
            &Digest::None,
            Attributes::default(),
            &stop,
        );
        assert!(matches!(copied, Err(Trouble::Stopped)));
    }
}
