//! Takes the sources of editable installs along, so that nothing points to where they were.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::collector::Collector;
use super::editable;
use crate::archive::entry::{Entry, Kind};
use crate::archive::place::EDITABLES;
use crate::error::Error;
use crate::relocate::content::Content;
use htmap_exec_interpreter::regular;

/// A finder has a line for each of its packages, a `.pth` file one for each install.
const LONGEST: u64 = 4 << 20;

impl Collector<'_> {
    /// Sources of editable installs come along, and the files that point to them point into the tree.
    pub(super) fn bundle_editables(&mut self) -> Result<(), Error> {
        let is_pth = |entry: &Entry| {
            let path = Path::new(OsStr::from_bytes(&entry.path));
            let directory = path.parent().and_then(Path::file_name);
            path.extension().is_some_and(|extension| extension == "pth")
                && directory.is_some_and(|name| name == "site-packages" || name == "dist-packages")
        };
        let files: Vec<(PathBuf, PathBuf)> = self
            .found
            .values()
            .filter_map(|(entry, content)| match content {
                Some(Content::OnDisk(file, _)) if is_pth(entry) => {
                    Some((PathBuf::from(OsStr::from_bytes(&entry.path)), file.clone()))
                }
                _ => None,
            })
            .collect();
        let mut bundled = 0;
        for (path, file) in &files {
            let Some(text) = text(file)? else {
                continue;
            };
            let site = path.parent().unwrap_or(path).to_path_buf();
            let up = "../".repeat(site.components().count());
            let mut lines = Vec::new();
            let mut changed = false;
            for line in text.lines() {
                match editable::line(line) {
                    editable::Line::Directory(named) => {
                        let source = file.parent().unwrap_or(file).join(&named);
                        self.ledger.look(&source);
                        let real = source.canonicalize().unwrap_or_else(|_| source.clone());
                        if let Some(below) = self.old.inside(&real) {
                            if named.is_absolute() {
                                lines.push(format!("{up}{}", below.display()));
                                changed = true;
                            } else {
                                lines.push(line.to_owned());
                            }
                        } else if is_everything(&real) {
                            self.leave_everything(file, &source);
                            changed = true;
                        } else if source.is_dir() {
                            let place = PathBuf::from(format!("{EDITABLES}/{bundled}"));
                            bundled += 1;
                            self.add_parents(&place.join("x"));
                            self.add_source(&source, &place)?;
                            lines.push(format!("{up}{}", place.display()));
                            changed = true;
                        } else if source.is_file() {
                            // An archive of modules: a zip, an egg.
                            let name = source.file_name().unwrap_or_default();
                            let place = PathBuf::from(format!("{EDITABLES}/{bundled}")).join(name);
                            bundled += 1;
                            self.add_parents(&place);
                            let metadata =
                                fs::metadata(&source).map_err(Error::io("read", &source))?;
                            self.add(&source, &place, &metadata)?;
                            self.trees.push((real, place.clone()));
                            lines.push(format!("{up}{}", place.display()));
                            changed = true;
                        } else {
                            lines.push(line.to_owned());
                        }
                    }
                    editable::Line::Import(module) => {
                        if self.bundle_finder(&site, file, &module)? {
                            changed = true;
                        } else {
                            lines.push(line.to_owned());
                        }
                    }
                    editable::Line::Other => lines.push(line.to_owned()),
                }
            }
            if changed {
                let made = lines.join("\n").into_bytes();
                self.put_made(path, made);
            }
        }
        // Of what came along by any of them.
        for (path, file) in &files {
            self.settle_namespace(path, file)?;
        }
        Ok(())
    }

    /// The namespace package of a development install: a line of Python that names its source.
    fn settle_namespace(&mut self, path: &Path, file: &Path) -> Result<(), Error> {
        let site = path.parent().unwrap_or(path);
        let is_one = path.as_os_str().as_bytes().ends_with(b"-nspkg.pth");
        let Some(text) = is_one.then(|| text(file)).transpose()?.flatten() else {
            return Ok(());
        };
        let mut missing = None;
        let made = editable::with_namespaces(&text, |named| {
            let place = (named.canonicalize().ok()).and_then(|real| self.place_of(&real));
            if place.is_none() {
                missing = Some(named.to_path_buf());
            }
            Some(format!(
                "{}{}",
                "../".repeat(site.components().count()),
                place?.display()
            ))
        });
        if let Some(missing) = missing {
            self.remarks.push(format!(
                "`{}` makes a namespace package of `{}`, which is not in the archive: Python will say so when it starts",
                file.display(),
                missing.display()
            ));
        }
        if made != text {
            self.put_made(path, made.into_bytes());
        }
        Ok(())
    }

    fn leave_everything(&mut self, pth: &Path, directory: &Path) {
        self.remarks.push(format!(
            "`{}` puts all of `{}` on Python's path: left out, take along what is imported from there by `--include`",
            pth.display(),
            directory.display()
        ));
    }

    /// Whether the module was a finder, whose packages lie in its place now.
    fn bundle_finder(&mut self, site: &Path, pth: &Path, module: &str) -> Result<bool, Error> {
        let file = pth.with_file_name(format!("{module}.py"));
        let text = text(&file).ok().flatten().unwrap_or_default();
        let mapping = match editable::finder(module, &text) {
            editable::Finder::Mapping(mapping) => mapping,
            editable::Finder::Builder(tool) => {
                self.remarks.push(format!(
                    "`{}` is an editable install by {tool}, whose finder cannot be moved: its package will not be found; install it without `-e`",
                    pth.display()
                ));
                return Ok(false);
            }
            editable::Finder::None => return Ok(false),
        };
        for (name, source) in mapping {
            let place = site.join(name.replace('.', "/"));
            self.add_parents(&place);
            self.ledger.look(&source);
            if source.canonicalize().is_ok_and(|real| is_everything(&real)) {
                self.leave_everything(pth, &source);
                continue;
            }
            if source.is_dir() {
                self.add_source(&source, &place)?;
                continue;
            }
            // A module that is one file, in Python or compiled.
            self.ledger.list(source.parent().unwrap_or(&source));
            let compiled = fs::read_dir(source.parent().unwrap_or(&source))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    path.extension().is_some_and(|end| end == "so")
                        && path
                            .file_name()
                            .map(|name| name.as_bytes().split(|&b| b == b'.').next())
                            == source.file_name().map(|name| Some(name.as_bytes()))
                });
            let mut files: Vec<PathBuf> = compiled.collect();
            files.sort();
            let python = PathBuf::from(format!("{}.py", source.display()));
            if python.is_file() {
                files.push(python);
            }
            if files.is_empty() {
                self.remarks.push(format!(
                    "`{}` is an editable install of `{}`, where nothing is: left out",
                    pth.display(),
                    source.display()
                ));
            }
            for file in files {
                let metadata = fs::metadata(&file).map_err(Error::io("read", &file))?;
                let name = file.file_name().unwrap_or_default();
                self.add(&file, &place.with_file_name(name), &metadata)?;
            }
        }
        Ok(true)
    }

    fn add_source(&mut self, source: &Path, place: &Path) -> Result<(), Error> {
        self.noted.editables.push(format!(
            "an editable install: `{}` is taken along",
            source.display()
        ));
        let own = [self.old.prefix.clone(), self.old.base.clone()];
        let source = source.canonicalize().map_err(Error::io("find", source))?;
        self.put(place, Kind::Directory, 0o755, None);
        self.add_tree(&source, place, &|path| {
            path.strip_prefix(place).is_ok_and(|below| {
                !editable::is_development(path)
                    && !editable::is_of_npm(&source, below)
                    && !own.contains(&source.join(below))
            })
        })
    }
}

/// What Python would execute, or take for directories. Nothing where it is in another encoding, or far too
/// long, so that no install wrote it.
fn text(file: &Path) -> Result<Option<String>, Error> {
    match regular::read_text(file, LONGEST) {
        Ok(text) => Ok(Some(text)),
        Err(error) if [ErrorKind::InvalidData, ErrorKind::FileTooLarge].contains(&error.kind()) => {
            Ok(None)
        }
        Err(error) => Err(Error::io("read", file)(error)),
    }
}

/// A directory that holds far more than packages, and not by intention.
fn is_everything(real: &Path) -> bool {
    // By the variable alone: the standard library would ask name services as well, which a static binary cannot.
    let home = std::env::var_os("HOME").and_then(|home| Path::new(&home).canonicalize().ok());
    real == Path::new("/") || Some(real) == home.as_deref()
}
