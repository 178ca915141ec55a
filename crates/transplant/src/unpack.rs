//! Unpacks an archive on all processors, and checks every byte before it reaches a file.
//!
//! The subtlety: links are made last, and every file is made new, so that nothing in an archive can
//! lead a write to somewhere else. Until [`unpack`] returns, the directory is not to be used.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::archive::Archive;
use crate::error::Error;
use crate::frame::{Reader, offsets};
use crate::pack::MTIME;
use crate::tree::Kind;

/// A tree that stands.
#[derive(Debug)]
pub struct Unpacked {
    /// Entries of all kinds.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// The bytes of one file in one frame.
pub(crate) struct Piece {
    pub(crate) entry: usize,
    pub(crate) frame: usize,
    /// In the content of the frame.
    pub(crate) offset: usize,
    pub(crate) length: usize,
    /// In the file.
    pub(crate) at: u64,
    /// Whether the file has no other piece.
    pub(crate) whole: bool,
}

/// Checks every frame of an archive, and writes nothing.
pub fn verify(archive: &Archive, file: &File) -> Result<(), Error> {
    each_frame(archive, file, |_, _| Ok(()))
}

/// Unpacks into `root`, a directory that exists and is empty.
pub fn unpack(archive: &Archive, file: &File, root: &Path) -> Result<Unpacked, Error> {
    let place = |entry: usize| root.join(std::ffi::OsStr::from_bytes(&archive.entries[entry].path));
    for (index, entry) in archive.entries.iter().enumerate() {
        if entry.kind == Kind::Directory {
            let path = place(index);
            // Writable for now, whatever it will be: there is more to come.
            fs::DirBuilder::new()
                .mode(entry.mode | 0o700)
                .create(&path)
                .map_err(Error::io("make", &path))?;
        }
    }
    let (pieces, first) = pieces(archive);
    let mtime =
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(MTIME).expect("after 1970"));
    each_frame(archive, file, |frame, content| {
        for piece in &pieces[first[frame]..first[frame + 1]] {
            let path = place(piece.entry);
            let bytes = &content[piece.offset..piece.offset + piece.length];
            write(
                &path,
                archive.entries[piece.entry].mode,
                piece,
                bytes,
                mtime,
            )
            .map_err(Error::io("write", &path))?;
        }
        Ok(())
    })?;
    for (index, entry) in archive.entries.iter().enumerate() {
        match &entry.kind {
            Kind::Symlink(target) => {
                let path = place(index);
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path)
                    .map_err(Error::io("make", &path))?;
            }
            Kind::Directory if entry.mode & 0o700 != 0o700 => {
                let path = place(index);
                let mode = std::os::unix::fs::PermissionsExt::from_mode(entry.mode);
                fs::set_permissions(&path, mode).map_err(Error::io("make", &path))?;
            }
            _ => {}
        }
    }
    // Of files in several pieces, which the last one to be written would have changed again.
    for piece in pieces.iter().filter(|piece| !piece.whole && piece.at == 0) {
        let path = place(piece.entry);
        File::open(&path)
            .and_then(|file| file.set_modified(mtime))
            .map_err(Error::io("write", &path))?;
    }
    Ok(Unpacked {
        entries: archive.entries.len(),
        bytes: archive.bytes(),
    })
}

fn write(
    path: &PathBuf,
    mode: u32,
    piece: &Piece,
    bytes: &[u8],
    mtime: SystemTime,
) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(mode | 0o200)
        .custom_flags(nix::libc::O_NOFOLLOW);
    let options = if piece.whole {
        options.create_new(true)
    } else {
        options.create(true)
    };
    let file = options.open(path)?;
    file.write_all_at(bytes, piece.at)?;
    if piece.whole {
        // A `.pyc` is good for a source of this very time: PEP 552.
        file.set_modified(mtime)?;
        if mode & 0o200 == 0 {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Sorted by frame, and where those of each frame begin.
pub(crate) fn pieces(archive: &Archive) -> (Vec<Piece>, Vec<usize>) {
    let mut pieces = Vec::new();
    for (entry, (each, place)) in archive.entries.iter().zip(&archive.places).enumerate() {
        let (Kind::File(size), Some(place)) = (&each.kind, place) else {
            continue;
        };
        let (mut frame, mut offset, mut at) = (place.frame, place.offset, 0);
        loop {
            // An empty file may begin where its frame ends.
            let room = archive
                .frames
                .get(frame)
                .map_or(0, |frame| frame.length - offset);
            let length = room.min(size - at);
            if length > 0 || *size == 0 {
                pieces.push(Piece {
                    entry,
                    frame,
                    offset: usize::try_from(offset).expect("within a frame"),
                    length: usize::try_from(length).expect("within a frame"),
                    at,
                    whole: at == 0 && length == *size,
                });
            }
            at += length;
            if at >= *size {
                break;
            }
            frame += 1;
            offset = 0;
        }
    }
    // Files that are the same may share a place.
    pieces.sort_by_key(|piece| piece.frame);
    let first = (0..=archive.frames.len())
        .map(|frame| pieces.partition_point(|piece| piece.frame < frame))
        .collect();
    (pieces, first)
}

/// Decompresses and checks each frame, and hands its content over, on all processors.
fn each_frame(
    archive: &Archive,
    file: &File,
    take: impl Fn(usize, &[u8]) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let offsets = offsets(archive);
    let counter = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let one = |reader: &mut Reader, content: &mut Vec<u8>, index: usize| {
        reader.read(archive, file, index, offsets[index], content)?;
        take(index, content)
    };
    let worker = || {
        let mut content = Vec::new();
        let mut reader = match Reader::new(archive) {
            Ok(reader) => reader,
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                failed
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .get_or_insert(error);
                return;
            }
        };
        while !stop.load(Ordering::Relaxed) {
            let index = counter.fetch_add(1, Ordering::Relaxed);
            if index >= archive.frames.len() {
                return;
            }
            if let Err(error) = one(&mut reader, &mut content, index) {
                stop.store(true, Ordering::Relaxed);
                failed
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .get_or_insert(error);
            }
        }
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(archive.frames.len().max(1));
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    let failed = failed
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}
