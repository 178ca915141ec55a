//! Guesses which frames will be asked for: what every Python starts with, and of a package of
//! which something was read, all that an import may need.
//!
//! Guesses only: a wrong one costs time of a processor that nobody else wanted.

use std::collections::HashSet;
use std::sync::Arc;

use super::nodes::{self, Nodes};
use crate::archive::entry::Kind;
use crate::archive::index::Archive;
use crate::archive::order::{Use, rank, use_of};

/// What was guessed already, and what it is guessed from.
pub(super) struct Ahead {
    pub(super) archive: Arc<Archive>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) guessed: HashSet<u64>,
}

impl Ahead {
    /// The frames that every Python starts with, those first that are asked for first. Of a libpython
    /// a start touches little, and the kernel asks for that by itself.
    pub(super) fn start_up(&self) -> Vec<usize> {
        let mut ranked: Vec<(usize, usize)> = Vec::new();
        for (entry, place) in self.archive.entries.iter().zip(&self.archive.places) {
            if let (Some(place), Some(rank)) = (place, rank(&entry.path)) {
                ranked.push((rank, place.frame));
            }
        }
        ranked.sort_unstable();
        let mut seen = HashSet::new();
        let frames = ranked.into_iter().map(|(_, frame)| frame);
        frames.filter(|frame| seen.insert(*frame)).collect()
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

    fn walk(&self, directory: u64, frames: &mut Vec<usize>) {
        let children = self.nodes.children(&self.archive, directory);
        for &child in children.unwrap_or(&[]) {
            let entry = &self.archive.entries[child];
            match entry.kind {
                Kind::Directory => self.walk(nodes::number(child), frames),
                Kind::File(_) if use_of(&entry.path) != Use::Else => self.add(child, frames),
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
