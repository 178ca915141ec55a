//! What `fuzz/` calls: readers of what others wrote, with what they are to hold to. Not for use.
#![allow(missing_docs, clippy::unwrap_used, clippy::missing_panics_doc)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use walkdir::WalkDir;

use crate::archive::ending::wrap;
use crate::archive::entry::{compare, refusal};
use crate::archive::listing::parse;
use crate::archive::place::EDITS;
pub use crate::made::Made;
pub use crate::node::mount::fuzzing::Ask;
use crate::node::mount::fuzzing::{Seen, walk};
use crate::relocate::edits::{Edit, Edits};
use crate::{
    Archive, Entry, Field, Kind, Manifest, Node, Prefixes, RECORD, apply, libraries, unmet, unpack,
    verify,
};

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
        if let Ok(seen) = walk(&Arc::new(archive), &file, (path, None), &[]) {
            for (_, what) in seen.values() {
                assert!(!matches!(what, Seen::File(Some(bytes)) if !bytes.is_empty()));
            }
        }
    }
}

impl Made {
    /// Sorted, each once, and each in a directory: so that more than the first check is met.
    pub fn tidy(&mut self) {
        self.entries
            .sort_by(|one, other| compare(&one.0.path, &other.0.path));
        self.entries
            .dedup_by(|one, other| one.0.path == other.0.path);
        let mut directories: HashSet<Vec<u8>> = HashSet::new();
        self.entries.retain(|(entry, _)| {
            let end = entry.path.iter().rposition(|&byte| byte == b'/');
            let lies = end.is_none_or(|end| directories.contains(&entry.path[..end]));
            if lies && entry.kind == Kind::Directory {
                directories.insert(entry.path.clone());
            }
            lies
        });
    }
}

/// An archive, unpacked in a directory beside which nothing may appear.
pub fn tree(directory: &Path, made: &Made) {
    let path = directory.join("archive");
    made.write(&path);
    let (root, outside) = (directory.join("root"), directory.join("outside"));
    fs::create_dir(&root).unwrap();
    fs::write(&outside, "mine").unwrap();
    if let Ok((archive, file)) = Archive::open(&path) {
        let verified = verify(&archive, &file).is_ok();
        if unpack(&archive, &file, &root).is_ok() {
            is_sound(&root, made);
        } else {
            // Names may be too long for a disk.
            let long = |entry: &Entry| {
                entry
                    .path
                    .split(|&b| b == b'/')
                    .any(|name| name.len() > 255)
            };
            assert!(!verified || archive.entries.iter().any(long));
        }
    }
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 3);
    remove(&root);
    fs::remove_file(path).unwrap();
}

/// All of it lies there, as it should, and nothing else.
fn is_sound(root: &Path, made: &Made) {
    let mut count = 0;
    for each in WalkDir::new(root).min_depth(1) {
        // The mode of a directory may forbid it to others than root.
        let Ok(each) = each else { return };
        count += 1;
        assert!(each.file_type().is_dir() || each.file_type().is_file() || each.path_is_symlink());
        let leads = each.path().canonicalize();
        assert!(leads.is_ok_and(|path| path.starts_with(root)) || each.path_is_symlink());
        if each.path_is_symlink()
            && let Ok(path) = each.path().canonicalize()
        {
            assert!(path.starts_with(root), "{}", path.display());
        }
    }
    assert_eq!(count, made.entries.len());
    for (index, (entry, _)) in made.entries.iter().enumerate() {
        let path = root.join(text(&entry.path));
        if matches!(entry.kind, Kind::File(_))
            && let Ok(bytes) = fs::read(path)
        {
            assert!(bytes == made.bytes(index), "{entry:?}");
        }
    }
}

