//! Which part of the tar goes into which frame: what is read together lies together.
//!
//! The plan depends on paths and sizes alone, and where the hot list ends on the interpreter's. A file that fits into a frame lies in one; a large one has
//! frames of its own, since who reads some of it is not to wait for the rest.

use std::collections::HashMap;

use crate::archive::encoding::{put, put_bytes};
use crate::archive::entry::{Entry, Kind};
use crate::archive::frame::Place;
use crate::archive::listing::CHUNK;
use crate::archive::order::{Use, is_interpreter, piece, use_of};
use crate::archive::outline::{BLOCK, END, zeros};
use crate::relocate::content::Content;

/// Content of a frame that is likely to be read alone.
pub(crate) const FRAME: usize = 2 << 20;
/// Content of a frame of what a start and the standard library's imports read: they wait for each.
const FIRST: usize = FRAME / 4;
/// Content of a frame of what is seldom read: larger ones compress better.
pub(crate) const SELDOM: usize = 4 * FRAME;

/// Some of the tar, in one frame.
#[derive(Debug)]
pub(crate) enum Part {
    /// The header of an entry.
    Header(usize),
    /// So many bytes of a file, from there: whole chunks, but for the end of the file.
    Data {
        entry: usize,
        from: u64,
        length: u64,
    },
    Zeros(usize),
}

impl Part {
    /// How many digests it has.
    pub(crate) fn chunks(&self) -> usize {
        match self {
            Self::Data { length, .. } => {
                usize::try_from(length.div_ceil(CHUNK)).expect("within a frame")
            }
            _ => 0,
        }
    }

    /// All that its bytes depend on.
    pub(crate) fn describe(
        &self,
        headers: &[Vec<u8>],
        contents: &[Option<Content>],
        out: &mut Vec<u8>,
    ) {
        match *self {
            Self::Header(entry) => put_bytes(out, &headers[entry]),
            Self::Zeros(count) => put(out, count as u64),
            Self::Data {
                entry,
                from,
                length,
            } => {
                put(out, from);
                put(out, length);
                if let Some(content) = &contents[entry] {
                    content.describe(out);
                }
            }
        }
    }
}

/// The frames, where the bytes of each file begin, and how many frames are hot.
pub(crate) struct Plan {
    pub(crate) frames: Vec<Vec<Part>>,
    pub(crate) places: Vec<Option<Place>>,
    pub(crate) hot: usize,
}

/// Of entries in the sequence of the tar. `loaded` says how much of an interpreter is read when it starts:
/// it may have several times as much for debuggers.
pub(crate) fn plan(
    entries: &[Entry],
    headers: &[Vec<u8>],
    sequence: &[usize],
    same: &HashMap<usize, usize>,
    loaded: impl Fn(usize) -> u64,
) -> Plan {
    let mut frames = vec![Vec::new()];
    let mut filled = 0;
    let mut hot = 0;
    let mut has_interpreter = false;
    let mut last = None;
    let mut places = vec![None; entries.len()];
    let mut uses: Vec<Use> = entries.iter().map(|entry| use_of(&entry.path)).collect();
    for (index, first) in same {
        uses[*first] = uses[*first].min(uses[*index]);
    }
    for &index in sequence {
        let entry = &entries[index];
        let size = match entry.kind {
            Kind::File(size) if !same.contains_key(&index) => size,
            _ => 0,
        };
        let piece = piece(uses[index]);
        let is_large = size > piece;
        let group = match entry.kind {
            Kind::File(_) if !same.contains_key(&index) => Some((uses[index], is_large)),
            _ => None,
        };
        let limit = match group {
            Some((Use::Start | Use::Standard, _)) => FIRST,
            Some((Use::Import | Use::Metadata, _)) | None => FRAME,
            Some((Use::Else, _)) => SELDOM,
        } as u64;
        let whole = headers[index].len() as u64 + size.next_multiple_of(BLOCK);
        // Where a frame ends is a matter of paths, so that a change does not move the ends of all frames
        // behind it.
        let is_full = filled + whole > limit;
        let is_end = filled >= limit / 4 * 3 && is_an_end(&entry.path);
        if filled > 0 && (is_full || is_end || is_large || group != last) {
            frames.push(Vec::new());
            filled = 0;
        }
        last = group;
        let mut frame = frames.len() - 1;
        frames[frame].push(Part::Header(index));
        filled += headers[index].len() as u64;
        if matches!(entry.kind, Kind::File(_)) {
            places[index] = Some(Place {
                frame,
                offset: filled,
            });
        }
        // A large program needs no library of its kind.
        let read = match group {
            Some((Use::Start, true)) if is_interpreter(&entry.path) => {
                let is_first = !std::mem::replace(&mut has_interpreter, true);
                if is_first { loaded(index) } else { 0 }
            }
            Some((Use::Start, _)) => size,
            _ => 0,
        };
        let mut from = 0;
        while from < size {
            // No frame of a few bytes at the end.
            let left = size - from;
            let length = if left <= piece + piece / 2 {
                left
            } else {
                piece
            };
            if from > 0 {
                frames.push(Vec::new());
                frame += 1;
                filled = 0;
            }
            frames[frame].push(Part::Data {
                entry: index,
                from,
                length,
            });
            if from < read {
                hot = frames.len();
            }
            from += length;
            filled += length;
        }
        let padding = zeros(size);
        if padding > 0 {
            frames[frame].push(Part::Zeros(padding));
            filled += padding as u64;
        }
    }
    for (index, first) in same {
        places[*index] = places[*first];
    }
    if let Some(last) = frames.last_mut() {
        last.push(Part::Zeros(END));
    }
    Plan {
        frames,
        places,
        hot,
    }
}

/// For one path in sixteen: FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn is_an_end(path: &[u8]) -> bool {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The lowest bits of a product know the lowest of its factors only.
    hash >> 60 == 0
}
