//! Reads ahead: first the hot list, which nearly every import needs, whatever the node is busy with;
//! then guesses, of a package of which something was read all that its import may need.
//!
//! A wrong guess must cost nobody anything. So guesses are read by a thread that only gets processors
//! which nobody else wants. It may be kept from running at any moment and for long, and therefore holds
//! no lock: it is handed a buffer and hands back a frame, and who asks for a frame meanwhile reads it
//! without waiting for the guess.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::content::Content;
use super::frames::Found;
use super::nodes::{self, Nodes};
use crate::archive::entry::Kind;
use crate::archive::frame::Reader;
use crate::archive::index::Archive;
use crate::archive::order::{Use, rank, use_of};

/// More than any package takes, in pieces of files.
const MOST_GUESSES: usize = 4096;
/// Of the hot list, in bytes: ten times what the import of large packages reads. What claims more is
/// not to fill a node's disk unasked.
const MOST_HOT: u64 = 1 << 30;

/// Reads ahead for as long as the process lives.
pub(super) fn start(ahead: Ahead) -> io::Result<()> {
    let run = move || {
        read_hot(&ahead.content, &ahead.hot());
        read_guesses(ahead);
    };
    let thread = Builder::new().name("read-ahead".to_owned());
    thread.spawn(run).map(drop)
}

/// Whoever asks for one of these frames meanwhile waits for it, or reads it in the place of this.
pub(super) fn read_hot(content: &Content, hot: &[usize]) {
    let frames = &content.frames;
    let packed: Vec<(u64, u64)> = hot.iter().map(|&index| frames.packed(index)).collect();
    // The disk reads all of it in a row, while the first one is decompressed.
    for (begin, length) in runs(&packed) {
        let (Ok(begin), Ok(length)) = (begin.try_into(), length.try_into()) else {
            continue;
        };
        let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        posix_fadvise(frames.file(), begin, length, advice).ok();
    }
    for &index in hot {
        // An error is one when the frame is asked for.
        if !frames.is_known(index)
            && let Ok(Found::Memory(frame)) = frames.find(index)
            && !frames.put_by(index, frame)
        {
            return;
        }
    }
}

/// Pieces of a file that touch each other, joined.
fn runs(pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &(begin, length) in pieces {
        match runs.last_mut() {
            Some(last) if last.0 + last.1 == begin => last.1 += length,
            _ => runs.push((begin, length)),
        }
    }
    runs
}

/// What goes to the thread that waits for an idle processor, and comes back.
type Guess = (usize, Option<Reader>, Vec<u8>);

