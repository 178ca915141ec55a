//! The tree as a file system sees it: numbers, and which names lie in which directory.
//!
//! The root is 1, as FUSE has it, and entry `i` of the archive is `i + 2`: nothing has to be
//! remembered of what the kernel knows.

use crate::archive::entry::{Kind, is_same};
use crate::archive::index::Archive;

/// Of the root.
pub(super) const ROOT: u64 = 1;

/// Which entries lie where.
#[derive(Debug)]
pub(super) struct Nodes {
    /// All entries, those of one directory together and sorted by name.
    children: Vec<usize>,
    /// Where those of each directory begin, by its number; there is one more.
    first: Vec<usize>,
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

/// Of a number in a list by numbers.
fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl Nodes {
    /// Of an archive that was opened: a directory comes right before what is in it, and names that
    /// lie in one directory are sorted.
    pub(super) fn new(archive: &Archive) -> Self {
        let count = archive.entries.len();
        let mut parents = Vec::with_capacity(count);
        let mut first = vec![0; count + 3];
        // Directories that lead to the last entry.
        let mut above: Vec<u64> = Vec::new();
        for (index, each) in archive.entries.iter().enumerate() {
            let (directory, _) = split(&each.path);
            let leads = |number: &mut u64| {
                entry(*number).is_none_or(|entry| !is_same(&archive.entries[entry].path, directory))
            };
            while above.pop_if(leads).is_some() {}
            let parent = above.last().copied().unwrap_or(ROOT);
            parents.push(parent);
            first[place(parent) + 1] += 1;
            if each.kind == Kind::Directory {
                above.push(number(index));
            }
        }
        let mut sum = 0;
        for begin in &mut first {
            sum += *begin;
            *begin = sum;
        }
        let mut next = first.clone();
        let mut children = vec![0; count];
        for (index, &parent) in parents.iter().enumerate() {
            let free = &mut next[place(parent)];
            children[*free] = index;
            *free += 1;
        }
        Self {
            children,
            first,
            parents,
        }
    }

    /// What lies in a directory.
    pub(super) fn children(&self, archive: &Archive, number: u64) -> Option<&[usize]> {
        if let Some(entry) = entry(number)
            && archive.entries.get(entry)?.kind != Kind::Directory
        {
            return None;
        }
        let begin = *self.first.get(place(number))?;
        let end = *self.first.get(place(number).checked_add(1)?)?;
        self.children.get(begin..end)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::Entry;
    use crate::made::Made;

    #[test]
    fn every_entry_lies_where_its_path_says() {
        let paths = [
            "a", "a/b", "a/b/x", "a/c", "a-b", "a-b/x", "b", "c", "c/a", "d",
        ];
        let is_file = |path: &str| path.ends_with('x') || path == "b" || path == "d";
        let entries = paths.iter().map(|path| {
            let entry = Entry {
                path: (*path).into(),
                kind: if is_file(path) {
                    Kind::Symlink(b"b".to_vec())
                } else {
                    Kind::Directory
                },
                mode: 0o755,
            };
            (entry, None)
        });
        let made = Made {
            entries: entries.collect(),
            frames: Vec::new(),
            first: false,
            hot: 0,
        };
        let (archive, _) = made.open();
        let nodes = Nodes::new(&archive);
        let names = |number| {
            let children = nodes.children(&archive, number)?;
            Some(
                children
                    .iter()
                    .map(|&child| paths[child])
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(names(ROOT).unwrap(), ["a", "a-b", "b", "c", "d"]);
        assert_eq!(names(number(0)).unwrap(), ["a/b", "a/c"]);
        assert_eq!(names(number(3)).unwrap(), [""; 0]);
        assert_eq!(names(number(6)), None);
        assert_eq!(names(number(paths.len())), None);
        assert_eq!(names(u64::MAX), None);
        for (index, path) in paths.iter().enumerate() {
            let (directory, name) = split(path.as_bytes());
            let parent = nodes.parent(number(index));
            let above = entry(parent).map_or("", |entry| paths[entry]);
            assert_eq!(above.as_bytes(), directory);
            assert_eq!(nodes.find(&archive, parent, name), Some(index));
        }
        assert_eq!(nodes.find(&archive, ROOT, b"x"), None);
    }
}
