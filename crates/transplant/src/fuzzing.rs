//! What `fuzz/` calls: readers of what others wrote, with what they are to hold to. Not for use.
#![allow(missing_docs, clippy::unwrap_used, clippy::missing_panics_doc)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::archive::ending::wrap;
use crate::archive::entry::refusal;
use crate::archive::frame::{Frame, Place};
use crate::archive::listing::{CHUNK, Sum, encode, parse};
use crate::archive::place::EDITS;
use crate::{Archive, Entry, Kind, Prefixes, RECORD, apply, unpack, verify};

/// An archive with this index, as it is before it is packed, behind as many bytes of frames as it says,
/// or so many.
pub fn index(path: &Path, plain: &[u8], begin: u64) {
    let said = parse(plain, 1 << 20).map(|index| {
        let compressed = index.frames.iter().map(|frame| frame.compressed);
        compressed.fold(0, u64::saturating_add)
    });
    let begin = said.filter(|said| *said < 1 << 30).unwrap_or(begin);
    let file = File::create(path).unwrap();
    file.set_len(begin).unwrap();
    file.write_all_at(&wrap(plain, begin).unwrap(), begin)
        .unwrap();
    if let Ok((archive, file)) = Archive::open(path) {
        let held: u64 = archive.frames.iter().map(|frame| frame.length).sum();
        assert!(archive.bytes() <= held * 16);
        crate::node::unpack::pieces(&archive);
        // Holes are no frames.
        assert!(archive.frames.is_empty() || verify(&archive, &file).is_err());
    }
}

/// An archive of these entries, with where their bytes begin, and these frames: unpacked in a
/// directory, beside which nothing may appear.
pub fn tree(directory: &Path, entries: &[(Entry, Option<(usize, u64)>)], contents: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    let frames: Vec<Frame> = contents
        .iter()
        .map(|content| {
            let packed = zstd::bulk::compress(content, 1).unwrap();
            bytes.extend_from_slice(&packed);
            Frame {
                length: content.len() as u64,
                compressed: packed.len() as u64,
            }
        })
        .collect();
    let place = |place: (usize, u64)| Place {
        frame: place.0,
        offset: place.1,
    };
    let places: Vec<Option<Place>> = entries.iter().map(|(_, at)| at.map(place)).collect();
    let entries: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
    let chunks: Vec<Vec<Sum>> = (entries.iter().zip(&places))
        .map(|(entry, place)| sums(&entry.kind, *place, contents))
        .collect();
    let (index, _) = encode(b"{}", &entries, &chunks, (&places, &frames, 0));
    bytes.extend_from_slice(&wrap(&index, bytes.len() as u64).unwrap());
    let path = directory.join("archive");
    fs::write(&path, bytes).unwrap();
    let (root, outside) = (directory.join("root"), directory.join("outside"));
    fs::create_dir(&root).unwrap();
    fs::write(&outside, "mine").unwrap();
    if let Ok((archive, file)) = Archive::open(&path)
        && unpack(&archive, &file, &root).is_ok()
    {
        let mut count = 0;
        for each in WalkDir::new(&root).min_depth(1) {
            // The mode of a directory may forbid it to others than root.
            let Ok(each) = each else { continue };
            count += 1;
            assert!(
                each.file_type().is_dir() || each.file_type().is_file() || each.path_is_symlink()
            );
            let leads = each.path().canonicalize();
            assert!(leads.is_ok_and(|path| path.starts_with(&root)) || each.path_is_symlink());
            if each.path_is_symlink()
                && let Ok(path) = each.path().canonicalize()
            {
                assert!(path.starts_with(&root), "{}", path.display());
            }
        }
        assert!(count <= archive.entries.len());
    }
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 3);
    remove(&root);
    fs::remove_file(path).unwrap();
}

