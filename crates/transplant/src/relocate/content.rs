//! Where the bytes of a file come from, and the one way to read them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use crate::archive::encoding::{put, put_bytes};
use crate::error::Error;

/// What tells whether a file is still as it was: a change time cannot be set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([u64; 6]);

impl Stamp {
    /// Of a file that was looked at.
    pub fn of(metadata: &Metadata) -> Self {
        Self([
            metadata.size(),
            metadata.ino(),
            metadata.mtime().cast_unsigned(),
            metadata.mtime_nsec().cast_unsigned(),
            metadata.ctime().cast_unsigned(),
            metadata.ctime_nsec().cast_unsigned(),
        ])
    }

    pub(crate) fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        for (place, number) in bytes.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// Bytes in the place of others, by where they begin.
pub(crate) type Patches = Vec<(u64, Vec<u8>)>;

/// Where the bytes of a file come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// As they lie on disk.
    OnDisk(PathBuf, Stamp),
    /// As they are on disk, but for some bytes at some places.
    Patched(PathBuf, Stamp, Patches),
    /// Made for the archive.
    Made(Vec<u8>),
}

impl Content {
    /// All that the bytes depend on.
    pub(crate) fn describe(&self, out: &mut Vec<u8>) {
        let (path, stamp, patches) = match self {
            Self::Made(bytes) => return put_bytes(out, bytes),
            Self::OnDisk(path, stamp) => (path, stamp, &[][..]),
            Self::Patched(path, stamp, patches) => (path, stamp, patches.as_slice()),
        };
        put_bytes(out, path.as_os_str().as_bytes());
        out.extend_from_slice(&stamp.bytes());
        for (at, bytes) in patches {
            put(out, *at);
            put_bytes(out, bytes);
        }
    }
}

pub(crate) fn read(
    content: &Content,
    from: u64,
    length: u64,
    raw: &mut Vec<u8>,
) -> Result<(), Error> {
    let (path, stamp, patches): (&PathBuf, Stamp, &[(u64, Vec<u8>)]) = match content {
        Content::Made(bytes) => {
            let from = usize::try_from(from).expect("it is in memory");
            let length = usize::try_from(length).expect("it is in memory");
            raw.extend_from_slice(&bytes[from..from + length]);
            return Ok(());
        }
        Content::OnDisk(path, stamp) => (path, *stamp, &[]),
        Content::Patched(path, stamp, patches) => (path, *stamp, patches),
    };
    let file = File::open(path).map_err(Error::io("read", path))?;
    let begin = raw.len();
    raw.resize(
        begin + usize::try_from(length).expect("it goes into memory"),
        0,
    );
    match file.read_exact_at(&mut raw[begin..], from) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Error::Changed { path: path.clone() });
        }
        read => read.map_err(Error::io("read", path))?,
    }
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    if Stamp::of(&metadata) != stamp {
        return Err(Error::Changed { path: path.clone() });
    }
    for (place, bytes) in patches {
        for (offset, &byte) in bytes.iter().enumerate() {
            let at = place + offset as u64;
            if (from..from + length).contains(&at) {
                raw[begin + usize::try_from(at - from).expect("within a frame")] = byte;
            }
        }
    }
    Ok(())
}
