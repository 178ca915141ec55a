//! The bytes of the files, frame by frame as they are asked for, and no frame unchecked.
//!
//! A frame that cannot be read is an error of the whole run, whatever Python makes of it: the first
//! such error is kept.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::frames::{Frames, Location};
use crate::archive::entry::Kind;
use crate::archive::frame::Place;
use crate::archive::index::Archive;
use crate::error::Error;

/// How many frames may be read on a guess before something is asked for again.
const AHEAD: usize = 16;

/// What to guess from.
struct Asked {
    /// By entry: whether it has been asked for.
    seen: Vec<bool>,
    /// New since somebody looked.
    entries: Vec<usize>,
    /// How many frames may be read on a guess now.
    credit: usize,
}

/// What a mount serves: gives bytes of files.
pub(super) struct Served {
    pub(super) archive: Arc<Archive>,
    pub(super) frames: Frames,
    asked: Mutex<Asked>,
    asks: Condvar,
    failure: Arc<OnceLock<String>>,
}

impl Served {
    pub(super) fn new(
        archive: Arc<Archive>,
        frames: Frames,
        failure: Arc<OnceLock<String>>,
    ) -> Self {
        let asked = Asked {
            seen: vec![false; archive.entries.len()],
            entries: Vec::new(),
            credit: AHEAD,
        };
        Self {
            archive,
            frames,
            asked: Mutex::new(asked),
            asks: Condvar::new(),
            failure,
        }
    }

    /// Some of a file, as far as it goes; `None` is an I/O error. What has to make room for it does so when
    /// `take` has answered.
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
        let all = size.saturating_sub(from).min(length as u64);
        let place = Place {
            offset: place.offset.checked_add(from)?,
            ..place
        };
        let mut joined = Vec::new();
        for extent in self.frames.extents.of_file(place, all) {
            let index = extent.frame;
            let offset = usize::try_from(extent.offset).ok()?;
            let here = usize::try_from(extent.length).ok()?;
            self.note(entry, index);
            match self.frames.find(index) {
                Ok(Location::Stored) => {
                    let begin = joined.len();
                    joined.resize(begin + here, 0);
                    let read = self.frames.stored(index, offset, &mut joined[begin..]);
                    if let Err(error) = read {
                        self.failed(&Error::io("read", self.archive.path())(error));
                        return None;
                    }
                }
                Ok(Location::Memory(frame)) => {
                    let bytes = &frame[offset..offset + here];
                    self.frames.gave(index, here);
                    if extent.length == all {
                        take(bytes);
                        drop(frame);
                        self.frames.make_room();
                        return Some(());
                    }
                    joined.extend_from_slice(bytes);
                    drop(frame);
                    self.frames.make_room();
                }
                Err(error) => {
                    self.failed(&error);
                    return None;
                }
            }
        }
        (joined.len() as u64 == all).then(|| take(&joined))
    }

    /// Whoever reads ahead hears that something was asked for, and of what is new to it.
    fn note(&self, entry: usize, frame: usize) {
        let mut asked = self.lock();
        let sleeps = asked.credit == 0;
        asked.credit = AHEAD;
        let is_new = !std::mem::replace(&mut asked.seen[entry], true);
        if is_new {
            let path = &self.archive.entries[entry].path;
            let path = String::from_utf8_lossy(path);
            tracing::trace!("first of `{path}`, in frame {frame}");
            asked.entries.push(entry);
        }
        drop(asked);
        if sleeps || is_new {
            self.asks.notify_all();
        }
    }

    /// The entries that were asked for since the last call. Waits for one where nothing is `left`
    /// to guess, or too much was guessed since anybody asked for anything.
    pub(super) fn asked(&self, left: bool) -> Vec<usize> {
        let mut asked = self.lock();
        while asked.entries.is_empty() && (!left || asked.credit == 0) {
            asked = self
                .asks
                .wait(asked)
                .unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut asked.entries)
    }

    /// One more guess.
    pub(super) fn guessed(&self) {
        let mut asked = self.lock();
        asked.credit = asked.credit.saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
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
