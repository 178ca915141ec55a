//! Links: what they lead to lies in the tree as well, or is taken in their place, or is named.
//!
//! That is decided when all trees are there, since a link may lead from one into another. Nothing is
//! followed into what it comes from, and no directory outside is taken twice, so a circle of links
//! comes to an end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use super::collector::{Collector, Key};
use super::walk::is_environment;
use crate::archive::entry::Kind;
use crate::error::Error;

/// Of the machine, whatever lies in them.
const OF_MACHINE: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// A link whose end is not settled: where it lies, and the directory that was taken along with it.
pub(super) struct Link {
    pub(super) file: PathBuf,
    pub(super) root: PathBuf,
}

/// By their places.
pub(super) type Links = BTreeMap<Key, Link>;

impl Collector<'_> {
    /// With the text that it has, for now.
    pub(super) fn add_link(&mut self, file: &Path, path: &Path, root: &Path) -> Result<(), Error> {
        let target = fs::read_link(file).map_err(Error::io("read", file))?;
        let stays = stays_inside(file.strip_prefix(root).unwrap_or(file), &target);
        let target = target.into_os_string().into_vec();
        self.put(path, Kind::Symlink(target), 0o777, None);
        if !stays {
            let link = Link {
                file: file.to_path_buf(),
                root: root.to_path_buf(),
            };
            self.links.insert(Key::of(path), link);
        }
        Ok(())
    }

    /// Settles all that are not; what is taken in the place of one may bring others.
    pub(super) fn settle_links(&mut self) -> Result<(), Error> {
        while let Some((key, link)) = self.links.pop_first() {
            let path = key.path();
            if let Some(reason) = self.settle(&link, path)? {
                self.found.remove(&key);
                self.remarks
                    .push(format!("`{}` {reason}: left out", path.display()));
            }
        }
        Ok(())
    }

    /// Why it is left out, or nothing.
    fn settle(&mut self, link: &Link, path: &Path) -> Result<Option<String>, Error> {
        let file = &link.file;
        self.ledger.look(file);
        let target = fs::read_link(file).map_err(Error::io("read", file))?;
        let parent = file.parent().unwrap_or(file);
        let goal = parent.join(&target);
        let real = file.canonicalize();
        // Where it says, if that is in the tree, and else where that leads to.
        let named = goal.parent().and_then(|parent| parent.canonicalize().ok());
        let named = named.and_then(|parent| Some(parent.join(goal.file_name()?)));
        let place = [named.as_ref(), real.as_ref().ok()]
            .into_iter()
            .flatten()
            .find_map(|real| self.place_of(real));
        if let Some(place) = place.filter(|place| place != path) {
            self.put_link(path, &place);
            return Ok(None);
        }
        let Ok(real) = real else {
            if let Some(below) = self.old.inside(&goal) {
                // As it was.
                self.put_link(path, &below);
                return Ok(None);
            }
            return Ok(Some(format!(
                "is a link to nowhere (`{}`)",
                target.display()
            )));
        };
        let metadata = fs::metadata(&real).map_err(Error::io("read", &real))?;
        if metadata.is_file() {
            self.found.remove(&Key::of(path));
            self.add(file, path, &metadata)?;
            return Ok(None);
        }
        let leads = |what: &str| Ok(Some(format!("is a link to {what} (`{}`)", real.display())));
        if OF_MACHINE.iter().any(|place| real.starts_with(place)) {
            return leads("what is every machine's own");
        }
        if !metadata.is_dir() {
            return leads("a device, pipe or socket");
        }
        if self.trees.iter().any(|(root, _)| root.starts_with(&real)) {
            return leads("a directory that holds what is packed");
        }
        if is_environment(&real) {
            return leads("another environment");
        }
        self.put(path, Kind::Directory, 0o755, None);
        self.noted.directories.push(format!(
            "`{}` is a link out of {}: taken from `{}`",
            path.display(),
            if link.root == self.old.prefix || link.root == self.old.base {
                "the environment".to_owned()
            } else {
                format!("`{}`", link.root.display())
            },
            real.display()
        ));
        self.add_tree(&real, path, &|_| true)?;
        Ok(None)
    }

    /// Where in the tree something lies that was taken along.
    pub(super) fn place_of(&self, real: &Path) -> Option<PathBuf> {
        let around = self.trees.iter().filter(|(root, _)| real.starts_with(root));
        // A tree in a tree may lie elsewhere.
        let nearest = around.clone().map(|(root, _)| root.as_os_str().len()).max();
        let mut nearest = around.filter(|(root, _)| Some(root.as_os_str().len()) == nearest);
        nearest.find_map(|(root, at)| {
            let below = real.strip_prefix(root).ok()?;
            let place: PathBuf = at.components().chain(below.components()).collect();
            (place.as_os_str().is_empty() || self.has(&place)).then_some(place)
        })
    }

    fn put_link(&mut self, path: &Path, place: &Path) {
        let depth = path.components().count() - 1;
        let mut relative = PathBuf::from("../".repeat(depth));
        relative.push(place);
        if relative.as_os_str().is_empty() {
            relative.push(".");
        }
        let target = relative.into_os_string().into_vec();
        self.put(path, Kind::Symlink(target), 0o777, None);
    }
}

/// Whether a link at `path` below a directory stays below it, as far as its text says: behind a name,
/// `..` may lead anywhere.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    let mut is_down = false;
    for component in target.components() {
        match component {
            Component::ParentDir if depth == 0 || is_down => return false,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => is_down = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_stay() {
        let stays = |path: &str, target: &str| stays_inside(Path::new(path), Path::new(target));
        assert!(stays("lib64", "lib"));
        assert!(stays("a/b/c", "../../d"));
        assert!(stays("a/b", "./x"));
        assert!(!stays("a/b/c", "../../../d"));
        assert!(!stays("a", "/a"));
        assert!(!stays("a", "b/../c"));
    }
}
