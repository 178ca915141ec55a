//! The tree as a file system sees it: numbers, and which names lie in which directory.
//!
//! The root is 1, as FUSE has it, and entry `i` of the archive is `i + 2`: nothing has to be
//! remembered of what the kernel knows.

use std::collections::HashMap;

use crate::archive::Archive;
use crate::tree::Kind;

/// Of the root.
pub(super) const ROOT: u64 = 1;

/// Which entries lie where.
#[derive(Debug)]
pub(super) struct Nodes {
    /// By directory, sorted by name.
    children: HashMap<u64, Vec<usize>>,
    /// Of each entry.
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
    let path = archive.entries[entry].path.as_slice();
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => &path[slash + 1..],
        None => path,
    }
}

impl Nodes {
    /// Of an archive that was opened, in which every parent comes before its children.
    pub(super) fn new(archive: &Archive) -> Self {
        let mut directories: HashMap<&[u8], u64> = HashMap::from([(&b""[..], ROOT)]);
        let mut children: HashMap<u64, Vec<usize>> = HashMap::from([(ROOT, Vec::new())]);
        let mut parents = Vec::with_capacity(archive.entries.len());
        for (index, entry) in archive.entries.iter().enumerate() {
            let path = entry.path.as_slice();
            let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            let parent = directories.get(&path[..end]).copied().unwrap_or(ROOT);
            parents.push(parent);
            children.entry(parent).or_default().push(index);
            if entry.kind == Kind::Directory {
                directories.insert(path, number(index));
                children.entry(number(index)).or_default();
            }
        }
        for each in children.values_mut() {
            each.sort_by(|&one, &other| name(archive, one).cmp(name(archive, other)));
        }
        Self { children, parents }
    }

    /// What lies in a directory.
    pub(super) fn children(&self, directory: u64) -> Option<&[usize]> {
        self.children.get(&directory).map(Vec::as_slice)
    }

    /// The directory of this one.
    pub(super) fn parent(&self, directory: u64) -> u64 {
        entry(directory)
            .and_then(|entry| self.parents.get(entry))
            .copied()
            .unwrap_or(ROOT)
    }

    /// The entry of this name.
    pub(super) fn find(&self, archive: &Archive, directory: u64, wanted: &[u8]) -> Option<usize> {
        let children = self.children.get(&directory)?;
        let found = children.binary_search_by(|&child| name(archive, child).cmp(wanted));
        found.ok().map(|at| children[at])
    }
}
