//! What is taken along because somebody said so.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::collector::Collector;
use super::libraries::place_of;
use crate::archive::entry::Kind;
use crate::archive::place::INCLUDED;
use crate::elf::linkage;
use crate::error::Error;

/// A file or directory, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// Where it lies, without links.
    pub(crate) path: PathBuf,
    /// Below the root.
    place: Option<PathBuf>,
}

impl Included {
    /// `PATH` or `PATH=PLACE`; a path that holds `=` needs a place.
    pub fn new(text: &OsStr) -> Result<Self, Error> {
        let bytes = text.as_bytes();
        let (path, place) = match bytes.iter().rposition(|&byte| byte == b'=') {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        let path = Path::new(OsStr::from_bytes(path));
        let place = place.map(|place| PathBuf::from(OsStr::from_bytes(place)));
        let is_below = |place: &Path| {
            let mut parts = place.components();
            !place.as_os_str().is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(place) = place.as_deref().filter(|place| !is_below(place)) {
            return Err(Error::Unsupported {
                path: path.to_path_buf(),
                reason: format!(
                    "`{}` is no place in the environment: it takes a relative path without `..`",
                    place.display()
                ),
            });
        }
        Ok(Self {
            path: path.canonicalize().map_err(Error::io("find", path))?,
            place,
        })
    }

    fn place(&self, packages: &Path) -> PathBuf {
        let name = Path::new(self.path.file_name().unwrap_or_default());
        match &self.place {
            Some(place) => place.clone(),
            None if is_python(&self.path) => packages.join(name),
            None => match library(&self.path) {
                Some(library) => place_of(&library),
                None => Path::new(INCLUDED).join(name),
            },
        }
    }
}

/// A module, or a directory of modules.
fn is_python(path: &Path) -> bool {
    let is_module = |path: &Path| path.extension().is_some_and(|end| end == "py");
    is_module(path)
        || fs::read_dir(path).is_ok_and(|entries| {
            let mut entries = entries.flatten();
            entries.any(|entry| is_module(&entry.path()))
        })
}

/// What others ask for, if it is a library; a module of Python's is none, and has no such name.
fn library(path: &Path) -> Option<String> {
    let linkage = linkage::read(path).ok().flatten()?;
    let name = linkage.soname.filter(|_| linkage.loader.is_none());
    name.filter(|name| !name.contains('/') && name.contains(".so"))
}

impl Collector<'_> {
    pub(super) fn include(&mut self, included: &[Included], packages: &Path) -> Result<(), Error> {
        for each in included {
            let place = each.place(packages);
            let refuse = |reason: String| {
                Err(Error::Unsupported {
                    path: each.path.clone(),
                    reason,
                })
            };
            if self.has(&place) {
                return refuse(format!(
                    "the environment has `{}` already: name another place by PATH=PLACE",
                    place.display()
                ));
            }
            for above in place.ancestors().skip(1) {
                if self.has_file(above) {
                    return refuse(format!(
                        "`{}` is no directory of the environment",
                        above.display()
                    ));
                }
                if !above.as_os_str().is_empty() && !self.has(above) {
                    self.put(above, Kind::Directory, 0o755, None);
                }
            }
            let metadata = fs::metadata(&each.path).map_err(Error::io("read", &each.path))?;
            self.add(&each.path, &place, &metadata)?;
            if metadata.is_dir() {
                self.add_tree(&each.path, &place, &|_| true)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_below_the_root() {
        let new = |text: &str| Included::new(OsStr::new(text));
        assert_eq!(new("/etc=data").unwrap().place.unwrap(), Path::new("data"));
        assert_eq!(new("/etc").unwrap().place, None);
        for text in ["/etc=", "/etc=/data", "/etc=..", "/etc=a/../b", "/etc=."] {
            assert!(new(text).is_err(), "{text}");
        }
        assert!(new("/no/such").is_err());
    }
}
