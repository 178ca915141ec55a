//! What of a Python goes into an archive, and where to.
//!
//! The archive's root is one prefix: a virtual environment is merged with the Python that it was
//! made from, since links to another place are what keeps environments from moving. The subtlety is
//! in what names the old place: scripts, links, run-time search paths of libraries, and the times in
//! `.pyc` files; each is made to fit wherever the tree will lie.

mod collector;
mod editable;
mod editables;
mod edited;
mod included;
pub(crate) mod ledger;
mod libraries;
mod linked;
mod links;
mod listed;
mod search;
mod system;
mod walk;

use std::fs;
use std::path::{Component, Path, PathBuf};

use htmap_exec_interpreter::Interpreter;

use self::collector::Collector;
use self::ledger::Ledger;
use self::system::is_system;
use crate::archive::entry::{Entry, Kind, bytes, refusal};
use crate::archive::manifest::Need;
use crate::error::Error;
use crate::relocate::content::Content;

pub use self::included::Included;
pub use self::libraries::Taken;

/// A tree that is ready to be packed.
#[derive(Debug)]
pub struct Source {
    /// Sorted, a directory before what is in it.
    pub entries: Vec<Entry>,
    /// Of the files among them, at the same index.
    pub contents: Vec<Option<Content>>,
    /// The interpreter, below the root.
    pub python: String,
    /// Of what Python looks through here, that which came along, and where it lies in the tree.
    sys_path: Vec<(PathBuf, PathBuf)>,
    /// What could not be taken along as it was and may be missed, each in a sentence.
    pub remarks: Vec<String>,
    /// What is as one may expect it.
    pub noted: Noted,
    /// Libraries of this machine that come along.
    pub taken: Vec<Taken>,
    /// Libraries that a node has to have, each with the first file that asks for it.
    pub lacking: Vec<Need>,
    /// Whether the interpreter finds its libraries by a search path of its own, before any other's.
    pub has_search_path: bool,
    /// What all of it depends on.
    pub ledger: Ledger,
}

/// What was taken from elsewhere or left, of which nothing needs to be done: each in a sentence.
#[derive(Debug, Default)]
pub struct Noted {
    /// Editable installs that come along.
    pub editables: Vec<String>,
    /// Directories that come along in the place of links to them.
    pub directories: Vec<String>,
    /// Devices, pipes and sockets, which no archive has.
    pub devices: Vec<String>,
    /// Environments inside of this one, which stay behind.
    pub environments: Vec<String>,
}

impl Source {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        bytes(&self.entries)
    }
}

/// What to leave out.
pub type Excluded<'a> = &'a dyn Fn(&Path) -> bool;

/// Collects everything that this interpreter needs; twice where something was changed just before.
pub fn collect(
    interpreter: &Interpreter,
    excluded: Excluded<'_>,
    included: &[Included],
) -> Result<Source, Error> {
    let source = look(interpreter, excluded, included)?;
    if source.ledger.is_settled() || !source.ledger.wait() {
        return Ok(source);
    }
    look(interpreter, excluded, included)
}

fn look(
    interpreter: &Interpreter,
    excluded: Excluded<'_>,
    included: &[Included],
) -> Result<Source, Error> {
    let name = format!("python{}", interpreter.version);
    let mut collector = Collector::new(interpreter, excluded)?;
    let (prefix, base) = (collector.old.prefix.clone(), collector.old.base.clone());
    // Where files name a place is written down as text.
    if let Some(place) = [&prefix, &base]
        .into_iter()
        .find(|place| place.to_str().is_none())
    {
        collector.remarks.push(format!(
            "files that name `{}` will still do so: its name is no text",
            place.display()
        ));
    }
    let library = Path::new("lib").join(&name);
    let packages = library.join("site-packages");
    let in_venv = prefix != base;
    let shared = !in_venv || reads_base_packages(&prefix);
    let debian = is_system(&base) && base.join("lib/python3/dist-packages").is_dir();
    // Debian's Python looks for packages there, and not in site-packages.
    let site = if debian {
        Path::new("local").join(&library).join("dist-packages")
    } else {
        packages.clone()
    };
    let behind = if in_venv && shared {
        collector.set_behind(&[
            Path::new("lib64").join(&name).join("site-packages"),
            site.clone(),
        ])
    } else {
        Vec::new()
    };
    let stays = |path: &Path| !behind.iter().any(|(from, _)| from == path);
    if is_system(&base) {
        collector.add_system(&base, &name, &stays, shared)?;
    } else {
        collector.add_tree(&base, Path::new(""), &|path| {
            let outside = shared || path == packages || !path.starts_with(&packages);
            outside && stays(path) && !(in_venv && is_of_another_python(path, &name))
        })?;
    }
    if in_venv {
        // Over the base's: what the environment has goes before.
        collector.add_tree(&prefix, Path::new(""), &|path| {
            path != Path::new("pyvenv.cfg")
                && path != Path::new("lib64")
                && !(path.starts_with("bin") && belongs_to_venv(path))
                && !(debian && path.starts_with(&packages))
        })?;
        let own = prefix.join(&packages);
        if debian && own.is_dir() {
            collector.add_parents(&site.join("x"));
            collector.add_tree(&own, &site, &|_| true)?;
        }
    }
    collector.add_behind(&behind, &site)?;
    let python = format!("bin/{name}");
    // By which scripts call it; a system's may lie elsewhere.
    for also in ["bin/python", "bin/python3"] {
        if !collector.has(Path::new(also)) {
            let target = name.clone().into_bytes();
            collector.put(Path::new(also), Kind::Symlink(target), 0o777, None);
        }
    }
    collector.include(included, &site)?;
    // Also of the files that name editable installs.
    collector.settle_links()?;
    collector.bundle_editables()?;
    collector.settle_links()?;
    let libraries = collector.add_libraries(&python, &site)?;
    let sys_path = collector.compare(interpreter, &site, debian)?;
    collector.note_edits(&interpreter.base_prefix)?;
    if !collector.has(Path::new(&python)) {
        return Err(Error::Unsupported {
            path: base.join(&python),
            reason: "there is no such interpreter in its prefix".to_owned(),
        });
    }
    if !collector.unreadable.is_empty() {
        return Err(Error::Unreadable {
            paths: collector.unreadable,
        });
    }
    let (entries, contents): (Vec<Entry>, _) = collector.found.into_values().unzip();
    // What a node would refuse must not be packed.
    if let Some(reason) = refusal(&entries) {
        return Err(Error::Unsupported {
            path: prefix,
            reason,
        });
    }
    Ok(Source {
        entries,
        contents,
        python,
        sys_path,
        remarks: collector.remarks,
        noted: collector.noted,
        taken: libraries.taken,
        lacking: libraries.lacking,
        has_search_path: libraries.has_search_path,
        ledger: collector.ledger,
    })
}

