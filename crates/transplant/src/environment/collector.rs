//! The tree as it is collected: directories, files and links of the old place, at their new paths.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::ledger::Ledger;
use super::links::Links;
use super::walk::{Found, Inside, MARKS, below};
use super::{Excluded, Noted};
use crate::archive::entry::{Entry, Kind, compare};
use crate::error::Error;
use crate::parallel;
use crate::relocate::bytecode::{Bytecode, bytecode};
use crate::relocate::content::Content;
use crate::relocate::mend;
use crate::relocate::old::Old;
use crate::relocate::search_path::Linked;
use htmap_exec_interpreter::Interpreter;

pub(super) struct Collector<'a> {
    pub(super) old: Old,
    /// The programs and libraries among the files, and what they need.
    pub(super) linked: Vec<(PathBuf, Linked)>,
    excluded: Excluded<'a>,
    pub(super) found: BTreeMap<Key, (Entry, Option<Content>)>,
    /// What somebody may have to do something about.
    pub(super) remarks: Vec<String>,
    pub(super) noted: Noted,
    /// What this user may not read.
    pub(super) unreadable: Vec<PathBuf>,
    /// Of files that are about to be added.
    pub(super) bytecode: HashMap<PathBuf, Bytecode>,
    pub(super) ledger: Ledger,
    /// The directories that were taken along, and where they lie in the tree.
    pub(super) trees: Vec<(PathBuf, PathBuf)>,
    /// Links that lead out of the directory that they came with.
    pub(super) links: Links,
}

