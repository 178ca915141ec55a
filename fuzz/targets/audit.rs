//! What an environment asks of a node: of any files, and of real programs and libraries that are bent.
#![no_main]

use std::sync::OnceLock;

use htmap_exec_fuzz::directory;
use htmap_exec_transplant::fuzzing::{audit, said};
use libfuzzer_sys::{arbitrary, fuzz_target};

/// The first is there always.
const PATHS: [&str; 12] = [
    "bin/python3.11",
    "bin/tool",
    "lib/libx.so.1",
    "lib/python3.11/lib-dynload/a.so",
    "lib/python3.11/site-packages/b.so",
    "lib/python3.11/site-packages/b.libs/libx.so.1",
    "lib/python3.11/site-packages/p-1.dist-info/METADATA",
    "lib/python3.11/site-packages/p-1.dist-info/RECORD",
    "lib/python3.11/site-packages/nvidia_cuda_runtime_cu12-12.4.1.dist-info/METADATA",
    "conda-meta/p-1-0.json",
    "conda-meta/cudatoolkit-11.8-0.json",
    "lib/python3.11/_sysconfigdata__linux_x86_64-linux-gnu.py",
];

/// These name directories of source code, all of which is packed.
const EDITABLE: [&str; 2] = [
    "lib/python3.11/site-packages/p.pth",
    "lib/python3.11/site-packages/__editable___p_finder.py",
];

/// Small ones of every Linux; those that are not there are left out.
const REAL: [&str; 6] = [
    "/bin/true",
    "/usr/bin/env",
    "/lib/x86_64-linux-gnu/libdl.so.2",
    "/lib/x86_64-linux-gnu/libz.so.1",
    "/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/lib/x86_64-linux-gnu/libutil.so.1",
];

#[derive(Debug, arbitrary::Arbitrary)]
enum Bytes<'a> {
    Any(&'a [u8]),
    Real {
        which: u8,
        /// Where the headers are, where the dynamic section is, or anywhere.
        changes: Vec<(Where, &'a [u8])>,
        cut: Option<u32>,
    },
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Where {
    Header(u8),
    Segments(u16),
    Dynamic(u16),
    Anywhere(u32),
}

/// With the place of its dynamic section.
fn real() -> &'static [(Vec<u8>, usize)] {
    static REALS: OnceLock<Vec<(Vec<u8>, usize)>> = OnceLock::new();
    REALS.get_or_init(|| {
        let read = REAL.iter().filter_map(|path| std::fs::read(path).ok());
        let found: Vec<_> = read.map(|bytes| (dynamic(&bytes), bytes)).collect();
        found.into_iter().map(|(at, bytes)| (bytes, at)).collect()
    })
}

fn dynamic(bytes: &[u8]) -> usize {
    let mut lines = bytes[64..].chunks_exact(56);
    let line = lines.find(|line| line[..4] == [2, 0, 0, 0]);
    line.and_then(|line| line[8..16].try_into().ok())
        .map_or(0, |at| u64::from_le_bytes(at) as usize)
}

impl Bytes<'_> {
    fn made(&self) -> Vec<u8> {
        match self {
            Self::Any(bytes) => bytes.to_vec(),
            Self::Real {
                which,
                changes,
                cut,
            } => {
                let Some((bytes, dynamic)) = real().get(usize::from(*which) % real().len().max(1))
                else {
                    return Vec::new();
                };
                let mut bytes = bytes.clone();
                for (place, change) in changes {
                    let at = match place {
                        Where::Header(at) => usize::from(*at) % 64,
                        Where::Segments(at) => 64 + usize::from(*at) % 1024,
                        Where::Dynamic(at) => dynamic + usize::from(*at) % 1024,
                        Where::Anywhere(at) => *at as usize % bytes.len(),
                    };
                    for (place, byte) in bytes.iter_mut().skip(at).zip(*change) {
                        *place = *byte;
                    }
                }
                if let Some(cut) = cut {
                    bytes.truncate(*cut as usize % (bytes.len() + 1));
                }
                bytes
            }
        }
    }
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Line<'a> {
    Any(&'a [u8]),
    /// An absolute path, to the environment or beside it.
    Beside(u8),
}

/// It leads to no directory of this machine: a `.pth` of one line, `/`, has all of the machine walked.
fn editable(lines: &[Line]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines.iter().take(8) {
        match line {
            Line::Any(bytes) => {
                let kept = bytes.iter().filter(|byte| !b"/\\".contains(byte));
                text.extend(kept);
            }
            Line::Beside(which) => {
                let beside = ["prefix", "prefix/lib", "source", "source/p", ""];
                let path = directory().join(beside[usize::from(*which) % beside.len()]);
                text.extend_from_slice(path.to_string_lossy().as_bytes());
            }
        }
        text.push(b'\n');
    }
    text
}

fuzz_target!(
    |input: (Bytes, Vec<(u8, Bytes)>, Vec<Line>, Vec<Line>, &[u8])| {
        let (program, others, paths, finder, text) = input;
        let mut files = vec![(PATHS[0], program.made())];
        for (path, bytes) in others.iter().take(8) {
            let path = PATHS[1 + usize::from(*path) % (PATHS.len() - 1)];
            files.push((path, bytes.made()));
        }
        for (path, lines) in EDITABLE.into_iter().zip([paths, finder]) {
            if !lines.is_empty() {
                files.push((path, editable(&lines)));
            }
        }
        audit(directory(), &files);
        said(directory(), text);
    }
);