fn read_guesses(mut ahead: Ahead) {
    let content = Arc::clone(&ahead.content);
    let (wishes, wished) = sync_channel(1);
    let (reads, read) = sync_channel(1);
    let idle = Arc::clone(&content);
    let thread = Builder::new().name("guesses".to_owned());
    if thread.spawn(move || guess(&idle, &wished, &reads)).is_err() {
        return;
    }
    let mut wanted: VecDeque<usize> = VecDeque::new();
    let mut reader = None;
    loop {
        for entry in content.asked(!wanted.is_empty()) {
            // What is wanted now is likely to be wanted of this one.
            for frame in ahead.package_of(entry).into_iter().rev() {
                wanted.push_front(frame);
            }
        }
        let Some(index) = wanted.pop_front() else {
            continue;
        };
        if content.frames.is_known(index) {
            continue;
        }
        content.guessed();
        let mut buffer = content.frames.buffer();
        let length = ahead.archive.frames[index].length;
        buffer.reserve(usize::try_from(length).unwrap_or(0));
        if wishes.send((index, reader.take(), buffer)).is_err() {
            return;
        }
        // An error is one when the frame is asked for.
        match read.recv() {
            Ok(Some((used, frame))) => {
                reader = Some(used);
                if !content.frames.offer(index, frame) {
                    return;
                }
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn guess(
    content: &Content,
    wished: &Receiver<Guess>,
    reads: &SyncSender<Option<(Reader, Vec<u8>)>>,
) {
    if let Err(error) = run_only_when_idle() {
        tracing::debug!("nothing is read on a guess: {error}");
        return;
    }
    while let Ok((index, reader, buffer)) = wished.recv() {
        tracing::trace!("reading frame {index} on a guess");
        let read = content.frames.decompress(index, reader, buffer).ok();
        if reads.send(read).is_err() {
            return;
        }
    }
}

/// Of this thread, by the kernel itself: musl has no such function, since POSIX has it for processes.
/// <https://man7.org/linux/man-pages/man7/sched.7.html>
fn run_only_when_idle() -> nix::Result<()> {
    // The kernel's own structure, of which musl's has more fields.
    let priority: nix::libc::c_int = 0;
    // SAFETY: the kernel reads one number, `priority`, which outlives the call.
    #[allow(unsafe_code)]
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_sched_setscheduler,
            0,
            nix::libc::SCHED_IDLE,
            &raw const priority,
        )
    };
    nix::errno::Errno::result(result).map(drop)
}

/// What was guessed already, and what it is guessed from.
pub(super) struct Ahead {
    archive: Arc<Archive>,
    nodes: Arc<Nodes>,
    content: Arc<Content>,
    guessed: HashSet<u64>,
}

impl Ahead {
    pub(super) fn new(archive: &Arc<Archive>, nodes: &Arc<Nodes>, content: &Arc<Content>) -> Self {
        Self {
            archive: Arc::clone(archive),
            nodes: Arc::clone(nodes),
            content: Arc::clone(content),
            guessed: HashSet::new(),
        }
    }

    /// The archive's hot list; where it has none, what every start reads.
    pub(super) fn hot(&self) -> Vec<usize> {
        let frames = match self.archive.hot() {
            0 => self.start_up(),
            hot => (0..hot.min(self.archive.frames.len())).collect(),
        };
        let mut left = MOST_HOT;
        let fits = |&index: &usize| {
            left = left.saturating_sub(self.archive.frames[index].length);
            left > 0
        };
        frames.into_iter().take_while(fits).collect()
    }

    /// The frames that every Python starts with, those first that are asked for first. Of a libpython
    /// a start touches little, and the kernel asks for that by itself.
    fn start_up(&self) -> Vec<usize> {
        let mut ranked: Vec<(usize, usize)> = Vec::new();
        for (entry, place) in self.archive.entries.iter().zip(&self.archive.places) {
            if let (Some(place), Some(rank)) = (place, rank(&entry.path)) {
                ranked.push((rank, place.frame));
            }
        }
        ranked.sort_unstable();
        let mut seen = HashSet::new();
        let frames = ranked.into_iter().map(|(_, frame)| frame);
        frames.filter(|frame| seen.insert(*frame)).collect()
    }

    /// The frames of the package that an entry belongs to, the first time that it is asked for.
    pub(super) fn package_of(&mut self, entry: usize) -> Vec<usize> {
        let mut frames = Vec::new();
        let mut number = nodes::number(entry);
        loop {
            let parent = self.nodes.parent(number);
            let Some(above) = nodes::entry(parent) else {
                return frames;
            };
            if nodes::name(&self.archive, above) == b"site-packages" {
                break;
            }
            number = parent;
        }
        if self.guessed.insert(number) {
            self.walk(number, &mut frames);
            frames.sort_unstable();
            frames.dedup();
        }
        frames
    }

    fn walk(&self, directory: u64, frames: &mut Vec<usize>) {
        let children = self.nodes.children(&self.archive, directory);
        for &child in children.unwrap_or(&[]) {
            let entry = &self.archive.entries[child];
            match entry.kind {
                Kind::Directory => self.walk(nodes::number(child), frames),
                Kind::File(_) if use_of(&entry.path) != Use::Else => self.add(child, frames),
                _ => {}
            }
        }
    }

    fn add(&self, entry: usize, frames: &mut Vec<usize>) {
        if let (Kind::File(size), Some(place)) = (
            &self.archive.entries[entry].kind,
            self.archive.places[entry],
        ) {
            let room = MOST_GUESSES.saturating_sub(frames.len());
            let extents = self.content.frames.extents.of_file(place, *size);
            let extents = extents.take(room);
            frames.extend(extents.map(|extent| extent.frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_touch_are_read_as_one() {
        assert_eq!(
            runs(&[(0, 3), (3, 4), (9, 1), (10, 2), (2, 1)]),
            [(0, 7), (9, 3), (2, 1)]
        );
        assert_eq!(runs(&[]), []);
    }

    #[test]
    fn a_thread_can_be_one_for_idle_processors_alone() {
        let policy = std::thread::spawn(|| {
            run_only_when_idle().unwrap();
            // The field is the 41st: proc_pid_stat(5).
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            fields.split(' ').nth(38).map(str::to_owned)
        });
        let idle = nix::libc::SCHED_IDLE.to_string();
        assert_eq!(policy.join().unwrap(), Some(idle));
    }
}
