//! Frames as they are decompressed: each one once, checked, and kept as long as it may be of use.
//!
//! A frame holds a hundred small files, of which a package needs a few now and a few later. What memory
//! has no room for is put by in a file without a name beside the mount, which is the kernel's memory: it
//! can take it back. Of what was asked for whole, the kernel has a copy already. A frame that is being
//! read is waited for, and not read again by whoever wants it as well.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::archive::frame::{FrameReader, offsets};
use crate::archive::index::Archive;
use crate::error::Error;
use crate::node::extent::Extents;

/// Bytes of frames that are kept in memory, besides those that are just put by.
const KEPT: usize = 24 << 20;
/// How many buffers wait for the next frame, and of which size at most: fresh memory has to be cleared
/// by the kernel first.
const SPARE: usize = 4;
const LARGEST_SPARE: usize = 4 << 20;

/// Bytes of the disk that are left to others.
const SPARED: u64 = 256 << 20;

/// Decompressed.
pub(super) type Frame = Arc<Vec<u8>>;

/// Where a frame is.
pub(super) enum Location {
    /// In the file without a name.
    Stored,
    /// In memory.
    Memory(Frame),
}

enum Slot {
    /// Somebody reads it.
    Reading,
    Ready {
        frame: Frame,
        /// Counts up with every use.
        used: u64,
        /// How many of its bytes were asked for.
        asked: usize,
        /// Somebody puts it by.
        storing: bool,
    },
}

struct State {
    slots: HashMap<usize, Slot>,
    /// Bytes of those that are ready.
    held: usize,
    uses: u64,
    /// By frame: whether it lies in the file without a name.
    stored: Vec<bool>,
    readers: Vec<FrameReader>,
    spare: Vec<Vec<u8>>,
}

/// All frames of an archive.
pub(super) struct Frames {
    archive: Arc<Archive>,
    file: File,
    /// Where frames begin in the archive.
    offsets: Vec<u64>,
    /// The file without a name, if there can be one: frames lie in it one after the other.
    store: Option<File>,
    pub(super) extents: Extents,
    state: Mutex<State>,
    moved: Condvar,
}

impl Frames {
    pub(super) fn new(archive: Arc<Archive>, file: File, store: Option<File>) -> Self {
        let state = State {
            slots: HashMap::new(),
            held: 0,
            uses: 0,
            stored: vec![false; archive.frames.len()],
            readers: Vec::new(),
            spare: Vec::new(),
        };
        Self {
            offsets: offsets(&archive),
            extents: Extents::new(&archive),
            archive,
            file,
            store,
            state: Mutex::new(state),
            moved: Condvar::new(),
        }
    }

    /// Where the archive has a frame, and how many bytes it takes there.
    pub(super) fn packed(&self, index: usize) -> (u64, u64) {
        (self.offsets[index], self.archive.frames[index].compressed)
    }

    /// The archive's file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it has been read, or is being read by somebody who was asked for it.
    pub(super) fn is_known(&self, index: usize) -> bool {
        let state = self.lock();
        state.stored[index] || state.slots.contains_key(&index)
    }

