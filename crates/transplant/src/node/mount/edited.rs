//! Files that name the place where the tree is mounted: edited as they are read, never as a whole.
//!
//! The edits are those that would be made to an unpacked tree, by the same table. A list that does
//! not fit the archive is no reason to mount half of it: whoever unpacks says what is wrong.

use std::collections::HashMap;
use std::path::Path;

use super::Refusal;
use super::content::Served;
use super::nodes::{self, Nodes};
use crate::archive::entry::Kind;
use crate::archive::index::Archive;
use crate::archive::place::{EDITS, RECORD};
use crate::relocate::edits::{Edits, LARGEST_TEXT};
use crate::relocate::splice::Spliced;

/// By entry.
#[derive(Debug, Default)]
pub(super) struct Edited(HashMap<usize, Spliced>);

impl Edited {
    /// For a tree that is going to be seen at `target`.
    pub(super) fn new(
        archive: &Archive,
        nodes: &Nodes,
        content: &Served,
        target: &Path,
    ) -> Result<Self, Refusal> {
        let find = |path: &str| {
            let mut names = path.split('/');
            names.try_fold(nodes::ROOT, |directory, name| {
                let found = nodes.find(archive, directory, name.as_bytes())?;
                Some(nodes::number(found))
            })
        };
        let file = |path: &str| {
            let entry = nodes::entry(find(path)?)?;
            match archive.entries.get(entry)?.kind {
                Kind::File(size) => Some((entry, size)),
                _ => None,
            }
        };
        let Some((list, size)) = file(EDITS) else {
            if find(RECORD).is_some() {
                return Err(Refusal(
                    "its list of files that name their place is an old one: build it again"
                        .to_owned(),
                ));
            }
            return Ok(Self::default());
        };
        let refused = |reason: &str| Refusal(format!("its list of edits is refused: {reason}"));
        if size > LARGEST_TEXT {
            return Err(refused("it is too long"));
        }
        let bytes = whole(content, list, size).ok_or_else(|| refused("it cannot be read"))?;
        let edits = Edits::decode(&bytes).map_err(|reason| refused(&reason))?;
        let Some(prefix) = target.to_str() else {
            return Err(Refusal(format!(
                "files cannot name `{}`: it is no text",
                target.display()
            )));
        };
        let mut edited = HashMap::new();
        let mut held = 0;
        for path in edits.files.keys() {
            let (entry, size) = file(path)
                .ok_or_else(|| refused(&format!("`{path}` is no file of the archive")))?;
            let (spliced, left) = edits
                .spliced(path, prefix, size)
                .map_err(|_| refused(&format!("it does not fit `{path}`")))?;
            if let Some(left) = left {
                tracing::warn!("{left}");
            }
            let splices = spliced.splices().iter();
            held += splices.map(|splice| splice.bytes.len() as u64).sum::<u64>();
            if held > LARGEST_TEXT {
                return Err(refused("it asks for too much memory"));
            }
            edited.insert(entry, spliced);
        }
        Ok(Self(edited))
    }

    /// Of a file that the archive has with this size.
    pub(super) fn size(&self, entry: usize, size: u64) -> u64 {
        self.0.get(&entry).map_or(size, Spliced::size)
    }

    /// What [`Served::read`] does, of the file as it is seen.
    pub(super) fn read(
        &self,
        content: &Served,
        entry: usize,
        from: u64,
        length: usize,
        take: impl FnOnce(&[u8]),
    ) -> Option<()> {
        let Some(spliced) = self.0.get(&entry) else {
            return content.read(entry, from, length, take);
        };
        let mut bytes = Vec::new();
        let original = |from: u64, length: u64, out: &mut Vec<u8>| -> Result<(), ()> {
            let length = usize::try_from(length).map_err(|_| ())?;
            content
                .read(entry, from, length, |bytes| out.extend_from_slice(bytes))
                .ok_or(())
        };
        spliced
            .read(from, length as u64, &mut bytes, original)
            .ok()?;
        take(&bytes);
        Some(())
    }
}

fn whole(content: &Served, entry: usize, size: u64) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    let length = usize::try_from(size).ok()?;
    content.read(entry, 0, length, |bytes| whole.extend_from_slice(bytes))?;
    Some(whole)
}
