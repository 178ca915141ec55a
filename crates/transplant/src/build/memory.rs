//! Where the frames of an environment's last archive are, so that a build compresses what has changed
//! since and nothing else.
//!
//! Each is kept by a digest of all that it depends on, so what is found is right; what is lost is
//! made again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::Interpreter;

use crate::archive::encoding::{Reader, put, put_bytes};
use crate::archive::frame::Frame;
use crate::archive::listing::Sum;
use crate::build::check::Checked;
use crate::build::pack::Packed;
use crate::store::prune::BUILD;

/// Behind [`BUILD`]: grows when what follows the archive's path changes.
const VERSION: &str = "2\n";

/// Half of a BLAKE3 digest.
pub(crate) type Key = [u8; 16];

pub(crate) fn key(parts: &[&[u8]]) -> Key {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().as_bytes()[..16]
        .try_into()
        .expect("a digest has 32 bytes")
}

/// A frame of an archive, by what its content was read from.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) source: Key,
    pub(crate) frame: Frame,
    /// Of the chunks of files in it, one after the other.
    pub(crate) sums: Vec<Sum>,
    /// Of its compressed bytes: an archive may have been damaged since.
    pub(crate) checksum: u32,
}

/// Of the last build.
#[derive(Debug, Default)]
pub struct Memory {
    archive: Option<File>,
    /// With the place in the archive.
    frames: HashMap<Key, (u64, Kept)>,
    /// What the interpreter was when it started elsewhere.
    pub(crate) checked: Option<Key>,
}

/// Where the builds of this environment are remembered.
pub fn place(cache: &Path, interpreter: &Interpreter, how: &str) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let name = key(&[
        env!("CARGO_PKG_VERSION").as_bytes(),
        how.as_bytes(),
        interpreter.full_version.as_bytes(),
        interpreter.prefix.as_os_str().as_bytes(),
        interpreter.base_prefix.as_os_str().as_bytes(),
    ]);
    cache.join(format!("{:032x}.build", u128::from_be_bytes(name)))
}

/// Waits for others that build the same environment, and calls `waiting` if there are any. Where files
/// cannot be locked nobody waits, and the work is done twice.
pub fn alone(place: &Path, waiting: impl FnOnce()) -> Option<File> {
    fs::create_dir_all(place.parent()?).ok()?;
    let lock = File::create(place.with_extension("lock")).ok()?;
    match lock.try_lock() {
        Err(fs::TryLockError::WouldBlock) => {
            waiting();
            lock.lock().ok()?;
        }
        locked => locked.ok()?,
    }
    Some(lock)
}

impl Memory {
    /// Nothing, if there is nothing that can be read.
    pub fn load(place: &Path) -> Self {
        fs::read(place)
            .ok()
            .and_then(|bytes| parse(&bytes))
            .unwrap_or_default()
    }

    /// The compressed bytes of a frame, if the archive still has them.
    pub(crate) fn frame(&self, source: &Key) -> Option<(Kept, Vec<u8>)> {
        let (begin, kept) = self.frames.get(source)?;
        let mut bytes = vec![0; usize::try_from(kept.frame.compressed).ok()?];
        self.archive
            .as_ref()?
            .read_exact_at(&mut bytes, *begin)
            .ok()?;
        (crc32fast::hash(&bytes) == kept.checksum).then(|| (kept.clone(), bytes))
    }
}

/// Remembers a build, for the next one.
pub fn keep(
    place: &Path,
    archive: &Path,
    packed: &Packed,
    checked: Option<&Checked>,
) -> io::Result<()> {
    let checked = checked.filter(|checked| checked.remark.is_none());
    let archive = std::path::absolute(archive)?;
    save(
        place,
        &archive,
        &packed.frames,
        checked.map(|checked| checked.key),
    )
}

fn save(place: &Path, archive: &Path, frames: &[Kept], checked: Option<Key>) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut out = [BUILD, VERSION].concat().into_bytes();
    put_bytes(&mut out, archive.as_os_str().as_bytes());
    put_bytes(&mut out, checked.as_ref().map_or(&[], |key| key.as_slice()));
    put(&mut out, frames.len() as u64);
    for kept in frames {
        out.extend_from_slice(&kept.source);
        put(&mut out, kept.sums.len() as u64);
        out.extend_from_slice(kept.sums.as_flattened());
        put(&mut out, kept.frame.length);
        put(&mut out, kept.frame.compressed);
        put(&mut out, u64::from(kept.checksum));
    }
    let directory = place.parent().unwrap_or(place);
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&out)?;
    file.persist(place)?;
    Ok(())
}

fn parse(bytes: &[u8]) -> Option<Memory> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = bytes.strip_prefix(BUILD.as_bytes())?;
    let mut reader = Reader(bytes.strip_prefix(VERSION.as_bytes())?);
    let archive = Path::new(std::ffi::OsStr::from_bytes(reader.sized()?));
    let mut memory = Memory {
        archive: File::open(archive).ok(),
        ..Memory::default()
    };
    memory.checked = reader.sized()?.try_into().ok();
    let mut begin = 0;
    for _ in 0..reader.count(20)? {
        let source = reader.bytes(16)?.try_into().ok()?;
        let sums = reader.count(32)?;
        let kept = Kept {
            source,
            sums: reader.bytes(sums * 32)?.as_chunks().0.to_vec(),
            frame: Frame {
                length: reader.number()?,
                compressed: reader.number()?,
            },
            checksum: u32::try_from(reader.number()?).ok()?,
        };
        let compressed = kept.frame.compressed;
        memory.frames.insert(kept.source, (begin, kept));
        begin += compressed;
    }
    reader.0.is_empty().then_some(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive");
        fs::write(&archive, b"onetwo").unwrap();
        let kept = |source: &[u8], bytes: &[u8]| Kept {
            source: key(&[source]),
            frame: Frame {
                length: 9,
                compressed: bytes.len() as u64,
            },
            sums: vec![[7; 32]; bytes.len()],
            checksum: crc32fast::hash(bytes),
        };
        let place = directory.path().join("deeper/x.build");
        let frames = [kept(b"1", b"one"), kept(b"2", b"two"), kept(b"3", b"gone")];
        save(&place, &archive, &frames, Some(key(&[b"c"]))).unwrap();
        let memory = Memory::load(&place);
        assert_eq!(memory.checked, Some(key(&[b"c"])));
        let bytes = |name: &[u8]| memory.frame(&key(&[name])).map(|(_, bytes)| bytes);
        assert_eq!(bytes(b"2").unwrap(), b"two");
        assert_eq!(bytes(b"3"), None);
        assert_eq!(bytes(b"4"), None);
        fs::write(&archive, b"onetwO").unwrap();
        assert_eq!(bytes(b"1").unwrap(), b"one");
        assert_eq!(bytes(b"2"), None);
        let whole = fs::read(&place).unwrap();
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_none(), "{end}");
        }
    }
}
