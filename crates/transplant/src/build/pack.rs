//! Writes an archive: a plan of frames, then all processors fill and compress them, one writes.
//!
//! The plan depends on paths and sizes alone, so the same tree gives the same bytes with any number
//! of threads.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use zstd::zstd_safe::CParameter;

use crate::archive::encoding::{put, put_bytes};
use crate::archive::entry::{Entry, Kind};
use crate::archive::index::{self, Digest, FRAME, Frame, Place};
use crate::archive::order::{Use, order, use_of};
use crate::archive::place::MTIME;
use crate::build::memory::{self, Kept, Key, Memory};
use crate::build::same::same;
use crate::error::Error;
use crate::relocate::content::{Content, read};

/// How many finished frames may wait for the one before them.
const AHEAD: usize = 16;
/// Content of a frame of what a start reads: it waits for each.
const FIRST: usize = FRAME / 4;
/// Content of a frame of what is seldom read: larger ones compress better.
const SELDOM: usize = 4 * FRAME;
/// A tar ends with two blocks of zeros.
const END: usize = 1024;
const BLOCK: u64 = 512;

/// An archive that was written.
#[derive(Debug)]
pub struct Packed {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Bytes of the files in it.
    pub content: u64,
    pub(crate) frames: Vec<Kept>,
}

