//! Small archives for tests and `fuzz/`: the frames and where files lie in them are as one likes, and the
//! digests are right.
// `fuzz/` sees it by another path, and only where it is asked for.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::fs;
#[cfg(test)]
use std::fs::File;
use std::path::Path;
#[cfg(test)]
use std::sync::Arc;

use crate::archive::ending::wrap;
use crate::archive::frame::{Frame, Place};
#[cfg(test)]
use crate::archive::index::Archive;
use crate::archive::listing::{CHUNK, Sum, encode, encode_first};
use crate::{Entry, Kind};

/// Entries with where their bytes begin, and the contents of frames.
#[derive(Debug)]
pub struct Made {
    pub entries: Vec<(Entry, Option<(usize, u64)>)>,
    pub frames: Vec<Vec<u8>>,
    /// Whether it is of the first format.
    pub first: bool,
    pub hot: usize,
}

impl Made {
    /// With digests that are right. Where its index begins.
    pub(crate) fn write(&self, path: &Path) -> usize {
        let mut bytes = Vec::new();
        let mut frames = Vec::new();
        for content in &self.frames {
            let packed = zstd::bulk::compress(content, 1).unwrap();
            bytes.extend_from_slice(&packed);
            frames.push(Frame {
                length: content.len() as u64,
                compressed: packed.len() as u64,
            });
        }
        let place = |(frame, offset): (usize, u64)| Place { frame, offset };
        let places: Vec<Option<Place>> = self.entries.iter().map(|(_, at)| at.map(place)).collect();
        let entries: Vec<Entry> = self
            .entries
            .iter()
            .map(|(entry, _)| entry.clone())
            .collect();
        let index = if self.first {
            let sums = self
                .frames
                .iter()
                .map(|content| blake3::hash(content).into());
            let frames: Vec<(Frame, Sum)> = frames.into_iter().zip(sums).collect();
            encode_first(b"{}", &entries, &places, &frames).0
        } else {
            let files = (0..entries.len()).map(|entry| self.bytes(entry));
            let chunks: Vec<Vec<Sum>> = files
                .map(|bytes| {
                    let chunks = bytes.chunks(usize::try_from(CHUNK).unwrap());
                    chunks.map(|chunk| blake3::hash(chunk).into()).collect()
                })
                .collect();
            encode(b"{}", &entries, &chunks, (&places, &frames, self.hot)).0
        };
        let begin = bytes.len();
        bytes.extend_from_slice(&wrap(&index, begin as u64).unwrap());
        fs::write(path, bytes).unwrap();
        begin
    }

    /// Written and opened again. Its file has no name any more.
    #[cfg(test)]
    pub(crate) fn open(&self) -> (Arc<Archive>, File) {
        let place = tempfile::NamedTempFile::new().unwrap();
        self.write(place.path());
        let (archive, file) = Archive::open(place.path()).unwrap();
        (Arc::new(archive), file)
    }

    /// What lies where a file says, as far as anything does.
    pub(crate) fn bytes(&self, entry: usize) -> Vec<u8> {
        let (Entry { kind, .. }, Some((frame, offset))) = &self.entries[entry] else {
            return Vec::new();
        };
        let Kind::File(size) = kind else {
            return Vec::new();
        };
        let mut bytes: Vec<u8> = Vec::new();
        let mut offset = usize::try_from(*offset).unwrap_or(usize::MAX);
        for content in self.frames.iter().skip(*frame) {
            bytes.extend_from_slice(content.get(offset..).unwrap_or(&[]));
            offset = 0;
        }
        bytes.truncate(usize::try_from(*size).unwrap_or(usize::MAX));
        bytes
    }
}
