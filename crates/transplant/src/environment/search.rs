//! What Python looks through for packages: in the archive as here, and in the same order.
//!
//! A virtual environment that reads its base's packages has its own before them, each in a directory of
//! its own: of a package that both have, no file of the base's may be found. A `.pth` file, the last of
//! its directory, puts the base's behind and has their `.pth` files read
//! (<https://docs.python.org/3/library/site.html>).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use htmap_exec_interpreter::{Distribution, Distributions, Interpreter, PythonVersion};

use super::Source;
use super::collector::{Collector, Key};
use super::editable;
use crate::archive::entry::compare;
use crate::archive::place::BASE;
use crate::error::Error;
use crate::relocate::content::Content;

/// Behind every other name of its directory.
const LAST: &str = "~htmap-exec-base.pth";
/// How many packages a remark names.
const MOST: usize = 8;

impl Collector<'_> {
    /// Which directories of the base's packages go behind the environment's own, and where to.
    pub(super) fn set_behind(&mut self, directories: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
        let base = &self.old.base;
        let is_real = |directory: &&PathBuf| {
            // Such as lib64, which is lib on many systems.
            let real = base.join(directory).canonicalize();
            real.is_ok_and(|real| real.is_dir() && real == base.join(directory))
        };
        let behind: Vec<(PathBuf, PathBuf)> = directories
            .iter()
            .filter(is_real)
            .map(|from| {
                let lib = if from.starts_with("lib64") {
                    "lib64"
                } else {
                    "lib"
                };
                let name = from.file_name().unwrap_or_default();
                (from.clone(), Path::new(lib).join(BASE).join(name))
            })
            .collect();
        let moved = behind
            .iter()
            .map(|(from, to)| (base.join(from), to.clone()));
        self.old.moved = moved.collect();
        behind
    }

    /// Takes them along, and has them looked through after `site`.
    pub(super) fn add_behind(
        &mut self,
        behind: &[(PathBuf, PathBuf)],
        site: &Path,
    ) -> Result<(), Error> {
        let base = self.old.base.clone();
        let mut lines = String::new();
        for (from, to) in behind {
            self.add_parents(&to.join("x"));
            self.add_tree(&base.join(from), to, &|_| true)?;
            let to = to.display();
            lines.push_str(&format!(
                "import os, site, sys; site.addsitedir(os.path.join(sys.base_prefix, '{to}'))\n"
            ));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let mut name = LAST.to_owned();
        while self
            .pths(site)
            .last()
            .is_some_and(|last| **last >= *site.join(&name))
        {
            name.insert(0, '~');
        }
        self.add_parents(&site.join("x"));
        self.put_made(&site.join(name), lines.into_bytes());
        Ok(())
    }

    /// In the order that Python reads them in.
    fn pths(&self, site: &Path) -> Vec<PathBuf> {
        let below = self.found.range(Key::of(site).below());
        let found = below.map(|(_, (entry, _))| entry);
        let mut found: Vec<PathBuf> = found
            .map(|entry| PathBuf::from(OsStr::from_bytes(&entry.path)))
            .filter(|path| path.parent() == Some(site))
            .filter(|path| path.extension().is_some_and(|end| end == "pth"))
            .collect();
        found.sort();
        found
    }

    /// The directories and archives that the archive's Python looks through because of `site`.
    fn looked_through(&self, site: &Path) -> Vec<PathBuf> {
        let mut all = vec![site.to_path_buf()];
        for pth in self.pths(site) {
            let bytes = match self.content_at(&pth) {
                Some(Content::Made(bytes)) => bytes.clone(),
                Some(Content::OnDisk(file, _) | Content::Patched(file, ..)) => {
                    fs::read(file).unwrap_or_default()
                }
                None => continue,
            };
            let is_ours = pth.to_string_lossy().ends_with(LAST);
            for line in String::from_utf8_lossy(&bytes).lines() {
                let ours = line.split('\'').nth(1).filter(|_| is_ours);
                if let Some(behind) = ours {
                    all.extend(self.looked_through(Path::new(behind)));
                } else if let editable::Line::Directory(named) = editable::line(line) {
                    all.extend(normal(&site.join(named)).filter(|place| self.has(place)));
                }
            }
        }
        all
    }

    /// Compares what Python looks through here with what it will look through in the archive, and
    /// names what differs. What came along, as it is called here, and where it lies in the tree.
    pub(super) fn compare(
        &mut self,
        interpreter: &Interpreter,
        site: &Path,
        debian: bool,
    ) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
        let mut theirs = self.looked_through(site);
        if debian {
            theirs.extend(self.looked_through(Path::new("lib/python3/dist-packages")));
        }
        let (mut packed, mut outside) = (Vec::new(), Vec::new());
        for directory in &interpreter.sys_path {
            let Ok(real) = directory.canonicalize() else {
                // Such as the standard library's zip.
                self.ledger.look(directory);
                continue;
            };
            match self.place_of(&real) {
                Some(place) => packed.push((directory.clone(), place)),
                // Else it was excluded.
                None if self.old.inside(&real).is_none() => outside.push(directory.clone()),
                None => {}
            }
        }
        let order = |all: &[PathBuf], other: &[PathBuf]| {
            let mut common: Vec<PathBuf> = Vec::new();
            for each in all {
                if other.contains(each) && !common.contains(each) {
                    common.push(each.clone());
                }
            }
            common
        };
        let (here, places): (Vec<_>, Vec<_>) = packed.iter().cloned().unzip();
        let (ours, theirs) = (order(&places, &theirs), order(&theirs, &places));
        self.name_exchanged(&here, &packed, &theirs);
        if let Some((here, there)) = ours.iter().zip(&theirs).find(|(here, there)| here != there) {
            self.remarks.push(format!(
                "Python looks through `{}` before `{}` here, and the other way round in the archive",
                here.display(),
                there.display()
            ));
        }
        for directory in &outside {
            if is_of_standard_library(directory) {
                return Err(Error::Unsupported {
                    path: self.old.prefix.clone(),
                    reason: format!(
                        "parts of its standard library are in `{}`, outside of it and of the Python \
                         that it says it was made from, as virtualenv before version 20 has it; make a \
                         new environment by `python -m venv`",
                        directory.display()
                    ),
                });
            }
            self.name_outside(interpreter, directory, &here);
        }
        Ok(packed)
    }

    /// Distributions that would be taken from another directory in the archive, since several have them.
    fn name_exchanged(
        &mut self,
        here: &[PathBuf],
        packed: &[(PathBuf, PathBuf)],
        theirs: &[PathBuf],
    ) {
        let from = |place: &PathBuf| packed.iter().find(|(_, packed)| packed == place);
        let there: Vec<PathBuf> = (theirs.iter().filter_map(from))
            .map(|(here, _)| here.clone())
            .collect();
        let mut distributions = Distributions::new();
        let there = by_name(&mut distributions, &there);
        let exchanged = distributions
            .installed(here)
            .into_iter()
            .filter_map(|each| {
                let other = there.get(&each.canonical_name())?;
                (other.directory != each.directory).then(|| {
                    let (directory, other_directory) = (&each.directory, &other.directory);
                    format!(
                        "Python takes {} {} from `{}` here, and {} from `{}` in the archive",
                        each.name,
                        each.version,
                        directory.display(),
                        other.version,
                        other_directory.display()
                    )
                })
            });
        self.remarks.extend(exchanged.take(MOST));
    }

    /// What is on the path and not in the archive: of the user's own site, of PYTHONPATH.
    fn name_outside(&mut self, interpreter: &Interpreter, directory: &Path, packed: &[PathBuf]) {
        self.ledger.list(directory);
        let mut distributions = Distributions::new();
        let first = by_name(&mut distributions, &interpreter.sys_path);
        let inside = by_name(&mut distributions, packed);
        let mut names = Vec::new();
        for each in distributions.installed(&[directory.to_path_buf()]) {
            let name = each.canonical_name();
            let named = format!("{} {}", each.name, each.version);
            names.push(match inside.get(&name) {
                Some(other)
                    if first
                        .get(&name)
                        .is_some_and(|first| first.directory == directory) =>
                {
                    format!("{named} (the archive has {})", other.version)
                }
                _ => named,
            });
        }
        let count = names.len();
        if count > MOST {
            names.truncate(MOST);
            names.push(format!("and {} more", count - MOST));
        }
        let has_modules = || {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            directory.is_file()
                || entries
                    .map(|entry| entry.path())
                    .any(|path| is_module(&path))
        };
        if count == 0 && !has_modules() {
            return;
        }
        let names = if count == 0 {
            "modules".to_owned()
        } else {
            names.join(", ")
        };
        self.remarks.push(format!(
            "Python finds {names} in `{}`, which is no part of the environment: not packed; install into the environment, or name it by --include",
            directory.display()
        ));
    }
}