/// A path below the root of the tree, in the order in which a directory comes right before what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(super) fn of(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// All that lies in it, if it is a directory.
    pub(super) fn below(&self) -> Range<Self> {
        // Names come before what begins with them: a slash sorts as nothing else does.
        let with = |end: &[u8]| Self([&self.0, end].concat());
        with(b"/")..with(b"\x01")
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Collector<'a> {
    pub(super) fn new(interpreter: &Interpreter, excluded: Excluded<'a>) -> Result<Self, Error> {
        Ok(Self {
            old: Old::new(interpreter)?,
            linked: Vec::new(),
            excluded,
            found: BTreeMap::new(),
            remarks: Vec::new(),
            noted: Noted::default(),
            unreadable: Vec::new(),
            bytecode: HashMap::new(),
            ledger: Ledger::new(),
            trees: Vec::new(),
            links: Links::new(),
        })
    }

    /// Whether it, or a directory that it lies in, is left out.
    pub(super) fn excludes(&self, path: &Path) -> bool {
        let mut above = path.ancestors();
        above.any(|path| !path.as_os_str().is_empty() && (self.excluded)(path))
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.found.contains_key(&Key::of(path))
    }

    /// Whether a file or link lies there.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        let found = self.found.get(&Key::of(path));
        found.is_some_and(|(entry, _)| entry.kind != Kind::Directory)
    }

    /// Of a file.
    pub(super) fn content_at(&self, path: &Path) -> Option<&Content> {
        self.found.get(&Key::of(path))?.1.as_ref()
    }

    pub(super) fn content_at_mut(&mut self, path: &Path) -> Option<&mut Content> {
        self.found.get_mut(&Key::of(path))?.1.as_mut()
    }

    /// The directories above a path.
    pub(super) fn add_parents(&mut self, path: &Path) {
        let parents: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
            .collect();
        for parent in parents.into_iter().rev() {
            self.put(parent, Kind::Directory, 0o755, None);
        }
    }

    pub(super) fn add_tree(
        &mut self,
        root: &Path,
        at: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<(), Error> {
        let root = &root.canonicalize().map_err(Error::io("find", root))?;
        let all = below(root).map_err(Error::io("read", root))?;
        self.trees.push((root.clone(), at.to_path_buf()));
        let mut taken: Vec<(&Found, PathBuf)> = Vec::new();
        let mut left_out: Option<&Path> = None;
        for found in &all[1..] {
            if left_out.is_some_and(|directory| found.path.starts_with(directory)) {
                continue;
            }
            let path = at.join(found.path.strip_prefix(root).unwrap_or(&found.path));
            if found.inside == Some(Inside::Apart) {
                self.set_apart(&found.path);
            } else if wanted(&path) && !(self.excluded)(&path) {
                taken.push((found, path));
            } else {
                left_out = Some(&found.path);
            }
        }
        let version = self.old.version;
        let compiled = parallel::map(&taken, |(found, path)| {
            let is_compiled =
                found.metadata.is_file() && path.extension() == Some(OsStr::new("pyc"));
            is_compiled.then(|| bytecode(version, &found.path, path))
        });
        self.put_inside(&all[0]);
        for ((found, path), compiled) in taken.into_iter().zip(compiled) {
            self.put_inside(found);
            // What cannot be read is named when it is added.
            if let Some(Ok(compiled)) = compiled {
                self.bytecode.insert(found.path.clone(), compiled);
            }
            if found.metadata.is_symlink() {
                self.add_link(&found.path, &path, root)?;
            } else {
                self.add_found(&found.path, &path, &found.metadata)?;
            }
        }
        Ok(())
    }

    fn put_inside(&mut self, found: &Found) {
        match found.inside {
            Some(Inside::Listed(seen)) => self.ledger.put_listing(&found.path, seen),
            Some(Inside::Closed(seen)) => {
                self.ledger.put_listing(&found.path, seen);
                self.unreadable.push(found.path.clone());
            }
            Some(Inside::Apart) | None => {}
        }
    }

    /// Only by what makes it an environment: what is in it may change.
    fn set_apart(&mut self, directory: &Path) {
        // It has a walk of its own: pyenv-virtualenv keeps its environments below their base.
        if directory == self.old.prefix {
            return;
        }
        for mark in MARKS {
            self.ledger.look(&directory.join(mark));
        }
        let said = format!(
            "`{}` is an environment inside of this one: it stays behind",
            directory.display()
        );
        if !self.noted.environments.contains(&said) {
            self.noted.environments.push(said);
        }
    }

    /// What lies somewhere by itself; a link is followed.
    pub(super) fn add(
        &mut self,
        file: &Path,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Result<(), Error> {
        self.ledger.look(file);
        self.add_found(file, path, metadata)
    }

    fn add_found(
        &mut self,
        file: &Path,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Result<(), Error> {
        let mode = metadata.permissions().mode();
        if metadata.is_dir() {
            self.put(path, Kind::Directory, 0o755, None);
        } else if metadata.is_file() {
            if !is_readable(file, mode) {
                self.unreadable.push(file.to_path_buf());
                return Ok(());
            }
            let known = self.bytecode.remove(file);
            let mended = mend::mended(&self.old, file, path, metadata, known)?;
            if let Some(linked) = mended.linked {
                self.linked.push((file.to_path_buf(), linked));
            }
            let Some(content) = mended.content else {
                return Ok(());
            };
            let size = content.size();
            // What its owner may do everybody may, but write: another user may run it.
            let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
            self.put(path, Kind::File(size), mode, Some(content));
        } else {
            self.noted.devices.push(format!(
                "`{}` is a device, pipe or socket: left out",
                file.display()
            ));
        }
        Ok(())
    }

    /// A file that was made for the tree.
    pub(super) fn put_made(&mut self, path: &Path, bytes: Vec<u8>) {
        let kind = Kind::File(bytes.len() as u64);
        self.put(path, kind, 0o644, Some(Content::Made(bytes)));
    }

    pub(super) fn put(&mut self, path: &Path, kind: Kind, mode: u32, content: Option<Content>) {
        let entry = Entry {
            path: path.as_os_str().as_bytes().to_vec(),
            kind,
            mode,
        };
        let key = Key::of(path);
        self.links.remove(&key);
        let is_directory = |kind: &Kind| *kind == Kind::Directory;
        if !is_directory(&entry.kind)
            && self
                .found
                .get(&key)
                .is_some_and(|(old, _)| is_directory(&old.kind))
        {
            // Nothing lies in it any more.
            let hidden = self.found.range(key.below());
            let hidden: Vec<Key> = hidden.map(|(key, _)| key.clone()).collect();
            for key in hidden {
                self.found.remove(&key);
                self.links.remove(&key);
            }
        }
        self.found.insert(key, (entry, content));
    }
}

/// Asks the kernel where the mode leaves a doubt.
fn is_readable(file: &Path, mode: u32) -> bool {
    mode & 0o444 == 0o444 || nix::unistd::access(file, nix::unistd::AccessFlags::R_OK).is_ok()
}
