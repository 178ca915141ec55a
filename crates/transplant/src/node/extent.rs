//! Which parts of which frames a file is made of.
//!
//! Found by looking up places, not by going through frames, of which there may be many tiny ones.

use crate::archive::frame::Place;
use crate::archive::index::Archive;

/// Where the contents of frames begin, one after the other.
pub(crate) struct Extents {
    begins: Vec<u64>,
    end: u64,
}

/// A part of a frame's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) frame: usize,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Extents {
    pub(crate) fn new(archive: &Archive) -> Self {
        Self::of(archive.frames.iter().map(|frame| frame.length))
    }

    fn of(lengths: impl Iterator<Item = u64>) -> Self {
        let mut end = 0;
        let begins = lengths
            .map(|length| {
                let begin = end;
                end += length;
                begin
            })
            .collect();
        Self { begins, end }
    }

    /// Where a frame's content begins.
    pub(crate) fn begin(&self, frame: usize) -> u64 {
        self.begins[frame]
    }

    /// Those of a file that begins at this place. There are none of an empty one.
    pub(crate) fn of_file(&self, place: Place, size: u64) -> impl Iterator<Item = Extent> {
        let begin = self.begins.get(place.frame).copied().unwrap_or(self.end);
        let mut at = begin.saturating_add(place.offset);
        let end = at.saturating_add(size).min(self.end);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            // The last frame that begins here or before: those before it that do are empty.
            let frame = self.begins.partition_point(|&begin| begin <= at) - 1;
            let offset = at - self.begins[frame];
            let next = self.begins.get(frame + 1).copied().unwrap_or(self.end);
            let length = next.min(end) - at;
            at += length;
            Some(Extent {
                frame,
                offset,
                length,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_frames_of_which_some_are_empty() {
        let extents = Extents::of([0, 4, 0, 0, 3, 0, 5, 0].into_iter());
        let found = |frame, offset, size| {
            let found = extents.of_file(Place { frame, offset }, size);
            found
                .map(|each| (each.frame, each.offset, each.length))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(0, 0, 4), [(1, 0, 4)]);
        assert_eq!(found(1, 2, 7), [(1, 2, 2), (4, 0, 3), (6, 0, 2)]);
        assert_eq!(found(1, 4, 1), [(4, 0, 1)]);
        assert_eq!(found(6, 1, 4), [(6, 1, 4)]);
        assert_eq!(found(6, 1, 0), []);
        assert_eq!(found(7, 0, 3), []);
        assert_eq!(found(9, u64::MAX, 3), []);
    }
}
