//! Libraries outside of the environment: taken along, or named where that is of no use.
//!
//! They lie in one directory, to which the search path of the Python leads, so that no variable has to
//! say so to every program that it starts. The C library and the drivers of devices are the node's own,
//! and nothing else fits it. What a program opens by name while it runs (`dlopen`, ctypes) shows in no
//! file, and is not found here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::collector::Collector;
use super::linked::{Files, Whereabouts};
use crate::archive::entry::Kind;
use crate::archive::manifest::Need;
use crate::archive::place::{COMMON, LIBRARIES};
use crate::elf::{libraries as elf, linkage, room};
use crate::error::Error;
use crate::relocate::content::Content;

/// Those that a node's own libraries need as well, and perhaps newer ones.
const COMMON_NAMES: [&str; 2] = ["libgcc_s.so.1", "libstdc++.so.6"];
/// Read by Python before any other `.pth` file; it does nothing but for a variable that a node sets.
const HOOK: (&str, &str) = (
    "00-htmap-exec-libraries.pth",
    "import os; \"HTMAP_EXEC_PRELOAD\" in os.environ and __import__(\"_htmap_exec_libraries\")\n",
);
const MODULE: (&str, &str) = ("_htmap_exec_libraries.py", include_str!("preload.py"));

/// A library of this machine that comes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As others ask for it.
    pub library: String,
    /// Where it lies here.
    pub from: PathBuf,
    /// Below the root.
    pub place: String,
    /// Whether the interpreter cannot even start without it.
    pub starts: bool,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Libraries {
    pub(super) taken: Vec<Taken>,
    pub(super) lacking: Vec<Need>,
    pub(super) has_search_path: bool,
}

/// Where a library of that name lies that came along.
pub(super) fn place_of(library: &str) -> PathBuf {
    let directory = if COMMON_NAMES.contains(&library) {
        COMMON
    } else {
        LIBRARIES
    };
    Path::new(directory).join(library)
}

/// Of one that some files ask for, and that does not come along.
struct Missing {
    /// On this machine, and below the root.
    file: (PathBuf, PathBuf),
    count: usize,
    /// Nothing for what was left out on purpose.
    why: Option<String>,
}