/// The directories that are the Python's own.
pub(crate) fn homes(interpreter: &Interpreter) -> Vec<PathBuf> {
    let base = &interpreter.base_prefix;
    let mut homes = if is_system(base) {
        let name = format!("python{}", interpreter.version);
        vec![
            base.join("bin").join(&name),
            base.join("lib").join(&name),
            base.join("lib64").join(&name),
            base.join("lib/python3"),
            base.join("local/lib").join(&name),
        ]
    } else {
        vec![base.clone()]
    };
    if interpreter.prefix != *base {
        homes.push(interpreter.prefix.clone());
    }
    homes
}

/// `include-system-site-packages` of `pyvenv.cfg` (PEP 405).
fn reads_base_packages(prefix: &Path) -> bool {
    fs::read_to_string(prefix.join("pyvenv.cfg")).is_ok_and(|text| {
        text.lines().any(|line| {
            line.split_once('=').is_some_and(|(name, value)| {
                name.trim() == "include-system-site-packages"
                    && value.trim().eq_ignore_ascii_case("true")
            })
        })
    })
}

/// Several Pythons may share a prefix.
fn is_of_another_python(path: &Path, name: &str) -> bool {
    let mut names = path.components();
    let (first, second) = (names.next(), names.next());
    let (Some(Component::Normal(first)), Some(Component::Normal(second))) = (first, second) else {
        return false;
    };
    first == "lib"
        && second != name
        && second
            .to_str()
            .and_then(|second| second.strip_prefix("python3."))
            .is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Links to the base's interpreter, and scripts that name where the environment is.
fn belongs_to_venv(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| {
            name.to_lowercase().starts_with("activate")
                || name == "deactivate.bat"
                || name.strip_prefix("python").is_some_and(|rest| {
                    rest.bytes()
                        .all(|byte| byte.is_ascii_digit() || byte == b'.')
                })
        })
}

/// All that reads what packages wrote in Python's own formats.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(directory: &Path, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let editable::Line::Import(module) = editable::line(line) {
            editable::finder(&module, &text);
        }
    }
    for name in ["__editable___x_finder", "x", "_x_editable_loader"] {
        editable::finder(name, &text);
    }
    editable::mapping(&text);
    let cache = directory.join("__pycache__");
    fs::create_dir_all(&cache).expect("made");
    let name = bytes.iter().take(4).map(|byte| format!("{byte:02x}"));
    let file = cache.join(format!("{}.pyc", name.collect::<String>()));
    fs::write(&file, bytes).expect("written");
    for (major, minor) in [(3, 6), (3, 11)] {
        let version = htmap_exec_interpreter::PythonVersion { major, minor };
        let _ = crate::relocate::bytecode::bytecode(version, &file, &file);
    }
    fs::remove_file(&file).expect("removed");
}

/// All that is packed of an environment, and what is said of it: by an interpreter that nobody starts.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_tree(prefix: &Path) -> Option<(Source, crate::Manifest)> {
    let interpreter = tests::interpreter(prefix);
    let source = look(&interpreter, &|_| false, &[]).ok()?;
    let manifest = crate::describe(&interpreter, &source).ok()?;
    Some((source, manifest))
}

#[cfg(any(test, feature = "fuzzing"))]
mod tests {
    use std::path::Path;

    use htmap_exec_interpreter::{Interpreter, PythonVersion};

    /// One that lies there, for tests that start none.
    pub(super) fn interpreter(prefix: &Path) -> Interpreter {
        Interpreter {
            executable: prefix.join("bin/python3.11"),
            version: PythonVersion {
                major: 3,
                minor: 11,
            },
            full_version: "3.11.7".to_owned(),
            implementation: "CPython".to_owned(),
            prefix: prefix.to_path_buf(),
            base_prefix: prefix.to_path_buf(),
            sys_path: Vec::new(),
            extension_suffix: String::new(),
            cloudpickle: None,
        }
    }
}
