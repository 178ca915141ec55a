//! The bytes of the files, frame by frame as they are asked for, and no frame unchecked.
//!
//! A frame holds a hundred small files, of which a package needs a few now and a few later. So what
//! was decompressed goes into a file without a name beside the mount: that is the kernel's memory,
//! which it can take back, and a frame is read once. One that cannot be read is an error of the
//! whole run, whatever Python makes of it: the first such error is kept.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::ahead::Ahead;
use crate::archive::entry::Kind;
use crate::archive::frame::{Reader, offsets};
use crate::archive::index::Archive;
use crate::error::Error;

/// How many frames are kept in memory: those that are about to be kept elsewhere.
const KEPT: usize = 8;
/// How many frames may be read ahead before something is asked for again.
const AHEAD: usize = 16;

/// Bytes of the disk that are left to others.
const SPARED: u64 = 256 << 20;

/// Decompressed.
type Frame = Arc<Vec<u8>>;

enum Slot {
    /// Somebody reads it because it was asked for.
    Reading,
    Ready {
        frame: Frame,
        /// Counts up with every use.
        used: u64,
    },
}

struct State {
    slots: HashMap<usize, Slot>,
    uses: u64,
    /// By frame: whether it lies in the file without a name.
    stored: Vec<bool>,
    /// What was asked for, to guess from.
    asked: Vec<usize>,
    /// How many frames may be read ahead now.
    credit: usize,
    readers: Vec<Reader>,
}

/// Gives bytes of files.
pub(super) struct Content {
    archive: Arc<Archive>,
    file: File,
    /// Where frames begin in the archive.
    offsets: Vec<u64>,
    /// The file without a name, if there can be one, and where frames begin in it.
    store: Option<File>,
    places: Vec<u64>,
    state: Mutex<State>,
    moved: Condvar,
    failure: Arc<OnceLock<String>>,
}

impl Content {
    pub(super) fn new(
        archive: Arc<Archive>,
        file: File,
        store: Option<File>,
        failure: Arc<OnceLock<String>>,
    ) -> Self {
        let places = archive
            .frames
            .iter()
            .scan(0, |sum, frame| {
                let begin = *sum;
                *sum += frame.length;
                Some(begin)
            })
            .collect();
        let state = State {
            slots: HashMap::new(),
            uses: 0,
            stored: vec![false; archive.frames.len()],
            asked: Vec::new(),
            credit: AHEAD,
            readers: Vec::new(),
        };
        Self {
            offsets: offsets(&archive),
            archive,
            file,
            store,
            places,
            state: Mutex::new(state),
            moved: Condvar::new(),
            failure,
        }
    }

