//! What differs between two archives: their files, by path, kind, mode and content.
//!
//! Files have digests, and nothing is read. Where an archive is of format 1, which had none, files of one size are
//! hashed on all processors, which hold a frame each.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use crate::archive::entry::Kind;
use crate::archive::frame::{FrameReader, offsets};
use crate::archive::index::Archive;
use crate::error::Error;
use crate::node::unpack::{Piece, pieces};
use crate::parallel;

/// Frames whose files one thread takes: a file that goes on beyond them has frames read twice.
const RUN: usize = 4;

/// Paths, sorted.
#[derive(Debug, Default)]
pub struct Difference {
    /// In the second archive alone.
    pub added: Vec<Vec<u8>>,
    /// In the first archive alone.
    pub removed: Vec<Vec<u8>>,
    /// In both, but not the same.
    pub changed: Vec<(Vec<u8>, Change)>,
}

/// What of a path changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file is a link now, or the like.
    Kind,
    /// What is in a file.
    Content,
    /// Where a link leads: before, and now.
    Target(Vec<u8>, Vec<u8>),
    /// Permissions: before, and now.
    Mode(u32, u32),
}

/// From the first archive to the second one.
pub fn difference(one: (&Archive, &File), other: (&Archive, &File)) -> Result<Difference, Error> {
    let mut found = Difference::default();
    let old = one.0.entries.iter().enumerate();
    let old: BTreeMap<&[u8], usize> = old.map(|(at, entry)| (&*entry.path, at)).collect();
    let new = other.0.entries.iter().enumerate();
    let new: BTreeMap<&[u8], usize> = new.map(|(at, entry)| (&*entry.path, at)).collect();
    let mut unsure = Vec::new();
    for (&path, &before) in &old {
        let Some(&now) = new.get(path) else {
            found.removed.push(path.to_vec());
            continue;
        };
        let (was, is) = (&one.0.entries[before], &other.0.entries[now]);
        let change = match (&was.kind, &is.kind) {
            (Kind::File(size), Kind::File(other_size)) if size != other_size => {
                Some(Change::Content)
            }
            (Kind::Symlink(target), Kind::Symlink(other)) if target != other => {
                Some(Change::Target(target.clone(), other.clone()))
            }
            (Kind::File(_), Kind::File(_))
            | (Kind::Symlink(_), Kind::Symlink(_))
            | (Kind::Directory, Kind::Directory) => None,
            _ => Some(Change::Kind),
        };
        if let Some(change) = change {
            found.changed.push((path.to_vec(), change));
            continue;
        }
        if was.mode != is.mode {
            let change = Change::Mode(was.mode, is.mode);
            found.changed.push((path.to_vec(), change));
        }
        match (one.0.sum(before), other.0.sum(now)) {
            _ if !matches!(was.kind, Kind::File(_)) => {}
            (Some(sum), Some(other_sum)) if sum == other_sum => {}
            (Some(_), Some(_)) => found.changed.push((path.to_vec(), Change::Content)),
            _ => unsure.push((before, now)),
        }
    }
    let only_new = new.keys().filter(|path| !old.contains_key(*path));
    found.added = only_new.map(|path| path.to_vec()).collect();
    if !unsure.is_empty() {
        let before = hashes(one, unsure.iter().map(|pair| pair.0))?;
        let now = hashes(other, unsure.iter().map(|pair| pair.1))?;
        for (at, at_now) in unsure {
            if before.get(&at) != now.get(&at_now) {
                let path = one.0.entries[at].path.clone();
                found.changed.push((path, Change::Content));
            }
        }
    }
    found
        .changed
        .sort_by(|(path, _), (other, _)| path.cmp(other));
    Ok(found)
}

/// Where each file lies, from its beginning; empty ones lie nowhere.
fn by_entry(archive: &Archive) -> HashMap<usize, Vec<Piece>> {
    let mut found: HashMap<usize, Vec<Piece>> = HashMap::new();
    for piece in pieces(archive).0 {
        if piece.length > 0 {
            found.entry(piece.entry).or_default().push(piece);
        }
    }
    found
}

/// Of these files' contents.
fn hashes(
    (archive, file): (&Archive, &File),
    wanted: impl Iterator<Item = usize>,
) -> Result<HashMap<usize, [u8; 32]>, Error> {
    let places = by_entry(archive);
    let mut wanted: Vec<(usize, &[Piece])> = wanted
        .filter_map(|entry| Some((entry, places.get(&entry)?.as_slice())))
        .collect();
    wanted.sort_by_key(|(_, pieces)| (pieces[0].frame, pieces[0].offset));
    let runs: Vec<_> = wanted
        .chunk_by(|(_, one), (_, other)| one[0].frame / RUN == other[0].frame / RUN)
        .collect();
    let offsets = offsets(archive);
    let counter = AtomicUsize::new(0);
    let done = Mutex::new(Ok(HashMap::with_capacity(wanted.len())));
    let lock = || {
        done.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let one = |reader: &mut FrameReader, content: &mut Vec<u8>, held: &mut Option<usize>| loop {
        let run = runs.get(counter.fetch_add(1, Ordering::Relaxed));
        let Some(run) = run.filter(|_| lock().is_ok()) else {
            return Ok(());
        };
        for (entry, pieces) in *run {
            let mut hash = Sha256::new();
            for piece in *pieces {
                if *held != Some(piece.frame) {
                    *held = None;
                    reader.read(archive, file, piece.frame, offsets[piece.frame], content)?;
                    *held = Some(piece.frame);
                }
                hash.update(&content[piece.offset..piece.offset + piece.length]);
            }
            if let Ok(found) = &mut *lock() {
                found.insert(*entry, hash.finalize().into());
            }
        }
    };
    let worker = || {
        let read = FrameReader::new(archive)
            .and_then(|mut reader| one(&mut reader, &mut Vec::new(), &mut None));
        if let Err(error) = read {
            *lock() = Err(error);
        }
    };
    parallel::share(runs.len(), worker);
    done.into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
