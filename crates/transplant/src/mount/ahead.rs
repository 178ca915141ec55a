//! Guesses which frames will be asked for: what every Python starts with, and of a package of
//! which something was read, all that an import may need.
//!
//! Guesses only: a wrong one costs time of a processor that nobody else wanted.

use std::collections::HashSet;
use std::sync::Arc;

use super::nodes::{self, Nodes};
use crate::archive::Archive;
use crate::tree::Kind;

/// Of the standard library, what `site`, the driver and cloudpickle import.
const EARLY: [&[u8]; 6] = [
    b"__pycache__",
    b"encodings",
    b"collections",
    b"importlib",
    b"re",
    b"lib-dynload",
];
/// No import of a package needs its tests.
const NEVER: [&[u8]; 2] = [b"tests", b"test"];

/// What was guessed already, and what it is guessed from.
pub(super) struct Ahead {
    pub(super) archive: Arc<Archive>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) guessed: HashSet<u64>,
}

impl Ahead {
    /// The frames that every Python starts with: the interpreter, its library, then its modules.
    pub(super) fn start_up(&mut self) -> Vec<usize> {
        let mut frames = Vec::new();
        let bin = self.find(nodes::ROOT, b"bin");
        let lib = self.find(nodes::ROOT, b"lib");
        for (directory, start) in [(bin, &b"python"[..]), (lib, b"libpython")] {
            for &child in directory
                .and_then(|number| self.children(number))
                .unwrap_or(&[])
            {
                if nodes::name(&self.archive, child).starts_with(start)
                    && let Kind::File(_) = self.archive.entries[child].kind
                {
                    self.add(child, &mut frames);
                }
            }
        }
        let mut modules = Vec::new();
        for &child in lib.and_then(|number| self.children(number)).unwrap_or(&[]) {
            if nodes::name(&self.archive, child).starts_with(b"python3.") {
                for name in EARLY {
                    if let Some(directory) = self.find(nodes::number(child), name) {
                        self.walk(directory, &mut modules);
                    }
                }
            }
        }
        modules.sort_unstable();
        frames.extend(modules);
        let mut seen = HashSet::new();
        frames.retain(|&frame| seen.insert(frame));
        frames
    }

    /// The frames of the package that an entry belongs to, the first time that it is asked for.
    pub(super) fn package_of(&mut self, entry: usize) -> Vec<usize> {
        let mut frames = Vec::new();
        let mut number = nodes::number(entry);
        loop {
            let parent = self.nodes.parent(number);
            let Some(above) = nodes::entry(parent) else {
                return frames;
            };
            if nodes::name(&self.archive, above) == b"site-packages" {
                break;
            }
            number = parent;
        }
        if self.guessed.insert(number) {
            self.walk(number, &mut frames);
            frames.sort_unstable();
            frames.dedup();
        }
        frames
    }

    fn find(&self, directory: u64, name: &[u8]) -> Option<u64> {
        let found = self.nodes.find(&self.archive, directory, name);
        found.map(nodes::number)
    }

    fn children(&self, directory: u64) -> Option<&[usize]> {
        self.nodes.children(&self.archive, directory)
    }

    fn walk(&self, directory: u64, frames: &mut Vec<usize>) {
        for &child in self.children(directory).unwrap_or(&[]) {
            let name = nodes::name(&self.archive, child);
            match self.archive.entries[child].kind {
                Kind::Directory if !NEVER.contains(&name) => {
                    self.walk(nodes::number(child), frames);
                }
                Kind::File(_) if is_code(name) => self.add(child, frames),
                _ => {}
            }
        }
    }

    fn add(&self, entry: usize, frames: &mut Vec<usize>) {
        let (Kind::File(size), Some(place)) = (
            &self.archive.entries[entry].kind,
            self.archive.places[entry],
        ) else {
            return;
        };
        let mut left = size + place.offset;
        for (index, frame) in self.archive.frames.iter().enumerate().skip(place.frame) {
            if frames.last() != Some(&index) {
                frames.push(index);
            }
            if left <= frame.length {
                return;
            }
            left -= frame.length;
        }
    }
}

fn is_code(name: &[u8]) -> bool {
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    // What `python -O` reads is of no interest to the others, and named `.opt-1.pyc`.
    name.ends_with(b".pyc") && !has(b".opt-") || name.ends_with(b".so") || has(b".so.")
}
