//! Reads ahead: first the hot list, which every start of Python needs, and of each library that is opened what
//! the loader goes by, whatever the node is busy with; then guesses, of a package of which something was
//! read all that its import may need.
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

use super::content::Served;
use super::nodes::{self, Nodes};
use crate::archive::entry::Kind;
use crate::archive::frame::{FrameReader, Place};
use crate::archive::index::Archive;
use crate::archive::listing::CHUNK;
use crate::archive::order::{Use, is_interpreter, use_of};
use crate::elf::layout;

/// More than any package takes, in pieces of files.
const MOST_GUESSES: usize = 4096;
/// Of the hot list, in bytes: many times what the start of any Python reads. What claims more is not to
/// fill a node's disk unasked.
const MOST_HOT: u64 = 1 << 30;
/// Of a library that is opened, in bytes.
const MOST_LOADED: u64 = 64 << 20;

/// Reads ahead for as long as the process lives: the hot list at once, and guesses as soon as there is
/// something to guess from.
pub(super) fn start(content: Arc<Served>, nodes: Receiver<Arc<Nodes>>) -> io::Result<()> {
    let run = move || {
        let hot = hot(&content.archive);
        tracing::trace!("what every start needs lies in {} frames", hot.len());
        read_now(&content, &hot);
        if let Ok(nodes) = nodes.recv() {
            read_guesses(Ahead::new(nodes, content));
        }
    };
    let thread = Builder::new().name("read-ahead".to_owned());
    thread.spawn(run).map(drop)
}

/// The frames of an archive's hot list, in the order in which they are asked for; where it has none, those of
/// what every start reads.
pub(super) fn hot(archive: &Archive) -> Vec<usize> {
    let frames = match archive.hot() {
        0 => start_up(archive),
        hot => {
            let hot = hot.min(archive.frames.len());
            // The loader reads the interpreter before Python can ask for anything.
            let begin = interpreter(archive).unwrap_or(hot).min(hot);
            (begin..hot).chain(0..begin).collect()
        }
    };
    within(archive, MOST_HOT, frames)
}

/// As many of these frames as hold so many bytes.
fn within(archive: &Archive, most: u64, mut frames: Vec<usize>) -> Vec<usize> {
    let mut left = most;
    let many = frames.iter().take_while(|&&index| {
        left = left.saturating_sub(archive.frames[index].length);
        left > 0
    });
    frames.truncate(many.count());
    frames
}

/// The frames that every Python starts with, of an archive that does not name them. Of its interpreter a start
/// touches little, and the kernel asks for that by itself.
fn start_up(archive: &Archive) -> Vec<usize> {
    let entries = archive.entries.iter().zip(&archive.places);
    let mut frames: Vec<usize> = entries
        .filter(|(entry, _)| use_of(&entry.path) == Use::Start && !is_interpreter(&entry.path))
        .filter_map(|(_, place)| place.map(|place| place.frame))
        .collect();
    frames.sort_unstable();
    frames.dedup();
    frames
}

/// The first frame of an interpreter that is too large for one.
fn interpreter(archive: &Archive) -> Option<usize> {
    let entries = archive.entries.iter().zip(&archive.places);
    let frames = entries.filter_map(|(entry, place)| match entry.kind {
        Kind::File(size) if size > CHUNK && is_interpreter(&entry.path) => {
            place.map(|place| place.frame)
        }
        _ => None,
    });
    frames.min()
}

