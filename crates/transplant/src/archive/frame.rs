//! One frame of an archive: read, decompressed, and compared with its digest.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::archive::index::Archive;
use crate::error::Error;

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
pub(crate) struct Reader {
    packed: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Reader {
    pub(crate) fn new(archive: &Archive) -> Result<Self, Error> {
        Ok(Self {
            packed: Vec::new(),
            zstd: zstd::bulk::Decompressor::new().map_err(Error::io("read", archive.path()))?,
        })
    }

    /// Into `content`, whatever was in it before.
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
        if content.len() as u64 != frame.length || blake3::hash(content) != frame.digest {
            return Err(damaged(format!("frame {index} is not what its index says")));
        }
        Ok(())
    }
}