/// An archive as it is mounted: what is seen of it is what would have been unpacked, and where frames
/// are damaged, that or an error.
pub fn mount(directory: &Path, made: &Made, damage: &[(u32, u8)], stored: bool, asks: &[Ask<'_>]) {
    let path = directory.join("archive");
    let begin = made.write(&path);
    let root = directory.join("root");
    if let Ok((archive, file)) = Archive::open(&path) {
        let archive = Arc::new(archive);
        let store = || stored.then(|| tempfile::tempfile_in(directory).unwrap());
        let seen = walk(&archive, &file, (&root, store()), asks).ok();
        fs::create_dir(&root).unwrap();
        let unpacked = unpack(&archive, &file, &root).is_ok();
        let applied = unpacked && apply(&root, &root).is_ok();
        if let Some(seen) = &seen
            && unpacked
        {
            assert!(applied, "mounted, and refused when it is unpacked");
            for (path, (mode, what)) in seen {
                let place = root.join(text(path));
                let metadata = fs::symlink_metadata(&place).unwrap();
                match what {
                    Seen::Directory => assert!(metadata.is_dir()),
                    Seen::Link(target) => assert_eq!(fs::read_link(&place).unwrap(), text(target)),
                    Seen::File(bytes) => {
                        let lies = fs::read(&place).unwrap();
                        assert!(bytes.as_ref() == Some(&lies), "{}", place.display());
                    }
                }
                assert!(metadata.is_symlink() || metadata.permissions().mode() & 0o777 == *mode);
            }
        } else if applied {
            // One that may only be unpacked.
            assert!(
                made.entries
                    .iter()
                    .any(|(entry, _)| entry.path == RECORD.as_bytes())
            );
        }
        remove(&root);
        if begin > 0 && !damage.is_empty() {
            let written = File::options().write(true).open(&path).unwrap();
            for (at, byte) in damage {
                let at = u64::from(*at) % begin as u64;
                written.write_all_at(&[*byte], at).unwrap();
            }
            let bent = walk(&archive, &file, (&root, store()), asks);
            if let (Some(seen), Ok(bent)) = (seen, bent) {
                for (path, (mode, what)) in bent {
                    let (expected, whole) = &seen[&path];
                    assert_eq!(mode, *expected);
                    assert!(what == Seen::File(None) || what == *whole, "{path:?}");
                }
            }
        }
    }
    fs::remove_file(path).unwrap();
}

fn remove(root: &Path) {
    for each in WalkDir::new(root).into_iter().flatten() {
        if each.file_type().is_dir() {
            fs::set_permissions(each.path(), fs::Permissions::from_mode(0o700)).unwrap();
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

pub fn edits_of(texts: Vec<(String, Vec<(u64, u64)>)>, fields: Vec<Field>) -> Vec<u8> {
    let mut edits = Edits {
        old: "/old".to_owned(),
        ..Edits::default()
    };
    for (path, places) in texts {
        let texts = (places.into_iter()).map(|(at, length)| Edit::Text { at, length });
        edits.files.entry(path).or_default().extend(texts);
    }
    for field in fields {
        let path = field.path.clone();
        let edits = edits.files.entry(path).or_default();
        edits.push(Edit::Field(field));
    }
    edits.encode()
}

/// An environment of these files: collected, audited, and what is said of it held against this node.
pub fn audit(directory: &Path, files: &[(&str, Vec<u8>)]) {
    let prefix = directory.join("prefix");
    for (path, bytes) in files {
        let path = prefix.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    if let Some((source, said)) = crate::environment::fuzz_tree(&prefix) {
        let json = serde_json::to_vec(&said).unwrap();
        assert_eq!(serde_json::from_slice::<Manifest>(&json).unwrap(), said);
        assert_eq!(said.outside(), None);
        let has = |file: &str| {
            let mut paths = source.entries.iter().map(|entry| &entry.path);
            paths.any(|path| String::from_utf8_lossy(path) == file)
        };
        let asked = said.audit.glibc.iter().chain(&said.audit.libraries);
        for need in asked
            .chain(&said.audit.libstdcxx)
            .chain(&said.audit.gpu_driver)
        {
            assert!(has(&need.file), "{need:?}");
        }
        said_of(&prefix, &said);
    }
    remove(&prefix);
}

/// What others say of an archive, and of a node.
pub fn said(directory: &Path, bytes: &[u8]) {
    if let Ok(said) = serde_json::from_slice::<Manifest>(bytes) {
        said_of(directory, &said);
    }
    crate::node::fuzz(bytes);
    let listed = crate::elf::loader::listed(bytes);
    assert!(listed.values().map(Vec::len).sum::<usize>() <= bytes.len());
}

fn said_of(root: &Path, said: &Manifest) {
    static NODE: OnceLock<Node> = OnceLock::new();
    let node = NODE.get_or_init(|| Node::new(said));
    said.needs();
    unmet(node, said);
    let found = libraries(root, said, node, None);
    if said.outside().is_none() {
        let mut named = found.search.iter().chain(&found.preload);
        assert!(named.all(|path| path.is_absolute()));
    }
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
