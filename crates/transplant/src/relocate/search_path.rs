//! Run-time search paths of programs and libraries, made to fit any place.
//!
//! A program built with `--enable-shared` names the directory of its libpython. Where that is not
//! there the loader takes the system's of the same name, and another Python runs: so the path becomes
//! relative to the program itself. It is replaced in place, which needs no other change to the file
//! as long as it does not get longer.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::elf::linkage;
use crate::error::Error;

/// What a program or library says of the libraries that it uses.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// The bytes to replace in its search paths, and where.
    pub(crate) patches: Vec<(u64, Vec<u8>)>,
    /// The names of the libraries.
    pub(crate) needed: Vec<String>,
    /// Where it looks for them first, as it was.
    pub(crate) search: Vec<PathBuf>,
    /// Where the tags of search paths stand that what it loads does not inherit.
    pub(crate) runpaths: Vec<u64>,
    /// Whether it is started by itself.
    pub(crate) is_program: bool,
}

/// `path` is where the file will lie below the new root, and `inside` says where a directory will.
pub(crate) fn read(
    file: &Path,
    path: &Path,
    inside: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Result<Linked, Error> {
    // What cannot be parsed is somebody's data, and goes along as it is.
    let linkage = linkage::read(file).map_err(Error::io("read", file))?;
    let linkage = linkage.unwrap_or_default();
    let mut linked = Linked {
        needed: linkage.needed,
        runpaths: linkage.runpaths,
        is_program: linkage.loader.is_some(),
        ..Linked::default()
    };
    for (place, old) in linkage.search {
        let origin = file.parent().unwrap_or(file);
        linked.search.extend(old.split(':').map(|directory| {
            PathBuf::from(
                directory
                    .replace("${ORIGIN}", "$ORIGIN")
                    .replace("$ORIGIN", &origin.to_string_lossy()),
            )
        }));
        let new: Vec<String> = old
            .split(':')
            .map(|directory| {
                inside(Path::new(directory))
                    .map_or_else(|| directory.to_owned(), |below| relative(&below, path))
            })
            .collect();
        let new = new.join(":");
        if new == old {
            continue;
        }
        if new.len() > old.len() {
            return Err(Error::Unsupported {
                path: file.to_path_buf(),
                reason: format!(
                    "its library search path `{old}` cannot be made relative: there is no room for `{new}`"
                ),
            });
        }
        let mut replacement = new.into_bytes();
        replacement.resize(old.len(), 0);
        linked.patches.push((place, replacement));
    }
    Ok(linked)
}

fn relative(below: &Path, path: &Path) -> String {
    let up = "/..".repeat(path.components().count() - 1);
    let below = String::from_utf8_lossy(below.as_os_str().as_bytes()).into_owned();
    format!("$ORIGIN{up}/{below}")
        .trim_end_matches('/')
        .to_owned()
}