impl Collector<'_> {
    /// What the programs and libraries need that is not in the environment. `site` is where packages
    /// lie.
    pub(super) fn add_libraries(&mut self, python: &str, site: &Path) -> Result<Libraries, Error> {
        self.leave_out_drivers();
        let mut files = Files::new(self, python);
        let mut missing: BTreeMap<String, Missing> = BTreeMap::new();
        let mut taken: Vec<Taken> = Vec::new();
        while let Some((file, library)) = files.next() {
            let why = match files.find(self, file, &library) {
                Whereabouts::InTree | Whereabouts::OfLibc => continue,
                Whereabouts::Elsewhere(place) => {
                    let link = Path::new("../..").join(place);
                    let target = link.into_os_string().into_encoded_bytes();
                    let at = Path::new(LIBRARIES).join(&library);
                    self.add_parents(&at);
                    self.put(&at, Kind::Symlink(target), 0o777, None);
                    continue;
                }
                Whereabouts::OnMachine(_) if self.is_left_out(&library) => None,
                Whereabouts::OnMachine(from) => {
                    let place = place_of(&library);
                    self.add_parents(&place);
                    let metadata = fs::metadata(&from).map_err(Error::io("read", &from))?;
                    // Its name need not look like a library's to be one.
                    self.add(&from, &place, &metadata)?;
                    files.extend(self, file, &place);
                    tracing::debug!("`{library}` comes along from `{}`", from.display());
                    taken.push(Taken {
                        library,
                        from,
                        place: place.to_string_lossy().into_owned(),
                        starts: false,
                    });
                    continue;
                }
                Whereabouts::LeftOut => None,
                Whereabouts::OfNode => Some("which a node must have itself".to_owned()),
                Whereabouts::Ambiguous(places) => {
                    let names: Vec<String> = places
                        .iter()
                        .map(|place| format!("`{}`", place.display()))
                        .collect();
                    Some(format!(
                        "which it does not find, and which is packed as {}",
                        names.join(" and ")
                    ))
                }
                Whereabouts::Nowhere => Some("which is not found here".to_owned()),
            };
            let new = || Missing {
                file: files.paths(file),
                count: 0,
                why,
            };
            missing.entry(library).or_insert_with(new).count += 1;
        }
        for path in files.looked_at() {
            // What lies in the environment is listed.
            if self.old.inside(path).is_none() {
                self.ledger.look(path);
            }
        }
        let has_search_path = self.lead_to_libraries(&files)?;
        let starting = files.starting();
        for each in &mut taken {
            each.starts = starting.contains(Path::new(&each.place));
        }
        taken.sort_by(|one, other| one.library.cmp(&other.library));
        if !taken.is_empty() {
            self.add_parents(&site.join("x"));
            for (name, text) in [HOOK, MODULE] {
                self.put_made(&site.join(name), text.as_bytes().to_vec());
            }
        }
        let mut lacking = Vec::new();
        for (library, missing) in missing {
            let (file, path) = missing.file;
            let others = match missing.count {
                1 => String::new(),
                2 => " and another file".to_owned(),
                count => format!(" and {} other files", count - 1),
            };
            if let Some(why) = missing.why {
                let file = file.display();
                let remark = format!("`{file}`{others} needs `{library}`, {why}");
                self.remarks.push(remark);
            }
            if path.as_os_str().is_empty() {
                continue;
            }
            lacking.push(Need {
                needs: library,
                file: path.to_string_lossy().into_owned(),
            });
        }
        Ok(Libraries {
            taken,
            lacking,
            has_search_path,
        })
    }

    /// By its place, the directory of that, or its own name.
    fn is_left_out(&self, library: &str) -> bool {
        self.excludes(&place_of(library)) || self.excludes(Path::new(library))
    }

    /// Parts of a driver that lie in the environment, as conda's `cuda-compat` and linkers' stubs do.
    fn leave_out_drivers(&mut self) {
        let mut left_out = Vec::new();
        self.found.retain(|_, (entry, content)| {
            let path = Path::new(OsStr::from_bytes(&entry.path));
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let stays = matches!(entry.kind, Kind::Directory) || !elf::is_of_driver(&name);
            if !stays {
                let file = match content {
                    Some(Content::OnDisk(file, _) | Content::Patched(file, ..)) => file.clone(),
                    _ => PathBuf::new(),
                };
                left_out.push((path.to_path_buf(), file));
            }
            stays
        });
        self.linked
            .retain(|(file, _)| !left_out.iter().any(|(_, gone)| gone == file));
        let others = match left_out.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        if let Some((path, _)) = left_out.first() {
            self.remarks.push(format!(
                "`{}`{others}: a part of NVIDIA's driver, which has to be the node's own: left out",
                path.display()
            ));
        }
    }

    /// Makes the search paths of programs lead to what came along, and lets libraries that have one of
    /// their own inherit that. Whether it is so for the interpreter.
    fn lead_to_libraries(&mut self, files: &Files) -> Result<bool, Error> {
        let mut has_search_path = false;
        for program in files.programs(self) {
            let path = &program.path;
            let up = "/..".repeat(path.components().count().saturating_sub(1));
            let ours = program
                .needs_ours
                .then(|| format!("$ORIGIN{up}/{LIBRARIES}"));
            let Some(Content::OnDisk(file, _) | Content::Patched(file, ..)) = self.content_at(path)
            else {
                continue;
            };
            let file = file.clone();
            let read = linkage::read(&file).map_err(Error::io("read", &file))?;
            let Some(read) = read else { continue };
            let patches = match ours {
                Some(ours) => {
                    let old = read.search.iter();
                    let old = old.map(|(at, text)| self.replaced(path, *at, text));
                    let old: Vec<String> = old.collect();
                    // Absolute directories are this machine's: a node may have others there.
                    let (own, others): (Vec<&str>, Vec<&str>) = old
                        .iter()
                        .flat_map(|text| text.split(':'))
                        .filter(|part| !part.is_empty())
                        .partition(|part| part.starts_with("$ORIGIN"));
                    let parts: Vec<&str> = own
                        .iter()
                        .copied()
                        .chain([ours.as_str()])
                        .chain(others)
                        .collect();
                    let found = room::with_search_path(&file, &parts.join(":"));
                    found.map_err(Error::io("read", &file))?.or_else(|| {
                        let linked = own.iter().any(|part| self.link_into(path, part));
                        linked.then(|| room::inherited(&read.runpaths))
                    })
                }
                None => Some(room::inherited(&read.runpaths)),
            };
            let found = patches.is_some_and(|patches| self.patch(path, patches));
            if !found {
                self.remarks.push(format!(
                    "`{}` has no room for a search path to the libraries that come along: {}",
                    path.display(),
                    if program.is_interpreter {
                        "on a node LD_LIBRARY_PATH leads to them, also for other programs that it starts"
                    } else {
                        "it will not find them"
                    }
                ));
            }
            if program.is_interpreter {
                // A libpython that nothing but a variable leads to is found by none of its own.
                has_search_path = found;
            }
        }
        for (path, runpaths) in files.closed_libraries() {
            self.patch(&path, room::inherited(&runpaths));
        }
        Ok(has_search_path)
    }

    /// Links to all that came along, in a directory of the tree that a program looks into already.
    /// Whether it is one.
    fn link_into(&mut self, program: &Path, part: &str) -> bool {
        let mut directory = program.parent().unwrap_or(program).to_path_buf();
        for name in part.trim_start_matches("$ORIGIN").split('/') {
            match name {
                "" | "." => {}
                ".." if !directory.pop() => return false,
                ".." => {}
                name => directory.push(name),
            }
        }
        if !self.has(&directory) || self.has_file(&directory) {
            return false;
        }
        let names: Vec<PathBuf> = self
            .found
            .values()
            .filter_map(|(entry, _)| {
                let path = Path::new(OsStr::from_bytes(&entry.path));
                path.strip_prefix(LIBRARIES).ok().map(Path::to_path_buf)
            })
            .filter(|name| name.components().count() == 1)
            .collect();
        let up = "../".repeat(directory.components().count());
        for name in names {
            let at = directory.join(&name);
            if !self.has(&at) {
                let target = Path::new(&up).join(LIBRARIES).join(&name);
                let target = target.into_os_string().into_encoded_bytes();
                self.put(&at, Kind::Symlink(target), 0o777, None);
            }
        }
        true
    }

    /// A text of a file as it will be.
    fn replaced(&self, path: &Path, at: u64, text: &str) -> String {
        let replaced = match self.content_at(path) {
            Some(Content::Patched(_, _, spliced)) => {
                spliced.splices().iter().find(|splice| splice.at == at)
            }
            _ => None,
        };
        replaced.map_or_else(
            || text.to_owned(),
            |splice| {
                let mut parts = splice.bytes.split(|&byte| byte == 0);
                String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned()
            },
        )
    }

    /// Whether there was a file that could be changed so.
    fn patch(&mut self, path: &Path, new: Vec<(u64, Vec<u8>)>) -> bool {
        if new.is_empty() {
            return true;
        }
        let Some(content) = self.content_at_mut(path) else {
            return false;
        };
        let patched = content.patched(new);
        let is_patched = patched.is_some();
        if let Some(patched) = patched {
            *content = patched;
        }
        is_patched
    }
}
