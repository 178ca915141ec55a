//! What the targets share: a directory in memory, and small trees made of any bytes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use htmap_exec_transplant::fuzzing::{Made, edits_of};
use htmap_exec_transplant::{Entry, Field, Kind};
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
    Lib,
    Edits,
    Python,
    Packages,
    Bytecode,
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
    /// All of a frame.
    Whole {
        frame: u8,
    },
    /// From the beginning of a frame, so many chunks of 256 KiB and bytes.
    Long {
        frame: u8,
        chunks: u8,
        more: u16,
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
        Name::Lib => b"lib",
        Name::Edits => b"htmap-exec-edits.json",
        Name::Python => b"python3.11",
        Name::Packages => b"site-packages",
        Name::Bytecode => b"c.pyc",
        Name::Up => b"..",
        Name::Here => b".",
        Name::Empty => b"",
        Name::Any(bytes) => bytes,
    }
}

/// The content of a frame.
#[derive(Debug, Arbitrary)]
pub enum Frame {
    Bytes(Vec<u8>),
    /// A byte that comes over and over, and some others.
    Long {
        byte: u8,
        chunks: u8,
        more: u16,
        others: Vec<(u32, u8)>,
    },
    /// A list of edits: paths, places and lengths.
    Edits {
        texts: Vec<(Names, Vec<(u16, u8)>)>,
        fields: Vec<(Names, u16, u8, Vec<String>)>,
    },
}

/// A path that a list names.
pub type Names = Vec<Name>;

const CHUNK: usize = 256 << 10;

fn joined(names: &[Name]) -> Vec<u8> {
    names.iter().map(bytes).collect::<Vec<_>>().join(&b'/')
}

fn path(names: &[Name]) -> String {
    String::from_utf8_lossy(&joined(names)).into_owned()
}

impl Frame {
    fn content(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Long {
                byte,
                chunks,
                more,
                others,
            } => {
                let length = usize::from(chunks % 4) * CHUNK + usize::from(*more);
                let mut content = vec![*byte; length];
                for (at, other) in others {
                    if let Some(place) = content.get_mut(*at as usize) {
                        *place = *other;
                    }
                }
                content
            }
            Self::Edits { texts, fields } => {
                let places = |places: &[(u16, u8)]| {
                    let places = places.iter();
                    places
                        .map(|(at, length)| (u64::from(*at), u64::from(*length)))
                        .collect()
                };
                let texts = texts.iter().map(|(names, at)| (path(names), places(at)));
                let fields = fields.iter().map(|(names, offset, length, pieces)| Field {
                    path: path(names),
                    offset: u64::from(*offset),
                    length: u64::from(*length),
                    pieces: pieces.clone(),
                });
                edits_of(texts.collect(), fields.collect())
            }
        }
    }
}

/// An archive.
#[derive(Debug, Arbitrary)]
pub struct Tree {
    nodes: Vec<Node>,
    frames: Vec<Frame>,
    tidy: bool,
    first: bool,
    hot: u8,
}

impl Tree {
    pub fn made(&self) -> Made {
        // Some megabytes at most.
        let frames: Vec<Vec<u8>> = self.frames.iter().take(16).map(Frame::content).collect();
        let mut made = Made {
            entries: entries(&self.nodes, &frames),
            hot: usize::from(self.hot).min(frames.len()),
            first: self.first,
            frames,
        };
        if self.tidy {
            made.tidy();
        }
        made
    }
}

type At = Option<(usize, u64)>;

pub fn entries(nodes: &[Node], frames: &[Vec<u8>]) -> Vec<(Entry, At)> {
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
                let mut target = joined(to);
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
            What::Whole { frame } => {
                let frame = usize::from(*frame) % frames.len().max(1);
                let size = frames.get(frame).map_or(0, Vec::len);
                (Kind::File(size as u64), Some((frame, 0)))
            }
            What::Long {
                frame,
                chunks,
                more,
            } => {
                let size = usize::from(chunks % 8) * CHUNK + usize::from(*more);
                let frame = usize::from(*frame) % frames.len().max(1);
                (Kind::File(size as u64), Some((frame, 0)))
            }
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
