//! Run-time search paths of programs and libraries, made to fit any place.
//!
//! A program built with `--enable-shared` names the directory of its libpython. Where that is not
//! there the loader takes the system's of the same name, and another Python runs: so the path becomes
//! relative to the program itself. It is replaced in place, which needs no other change to the file
//! as long as it does not get longer. Where it would, directories go that hold nothing of what the
//! file needs, then those outside of the environment, whose libraries are taken along, and then any:
//! whoever collects the libraries hears of that, and puts them where the loader looks as well.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::edits::Edit;
use crate::elf::linkage;
use crate::error::Error;

/// What a program or library says of the libraries that it uses.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// Of its search paths.
    pub(crate) edits: Vec<Edit>,
    /// The names of the libraries.
    pub(crate) needed: Vec<String>,
    /// Where it looks for them first, as it was.
    pub(crate) search: Vec<PathBuf>,
    /// Where the tags of search paths stand that what it loads does not inherit.
    pub(crate) runpaths: Vec<u64>,
    /// Whether it is started by itself.
    pub(crate) is_program: bool,
    /// Whether there was no room for one of the environment's directories.
    pub(crate) is_cut: bool,
}

/// One directory of a search path.
struct Directory {
    /// As it will be called.
    new: String,
    /// Where it is now.
    place: PathBuf,
    /// Whether it lies elsewhere, so that what is needed of it is taken along.
    is_outside: bool,
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
    for (at, old) in linkage.search {
        let origin = file.parent().unwrap_or(file);
        let directories: Vec<Directory> = old
            .split(':')
            .map(|named| {
                let below = inside(Path::new(named));
                Directory {
                    is_outside: below.is_none() && named.starts_with('/'),
                    new: below.map_or_else(|| named.to_owned(), |below| relative(&below, path)),
                    place: PathBuf::from(
                        named
                            .replace("${ORIGIN}", "$ORIGIN")
                            .replace("$ORIGIN", &origin.to_string_lossy()),
                    ),
                }
            })
            .collect();
        let holds = |directory: &Directory| {
            let mut needed = linked.needed.iter();
            needed.any(|library| directory.place.join(library).exists())
        };
        let outside = directories.iter().filter(|directory| directory.is_outside);
        linked
            .search
            .extend(outside.map(|directory| directory.place.clone()));
        let (kept, is_cut) = fitting(directories, old.len(), &holds);
        linked.is_cut |= is_cut;
        let new: Vec<&str> = kept
            .iter()
            .map(|directory| directory.new.as_str())
            .collect();
        let mut new = new.join(":");
        let places = kept.into_iter().map(|directory| directory.place);
        linked.search.extend(places);
        if new.is_empty() && !old.is_empty() {
            // Nothing at all would be the working directory to some loaders, and the old path a trap.
            let nothing = if old.len() < ORIGIN.len() {
                "/"
            } else {
                ORIGIN
            };
            nothing.clone_into(&mut new);
        }
        // Some linkers have RPATH and RUNPATH name the same bytes.
        let end = at + old.len() as u64;
        let is_edited = linked.edits.iter().any(|edit| match edit {
            Edit::SearchPath {
                at: other, room, ..
            } => at < other + *room as u64 && *other < end,
            _ => false,
        });
        if new != old && !is_edited {
            linked.edits.push(Edit::SearchPath {
                at,
                room: old.len(),
                directories: new,
            });
        }
    }
    Ok(linked)
}

const ORIGIN: &str = "$ORIGIN";

/// Those for which there is room, and whether one of the environment's is not among them that holds
/// something of what the file needs.
fn fitting(
    mut directories: Vec<Directory>,
    room: usize,
    holds: &dyn Fn(&Directory) -> bool,
) -> (Vec<Directory>, bool) {
    let fits = |directories: &[Directory]| {
        let names = directories.iter().map(|directory| directory.new.len() + 1);
        names.sum::<usize>() <= room + 1
    };
    if fits(&directories) {
        return (directories, false);
    }
    let mut seen = std::collections::HashSet::new();
    directories.retain(|directory| seen.insert(directory.new.clone()));
    // The last one that is of no use goes first.
    while !fits(&directories) {
        let Some(at) = directories.iter().rposition(|directory| !holds(directory)) else {
            break;
        };
        directories.remove(at);
    }
    let mut is_cut = false;
    while !fits(&directories) {
        let outside = |directory: &Directory| directory.is_outside;
        let at = directories.iter().rposition(outside);
        is_cut |= at.is_none();
        directories.remove(at.unwrap_or(directories.len() - 1));
    }
    (directories, is_cut)
}

/// The way from the directory of a file to another one, with no more steps than it takes.
fn relative(below: &Path, path: &Path) -> String {
    let names = |path: &Path| -> Vec<Vec<u8>> {
        let names = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            _ => None,
        });
        names.collect()
    };
    let (from, to) = (names(path.parent().unwrap_or(path)), names(below));
    let has_dots = below.components().any(|part| part == Component::ParentDir);
    let shared = if has_dots {
        0
    } else {
        from.iter()
            .zip(&to)
            .take_while(|(from, to)| from == to)
            .count()
    };
    let mut way = ORIGIN.to_owned();
    way.push_str(&"/..".repeat(from.len() - shared));
    if has_dots {
        way.push('/');
        way.push_str(&below.to_string_lossy());
    } else {
        for name in &to[shared..] {
            way.push('/');
            way.push_str(&String::from_utf8_lossy(name));
        }
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_directory() {
        for (below, path, way) in [
            ("lib", "bin/python", "$ORIGIN/../lib"),
            ("lib", "lib/libx.so", "$ORIGIN"),
            ("lib", "lib/python3.11/lib-dynload/x.so", "$ORIGIN/../.."),
            ("lib/x", "lib/libx.so", "$ORIGIN/x"),
            ("", "bin/python", "$ORIGIN/.."),
            ("lib/../lib64", "bin/python", "$ORIGIN/../lib/../lib64"),
        ] {
            assert_eq!(relative(Path::new(below), Path::new(path)), way);
        }
    }

    fn directory(new: &str) -> Directory {
        Directory {
            new: new.to_owned(),
            place: PathBuf::from(format!("/old/{new}")),
            is_outside: new.starts_with('/'),
        }
    }

    #[test]
    fn what_does_not_fit_goes_as_it_is_of_less_use() {
        let fit = |names: &[&str], room: usize, useful: &[&str]| {
            let holds = |directory: &Directory| useful.contains(&directory.new.as_str());
            let directories = names.iter().map(|name| directory(name)).collect();
            let (kept, is_cut) = fitting(directories, room, &holds);
            let kept: Vec<String> = kept.into_iter().map(|directory| directory.new).collect();
            (kept.join(":"), is_cut)
        };
        let all = ["aaa", "/bb", "aaa", "ccc"];
        assert_eq!(fit(&all, 15, &[]), ("aaa:/bb:aaa:ccc".to_owned(), false));
        assert_eq!(fit(&all, 11, &[]), ("aaa:/bb:ccc".to_owned(), false));
        assert_eq!(fit(&all, 7, &["aaa", "ccc"]), ("aaa:ccc".to_owned(), false));
        assert_eq!(fit(&all, 3, &["aaa", "/bb"]), ("aaa".to_owned(), false));
        assert_eq!(fit(&all, 2, &["aaa"]), (String::new(), true));
    }
}
