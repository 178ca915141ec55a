//! Where the bytes of a file come from, and the one way to read them.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::splice::{Splice, Spliced};
use crate::archive::encoding::put_bytes;
use crate::error::Error;

/// What Python and the loader read.
const CODE: [&[u8]; 6] = [b".py", b".pyc", b".pyi", b".pth", b".so", b".a"];

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

    /// The same file, with more in it.
    fn has_grown_to(&self, now: &Self) -> bool {
        now.0[0] > self.0[0] && now.0[1] == self.0[1]
    }

    pub(crate) fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        for (place, number) in bytes.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// As they lie on disk.
    OnDisk(PathBuf, Stamp),
    /// As they are on disk, but for edits that are the same wherever the tree will lie.
    Patched(PathBuf, Stamp, Spliced),
    /// Made for the archive.
    Made(Vec<u8>),
}

impl Content {
    /// All that the bytes depend on.
    pub(crate) fn describe(&self, out: &mut Vec<u8>) {
        let (path, stamp) = match self {
            Self::Made(bytes) => return put_bytes(out, bytes),
            Self::OnDisk(path, stamp) | Self::Patched(path, stamp, _) => (path, stamp),
        };
        put_bytes(out, path.as_os_str().as_bytes());
        out.extend_from_slice(&stamp.bytes());
        if let Self::Patched(_, _, spliced) = self {
            spliced.describe(out);
        }
    }

    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::OnDisk(_, stamp) => stamp.0[0],
            Self::Patched(_, _, spliced) => spliced.size(),
            Self::Made(bytes) => bytes.len() as u64,
        }
    }

    /// The same with more bytes in the place of others, by where they begin; nothing if they would lie on
    /// each other, or behind the end.
    pub(crate) fn patched(&self, bytes: Vec<(u64, Vec<u8>)>) -> Option<Self> {
        let (path, stamp, mut splices) = match self {
            Self::Made(_) => return None,
            Self::OnDisk(path, stamp) => (path, stamp, Vec::new()),
            Self::Patched(path, stamp, spliced) => (path, stamp, spliced.splices().to_vec()),
        };
        splices.extend(bytes.into_iter().map(|(at, bytes)| Splice {
            at,
            length: bytes.len() as u64,
            bytes,
        }));
        let spliced = Spliced::new(splices, stamp.0[0])?;
        Some(Self::Patched(path.clone(), *stamp, spliced))
    }

    /// All of the bytes.
    pub(crate) fn whole(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        read(self, 0, self.size(), &mut bytes)?;
        Ok(bytes)
    }
}

/// Reads a part of it. Whether the file was longer than before: then somebody has to see to it that what was
/// read belongs together (`build/growth.rs`).
pub(crate) fn read(
    content: &Content,
    from: u64,
    length: u64,
    raw: &mut Vec<u8>,
) -> Result<bool, Error> {
    match content {
        Content::Made(bytes) => {
            let from = usize::try_from(from).expect("it is in memory");
            let length = usize::try_from(length).expect("it is in memory");
            raw.extend_from_slice(&bytes[from..from + length]);
            Ok(false)
        }
        Content::OnDisk(path, stamp) => {
            let file = Unchanged::open(path, *stamp)?;
            file.read(from, length, raw)?;
            file.close_or_grown()
        }
        Content::Patched(path, stamp, spliced) => {
            let file = Unchanged::open(path, *stamp)?;
            spliced.read(from, length, raw, |from, length, raw| {
                file.read(from, length, raw)
            })?;
            file.close()?;
            Ok(false)
        }
    }
}

/// No more than so many bytes of a file, from its beginning.
pub(crate) fn head(file: &Path, length: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(length).read_to_end(&mut bytes))
        .map_err(Error::io("read", file))?;
    Ok(bytes)
}

/// A file that has to be the same before and after it is read.
struct Unchanged<'a> {
    path: &'a Path,
    stamp: Stamp,
    file: File,
}

impl<'a> Unchanged<'a> {
    fn open(path: &'a Path, stamp: Stamp) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        Ok(Self { path, stamp, file })
    }

    fn changed(&self) -> Error {
        let path = self.path.to_path_buf();
        Error::Changed { path }
    }

    fn read(&self, from: u64, length: u64, raw: &mut Vec<u8>) -> Result<(), Error> {
        let begin = raw.len();
        let length = usize::try_from(length).expect("it goes into memory");
        raw.resize(begin + length, 0);
        match self.file.read_exact_at(&mut raw[begin..], from) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            read => read.map_err(Error::io("read", self.path)),
        }
    }

    fn metadata(&self) -> Result<Metadata, Error> {
        self.file.metadata().map_err(Error::io("read", self.path))
    }

    fn close(self) -> Result<(), Error> {
        if Stamp::of(&self.metadata()?) == self.stamp {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    /// The same, but for a file that may have grown: whether it has.
    fn close_or_grown(self) -> Result<bool, Error> {
        let metadata = self.metadata()?;
        let now = Stamp::of(&metadata);
        let has_grown = self.stamp.has_grown_to(&now) && may_grow(self.path, &metadata);
        if now == self.stamp || has_grown {
            Ok(has_grown)
        } else {
            Err(self.changed())
        }
    }
}

/// Whether somebody may append to it while it is packed, as to a log. The first part of a module, program or
/// library is none, and what packages are installed as is written by installers.
fn may_grow(path: &Path, metadata: &Metadata) -> bool {
    let is_installers = |name: &OsStr| {
        let name = name.as_bytes();
        name.ends_with(b".dist-info") || name.ends_with(b".egg-info") || name == b"conda-meta"
    };
    let name = path.file_name().unwrap_or_default().as_bytes();
    let ends = |end: &&[u8]| name.ends_with(end);
    let is_code = CODE.iter().any(ends) || name.windows(4).any(|part| part == b".so.");
    metadata.is_file()
        && metadata.mode() & 0o111 == 0
        && !is_code
        && !path.iter().any(is_installers)
}