    /// Some of a file, as far as it goes; `None` is an I/O error. What was read for it is stored
    /// when `take` has answered.
    pub(super) fn read(
        &self,
        entry: usize,
        from: u64,
        length: usize,
        take: impl FnOnce(&[u8]),
    ) -> Option<()> {
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
            take(&[]);
            return Some(());
        }
        let mut index = place.frame;
        let mut offset = place.offset.checked_add(from)?;
        while offset >= self.archive.frames.get(index)?.length {
            offset -= self.archive.frames[index].length;
            index += 1;
        }
        let mut offset = usize::try_from(offset).ok()?;
        let mut joined = Vec::new();
        loop {
            let room = usize::try_from(self.archive.frames.get(index)?.length).ok()? - offset;
            let here = left.min(room);
            let stored = self.is_stored(index, entry);
            let is_all = joined.is_empty() && here == left;
            if stored {
                let begin = joined.len();
                joined.resize(begin + here, 0);
                let at = self.places[index] + offset as u64;
                let read = self.store.as_ref()?.read_exact_at(&mut joined[begin..], at);
                if let Err(error) = read {
                    self.failed(&Error::io("read", self.archive.path())(error));
                    return None;
                }
            } else {
                let frame = self.frame(index)?;
                let bytes = &frame[offset..offset + here];
                if is_all {
                    take(bytes);
                    self.put_by(index, &frame);
                    return Some(());
                }
                joined.extend_from_slice(bytes);
                self.put_by(index, &frame);
            }
            left -= here;
            if left == 0 {
                take(&joined);
                return Some(());
            }
            index += 1;
            offset = 0;
        }
    }

    /// Reads ahead, for as long as the process lives, and as anybody asks for anything.
    pub(super) fn read_ahead(&self, mut ahead: Ahead) {
        let mut wanted: VecDeque<usize> = ahead.start_up().into();
        let mut state = self.lock();
        loop {
            while let Some(entry) = state.asked.pop() {
                let package = ahead.package_of(entry);
                // What is wanted now is likely to be wanted of this one.
                for frame in package.into_iter().rev() {
                    wanted.push_front(frame);
                }
            }
            if state.credit == 0 || wanted.is_empty() || !has_idle_processor() {
                state = self
                    .moved
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(index) = wanted.pop_front() else {
                continue;
            };
            if state.stored[index] || state.slots.contains_key(&index) {
                continue;
            }
            state.credit -= 1;
            let reader = state.readers.pop();
            drop(state);
            // An error is one when the frame is asked for.
            let read = self.decompress(index, reader);
            state = self.lock();
            if let Ok((reader, frame)) = read {
                state.readers.push(reader);
                if !state.stored[index] && !state.slots.contains_key(&index) {
                    keep(&mut state, index, &frame);
                    drop(state);
                    self.put_by(index, &frame);
                    state = self.lock();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has been put by; whoever reads ahead hears that this entry was asked for.
    fn is_stored(&self, index: usize, entry: usize) -> bool {
        let mut state = self.lock();
        let sleeps = state.credit == 0;
        state.credit = AHEAD;
        let stored = state.stored[index];
        if !stored {
            let path = &self.archive.entries[entry].path;
            tracing::trace!("frame {index} for `{}`", String::from_utf8_lossy(path));
            state.asked.push(entry);
        }
        drop(state);
        if sleeps || !stored {
            self.moved.notify_all();
        }
        stored
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
                None => break,
            }
        }
        state.slots.insert(index, Slot::Reading);
        let reader = state.readers.pop();
        drop(state);
        self.moved.notify_all();
        let decompressed = self.decompress(index, reader);
        let mut state = self.lock();
        state.slots.remove(&index);
        let frame = match decompressed {
            Ok((reader, frame)) => {
                state.readers.push(reader);
                keep(&mut state, index, &frame);
                Some(frame)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        };
        drop(state);
        self.moved.notify_all();
        frame
    }

    fn decompress(&self, index: usize, reader: Option<Reader>) -> Result<(Reader, Frame), Error> {
        tracing::trace!("reading frame {index}");
        let mut reader = reader.map_or_else(|| Reader::new(&self.archive), Ok)?;
        let mut content = Vec::new();
        let offset = self.offsets[index];
        reader.read(&self.archive, &self.file, index, offset, &mut content)?;
        Ok((reader, Arc::new(content)))
    }

    /// Stores a frame. Where there is no room for it, it will be decompressed again.
    fn put_by(&self, index: usize, frame: &Frame) {
        let Some(store) = &self.store else { return };
        if self.lock().stored[index]
            || !has_room(store, frame.len() as u64)
            || store.write_all_at(frame, self.places[index]).is_err()
        {
            return;
        }
        let mut state = self.lock();
        state.stored[index] = true;
        state.slots.remove(&index);
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

/// Whether a guess costs nobody anything. Not left to the scheduler: a thread that has to wait for
/// an idle processor would make those wait that need a lock of its.
fn has_idle_processor() -> bool {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // Such as `0.20 0.18 0.12 2/80 11206`: 2 of 80 threads run or want to, this one among them.
    let Ok(load) = std::fs::read_to_string("/proc/loadavg") else {
        return processors > 1;
    };
    let running = load
        .split_whitespace()
        .nth(3)
        .and_then(|threads| threads.split('/').next()?.parse().ok());
    running.is_none_or(|running: usize| running <= processors)
}

/// What the component itself is going to write, its result at least, goes before.
fn has_room(store: &File, bytes: u64) -> bool {
    nix::sys::statvfs::fstatvfs(store).is_ok_and(|disk| {
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        free.saturating_sub(bytes) >= SPARED
    })
}

/// The least recently used one goes.
fn keep(state: &mut State, index: usize, frame: &Frame) {
    state.uses += 1;
    let slot = Slot::Ready {
        frame: Arc::clone(frame),
        used: state.uses,
    };
    state.slots.insert(index, slot);
    let ready: Vec<(u64, usize)> = state
        .slots
        .iter()
        .filter_map(|(&index, slot)| match slot {
            Slot::Ready { used, .. } => Some((*used, index)),
            Slot::Reading => None,
        })
        .collect();
    if ready.len() > KEPT
        && let Some((_, oldest)) = ready.iter().min()
    {
        state.slots.remove(oldest);
    }
}
