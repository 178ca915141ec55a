//! One frame of an archive: read, decompressed, and what is in it compared with its digests.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::archive::index::Archive;
use crate::archive::listing::Sum;
use crate::error::Error;

/// A frame: some of the tar.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Bytes of content.
    pub(crate) length: u64,
    /// Bytes in the file.
    pub(crate) compressed: u64,
}

/// Where the bytes of a file begin: in this frame, at this place of its content. What does not fit
/// goes on at the beginning of the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) frame: usize,
    pub(crate) offset: u64,
}

/// Some of a frame's content, and its digest: a chunk of a file, or in format 1 all of it. What no
/// check covers is of no file.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) offset: usize,
    pub(crate) length: usize,
    pub(crate) sum: Sum,
}

/// Where each frame begins in the file.
pub(crate) fn offsets(archive: &Archive) -> Vec<u64> {
    archive
        .frames
        .iter()
        .scan(0, |sum, frame| {
            let begin = *sum;
            *sum += frame.compressed;
            Some(begin)
        })
        .collect()
}

/// What reading takes, for as many frames as one likes.
pub(crate) struct FrameReader {
    packed: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl FrameReader {
    pub(crate) fn new(archive: &Archive) -> Result<Self, Error> {
        Ok(Self {
            packed: Vec::new(),
            zstd: zstd::bulk::Decompressor::new().map_err(Error::io("read", archive.path()))?,
        })
    }

    /// Into `content`, whatever was in it before. All bytes of files in it are those that the archive's
    /// name stands for.
    pub(crate) fn read(
        &mut self,
        archive: &Archive,
        file: &File,
        index: usize,
        offset: u64,
        content: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let frame = &archive.frames[index];
        let damaged = |reason: String| Error::Damaged {
            path: archive.path().to_path_buf(),
            reason,
        };
        let compressed =
            usize::try_from(frame.compressed).map_err(|error| damaged(error.to_string()))?;
        self.packed.resize(compressed, 0);
        file.read_exact_at(&mut self.packed, offset)
            .map_err(Error::io("read", archive.path()))?;
        content.clear();
        content.reserve_exact(usize::try_from(frame.length).expect("checked"));
        self.zstd
            .decompress_to_buffer(&self.packed, content)
            .map_err(|error| damaged(format!("frame {index} cannot be read: {error}")))?;
        let is_sound = content.len() as u64 == frame.length
            && archive.checks(index).iter().all(|check| {
                blake3::hash(&content[check.offset..check.offset + check.length]) == check.sum
            });
        if !is_sound {
            return Err(damaged(format!("frame {index} is not what its index says")));
        }
        Ok(())
    }
}
