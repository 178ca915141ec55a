//! The tree as it is collected: directories, files and links of the old place, at their new paths.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use super::Excluded;
use crate::archive::entry::{Entry, Kind};
use crate::environment::walk::{Found, Walk};
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
    pub(super) excluded: Excluded<'a>,
    /// By path with NUL in the place of `/`: so a directory comes right before what is in it.
    pub(super) found: BTreeMap<Vec<u8>, (Entry, Option<Content>)>,
    pub(super) remarks: Vec<String>,
    /// What this user may not read.
    pub(super) unreadable: Vec<PathBuf>,
    /// Of files that are about to be added.
    pub(super) bytecode: HashMap<PathBuf, Bytecode>,
    walk: &'a Walk,
}

fn key(path: &Path) -> Vec<u8> {
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(|&byte| if byte == b'/' { 0 } else { byte })
        .collect()
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        interpreter: &Interpreter,
        excluded: Excluded<'a>,
        walk: &'a Walk,
    ) -> Result<Self, Error> {
        Ok(Self {
            old: Old::new(interpreter)?,
            linked: Vec::new(),
            excluded,
            found: BTreeMap::new(),
            remarks: Vec::new(),
            unreadable: Vec::new(),
            bytecode: HashMap::new(),
            walk,
        })
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.found.contains_key(&key(path))
    }

    /// Whether a file or link lies there.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        let found = self.found.get(&key(path));
        found.is_some_and(|(entry, _)| entry.kind != Kind::Directory)
    }

    /// Of a file.
    pub(super) fn content_at(&self, path: &Path) -> Option<&Content> {
        self.found.get(&key(path))?.1.as_ref()
    }

    pub(super) fn content_at_mut(&mut self, path: &Path) -> Option<&mut Content> {
        self.found.get_mut(&key(path))?.1.as_mut()
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
        let walk = self.walk;
        let root = &root.canonicalize().map_err(Error::io("find", root))?;
        let all = walk.of(root).map_err(Error::io("read", root))?;
        let mut taken: Vec<(&Found, PathBuf)> = Vec::new();
        let mut left_out: Option<&Path> = None;
        for found in &all[1..] {
            if left_out.is_some_and(|directory| found.path.starts_with(directory)) {
                continue;
            }
            let path = at.join(found.path.strip_prefix(root).unwrap_or(&found.path));
            if wanted(&path) && !(self.excluded)(&path) {
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
        if all[0].is_closed {
            self.unreadable.push(root.clone());
        }
        for ((found, path), compiled) in taken.into_iter().zip(compiled) {
            if found.is_closed {
                self.unreadable.push(found.path.clone());
            }
            // What cannot be read is named when it is added.
            if let Some(Ok(compiled)) = compiled {
                self.bytecode.insert(found.path.clone(), compiled);
            }
            self.add(&found.path, &path, &found.metadata)?;
        }
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        file: &Path,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Result<(), Error> {
        let mode = metadata.permissions().mode();
        if metadata.is_dir() {
            self.put(path, Kind::Directory, 0o755, None);
        } else if metadata.is_symlink() {
            self.add_link(file, path)?;
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
        }
        // Sockets and devices are no part of a Python.
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
        self.found.insert(key(path), (entry, content));
    }

    /// A link within the tree becomes relative; what another one leads to is taken in its place.
    fn add_link(&mut self, file: &Path, path: &Path) -> Result<(), Error> {
        let target = fs::read_link(file).map_err(Error::io("read", file))?;
        let inside = self.old.inside(&target).map(|below| {
            let depth = path.components().count() - 1;
            let mut relative = PathBuf::from("../".repeat(depth));
            relative.push(below);
            relative
        });
        let relative = if target.is_absolute() {
            inside
        } else {
            stays_inside(path, &target).then(|| target.clone())
        };
        if let Some(relative) = relative {
            self.put(
                path,
                Kind::Symlink(relative.into_os_string().into_vec()),
                0o777,
                None,
            );
            return Ok(());
        }
        match fs::metadata(file) {
            Ok(metadata) if metadata.is_file() => self.add(file, path, &metadata),
            Ok(metadata) if metadata.is_dir() => {
                let real = file.canonicalize().map_err(Error::io("find", file))?;
                self.put(path, Kind::Directory, 0o755, None);
                self.remarks.push(format!(
                    "`{}` is a link out of the environment: taken from `{}`",
                    path.display(),
                    real.display()
                ));
                self.add_tree(&real, path, &|_| true)
            }
            _ => {
                self.remarks.push(format!(
                    "`{}` is a link to nowhere (`{}`): left out",
                    path.display(),
                    target.display()
                ));
                Ok(())
            }
        }
    }
}

/// Asks the kernel where the mode leaves a doubt.
fn is_readable(file: &Path, mode: u32) -> bool {
    mode & 0o444 == 0o444 || nix::unistd::access(file, nix::unistd::AccessFlags::R_OK).is_ok()
}

fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    for component in target.components() {
        match component {
            Component::ParentDir if depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            _ => depth += 1,
        }
    }
    true
}
