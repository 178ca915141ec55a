//! Which part of the tar goes into which frame: what is read together lies together.
//!
//! The frames depend on paths and sizes alone, and where the hot list ends on the interpreter as well. A
//! file that fits into a frame lies in one; a large one has frames of its own, since who reads some of it
//! is not to wait for the rest.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::order::order;
    use crate::archive::outline::sequence;

    const KIB: u64 = 1 << 10;
    /// What is read at once of a large library.
    const PIECE: u64 = 256 * KIB;
    const LIBRARY: &str = "lib/python3.11";

    fn planned(files: &[(String, u64)], loaded: impl Fn(&str) -> u64) -> (Vec<Entry>, Plan) {
        let mut entries: Vec<Entry> = (files.iter())
            .map(|(path, size)| Entry {
                path: path.as_bytes().to_vec(),
                kind: Kind::File(*size),
                mode: 0o644,
            })
            .collect();
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        let headers = vec![vec![0; 512]; entries.len()];
        let same = HashMap::new();
        let sequence = sequence(&entries, &same, order(&entries).into_iter());
        let path = |index: usize| std::str::from_utf8(&entries[index].path).unwrap();
        let plan = plan(&entries, &headers, &sequence, &same, |index| {
            loaded(path(index))
        });
        (entries, plan)
    }

    /// What lies in frames: of which file, from where, and how much.
    fn pieces<'a>(entries: &'a [Entry], frames: &[Vec<Part>]) -> Vec<(&'a str, u64, u64)> {
        let parts = frames.iter().flatten().filter_map(|part| match *part {
            Part::Data {
                entry,
                from,
                length,
            } => {
                let path = std::str::from_utf8(&entries[entry].path).unwrap();
                Some((path, from, length))
            }
            _ => None,
        });
        parts.collect()
    }

    fn length(frame: &[Part]) -> u64 {
        let lengths = frame.iter().map(|part| match *part {
            Part::Header(_) => 512,
            Part::Data { length, .. } => length,
            Part::Zeros(count) => count as u64,
        });
        lengths.sum()
    }

    fn bytecode(directory: &str, count: usize, size: u64) -> Vec<(String, u64)> {
        let path = |number| format!("{directory}/__pycache__/m{number}.cpython-311.pyc");
        (0..count).map(|number| (path(number), size)).collect()
    }

    #[test]
    fn what_a_start_reads_is_hot_and_no_more() {
        let module = |name: &str| format!("{LIBRARY}/__pycache__/{name}.cpython-311.pyc");
        let (os, abc) = (module("os"), module("abc"));
        let pickle = format!("{LIBRARY}/lib-dynload/_pickle.cpython-311-x86_64-linux-gnu.so");
        let (program, library) = ("bin/python3.11", "lib/libpython3.11.so.1.0");
        let files = [
            (os.clone(), 30_000),
            (abc.clone(), 5000),
            (module("json"), 5000),
            (format!("{LIBRARY}/os.py"), 40_000),
            (pickle.clone(), 300 * KIB),
            (program.to_owned(), 9 * PIECE),
            (library.to_owned(), 9 * PIECE),
        ];
        let small = [
            (abc.as_str(), 0, 5000),
            (os.as_str(), 0, 30_000),
            (pickle.as_str(), 0, 300 * KIB),
        ];
        let of_program = |many: u64| (0..many).map(|number| (program, number * PIECE, PIECE));
        // The piece that the last byte lies in is the last one.
        for (read, many) in [
            (1, 1),
            (2 * PIECE, 2),
            (2 * PIECE + 1, 3),
            (9 * PIECE, 9),
            (0, 0),
        ] {
            let (entries, plan) = planned(&files, |path| {
                assert_eq!(path, program, "a second one is of no use to a start");
                read
            });
            let expected: Vec<_> = small.into_iter().chain(of_program(many)).collect();
            let hot = pieces(&entries, &plan.frames[..plan.hot]);
            assert_eq!(hot, expected, "{read} bytes are read");
        }
    }

    #[test]
    fn a_small_program_is_hot_with_a_large_library() {
        let (program, library) = ("bin/python3.11", "lib/libpython3.11.so.1.0");
        let files = [
            (program.to_owned(), 9000),
            (library.to_owned(), 9 * PIECE),
            (format!("{LIBRARY}/json/__init__.py"), 9000),
        ];
        let (entries, plan) = planned(&files, |path| {
            assert_eq!(path, library);
            PIECE
        });
        let hot = pieces(&entries, &plan.frames[..plan.hot]);
        assert_eq!(hot, [(program, 0, 9000), (library, 0, PIECE)]);
    }

    #[test]
    fn a_large_library_lies_in_pieces() {
        let site = format!("{LIBRARY}/site-packages/p");
        let path = format!("{site}/_c.cpython-311-x86_64-linux-gnu.so");
        let mut files = bytecode(&site, 4, 3000);
        // With less than half a piece at its end, and with more.
        for (rest, last) in [
            (100, vec![PIECE + 100]),
            (PIECE - 100, vec![PIECE, PIECE - 100]),
        ] {
            files.truncate(4);
            files.push((path.clone(), 4 * PIECE + rest));
            let (entries, plan) = planned(&files, |_| 0);
            let index = entries
                .iter()
                .position(|entry| entry.path == path.as_bytes());
            let place = plan.places[index.unwrap()].unwrap();
            // Nothing else is in its frames, but for its header.
            assert_eq!(place.offset, 512);
            let mut frames = plan.frames[place.frame..].iter();
            let mut from = 0;
            for length in [PIECE; 3].into_iter().chain(last) {
                let frame = std::slice::from_ref(frames.next().unwrap());
                assert_eq!(pieces(&entries, frame), [(path.as_str(), from, length)]);
                from += length;
            }
            assert_eq!(frames.count(), 0);
            assert_eq!(plan.hot, 0);
        }
    }

    /// Who asks what is installed reads all of it.
    #[test]
    fn the_metadata_of_all_packages_lies_in_one_frame() {
        let mut files = Vec::new();
        for number in 0..40 {
            let site = format!("{LIBRARY}/site-packages/p{number}");
            files.extend(bytecode(&site, 3, 10_000));
            files.push((format!("{site}/__init__.py"), 10_000));
            files.push((format!("{site}-1.0.dist-info/METADATA"), 10_000));
        }
        let (entries, plan) = planned(&files, |_| 0);
        let is_metadata = |path: &str| path.ends_with("/METADATA");
        let many = plan.frames.iter().filter_map(|frame| {
            let pieces = pieces(&entries, std::slice::from_ref(frame));
            let many = pieces.iter().filter(|(path, ..)| is_metadata(path)).count();
            assert!(many == 0 || many == pieces.len(), "apart from all else");
            (many > 0).then_some(many)
        });
        assert_eq!(many.collect::<Vec<_>>(), [40]);
    }

    /// An import of one waits for all of its frame.
    #[test]
    fn modules_of_the_standard_library_lie_in_small_frames() {
        let size = 20_000;
        for (directory, most) in [
            (format!("{LIBRARY}/json"), 512 * KIB),
            (format!("{LIBRARY}/site-packages/p"), 2048 * KIB),
        ] {
            let (_, plan) = planned(&bytecode(&directory, 300, size), |_| 0);
            let lengths: Vec<u64> = plan.frames.iter().map(|frame| length(frame)).collect();
            let (last, others) = lengths.split_last().unwrap();
            assert!(*last <= most + END as u64, "{lengths:?}");
            for length in others {
                assert!(*length <= most, "{lengths:?}");
                // Compression gains by what lies together.
                assert!(*length + size + 1024 > most / 4 * 3, "{lengths:?}");
            }
            assert!(others.len() >= 2, "{lengths:?}");
        }
    }
}
