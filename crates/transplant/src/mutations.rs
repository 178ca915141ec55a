//! Archives with every kind of damage: what comes out of one is what went in, or an error, and
//! nothing is ever written elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::archive::ending::wrap;
use crate::archive::frame::{Frame, FrameReader, Place, offsets};
use crate::archive::listing::{Sum, encode, encode_first};
use crate::noise::Noise;
use crate::{Archive, Content, Digest, Entry, Kind, Memory, pack, unpack, verify};

/// Paths, with modes and bytes, or where links lead.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

struct Case {
    /// Where nothing but the archive and the root may be.
    directory: tempfile::TempDir,
    whole: Vec<u8>,
    digest: Digest,
    tree: Tree,
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode,
    }
}

impl Case {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        }
        .expect("a directory");
        let mut noise = Noise(1);
        // Frames of small files, and a file that lies in several, no two alike.
        let blocks: Vec<u8> = (0..70).flat_map(|block| vec![block; 61_440]).collect();
        let large = [noise.bytes(40_000), blocks, noise.bytes(9)].concat();
        let files = [
            ("bin/python3", b"#!/bin/sh\n".to_vec(), 0o755),
            ("empty", Vec::new(), 0o644),
            ("lib/large", large, 0o644),
            ("lib/read-only", noise.bytes(700), 0o444),
        ];
        let mut contents = Vec::new();
        let mut entries = Vec::new();
        for each in [
            entry("bin", Kind::Directory, 0o755),
            entry("bin/python", Kind::Symlink(b"python3".to_vec()), 0o777),
            entry("bin/python3", Kind::File(0), 0),
            entry("empty", Kind::File(0), 0),
            entry("lib", Kind::Directory, 0o755),
            entry("lib/large", Kind::File(0), 0),
            entry("lib/read-only", Kind::File(0), 0),
            entry("lib64", Kind::Symlink(b"lib".to_vec()), 0o777),
        ] {
            let file = files.iter().find(|file| file.0.as_bytes() == each.path);
            entries.push(match file {
                Some((_, bytes, mode)) => Entry {
                    kind: Kind::File(bytes.len() as u64),
                    mode: *mode,
                    ..each
                },
                None => each,
            });
            contents.push(file.map(|(_, bytes, _)| Content::Made(bytes.clone())));
        }
        let mut whole = Vec::new();
        let manifest = || Ok(b"{}".to_vec());
        let memory = Memory::default();
        let packed = pack(
            manifest,
            &entries,
            &contents,
            &mut whole,
            1,
            &memory,
            &|_| (),
        )
        .expect("packed");
        let mut case = Self {
            directory,
            whole: whole.clone(),
            digest: packed.digest,
            tree: Tree::new(),
        };
        let (digest, tree) = case.unpacked(&whole).expect("whole");
        assert_eq!(digest, packed.digest);
        assert_eq!(tree.len(), entries.len());
        case.tree = tree;
        case
    }

    /// What a reader makes of it.
    fn unpacked(&self, bytes: &[u8]) -> Option<(Digest, Tree)> {
        let place = self.directory.path();
        let (path, root) = (place.join("archive"), place.join("root"));
        fs::write(&path, bytes).expect("written");
        fs::create_dir(&root).expect("made");
        let opened = Archive::open(&path).ok();
        let unpacked = opened.and_then(|(archive, file)| {
            let verified = verify(&archive, &file).is_ok();
            let unpacked = unpack(&archive, &file, &root).is_ok();
            // What tar alone reads may be damaged where all files are whole.
            assert!(unpacked || !verified, "what is whole was not unpacked");
            unpacked.then_some(archive.digest)
        });
        let tree = read(&root);
        fs::remove_dir_all(&root).expect("removed");
        fs::remove_file(&path).expect("removed");
        let left = fs::read_dir(place).expect("read").count();
        assert_eq!(left, 0, "something was written beside the root");
        unpacked.map(|digest| (digest, tree))
    }

    /// Under its own digest there is nothing else.
    fn is_whole_or_refused(&self, bytes: &[u8], how: &str) -> bool {
        match self.unpacked(bytes) {
            Some((digest, tree)) => {
                assert!(digest != self.digest || tree == self.tree, "{how}");
                digest == self.digest
            }
            None => false,
        }
    }

    /// Of each entry.
    fn chunks(&self, archive: &Archive) -> Vec<Vec<Sum>> {
        let bytes = archive.entries.iter().map(|entry| {
            let path = PathBuf::from(OsStr::from_bytes(&entry.path));
            matches!(entry.kind, Kind::File(_)).then(|| &self.tree[&path].1)
        });
        bytes
            .map(|bytes| {
                let chunks = bytes.map_or(&[][..], |bytes| bytes).chunks(256 << 10);
                chunks.map(|chunk| blake3::hash(chunk).into()).collect()
            })
            .collect()
    }

    fn begin(&self) -> usize {
        let end = self.whole.len() - 16;
        let begin = self.whole[end..end + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(begin)).expect("small")
    }
}

