//! Takes the sources of editable installs along, so that nothing points to where they were.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::collector::Collector;
use super::editable;
use crate::error::Error;
use crate::tree::{Content, Entry, Kind};

/// Where they lie below the root.
const EDITABLE: &str = "lib/htmap-exec-editable";

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
                Some(Content::OnDisk(file)) if is_pth(entry) => {
                    Some((PathBuf::from(OsStr::from_bytes(&entry.path)), file.clone()))
                }
                _ => None,
            })
            .collect();
        let mut bundled = 0;
        for (path, file) in files {
            let text = fs::read_to_string(&file).map_err(Error::io("read", &file))?;
            let site = path.parent().unwrap_or(&path).to_path_buf();
            let mut lines = Vec::new();
            let mut changed = false;
            for line in text.lines() {
                match editable::line(line) {
                    editable::Line::Directory(source)
                        if self.is_outside(&source) && source.is_dir() =>
                    {
                        let place = PathBuf::from(format!("{EDITABLE}/{bundled}"));
                        bundled += 1;
                        self.add_parents(&place.join("x"));
                        self.add_source(&source, &place)?;
                        let up = "../".repeat(site.components().count());
                        lines.push(format!("{up}{}", place.display()));
                        changed = true;
                    }
                    editable::Line::Finder(module) => {
                        self.bundle_mapped(&site, &file, &module)?;
                        changed = true;
                    }
                    _ => lines.push(line.to_owned()),
                }
            }
            if changed {
                let made = lines.join("\n").into_bytes();
                self.put(
                    &path,
                    Kind::File(made.len() as u64),
                    0o644,
                    Some(Content::Made(made)),
                );
            }
        }
        Ok(())
    }

    /// What setuptools' finder would find elsewhere, in the place of the finder.
    fn bundle_mapped(&mut self, site: &Path, pth: &Path, module: &str) -> Result<(), Error> {
        let finder = pth.with_file_name(format!("{module}.py"));
        let text = fs::read_to_string(&finder).map_err(Error::io("read", &finder))?;
        let mapping = editable::mapping(&text).ok_or_else(|| Error::Unsupported {
            path: finder.clone(),
            reason: "it is no finder of setuptools that this version knows".to_owned(),
        })?;
        for (name, source) in mapping {
            let place = site.join(name.replace('.', "/"));
            self.add_parents(&place);
            if source.is_dir() {
                self.put(&place, Kind::Directory, 0o755, None);
                self.add_source(&source, &place)?;
            } else {
                let file = source.with_extension("py");
                let metadata = fs::metadata(&file).map_err(Error::io("read", &file))?;
                self.add(&file, &place.with_extension("py"), &metadata)?;
            }
        }
        Ok(())
    }

    fn add_source(&mut self, source: &Path, place: &Path) -> Result<(), Error> {
        self.remarks.push(format!(
            "an editable install: `{}` is taken along",
            source.display()
        ));
        let (prefix, source) = (self.prefix.clone(), source.to_path_buf());
        self.put(place, Kind::Directory, 0o755, None);
        self.add_tree(&source, place, &|path| {
            let real = path.strip_prefix(place).map(|below| source.join(below));
            !editable::is_development(path) && real.is_ok_and(|real| real != prefix)
        })
    }
}
