//! All that a mount answers, asked for without a kernel: for `fuzz/` alone.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::Refusal;
use super::ahead::{Ahead, hot, read_now};
use super::content::Served;
use super::filesystem::Server;
use super::frames::Frames;
use super::nodes::{self, Nodes};
use crate::archive::index::Archive;

/// No multiple of anything, so that reads end everywhere.
const PIECE: u32 = 100_003;

/// What a number is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Directory,
    /// Or an error of reading it.
    File(Option<Vec<u8>>),
    Link(Vec<u8>),
}

/// By path, with modes.
pub(crate) type Walked = BTreeMap<Vec<u8>, (u32, Seen)>;

/// Something that the kernel might ask, with any numbers.
#[derive(Debug)]
pub enum Ask<'a> {
    Attributes(u64),
    Child(u64, &'a [u8]),
    List(u64, u64),
    Target(u64),
    Read(u64, u64, u32),
    Package(usize),
}

/// Of a tree that would be seen at `target`. Frames are put by in `store`, if there is one.
pub(crate) fn walk(
    archive: &Arc<Archive>,
    file: &File,
    (target, store): (&Path, Option<File>),
    asks: &[Ask<'_>],
) -> Result<Walked, Refusal> {
    let file = file.try_clone().expect("a descriptor");
    let nodes = Arc::new(Nodes::new(archive));
    let failure = Arc::new(OnceLock::new());
    let content = Arc::new(Served::new(
        Arc::clone(archive),
        Frames::new(Arc::clone(archive), file, store),
        Arc::clone(&failure),
    ));
    let mut ahead = Ahead::new(Arc::clone(&nodes), Arc::clone(&content));
    read_now(&content, &hot(archive));
    let tree = Server::new(archive, nodes, content, target)?;
    for each in asks {
        ask(&tree, &mut ahead, each);
    }
    let mut walked = Walked::new();
    below(&tree, nodes::ROOT, b"", &mut walked);
    assert_eq!(walked.len(), archive.entries.len());
    let failed = |seen: &(u32, Seen)| seen.1 == Seen::File(None);
    assert!(failure.get().is_some() || !walked.values().any(failed));
    Ok(walked)
}

fn ask(tree: &Server, ahead: &mut Ahead, ask: &Ask<'_>) {
    match ask {
        Ask::Attributes(number) => {
            let entry = nodes::entry(*number);
            let is_there = entry.is_none_or(|entry| entry < tree.archive.entries.len());
            assert_eq!(tree.attributes(*number).is_some(), is_there);
        }
        Ask::Child(number, name) => {
            let found = tree.child(*number, name).expect("an answer");
            assert!(found.ino.0 == 0 || tree.nodes.parent(found.ino.0) == *number);
        }
        Ask::List(number, offset) => {
            let mut last = *offset;
            tree.list(*number, *offset, |_, at, _| {
                assert!(at > last);
                last = at;
                false
            });
        }
        Ask::Target(number) => {
            tree.target(*number);
        }
        Ask::Read(number, from, length) => {
            if let Some(entry) = nodes::entry(*number) {
                let take = |bytes: &[u8]| assert!(bytes.len() <= *length as usize);
                let length = *length as usize;
                tree.edited.read(&tree.content, entry, *from, length, take);
            }
        }
        Ask::Package(entry) => {
            if *entry < tree.archive.entries.len() {
                let package = ahead.package_of(*entry);
                for frame in package.into_iter().chain(ahead.loaded(*entry)) {
                    if let Ok((_, content)) =
                        tree.content.frames.decompress(frame, None, Vec::new())
                    {
                        tree.content.frames.offer(frame, content);
                    }
                }
            }
        }
    }
}

fn below(tree: &Server, directory: u64, path: &[u8], walked: &mut Walked) {
    let mut found = Vec::new();
    // A few at a time, as the kernel asks.
    loop {
        let mut room = 3;
        let offset = found.len() as u64;
        let listed = tree.list(directory, offset, |number, _, name| {
            room -= 1;
            found.push((number, name.to_vec()));
            room == 0
        });
        assert!(listed);
        if room > 0 {
            break;
        }
    }
    assert_eq!(found[0], (directory, b".".to_vec()));
    assert_eq!(found[1], (tree.nodes.parent(directory), b"..".to_vec()));
    for (number, name) in found.into_iter().skip(2) {
        let attributes = tree.attributes(number).expect("of what was listed");
        assert_eq!(tree.child(directory, &name), Some(attributes));
        assert_eq!(tree.nodes.parent(number), directory);
        let separator = if path.is_empty() { &b""[..] } else { b"/" };
        let path = [path, separator, &name].concat();
        let seen = match attributes.kind {
            fuser::FileType::Directory => {
                below(tree, number, &path, walked);
                Seen::Directory
            }
            fuser::FileType::Symlink => {
                Seen::Link(tree.target(number).expect("of a link").to_vec())
            }
            _ => Seen::File(whole(tree, number, attributes.size)),
        };
        let mode = u32::from(attributes.perm);
        assert!(walked.insert(path, (mode, seen)).is_none());
    }
}

/// As it is read from its beginning.
fn whole(tree: &Server, number: u64, size: u64) -> Option<Vec<u8>> {
    let entry = nodes::entry(number)?;
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let before = whole.len();
        let take = |bytes: &[u8]| whole.extend_from_slice(bytes);
        let length = PIECE as usize;
        (tree.edited).read(&tree.content, entry, before as u64, length, take)?;
        if whole.len() - before < length {
            assert_eq!(whole.len() as u64, size);
            return Some(whole);
        }
    }
}