fn read(root: &Path) -> Tree {
    WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|each| {
            let each = each.expect("read");
            let metadata = each.metadata().expect("read");
            let bytes = if metadata.is_symlink() {
                let target = fs::read_link(each.path()).expect("read");
                target.into_os_string().into_encoded_bytes()
            } else if metadata.is_file() {
                fs::read(each.path()).expect("read")
            } else {
                assert!(metadata.is_dir(), "{}", each.path().display());
                Vec::new()
            };
            let path = each.path().strip_prefix(root).expect("below").to_path_buf();
            (path, (metadata.permissions().mode(), bytes))
        })
        .collect()
}

#[test]
fn what_is_cut_off_is_refused() {
    let case = Case::new();
    let begin = case.begin();
    let steps = (0..begin).step_by(997).chain(begin..case.whole.len());
    for length in steps {
        let how = format!("{length} bytes");
        assert!(
            !case.is_whole_or_refused(&case.whole[..length], &how),
            "{how}"
        );
    }
    let more = [&case.whole[..], b"x"].concat();
    assert!(!case.is_whole_or_refused(&more, "a byte more"));
    let twice = [&case.whole[..], &case.whole[..]].concat();
    assert!(!case.is_whole_or_refused(&twice, "twice"));
}

#[test]
fn no_bit_of_the_index_may_change() {
    let case = Case::new();
    let mut bytes = case.whole.clone();
    for at in case.begin()..bytes.len() {
        // One bit of each byte of what is compressed, and all of what is not.
        let is_plain = at < case.begin() + 16 || at >= bytes.len() - 24;
        for bit in if is_plain { 0..8 } else { at % 8..at % 8 + 1 } {
            bytes[at] ^= 1 << bit;
            // Some bits of zstd's headers say nothing of the content.
            case.is_whole_or_refused(&bytes, &format!("bit {bit} of byte {at}"));
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn no_bit_of_a_frame_may_change() {
    let case = Case::new();
    let mut bytes = case.whole.clone();
    let mut noise = Noise(2);
    let begin = case.begin();
    for _ in 0..150 {
        let (at, bit) = (noise.next() % begin, noise.next() % 8);
        bytes[at] ^= 1 << bit;
        case.is_whole_or_refused(&bytes, &format!("bit {bit} of byte {at}"));
        bytes[at] ^= 1 << bit;
    }
}

#[test]
fn frames_keep_their_places() {
    let case = Case::new();
    let path = case.directory.path().join("whole");
    fs::write(&path, &case.whole).expect("written");
    let (archive, _) = Archive::open(&path).expect("whole");
    fs::remove_file(&path).expect("removed");
    let mut frames = Vec::new();
    let mut rest = &case.whole[..];
    for frame in &archive.frames {
        let (taken, after) = rest.split_at(usize::try_from(frame.compressed).expect("small"));
        frames.push(taken);
        rest = after;
    }
    assert!(frames.len() >= 3);
    for one in 0..frames.len() {
        for other in 0..one {
            let mut swapped = frames.clone();
            swapped.swap(one, other);
            let bytes = [&swapped.concat()[..], rest].concat();
            let how = format!("frames {one} and {other}");
            // Frames of headers alone are tar's.
            let hold_files = [one, other].map(|frame| !archive.checks(frame).is_empty());
            let whole = case.is_whole_or_refused(&bytes, &how);
            assert!(!whole || hold_files == [false; 2], "{how}");
            // With a layout that agrees it has the same name, and its files would be other ones.
            let mut described: Vec<Frame> = archive.frames.clone();
            described.swap(one, other);
            let layout = (&archive.places[..], &described[..], 0);
            let (index, digest) = encode(b"{}", &archive.entries, &case.chunks(&archive), layout);
            assert_eq!(digest, case.digest);
            let index = wrap(&index, case.begin() as u64).expect("compressed");
            let bytes = [&swapped.concat()[..], &index].concat();
            let whole = case.is_whole_or_refused(&bytes, &how);
            assert!(!whole || hold_files == [false; 2], "{how}");
        }
    }
}

/// An index that is sound by its digest, of somebody who means harm.
#[test]
fn what_a_hostile_index_asks_for_is_refused() {
    let case = Case::new();
    let path = case.directory.path().join("whole");
    fs::write(&path, &case.whole).expect("written");
    let (archive, opened) = Archive::open(&path).expect("whole");
    fs::remove_file(&path).expect("removed");
    let at = |frame, offset| Some(Place { frame, offset });
    let file = |path| (entry(path, Kind::File(3), 0o644), at(0, 0));
    let link = |path, to: &str| (entry(path, Kind::Symlink(to.into()), 0o777), None);
    let directory = |path| (entry(path, Kind::Directory, 0o755), None);
    let claim = |size, place| (entry("a", Kind::File(size), 0o644), place);
    let last = archive.frames.len();
    let mut content = Vec::new();
    let mut frames = Vec::new();
    for (index, frame) in archive.frames.iter().enumerate().rev() {
        let offset = offsets(&archive)[index];
        let mut reader = FrameReader::new(&archive).expect("made");
        (reader.read(&archive, &opened, index, offset, &mut content)).expect("whole");
        frames.insert(0, (frame.clone(), blake3::hash(&content).into()));
    }
    let outside = case.directory.path().join("outside");
    let outside = outside.to_str().expect("text");
    for hostile in [
        vec![file("../outside")],
        vec![file(outside)],
        vec![file("a/../../outside")],
        vec![directory("a"), file("a/../../outside")],
        vec![file("")],
        vec![file(".")],
        vec![file("a/b")],
        vec![file("a\0b")],
        vec![file("a"), file("a")],
        vec![link("a", ".."), file("a/outside")],
        vec![link("a", "../outside")],
        vec![link("a", outside)],
        vec![link("a", "")],
        vec![
            directory("d"),
            link("d/up", ".."),
            link("l", "d/up/../outside"),
        ],
        vec![link("l", "m/../outside"), link("m", ".")],
        vec![(entry("a", Kind::File(3), 0o4755), at(0, 0))],
        vec![(entry("a", Kind::Directory, 0o40_755), None)],
        vec![claim(u64::MAX, at(0, 0))],
        vec![claim(1, at(0, u64::MAX))],
        vec![claim(1, at(last, 0))],
        vec![claim(0, at(last, 0))],
        vec![claim(1, at(usize::MAX, 0))],
        vec![file("b"), (entry("c", Kind::File(3), 0o644), at(0, 1))],
    ] {
        let (entries, places): (Vec<Entry>, Vec<_>) = hostile.into_iter().unzip();
        let begin = case.begin() as u64;
        let chunks: Vec<Vec<Sum>> = (entries.iter().zip(&places))
            .map(|(entry, place)| sums(&entry.kind, *place, &content))
            .collect();
        let layout = (&places[..], &archive.frames[..], 0);
        let (second, _) = encode(b"{}", &entries, &chunks, layout);
        let (first, _) = encode_first(b"{}", &entries, &places, &frames);
        for index in [first, second] {
            let index = wrap(&index, begin).expect("compressed");
            let bytes = [&case.whole[..case.begin()], &index].concat();
            assert!(case.unpacked(&bytes).is_none(), "{entries:?}");
        }
    }
    // Frames that claim another length.
    for change in [
        |frame: &mut Frame| frame.length = 1 << 63,
        |frame: &mut Frame| frame.length = 64 << 20,
        |frame: &mut Frame| frame.length = 0,
        |frame: &mut Frame| frame.length -= 1,
        |frame: &mut Frame| frame.length += 1,
        |frame: &mut Frame| frame.compressed -= 1,
        |frame: &mut Frame| frame.compressed = u64::MAX,
    ] {
        let mut frames = archive.frames.clone();
        change(&mut frames[0]);
        let layout = (&archive.places[..], &frames[..], 0);
        let (index, _) = encode(b"{}", &archive.entries, &case.chunks(&archive), layout);
        let index = wrap(&index, case.begin() as u64).expect("compressed");
        let bytes = [&case.whole[..case.begin()], &index].concat();
        assert!(case.unpacked(&bytes).is_none(), "{:?}", frames[0]);
    }
}

/// Of what lies there, as far as that is something.
fn sums(kind: &Kind, place: Option<Place>, content: &[u8]) -> Vec<Sum> {
    let (Kind::File(size), Some(place)) = (kind, place) else {
        return Vec::new();
    };
    let range = usize::try_from(place.offset)
        .ok()
        .zip(place.offset.checked_add(*size))
        .and_then(|(begin, end)| content.get(begin..usize::try_from(end).ok()?));
    vec![range.map_or([0; 32], |bytes| blake3::hash(bytes).into())]
}

/// Which of them holds the bytes is a matter of their paths; where these lie, of which one is read first.
#[test]
fn files_that_are_the_same_are_whole() {
    let bytes = vec![3; 20_000];
    let entries = ["a.txt", "b.txt", "z.so"].map(|path| entry(path, Kind::File(20_000), 0o644));
    let contents = [vec![4; 20_000], bytes.clone(), bytes].map(|bytes| Some(Content::Made(bytes)));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let manifest = || Ok(b"{}".to_vec());
    let memory = Memory::default();
    pack(
        manifest,
        &entries,
        &contents,
        &mut file,
        1,
        &memory,
        &|_| (),
    )
    .expect("packed");
    let (archive, opened) = Archive::open(file.path()).expect("whole");
    assert_eq!(archive.places[1], archive.places[2]);
    assert!(archive.places[1] < archive.places[0]);
    verify(&archive, &opened).expect("whole");
}
