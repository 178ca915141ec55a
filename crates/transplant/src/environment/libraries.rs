//! Libraries outside of the environment: taken along, or named where that is of no use.
//!
//! The C library and the drivers of devices are the node's own, and nothing else fits it. What a
//! program opens by name while it runs (`dlopen`, ctypes) shows in no file, and is not found here.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::collector::Collector;
use crate::archive::entry::Kind;
use crate::archive::place::{COMMON, LIBRARIES};
use crate::elf::libraries as elf;
use crate::error::Error;
use crate::relocate::search_path::Linked;

const COMMON_NAMES: [&str; 2] = [UNWINDER, "libstdc++.so.6"];
const UNWINDER: &str = "libgcc_s.so.1";

/// The directories of a tree that the loader must be told of (`LD_LIBRARY_PATH`): whether it has
/// libraries, and the names of common ones.
pub fn library_path(root: &Path, has_libraries: bool, common: &[String]) -> Vec<PathBuf> {
    let mut path = Vec::new();
    if has_libraries {
        path.push(root.join(LIBRARIES));
    }
    if common.iter().any(|name| elf::find(name, &[]).is_none()) {
        path.push(root.join(COMMON));
    }
    path
}

impl Collector<'_> {
    /// What the programs and libraries need that is not in the environment.
    pub(super) fn add_libraries(&mut self, python: &str) -> Result<(), Error> {
        let own: BTreeMap<Vec<u8>, PathBuf> = self
            .found
            .values()
            .filter(|(entry, _)| !matches!(entry.kind, Kind::Directory))
            .filter_map(|(entry, _)| {
                let path = Path::new(OsStr::from_bytes(&entry.path));
                let name = path.file_name()?.as_bytes();
                let is_library = name.windows(3).any(|part| part == b".so");
                is_library.then(|| (name.to_vec(), path.to_path_buf()))
            })
            .collect();
        // Which glibc opens when a thread ends early, and nothing names: pthread_exit(3).
        if elf::find(UNWINDER, &[]).is_some() {
            let linked = Linked {
                needed: vec![UNWINDER.to_owned()],
                ..Linked::default()
            };
            self.linked.push((PathBuf::new(), linked));
        }
        let mut seen = HashSet::new();
        let mut taken: Vec<String> = Vec::new();
        let mut missing: BTreeMap<String, (PathBuf, usize)> = BTreeMap::new();
        while let Some((file, linked)) = self.linked.pop() {
            for library in &linked.needed {
                if elf::is_of_libc(library) {
                    continue;
                }
                if let Some(place) = own.get(library.as_bytes()) {
                    // Found by the loader's environment until now, as a module system sets it.
                    let is_python = file.file_name() == Path::new(python).file_name();
                    let is_found = linked.search.iter().any(|directory| {
                        self.old.inside(directory).is_some() && directory.join(library).exists()
                    });
                    if (is_python || linked.is_cut) && !is_found {
                        let link = Path::new("../..").join(place);
                        self.add_parents(&Path::new(LIBRARIES).join(library));
                        self.put(
                            &Path::new(LIBRARIES).join(library),
                            Kind::Symlink(link.as_os_str().as_bytes().to_vec()),
                            0o777,
                            None,
                        );
                    }
                    continue;
                }
                let found = elf::find(library, &linked.search);
                let Some(found) = found.filter(|_| !elf::is_of_node(library)) else {
                    let of = missing.entry(library.clone());
                    of.or_insert_with(|| (file.clone(), 0)).1 += 1;
                    continue;
                };
                if !seen.insert(library.clone()) {
                    continue;
                }
                let directory = if COMMON_NAMES.contains(&library.as_str()) {
                    COMMON
                } else {
                    LIBRARIES
                };
                let place = Path::new(directory).join(library);
                self.add_parents(&place);
                let metadata = fs::metadata(&found).map_err(Error::io("read", &found))?;
                // Its name need not look like a library's to be one.
                self.add(&found, &place, &metadata)?;
                taken.push(library.clone());
            }
        }
        taken.sort();
        if !taken.is_empty() {
            self.remarks.push(format!(
                "libraries of this machine are taken along: {}",
                taken.join(", ")
            ));
        }
        for (library, (file, count)) in missing {
            let others = match count {
                1 => String::new(),
                2 => " and another file".to_owned(),
                count => format!(" and {} other files", count - 1),
            };
            let why = if elf::is_of_node(&library) {
                "which a node must have itself"
            } else {
                "which is not found here"
            };
            self.remarks.push(format!(
                "`{}`{others} needs `{library}`, {why}",
                file.display()
            ));
        }
        Ok(())
    }
}
