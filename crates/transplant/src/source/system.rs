//! The operating system's Python: its files lie among everybody's, and it uses everybody's libraries.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::collector::Collector;
use crate::elf;
use crate::error::Error;
use crate::tree::Content;

/// Where libraries of the operating system lie below the root; the loader is told by LD_LIBRARY_PATH.
pub const LIBRARIES: &str = "lib/htmap-exec";

/// Of the operating system: its files lie among everybody's.
pub(super) fn is_system(base: &Path) -> bool {
    matches!(base.as_os_str().as_bytes(), b"/usr" | b"/usr/local" | b"/")
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

impl Collector<'_> {
    /// Of a Python whose files lie among everybody's, those that are its.
    pub(super) fn add_system(
        &mut self,
        base: &Path,
        name: &str,
        with_packages: bool,
    ) -> Result<(), Error> {
        self.add_parents(Path::new("bin/x"));
        let program = base.join("bin").join(name);
        let metadata = fs::metadata(&program).map_err(Error::io("read", &program))?;
        self.add(&program, &Path::new("bin").join(name), &metadata)?;
        let mut places: Vec<PathBuf> =
            vec![Path::new("lib").join(name), Path::new("lib64").join(name)];
        if with_packages {
            places.extend(
                ["lib/python3/dist-packages", "lib/python3/site-packages"].map(PathBuf::from),
            );
            places.push(Path::new("local/lib").join(name).join("dist-packages"));
        }
        for place in places {
            let from = base.join(&place);
            // /usr/lib64 is /usr/lib on some systems.
            if from.is_dir() && !(place.starts_with("lib64") && is_link(&base.join("lib64"))) {
                self.add_parents(&place.join("x"));
                self.add_tree(&from, &place, &|path| {
                    with_packages
                        || !path.components().any(|part| {
                            part.as_os_str() == "dist-packages"
                                || part.as_os_str() == "site-packages"
                        })
                })?;
            }
        }
        Ok(())
    }

    /// Libraries of the operating system that the Python of the operating system needs, but for the C
    /// library: a node has its own, and no two fit together.
    pub(super) fn add_libraries(&mut self) -> Result<(), Error> {
        if !is_system(&self.base) {
            return Ok(());
        }
        let mut waiting: Vec<PathBuf> = self
            .found
            .values()
            .filter_map(|(entry, content)| match content {
                Some(Content::OnDisk(path) | Content::Patched(path, _))
                    if entry.path.starts_with(b"bin/python")
                        || path.to_string_lossy().contains("lib-dynload") =>
                {
                    Some(path.clone())
                }
                _ => None,
            })
            .collect();
        while let Some(file) = waiting.pop() {
            for library in elf::needed(&file)? {
                let place = Path::new(LIBRARIES).join(&library);
                if elf::is_of_libc(&library) || self.has(&place) {
                    continue;
                }
                let Some(found) = elf::find(&library) else {
                    self.remarks.push(format!(
                        "`{}` needs `{library}`, which is not found here",
                        file.display()
                    ));
                    continue;
                };
                self.add_parents(&place);
                let metadata = fs::metadata(&found).map_err(Error::io("read", &found))?;
                self.add(&found, &place, &metadata)?;
                waiting.push(found);
            }
        }
        Ok(())
    }
}