    /// A frame, read now if nobody has. Who is done with it makes room for others.
    pub(super) fn find(&self, index: usize) -> Result<Location, Error> {
        let mut state = self.lock();
        loop {
            if state.stored[index] {
                return Ok(Location::Stored);
            }
            state.uses += 1;
            let uses = state.uses;
            match state.slots.get_mut(&index) {
                Some(Slot::Ready { frame, used, .. }) => {
                    *used = uses;
                    return Ok(Location::Memory(Arc::clone(frame)));
                }
                Some(Slot::Reading) => {
                    state = self
                        .moved
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        state.slots.insert(index, Slot::Reading);
        let reader = state.readers.pop();
        let buffer = state.spare.pop().unwrap_or_default();
        drop(state);
        tracing::trace!("reading frame {index}");
        let read = self.decompress(index, reader, buffer);
        let mut state = self.lock();
        state.slots.remove(&index);
        let found = read.map(|(reader, content)| {
            let frame = Arc::new(content);
            state.readers.push(reader);
            keep(&mut state, index, &frame);
            Location::Memory(frame)
        });
        drop(state);
        self.moved.notify_all();
        found
    }

    /// Bytes of a frame that was put by.
    pub(super) fn stored(&self, index: usize, offset: usize, into: &mut [u8]) -> io::Result<()> {
        let store = self.store.as_ref().ok_or(io::ErrorKind::NotFound)?;
        store.read_exact_at(into, self.extents.begin(index) + offset as u64)
    }

    /// So many bytes of a frame were given away.
    pub(super) fn gave(&self, index: usize, bytes: usize) {
        if let Some(Slot::Ready { asked, .. }) = self.lock().slots.get_mut(&index) {
            *asked = asked.saturating_add(bytes);
        }
    }

    /// Puts by what there is no room for in memory. Whether that went well: what could not be put by is
    /// decompressed again when it is asked for.
    pub(super) fn make_room(&self) -> bool {
        let mut is_well = true;
        let mut state = self.lock();
        while state.held > KEPT {
            let ready = state
                .slots
                .iter_mut()
                .filter_map(|(index, slot)| match slot {
                    Slot::Ready { storing, used, .. } if !*storing => Some((*used, *index, slot)),
                    _ => None,
                });
            // The least recently used one; the others are somebody else's work.
            let Some((
                _,
                index,
                Slot::Ready {
                    frame,
                    asked,
                    storing,
                    ..
                },
            )) = ready.min_by_key(|(used, index, _)| (*used, *index))
            else {
                break;
            };
            let frame = Arc::clone(frame);
            let mut stored = false;
            if *asked < frame.len() {
                *storing = true;
                drop(state);
                stored = self.put_by(index, &frame);
                is_well &= stored;
                state = self.lock();
            }
            state.stored[index] = stored;
            state.slots.remove(&index);
            state.held -= frame.len();
            if let Ok(buffer) = Arc::try_unwrap(frame)
                && state.spare.len() < SPARE
                && buffer.capacity() <= LARGEST_SPARE
            {
                state.spare.push(buffer);
            }
        }
        is_well
    }

    fn put_by(&self, index: usize, frame: &Frame) -> bool {
        self.store.as_ref().is_some_and(|store| {
            has_room(store, frame.len() as u64)
                && (store.write_all_at(frame, self.extents.begin(index))).is_ok()
        })
    }

    /// Memory for a frame, if some was left.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Takes over one that was read on a guess.
    pub(super) fn offer(&self, index: usize, content: Vec<u8>) -> bool {
        let frame = Arc::new(content);
        let mut state = self.lock();
        if state.stored[index] || state.slots.contains_key(&index) {
            return true;
        }
        keep(&mut state, index, &frame);
        drop(state);
        drop(frame);
        self.make_room()
    }

    /// Reads one and tells nobody.
    pub(super) fn decompress(
        &self,
        index: usize,
        reader: Option<FrameReader>,
        mut buffer: Vec<u8>,
    ) -> Result<(FrameReader, Vec<u8>), Error> {
        let mut reader = reader.map_or_else(|| FrameReader::new(&self.archive), Ok)?;
        let offset = self.offsets[index];
        reader.read(&self.archive, &self.file, index, offset, &mut buffer)?;
        Ok((reader, buffer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the component itself is going to write, its result at least, goes before.
fn has_room(store: &File, bytes: u64) -> bool {
    nix::sys::statvfs::fstatvfs(store).is_ok_and(|disk| {
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        free.saturating_sub(bytes) >= SPARED
    })
}

fn keep(state: &mut State, index: usize, frame: &Frame) {
    state.uses += 1;
    let slot = Slot::Ready {
        frame: Arc::clone(frame),
        used: state.uses,
        asked: 0,
        storing: false,
    };
    state.slots.insert(index, slot);
    state.held += frame.len();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::{Entry, Kind};
    use crate::made::Made;
    use crate::noise::Noise;

    /// Four files, each in a frame of its own: two fit into memory.
    fn frames(store: Option<File>) -> (Vec<Vec<u8>>, Frames) {
        let mut noise = Noise(1);
        let contents: Vec<Vec<u8>> = (0..4)
            .map(|_| noise.bytes(100_000).repeat(KEPT * 2 / 5 / 100_000))
            .collect();
        let entry = |index: usize, size: usize| Entry {
            path: vec![b'a' + u8::try_from(index).unwrap()],
            kind: Kind::File(size as u64),
            mode: 0o644,
        };
        let entries = (contents.iter().enumerate())
            .map(|(index, content)| (entry(index, content.len()), Some((index, 0))));
        let made = Made {
            entries: entries.collect(),
            frames: contents.clone(),
            first: false,
            hot: 0,
        };
        let (archive, file) = made.open();
        (contents, Frames::new(archive, file, store))
    }

    fn in_memory(frames: &Frames, index: usize) -> Frame {
        match frames.find(index) {
            Ok(Location::Memory(frame)) => frame,
            Ok(Location::Stored) => panic!("it was put by"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads three in turn, and asks for so much of the first one. Whether room was made.
    fn read_all(frames: &Frames, contents: &[Vec<u8>], asked: usize) -> bool {
        for (index, content) in contents[..3].iter().enumerate() {
            assert!(*in_memory(frames, index) == *content);
            assert_eq!(frames.lock().held, contents[..=index].concat().len());
            frames.gave(index, if index == 0 { asked } else { 1 });
        }
        let is_well = frames.make_room();
        // No more than there is no room for.
        assert_eq!(frames.lock().held, contents[1..3].concat().len());
        assert!(frames.is_known(1) && frames.is_known(2));
        is_well
    }

    #[test]
    fn what_was_asked_for_whole_is_forgotten() {
        let (contents, frames) = frames(Some(tempfile::tempfile().unwrap()));
        let half = contents[0].len() / 2;
        in_memory(&frames, 0);
        frames.gave(0, half);
        assert!(read_all(&frames, &contents, half));
        assert!(!frames.is_known(0));
        let store = frames.store.as_ref().unwrap();
        assert_eq!(store.metadata().unwrap().len(), 0);
        assert!(*in_memory(&frames, 0) == contents[0]);
    }

    #[test]
    fn what_was_asked_for_in_part_is_put_by() {
        let (contents, frames) = frames(Some(tempfile::tempfile().unwrap()));
        let size = contents[0].len();
        assert!(read_all(&frames, &contents, size - 1));
        assert!(frames.is_known(0));
        assert!(matches!(frames.find(0), Ok(Location::Stored)));
        let mut bytes = vec![0; size - 7];
        frames.stored(0, 7, &mut bytes).unwrap();
        assert!(bytes == contents[0][7..]);
        // Another one, which lies behind it.
        in_memory(&frames, 3);
        assert!(frames.make_room());
        assert!(matches!(frames.find(1), Ok(Location::Stored)));
        let mut bytes = vec![0; contents[1].len()];
        frames.stored(1, 0, &mut bytes).unwrap();
        assert!(bytes == contents[1]);
    }

    #[test]
    fn without_a_store_it_is_decompressed_again() {
        let (contents, frames) = frames(None);
        assert!(!read_all(&frames, &contents, 1));
        assert!(!frames.is_known(0));
        assert!(*in_memory(&frames, 0) == contents[0]);
        // Now there is one too many again, and the second one is used least.
        assert!(!frames.make_room());
        assert!(!frames.is_known(1));
    }
}
