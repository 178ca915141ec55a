//! Frames as they are decompressed: each one once, checked, and put by in a file without a name.
//!
//! A frame holds a hundred small files, of which a package needs a few now and a few later. That
//! file, beside the mount, is the kernel's memory, which it can take back. A frame that is being
//! read is waited for, and not read again by whoever wants it as well.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::archive::frame::{Reader, offsets};
use crate::archive::index::Archive;
use crate::error::Error;
use crate::node::extent::Extents;

/// Bytes of frames that are kept in memory, besides the last one: of those that are about to be kept
/// elsewhere, or have to be kept here.
const KEPT: usize = 16 << 20;
/// How many buffers wait for the next frame, and of which size at most: fresh memory has to be cleared
/// by the kernel first.
const SPARE: usize = 4;
const LARGEST_SPARE: usize = 4 << 20;

/// Bytes of the disk that are left to others.
const SPARED: u64 = 256 << 20;

/// Decompressed.
pub(super) type Frame = Arc<Vec<u8>>;

/// Where a frame is.
pub(super) enum Found {
    /// In the file without a name.
    Stored,
    /// In memory, and to be put by.
    Memory(Frame),
}

enum Slot {
    /// Somebody reads it.
    Reading,
    Ready {
        frame: Frame,
        /// Counts up with every use.
        used: u64,
        /// Somebody puts it by.
        storing: bool,
    },
}

struct State {
    slots: HashMap<usize, Slot>,
    uses: u64,
    /// By frame: whether it lies in the file without a name.
    stored: Vec<bool>,
    readers: Vec<Reader>,
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

    /// Whether it has been put by.
    pub(super) fn is_stored(&self, index: usize) -> bool {
        self.lock().stored[index]
    }

    /// Whether it has been read, or is being read by somebody who was asked for it.
    pub(super) fn is_known(&self, index: usize) -> bool {
        let state = self.lock();
        state.stored[index] || state.slots.contains_key(&index)
    }

    /// A frame, read now if nobody has.
    pub(super) fn find(&self, index: usize) -> Result<Found, Error> {
        let mut state = self.lock();
        loop {
            if state.stored[index] {
                return Ok(Found::Stored);
            }
            state.uses += 1;
            let uses = state.uses;
            match state.slots.get_mut(&index) {
                Some(Slot::Ready { frame, used, .. }) => {
                    *used = uses;
                    return Ok(Found::Memory(Arc::clone(frame)));
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
            Found::Memory(frame)
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

    /// Puts a frame by. Where there is no room for it, it will be decompressed again.
    pub(super) fn put_by(&self, index: usize, frame: Frame) -> bool {
        let Some(store) = &self.store else {
            return false;
        };
        match self.lock().slots.get_mut(&index) {
            Some(Slot::Ready { storing, .. }) if !*storing => *storing = true,
            // Somebody else does, or it had to make room.
            _ => return true,
        }
        let stored = has_room(store, frame.len() as u64)
            && store
                .write_all_at(&frame, self.extents.begin(index))
                .is_ok();
        let mut state = self.lock();
        if !stored {
            if let Some(Slot::Ready { storing, .. }) = state.slots.get_mut(&index) {
                *storing = false;
            }
            return false;
        }
        state.stored[index] = true;
        state.slots.remove(&index);
        if let Ok(buffer) = Arc::try_unwrap(frame)
            && state.spare.len() < SPARE
            && buffer.capacity() <= LARGEST_SPARE
        {
            state.spare.push(buffer);
        }
        true
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
        self.put_by(index, frame)
    }

    /// Reads one and tells nobody.
    pub(super) fn decompress(
        &self,
        index: usize,
        reader: Option<Reader>,
        mut buffer: Vec<u8>,
    ) -> Result<(Reader, Vec<u8>), Error> {
        let mut reader = reader.map_or_else(|| Reader::new(&self.archive), Ok)?;
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

/// The least recently used ones go.
fn keep(state: &mut State, index: usize, frame: &Frame) {
    state.uses += 1;
    let mut ready: Vec<(u64, usize, usize)> = state
        .slots
        .iter()
        .filter_map(|(&index, slot)| match slot {
            Slot::Ready { used, frame, .. } => Some((*used, index, frame.len())),
            Slot::Reading => None,
        })
        .collect();
    ready.sort_unstable();
    let mut bytes = ready.iter().map(|(_, _, length)| length).sum::<usize>();
    for (_, oldest, length) in ready {
        if bytes <= KEPT {
            break;
        }
        state.slots.remove(&oldest);
        bytes -= length;
    }
    let slot = Slot::Ready {
        frame: Arc::clone(frame),
        used: state.uses,
        storing: false,
    };
    state.slots.insert(index, slot);
}
