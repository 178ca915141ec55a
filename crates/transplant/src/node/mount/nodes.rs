//! The tree as a file system sees it: numbers, and which names lie in which directory.
//!
//! The root is 1, as FUSE has it, and entry `i` of the archive is `i + 2`: nothing has to be
//! remembered of what the kernel knows.

use std::collections::HashMap;

use crate::archive::entry::Kind;
use crate::archive::index::Archive;

/// Of the root.
pub(super) const ROOT: u64 = 1;

/// Which entries lie where.
#[derive(Debug)]
pub(super) struct Nodes {
    /// By directory's number, sorted by name; empty for what is none.
    children: Vec<Vec<usize>>,
    /// By entry.
    parents: Vec<u64>,
}

/// The number of an entry.
pub(super) fn number(entry: usize) -> u64 {
    entry as u64 + 2
}

/// The entry of a number; none for the root.
pub(super) fn entry(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(2)?).ok()
}

/// The last name of an entry's path.
pub(super) fn name(archive: &Archive, entry: usize) -> &[u8] {
    split(&archive.entries[entry].path).1
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl Nodes {
    /// Of an archive that was opened, in which every parent comes before its children.
    pub(super) fn new(archive: &Archive) -> Self {
        let count = archive.entries.len();
        let mut directories: HashMap<&[u8], u64> = HashMap::new();
        let mut children = vec![Vec::new(); count + 2];
        let mut parents = Vec::with_capacity(count);
        // Most entries lie where the one before them does.
        let mut last: (&[u8], u64) = (b"", ROOT);
        for (index, entry) in archive.entries.iter().enumerate() {
            let (directory, _) = split(&entry.path);
            if directory != last.0 {
                let found = directories.get(directory).copied();
                last = (directory, found.unwrap_or(ROOT));
            }
            parents.push(last.1);
            if let Some(children) = usize::try_from(last.1)
                .ok()
                .and_then(|parent| children.get_mut(parent))
            {
                children.push(index);
            }
            if entry.kind == Kind::Directory {
                directories.insert(&entry.path, number(index));
            }
        }
        for each in &mut children {
            let in_order =
                |one: &usize, other: &usize| name(archive, *one) <= name(archive, *other);
            if !each.is_sorted_by(in_order) {
                each.sort_by(|&one, &other| name(archive, one).cmp(name(archive, other)));
            }
        }
        Self { children, parents }
    }

    /// What lies in a directory.
    pub(super) fn children(&self, archive: &Archive, number: u64) -> Option<&[usize]> {
        if let Some(entry) = entry(number)
            && archive.entries.get(entry)?.kind != Kind::Directory
        {
            return None;
        }
        let children = self.children.get(usize::try_from(number).ok()?)?;
        Some(children)
    }

    /// The directory of this one.
    pub(super) fn parent(&self, number: u64) -> u64 {
        entry(number)
            .and_then(|entry| self.parents.get(entry))
            .copied()
            .unwrap_or(ROOT)
    }

    /// The entry of this name.
    pub(super) fn find(&self, archive: &Archive, directory: u64, wanted: &[u8]) -> Option<usize> {
        let children = self.children(archive, directory)?;
        let found = children.binary_search_by(|&child| name(archive, child).cmp(wanted));
        found.ok().map(|at| children[at])
    }
}
