//! Writes an archive: a plan of frames, then all processors fill and compress them, one writes.
//!
//! The plan depends on paths and sizes alone, so the same tree gives the same bytes with any number
//! of threads.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use zstd::zstd_safe::CParameter;

use crate::archive::digest::Digest;
use crate::archive::ending;
use crate::archive::entry::{self, Entry};
use crate::archive::frame::Frame;
use crate::archive::listing::{self, CHUNK, Sum};
use crate::archive::order::order;
use crate::archive::outline::{header, sequence};
use crate::build::growth;
use crate::build::memory::{self, Kept, Key, Memory};
use crate::build::plan::{FRAME, Part, Plan, SELDOM, plan};
use crate::build::same::same;
use crate::elf::layout;
use crate::error::Error;
use crate::parallel;
use crate::relocate::content::{Content, read};

/// How many finished frames may wait for the one before them.
const AHEAD: usize = 16;

/// An archive that was written.
#[derive(Debug)]
pub struct Packed {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Bytes of the files in it.
    pub content: u64,
    /// Files that somebody appended to meanwhile: of them there is what there was before.
    pub grown: Vec<PathBuf>,
    pub(crate) frames: Vec<Kept>,
}

/// Writes the tree to `out`, which becomes an archive. `entries` are sorted by path, a directory
/// before what is in it; each file has its content at the same index. The manifest is asked for when
/// everything else is written.
pub fn pack(
    manifest: impl FnOnce() -> Result<Vec<u8>, Error>,
    entries: &[Entry],
    contents: &[Option<Content>],
    out: &mut (impl Write + Send),
    level: i32,
    memory: &Memory,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Packed, Error> {
    let order = order(entries);
    let indices: Vec<usize> = (0..entries.len()).collect();
    // By path, whatever the order: whoever reads the archive finds which of them is the first by that.
    let same = same(entries, contents, &indices)?;
    // That one lies where any of them is read first.
    let holders = order.iter().map(|index| same.get(index).unwrap_or(index));
    let mut seen = HashSet::new();
    let holders = holders.copied().filter(|&index| seen.insert(index));
    let sequence = sequence(entries, &same, holders);
    let headers: Vec<Vec<u8>> = parallel::map(&indices, |&index| {
        let first = same.get(&index).map(|&first| &entries[first]);
        header(&entries[index], first)
    })
    .into_iter()
    .collect::<io::Result<_>>()
    .map_err(Error::io("name", Path::new("the archive's entries")))?;
    let Plan {
        frames: plan,
        places,
        hot,
    } = plan(entries, &headers, &sequence, &same, |index| {
        contents[index].as_ref().map_or(0, loaded)
    });
    let mut kept_frames: Vec<Kept> = Vec::with_capacity(plan.len());
    let source_of = |index: usize| -> Key {
        let mut bytes = Vec::new();
        for part in &plan[index] {
            part.describe(&headers, contents, &mut bytes);
        }
        memory::key(&[&bytes])
    };
    let grown = Mutex::new(BTreeSet::new());
    // With the digests of the chunks in it.
    let fill = |index: usize, raw: &mut Vec<u8>| -> Result<Vec<Sum>, Error> {
        raw.clear();
        let mut sums = Vec::new();
        for part in &plan[index] {
            match *part {
                Part::Header(entry) => raw.extend_from_slice(&headers[entry]),
                Part::Zeros(count) => raw.resize(raw.len() + count, 0),
                Part::Data {
                    entry,
                    from,
                    length,
                } => {
                    let begin = raw.len();
                    if let Some(content) = &contents[entry]
                        && read(content, from, length, raw)?
                    {
                        let mut grown = grown.lock().unwrap_or_else(PoisonError::into_inner);
                        grown.insert(entry);
                    }
                    let chunk = usize::try_from(CHUNK).expect("small");
                    let chunks = raw[begin..].chunks(chunk);
                    sums.extend(chunks.map(|chunk| Sum::from(blake3::hash(chunk))));
                }
            }
        }
        Ok(sums)
    };
    let reused = AtomicUsize::new(0);
    in_order(
        plan.len(),
        || {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            compressor.set_parameter(CParameter::WindowLog(SELDOM.ilog2()))?;
            Ok((compressor, Vec::with_capacity(FRAME + (64 << 10))))
        },
        |(compressor, raw), index| {
            let source = source_of(index);
            let chunks = plan[index].iter().map(Part::chunks).sum::<usize>();
            if let Some((kept, bytes)) = memory.frame(&source)
                && kept.sums.len() == chunks
            {
                reused.fetch_add(1, Ordering::Relaxed);
                progress(kept.frame.length);
                return Ok((kept, bytes));
            }
            let sums = fill(index, raw)?;
            let bytes = compressor
                .compress(raw)
                .map_err(Error::io("compress", Path::new("a frame")))?;
            progress(raw.len() as u64);
            let kept = Kept {
                source,
                frame: Frame {
                    length: raw.len() as u64,
                    compressed: bytes.len() as u64,
                },
                sums,
                checksum: crc32fast::hash(&bytes),
            };
            Ok((kept, bytes))
        },
        |(kept, bytes): (Kept, Vec<u8>)| {
            out.write_all(&bytes)
                .map_err(Error::io("write", Path::new("the archive")))?;
            kept_frames.push(kept);
            Ok(())
        },
    )?;
    tracing::debug!(
        "{} of {} frames are those of the last archive",
        reused.into_inner(),
        plan.len()
    );
    let mut chunks: Vec<Vec<Sum>> = vec![Vec::new(); entries.len()];
    for (parts, kept) in plan.iter().zip(&kept_frames) {
        let mut sums = kept.sums.iter();
        for part in parts {
            if let Part::Data { entry, .. } = part {
                chunks[*entry].extend(sums.by_ref().take(part.chunks()));
            }
        }
    }
    for (&index, &first) in &same {
        let of_both = chunks[first].clone();
        chunks[index] = of_both;
    }
    let grown = grown.into_inner().unwrap_or_else(PoisonError::into_inner);
    let grown = growth::confirm(grown, entries, contents, &same, &chunks)?;
    let frames: Vec<Frame> = kept_frames.iter().map(|kept| kept.frame.clone()).collect();
    let begin = frames.iter().map(|frame| frame.compressed).sum();
    let (index, digest) = listing::encode(&manifest()?, entries, &chunks, (&places, &frames, hot));
    let index = ending::wrap(&index, begin)
        .map_err(Error::io("write", Path::new("the archive's index")))?;
    out.write_all(&index)
        .and_then(|()| out.flush())
        .map_err(Error::io("write", Path::new("the archive")))?;
    Ok(Packed {
        frames: kept_frames,
        grown,
        digest,
        size: begin + index.len() as u64,
        content: entry::bytes(entries),
    })
}

/// How much of a program, or library, the loader goes by. What cannot be read now is an error when it is packed.
fn loaded(content: &Content) -> u64 {
    let piece = |from: u64, length: u64| {
        let mut bytes = Vec::new();
        (from.checked_add(length)? <= content.size()).then_some(())?;
        read(content, from, length, &mut bytes).ok()?;
        Some(bytes)
    };
    layout::of_bytes(&piece, layout::loaded_end).unwrap_or(0)
}

/// Runs `work` for each index on all processors, and `take` for each result in the order of the
/// indices, on one thread at a time.
pub(crate) fn in_order<S, R: Send>(
    count: usize,
    start: impl Fn() -> io::Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<R, Error> + Sync,
    take: impl FnMut(R) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    struct Shared<R, T> {
        waiting: std::collections::BTreeMap<usize, R>,
        next: usize,
        failed: Option<Error>,
        take: T,
    }
    let shared = Mutex::new(Shared {
        waiting: std::collections::BTreeMap::new(),
        next: 0,
        failed: None,
        take,
    });
    let moved = Condvar::new();
    let counter = AtomicUsize::new(0);
    let lock = || {
        shared
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let worker = || {
        let mut state = match start() {
            Ok(state) => state,
            Err(error) => {
                lock()
                    .failed
                    .get_or_insert(Error::io("start", Path::new("a compressor"))(error));
                moved.notify_all();
                return;
            }
        };
        loop {
            let index = counter.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            {
                let mut guard = lock();
                while guard.failed.is_none() && index > guard.next + AHEAD {
                    guard = moved
                        .wait(guard)
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                if guard.failed.is_some() {
                    return;
                }
            }
            let result = work(&mut state, index);
            let mut guard = lock();
            match result {
                Ok(result) => {
                    guard.waiting.insert(index, result);
                }
                Err(error) => {
                    guard.failed.get_or_insert(error);
                }
            }
            while guard.failed.is_none() {
                let next = guard.next;
                let Some(result) = guard.waiting.remove(&next) else {
                    break;
                };
                if let Err(error) = (guard.take)(result) {
                    guard.failed = Some(error);
                }
                guard.next += 1;
            }
            drop(guard);
            moved.notify_all();
        }
    };
    parallel::share(count, worker);
    let failed = lock().failed.take();
    failed.map_or(Ok(()), Err)
}
