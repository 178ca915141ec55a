//! The operating system's Python, whose files lie among everybody's.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::collector::Collector;
use crate::error::Error;

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
        wanted: &dyn Fn(&Path) -> bool,
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
            if from.is_dir()
                && wanted(&place)
                && !(place.starts_with("lib64") && is_link(&base.join("lib64")))
            {
                self.add_parents(&place.join("x"));
                self.add_tree(&from, &place, &|path| {
                    wanted(path) && with_packages
                        || !path.components().any(|part| {
                            part.as_os_str() == "dist-packages"
                                || part.as_os_str() == "site-packages"
                        })
                })?;
            }
        }
        Ok(())
    }
}
