//! An archive of format 1, as it was built before there was another: whatever becomes of the format, it
//! is read.
//!
//! Its Python is a script that starts another one, so that it can be run. It holds what an archive may
//! hold: links, files that are the same, an empty one, a read-only one, one that lies in three frames,
//! and the list of files that name a conda prefix.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::{Archive, RECORD, apply, unpack, verify};

/// Where it lies, by its name.
const NAME: &str = "6f59134e927f61e668d99f737b8ddf3fa013701afaf675a4af52e29a1a50fab8";

/// Blocks that differ, and that hardly take room.
fn large() -> Vec<u8> {
    (0..1100_u32)
        .flat_map(|number| number.to_le_bytes().repeat(1024))
        .collect()
}

/// With their modes, sorted.
fn tree() -> Vec<(&'static str, u32, What)> {
    let record = br#"{"old":"/opt/old/prefix","text":["etc/place.txt"],"binary":[{"path":"lib/place.bin","offset":5,"length":28,"pieces":["","/share"]}]}"#;
    let field = [&b"head\0/opt/old/prefix/share"[..], &[0; 11], b"tail"].concat();
    let twice: Vec<u8> = (0..20_000_u32)
        .flat_map(|at| (at / 50).to_le_bytes())
        .collect();
    vec![
        ("bin", 0o755, What::Directory),
        ("bin/python", 0o777, What::Link("python3.11")),
        (
            "bin/python3.11",
            0o755,
            What::File(b"#!/bin/sh\nexec \"${HTMAP_EXEC_TEST_PYTHON:-python3}\" \"$@\"\n".to_vec()),
        ),
        ("conda-meta", 0o755, What::Directory),
        (RECORD, 0o644, What::File(record.to_vec())),
        ("etc", 0o755, What::Directory),
        ("etc/empty", 0o600, What::File(Vec::new())),
        (
            "etc/place.txt",
            0o644,
            What::File(b"in /opt/old/prefix\n".to_vec()),
        ),
        ("lib", 0o755, What::Directory),
        ("lib/large.so", 0o755, What::File(large())),
        ("lib/once.dat", 0o644, What::File(twice.clone())),
        ("lib/place.bin", 0o644, What::File(field)),
        ("lib/read-only", 0o444, What::File(b"as it is".to_vec())),
        ("lib/twice.dat", 0o644, What::File(twice)),
        ("lib64", 0o777, What::Link("lib")),
        ("nothing", 0o700, What::Directory),
    ]
}

enum What {
    Directory,
    Link(&'static str),
    File(Vec<u8>),
}

#[test]
fn an_archive_of_the_first_format_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/old")
        .join(NAME);
    let (archive, file) = Archive::open(&path).unwrap();
    assert_eq!(archive.digest.to_string(), NAME);
    assert!(archive.frames.len() >= 5, "{}", archive.frames.len());
    verify(&archive, &file).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    unpack(&archive, &file, root).unwrap();
    let tree = tree();
    assert_eq!(archive.entries.len(), tree.len());
    for (entry, (path, mode, what)) in archive.entries.iter().zip(tree) {
        assert_eq!(entry.path, path.as_bytes());
        assert_eq!(entry.mode, mode, "{path}");
        let place = root.join(path);
        let metadata = fs::symlink_metadata(&place).unwrap();
        match what {
            What::Directory => assert!(metadata.is_dir(), "{path}"),
            What::Link(to) => assert_eq!(fs::read_link(&place).unwrap(), Path::new(to)),
            What::File(bytes) => assert!(fs::read(&place).unwrap() == bytes, "{path}"),
        }
        if !metadata.is_symlink() {
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
        }
    }
    assert_eq!(
        apply(root, Path::new("/new")).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(fs::read(root.join("etc/place.txt")).unwrap(), b"in /new\n");
    let field = fs::read(root.join("lib/place.bin")).unwrap();
    assert!(field.starts_with(b"head\0/new/share\0") && field.ends_with(b"\0tail"));
}