/// The right ones of a file that lies there, if anything does: else it would be refused for them.
fn sums(kind: &Kind, place: Option<Place>, contents: &[Vec<u8>]) -> Vec<Sum> {
    let (Kind::File(size), Some(place)) = (kind, place) else {
        return Vec::new();
    };
    let mut bytes: Vec<u8> = Vec::new();
    let mut offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
    for content in contents.iter().skip(place.frame) {
        bytes.extend_from_slice(content.get(offset..).unwrap_or(&[]));
        offset = 0;
    }
    bytes.truncate(usize::try_from(*size).unwrap_or(usize::MAX));
    let chunks = bytes.chunks(usize::try_from(CHUNK).unwrap());
    chunks.map(|chunk| blake3::hash(chunk).into()).collect()
}

fn remove(root: &Path) {
    for each in WalkDir::new(root).into_iter().flatten() {
        if each.file_type().is_dir() {
            fs::set_permissions(
                each.path(),
                std::os::unix::fs::PermissionsExt::from_mode(0o700),
            )
            .unwrap();
        }
    }
    fs::remove_dir_all(root).unwrap();
}

/// Links that are not refused lead to nowhere else, by the kernel's own reckoning.
pub fn links(directory: &Path, entries: &[Entry]) {
    if refusal(entries).is_some() {
        return;
    }
    let root = directory.join("root");
    fs::create_dir(&root).unwrap();
    let path = |entry: &Entry| root.join(text(&entry.path));
    for entry in entries {
        match &entry.kind {
            Kind::Directory => fs::create_dir(path(entry)).ok(),
            Kind::File(_) => fs::write(path(entry), "").ok(),
            Kind::Symlink(target) => std::os::unix::fs::symlink(text(target), path(entry)).ok(),
        };
    }
    for entry in entries {
        if let Ok(leads) = path(entry).canonicalize() {
            assert!(leads.starts_with(&root), "{entry:?} {}", leads.display());
        }
    }
    remove(&root);
}

fn text(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// A list of files that name a prefix, in a tree with some files.
pub fn prefixes(directory: &Path, list: &[u8], content: &[u8], new: &str) {
    let (root, outside) = (directory.join("root"), directory.join("outside"));
    fs::create_dir_all(root.join("conda-meta")).unwrap();
    fs::write(&outside, "mine").unwrap();
    fs::write(root.join(RECORD), list).unwrap();
    for name in ["a", "b", "conda-meta/c"] {
        fs::write(root.join(name), content).unwrap();
    }
    for (name, target) in [
        ("l", "../outside"),
        ("d", ".."),
        ("m", "a"),
        ("n", "conda-meta"),
    ] {
        std::os::unix::fs::symlink(target, root.join(name)).ok();
    }
    let _ = apply(&root, Path::new(new));
    // The same as a list of today.
    fs::create_dir_all(root.join("lib")).unwrap();
    fs::write(root.join(EDITS), list).unwrap();
    let _ = apply(&root, Path::new(new));
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    for each in WalkDir::new(&root).into_iter().flatten() {
        assert!(each.metadata().unwrap().len() <= 64 << 20);
    }
    remove(&root);
}

pub fn prefixes_of(list: &Prefixes) -> Vec<u8> {
    serde_json::to_vec(list).unwrap()
}

/// A file that says of itself that it is a program or library.
pub fn elf(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let below = |named: &Path| named.strip_prefix("/opt").ok().map(Path::to_path_buf);
    if let Ok(linked) = crate::relocate::search_path::read(path, Path::new("lib/x.so"), &below) {
        for edit in linked.edits {
            if let crate::relocate::edits::Edit::SearchPath {
                room, directories, ..
            } = edit
            {
                assert!(directories.len() <= room);
            }
        }
    }
    let _ = crate::elf::linkage::read(path);
    let _ = crate::elf::room::with_search_path(path, "$ORIGIN/../lib/htmap-exec");
}

/// Text of `.pth` files, finders and scripts, and the headers of `.pyc` files.
pub fn texts(directory: &Path, bytes: &[u8]) {
    crate::environment::fuzz(directory, bytes);
}