/// Some of the tar, in one frame.
enum Part {
    /// The header of an entry.
    Header(usize),
    /// So many bytes of a file, from there.
    Data {
        entry: usize,
        from: u64,
        length: u64,
    },
    Zeros(usize),
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
    let same = same(entries, contents, &order)?;
    let headers: Vec<Vec<u8>> = (0..entries.len())
        .map(|index| {
            header(
                &entries[index],
                same.get(&index).map(|&first| &entries[first]),
            )
        })
        .collect::<io::Result<_>>()
        .map_err(Error::io("name", Path::new("the archive's entries")))?;
    let (plan, places) = plan(entries, &headers, &order, &same);
    let mut kept_frames = Vec::with_capacity(plan.len());
    let source_of = |index: usize| -> Key {
        let mut bytes = Vec::new();
        for part in &plan[index] {
            describe(part, &headers, contents, &mut bytes);
        }
        memory::key(&[&bytes])
    };
    let fill = |index: usize, raw: &mut Vec<u8>| -> Result<(), Error> {
        raw.clear();
        for part in &plan[index] {
            match *part {
                Part::Header(entry) => raw.extend_from_slice(&headers[entry]),
                Part::Zeros(count) => raw.resize(raw.len() + count, 0),
                Part::Data {
                    entry,
                    from,
                    length,
                } => {
                    if let Some(content) = &contents[entry] {
                        read(content, from, length, raw)?;
                    }
                }
            }
        }
        Ok(())
    };
    let reused = AtomicUsize::new(0);
    in_order(
        plan.len(),
        || {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            // Else a frame that was damaged on the way gives other bytes, and no error.
            compressor.include_checksum(true)?;
            compressor.set_parameter(CParameter::WindowLog(SELDOM.ilog2()))?;
            Ok((compressor, Vec::with_capacity(FRAME + (64 << 10))))
        },
        |(compressor, raw), index| {
            let source = source_of(index);
            if let Some((kept, bytes)) = memory.frame(&source) {
                reused.fetch_add(1, Ordering::Relaxed);
                progress(kept.frame.length);
                return Ok((kept, bytes));
            }
            fill(index, raw)?;
            let digest = blake3::hash(raw).into();
            let bytes = compressor
                .compress(raw)
                .map_err(Error::io("compress", Path::new("a frame")))?;
            progress(raw.len() as u64);
            let kept = Kept {
                source,
                frame: Frame {
                    length: raw.len() as u64,
                    digest,
                    compressed: bytes.len() as u64,
                },
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
    let frames: Vec<Frame> = kept_frames.iter().map(|kept| kept.frame.clone()).collect();
    let begin = frames.iter().map(|frame| frame.compressed).sum();
    let (index, digest) = index::encode(&manifest()?, entries, &places, &frames, begin)
        .map_err(Error::io("write", Path::new("the archive's index")))?;
    out.write_all(&index)
        .and_then(|()| out.flush())
        .map_err(Error::io("write", Path::new("the archive")))?;
    Ok(Packed {
        frames: kept_frames,
        digest,
        size: begin + index.len() as u64,
        content: entries
            .iter()
            .map(|entry| {
                if let Kind::File(size) = entry.kind {
                    size
                } else {
                    0
                }
            })
            .sum(),
    })
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
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(count.max(1));
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    let failed = lock().failed.take();
    failed.map_or(Ok(()), Err)
}

/// Which part of the tar goes into which frame, and where the bytes of each file begin.
fn plan(
    entries: &[Entry],
    headers: &[Vec<u8>],
    order: &[usize],
    same: &HashMap<usize, usize>,
) -> (Vec<Vec<Part>>, Vec<Option<Place>>) {
    let mut frames = vec![Vec::new()];
    let mut filled = 0;
    let mut last = Use::Else;
    let mut places = vec![None; entries.len()];
    for &index in order {
        let entry = &entries[index];
        let first = same.get(&index);
        let size = match entry.kind {
            Kind::File(size) if first.is_none() => size,
            _ => 0,
        };
        let group = use_of(&entry.path);
        let limit = match group {
            Use::Start => FIRST,
            Use::Import => FRAME,
            Use::Else => SELDOM,
        } as u64;
        let whole = headers[index].len() as u64 + size.next_multiple_of(BLOCK);
        // A file that fits into a frame lies in one. Where else a frame ends is a matter of paths, so
        // that a change does not move the ends of all frames behind it.
        let is_full = filled + whole > limit;
        let is_end = filled >= limit / 4 * 3 && is_an_end(&entry.path);
        if filled > 0 && (is_full || is_end || group != last) {
            frames.push(Vec::new());
            filled = 0;
        }
        last = group;
        let mut frame = frames.len() - 1;
        frames[frame].push(Part::Header(index));
        filled += headers[index].len() as u64;
        places[index] = match first {
            Some(&first) => places[first],
            None => matches!(entry.kind, Kind::File(_)).then_some(Place {
                frame,
                offset: filled,
            }),
        };
        let mut from = 0;
        while from < size {
            let room = limit.saturating_sub(filled);
            if room == 0 {
                frames.push(Vec::new());
                frame += 1;
                filled = 0;
                continue;
            }
            let length = room.min(size - from);
            frames[frame].push(Part::Data {
                entry: index,
                from,
                length,
            });
            from += length;
            filled += length;
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        if padding > 0 {
            frames[frame].push(Part::Zeros(
                usize::try_from(padding).expect("less than a block"),
            ));
            filled += padding;
        }
    }
    if let Some(last) = frames.last_mut() {
        last.push(Part::Zeros(END));
    }
    (frames, places)
}

/// For one path in sixteen: FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn is_an_end(path: &[u8]) -> bool {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // The lowest bits of a product know the lowest of its factors only.
    hash >> 60 == 0
}

/// All that a part's bytes depend on.
fn describe(part: &Part, headers: &[Vec<u8>], contents: &[Option<Content>], out: &mut Vec<u8>) {
    match *part {
        Part::Header(entry) => put_bytes(out, &headers[entry]),
        Part::Zeros(count) => put(out, count as u64),
        Part::Data {
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

/// The blocks before the data of an entry: longer than one for a long path. One that has the bytes of
/// an earlier one is a hard link to it.
fn header(entry: &Entry, same: Option<&Entry>) -> io::Result<Vec<u8>> {
    let path = Path::new(OsStr::from_bytes(&entry.path));
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(u64::try_from(MTIME).expect("after 1970"));
    header.set_uid(0);
    header.set_gid(0);
    let mut builder = tar::Builder::new(Vec::new());
    match &entry.kind {
        _ if let Some(first) = same => {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            builder.append_link(&mut header, path, OsStr::from_bytes(&first.path))?;
        }
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, path, io::empty())?;
        }
        Kind::File(size) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(*size);
            builder.append_data(&mut header, path, io::empty())?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, OsStr::from_bytes(target))?;
        }
    }
    // Without the end that it would add.
    Ok(builder.get_ref().clone())
}