/// Whoever asks for one of these frames meanwhile waits for it, or reads it in the place of this.
pub(super) fn read_now(content: &Served, wanted: &[usize]) {
    let frames = &content.frames;
    let packed: Vec<(u64, u64)> = wanted.iter().map(|&index| frames.packed(index)).collect();
    // The disk reads all of it in a row, while the first one is decompressed.
    for (begin, length) in runs(&packed) {
        let (Ok(begin), Ok(length)) = (begin.try_into(), length.try_into()) else {
            continue;
        };
        let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        posix_fadvise(frames.file(), begin, length, advice).ok();
    }
    for &index in wanted {
        // An error is one when the frame is asked for.
        if !frames.is_known(index) && frames.find(index).is_ok() && !frames.make_room() {
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
type Guess = (usize, Option<FrameReader>, Vec<u8>);

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
            read_now(&content, &ahead.loaded(entry));
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
        let length = content.archive.frames[index].length;
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
    content: &Served,
    wished: &Receiver<Guess>,
    reads: &SyncSender<Option<(FrameReader, Vec<u8>)>>,
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
    content: Arc<Served>,
    nodes: Arc<Nodes>,
    /// Packages, by number.
    guessed: HashSet<u64>,
    /// Libraries that have frames of their own, by entry.
    loaded: HashSet<usize>,
}

impl Ahead {
    pub(super) fn new(nodes: Arc<Nodes>, content: Arc<Served>) -> Self {
        Self {
            content,
            nodes,
            guessed: HashSet::new(),
            loaded: HashSet::new(),
        }
    }

    /// The frames of the package that an entry belongs to, the first time that something of it is asked for,
    /// but for those of libraries that have their own: of them it shows when they are loaded.
    pub(super) fn package_of(&mut self, entry: usize) -> Vec<usize> {
        let archive = &self.content.archive;
        let mut number = nodes::number(entry);
        loop {
            let parent = self.nodes.parent(number);
            let Some(above) = nodes::entry(parent) else {
                return Vec::new();
            };
            if nodes::name(archive, above) == b"site-packages" {
                break;
            }
            number = parent;
        }
        let mut frames = Vec::new();
        if self.guessed.insert(number) {
            self.walk(number, &mut frames);
            frames.sort_unstable();
            frames.dedup();
        }
        frames
    }

    fn walk(&self, directory: u64, frames: &mut Vec<usize>) {
        let archive = &self.content.archive;
        let children = self.nodes.children(archive, directory);
        for &child in children.unwrap_or(&[]) {
            let entry = &archive.entries[child];
            match (&entry.kind, archive.places[child]) {
                (Kind::Directory, _) => self.walk(nodes::number(child), frames),
                (Kind::File(_), Some(place))
                    if !self.is_in_parts(child)
                        && use_of(&entry.path) != Use::Else
                        && frames.len() < MOST_GUESSES =>
                {
                    frames.push(place.frame);
                }
                _ => {}
            }
        }
    }

    /// Whether it has frames of its own.
    fn is_in_parts(&self, entry: usize) -> bool {
        matches!(self.content.archive.entries[entry].kind, Kind::File(size) if size > CHUNK)
    }

    /// Which frames the loader reads of a library that has its own, the first time that this is asked for.
    pub(super) fn loaded(&mut self, entry: usize) -> Vec<usize> {
        let archive = &self.content.archive;
        let (Kind::File(size), Some(place)) = (&archive.entries[entry].kind, archive.places[entry])
        else {
            return Vec::new();
        };
        if !self.is_in_parts(entry) || !self.loaded.insert(entry) {
            return Vec::new();
        }
        let frames = &self.content.frames;
        let read = |from: u64, length: u64| {
            // What does not stand in its first piece is not worth a wait.
            let is_first = from.checked_add(length)? <= CHUNK;
            let length = usize::try_from(length).ok().filter(|_| is_first)?;
            let mut bytes = Vec::new();
            let take = |read: &[u8]| bytes.extend_from_slice(read);
            self.content.read(entry, from, length, take)?;
            (bytes.len() == length).then_some(bytes)
        };
        let pieces = layout::of_bytes(&read, layout::loaded);
        let mut wanted = Vec::new();
        for (from, length) in pieces.unwrap_or_default() {
            let Some(offset) = place.offset.checked_add(from) else {
                continue;
            };
            let place = Place { offset, ..place };
            let length = length.min(size.saturating_sub(from));
            let room = MOST_GUESSES.saturating_sub(wanted.len());
            let extents = frames.extents.of_file(place, length).take(room);
            wanted.extend(extents.map(|extent| extent.frame));
        }
        within(archive, MOST_LOADED, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::Entry;
    use crate::made::Made;

    const PIECE: usize = 256 << 10;

    /// Modules of a start, an interpreter in two pieces, and what is seldom read.
    fn archive(hot: usize) -> Arc<Archive> {
        let bytecode = "lib/python3.11/__pycache__";
        let entry = |path: &str, kind: Kind| Entry {
            path: path.into(),
            kind,
            mode: 0o755,
        };
        let file = |path: &str, size: usize| entry(path, Kind::File(size as u64));
        let mut entries = vec![
            (entry("bin", Kind::Directory), None),
            (file("bin/python3.11", 2 * PIECE), Some((1, 0))),
            (entry("lib", Kind::Directory), None),
            (entry("lib/python3.11", Kind::Directory), None),
            (entry(bytecode, Kind::Directory), None),
        ];
        for (name, at) in [("abc", (0, 0)), ("json", (3, 0)), ("os", (0, 1000))] {
            let path = format!("{bytecode}/{name}.cpython-311.pyc");
            entries.push((file(&path, 1000), Some(at)));
        }
        let made = Made {
            entries,
            frames: [2000, PIECE, PIECE, 1000].map(|size| vec![7; size]).into(),
            first: false,
            hot,
        };
        made.open().0
    }

    #[test]
    fn the_interpreter_is_read_first() {
        assert_eq!(hot(&archive(3)), [1, 2, 0]);
        // A part of it alone is hot.
        assert_eq!(hot(&archive(2)), [1, 0]);
    }

    #[test]
    fn without_a_hot_list_the_modules_of_a_start_are_read() {
        assert_eq!(hot(&archive(0)), [0]);
    }

    #[test]
    fn no_more_is_read_than_is_allowed() {
        let archive = archive(3);
        let taken = |most: usize| within(&archive, most as u64, hot(&archive));
        assert!(taken(PIECE).is_empty());
        assert_eq!(taken(PIECE + 1), [1]);
        assert_eq!(taken(2 * PIECE + 2000), [1, 2]);
        assert_eq!(taken(2 * PIECE + 2001), [1, 2, 0]);
    }

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
