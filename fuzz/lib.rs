//! What the targets share: a directory in memory, and small trees made of any bytes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use htmap_exec_transplant::{Entry, Kind};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// Of this process alone. It goes when the next run begins, or with the machine.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let made = tempfile::Builder::new()
            .prefix("htmap-exec-fuzz-")
            .tempdir_in(base);
        made.expect("a directory")
            .keep()
            .canonicalize()
            .expect("there")
    })
}

/// A name out of few, so that entries meet, and now and then any other.
#[derive(Debug, Arbitrary)]
pub enum Name {
    A,
    B,
    C,
    Up,
    Here,
    Empty,
    Any(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
pub enum What {
    Directory,
    Link {
        absolute: bool,
        to: Vec<Name>,
    },
    File {
        size: u16,
        frame: u8,
        offset: u16,
    },
    Claim {
        size: u64,
        frame: usize,
        offset: u64,
    },
}

#[derive(Debug, Arbitrary)]
pub struct Node {
    /// What lies above it: an entry before this one, or nothing.
    above: Option<u8>,
    name: Name,
    mode: Option<u32>,
    what: What,
}

fn bytes(name: &Name) -> &[u8] {
    match name {
        Name::A => b"a",
        Name::B => b"b",
        Name::C => b"c",
        Name::Up => b"..",
        Name::Here => b".",
        Name::Empty => b"",
        Name::Any(bytes) => bytes,
    }
}

type At = Option<(usize, u64)>;

pub fn entries(nodes: &[Node]) -> Vec<(Entry, At)> {
    let mut made: Vec<(Entry, At)> = Vec::new();
    for node in nodes {
        let mut path = node
            .above
            .and_then(|above| made.get(usize::from(above)))
            .map_or_else(Vec::new, |(above, _)| [&above.path[..], b"/"].concat());
        path.extend_from_slice(bytes(&node.name));
        let (kind, at) = match &node.what {
            What::Directory => (Kind::Directory, None),
            What::Link { absolute, to } => {
                let names: Vec<&[u8]> = to.iter().map(bytes).collect();
                let mut target = names.join(&b'/');
                if *absolute {
                    target.insert(0, b'/');
                }
                (Kind::Symlink(target), None)
            }
            What::File {
                size,
                frame,
                offset,
            } => (
                Kind::File(u64::from(*size)),
                Some((usize::from(*frame), u64::from(*offset))),
            ),
            What::Claim {
                size,
                frame,
                offset,
            } => (Kind::File(*size), Some((*frame, *offset))),
        };
        let mode = node.mode.unwrap_or(0o755);
        made.push((Entry { path, kind, mode }, at));
    }
    made
}
