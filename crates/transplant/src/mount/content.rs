//! The bytes of the files, frame by frame as they are asked for, and no frame unchecked.
//!
//! What was read once stays in the kernel's page cache, so only as many frames are kept here as
//! the files of a package are spread over. One that cannot be read is an error of the whole run,
//! whatever Python makes of it: the first such error is kept.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::archive::Archive;
use crate::error::Error;
use crate::frame::{Reader, offsets};
use crate::tree::Kind;

/// Bytes of frames that are kept.
const KEPT: usize = 48 << 20;
/// When nobody has asked for anything for so long, nothing is kept.
const IDLE: Duration = Duration::from_secs(5);

/// Decompressed.
type Frame = Arc<Vec<u8>>;

enum Slot {
    /// Somebody reads it.
    Reading,
    Ready {
        frame: Frame,
        /// Counts up with every use.
        used: u64,
    },
}

#[derive(Default)]
struct State {
    slots: HashMap<usize, Slot>,
    uses: u64,
    bytes: usize,
    /// Frames that are likely to be asked for, the next one last.
    wanted: Vec<usize>,
    readers: Vec<Reader>,
}

/// Gives bytes of files.
pub(super) struct Content {
    archive: Arc<Archive>,
    file: File,
    offsets: Vec<u64>,
    state: Mutex<State>,
    moved: Condvar,
    failure: Arc<OnceLock<String>>,
}

impl Content {
    pub(super) fn new(archive: Arc<Archive>, file: File, failure: Arc<OnceLock<String>>) -> Self {
        Self {
            offsets: offsets(&archive),
            archive,
            file,
            state: Mutex::default(),
            moved: Condvar::new(),
            failure,
        }
    }

    /// Some of a file, and what of it lies in one frame without a copy; `None` is an I/O error.
    pub(super) fn read<R>(
        &self,
        entry: usize,
        from: u64,
        length: usize,
        take: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let (Kind::File(size), Some(place)) = (
            &self.archive.entries.get(entry)?.kind,
            self.archive.places[entry],
        ) else {
            return None;
        };
        let mut left = usize::try_from(size.saturating_sub(from))
            .unwrap_or(usize::MAX)
            .min(length);
        if left == 0 {
            return Some(take(&[]));
        }
        let mut index = place.frame;
        let mut offset = place.offset.checked_add(from)?;
        while offset >= self.archive.frames.get(index)?.length {
            offset -= self.archive.frames[index].length;
            index += 1;
        }
        let mut offset = usize::try_from(offset).ok()?;
        let frame = self.frame(index)?;
        if frame.len() - offset >= left {
            return Some(take(&frame[offset..offset + left]));
        }
        let mut joined = Vec::with_capacity(left);
        let mut frame = frame;
        loop {
            let here = left.min(frame.len() - offset);
            joined.extend_from_slice(&frame[offset..offset + here]);
            left -= here;
            if left == 0 {
                return Some(take(&joined));
            }
            index += 1;
            offset = 0;
            frame = self.frame(index)?;
        }
    }

    /// Reads ahead, for as long as the process lives.
    pub(super) fn read_ahead(&self) {
        let mut state = self.lock();
        loop {
            if let Some(index) = state.wanted.pop() {
                if !state.slots.contains_key(&index) {
                    state = self.fill(index, state).0;
                }
                continue;
            }
            let uses = state.uses;
            let (next, waited) = self
                .moved
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() && state.uses == uses {
                state.slots.retain(|_, slot| matches!(slot, Slot::Reading));
                state.bytes = 0;
                state.readers.clear();
            }
        }
    }

    /// Says what will be asked for soon, the first one first.
    pub(super) fn expect(&self, frames: &[usize]) {
        let mut state = self.lock();
        state.wanted = frames.iter().rev().copied().collect();
        drop(state);
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frame(&self, index: usize) -> Option<Frame> {
        let mut state = self.lock();
        loop {
            state.uses += 1;
            let uses = state.uses;
            match state.slots.get_mut(&index) {
                Some(Slot::Ready { frame, used }) => {
                    *used = uses;
                    return Some(Arc::clone(frame));
                }
                Some(Slot::Reading) => {
                    state = self
                        .moved
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => return self.fill(index, state).1,
            }
        }
    }

    fn fill<'a>(
        &'a self,
        index: usize,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, Option<Frame>) {
        state.slots.insert(index, Slot::Reading);
        let reader = state.readers.pop();
        drop(state);
        let mut content = Vec::new();
        let read = reader
            .map_or_else(|| Reader::new(&self.archive), Ok)
            .and_then(|mut reader| {
                let offset = self.offsets[index];
                reader.read(&self.archive, &self.file, index, offset, &mut content)?;
                Ok(reader)
            });
        let mut state = self.lock();
        let frame = match read {
            Ok(reader) => {
                state.readers.push(reader);
                state.uses += 1;
                let used = state.uses;
                let frame = Arc::new(content);
                state.bytes += frame.len();
                let slot = Slot::Ready {
                    frame: Arc::clone(&frame),
                    used,
                };
                state.slots.insert(index, slot);
                make_room(&mut state);
                Some(frame)
            }
            Err(error) => {
                state.slots.remove(&index);
                self.failed(&error);
                None
            }
        };
        self.moved.notify_all();
        (state, frame)
    }

    fn failed(&self, error: &Error) {
        use std::error::Error as _;
        let text = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        tracing::error!("{text}");
        self.failure.set(text).ok();
    }
}

/// The least recently used goes.
fn make_room(state: &mut State) {
    while state.bytes > KEPT {
        let oldest = state
            .slots
            .iter()
            .filter_map(|(&index, slot)| match slot {
                Slot::Ready { frame, used } => Some((*used, index, frame.len())),
                Slot::Reading => None,
            })
            .min();
        // One alone may be larger than all that is kept.
        let Some((_, index, length)) = oldest.filter(|_| state.slots.len() > 1) else {
            return;
        };
        state.slots.remove(&index);
        state.bytes -= length;
    }
}