impl Source {
    /// The packages in it, as `pip freeze` lists them.
    pub(crate) fn packages(&self, version: PythonVersion) -> Vec<String> {
        let here: Vec<PathBuf> = self.sys_path.iter().map(|(here, _)| here.clone()).collect();
        Distributions::new().freeze_of(&here, version, &|path| {
            let mut directories = self.sys_path.iter();
            directories.any(|(here, place)| {
                let below = path.strip_prefix(here);
                below.is_ok_and(|below| {
                    self.has(
                        &place
                            .components()
                            .chain(below.components())
                            .collect::<PathBuf>(),
                    )
                })
            })
        })
    }

    fn has(&self, path: &Path) -> bool {
        let wanted = path.as_os_str().as_bytes();
        let found = self
            .entries
            .binary_search_by(|entry| compare(&entry.path, wanted));
        found.is_ok()
    }
}

/// What a Python that looks through these directories has installed.
fn by_name(
    distributions: &mut Distributions,
    directories: &[PathBuf],
) -> HashMap<String, Distribution> {
    let installed = distributions.installed(directories).into_iter();
    installed
        .map(|each| (each.canonical_name(), each))
        .collect()
}

/// Its modules, or those of them that are libraries.
fn is_of_standard_library(directory: &Path) -> bool {
    directory.join("os.py").is_file() || directory.ends_with("lib-dynload")
}

fn is_module(path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| end == "py" || end == "so")
        || path.join("__init__.py").is_file()
}

/// Without `..`, or nothing where it leads out of the tree.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir if normal.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(normal)
}
