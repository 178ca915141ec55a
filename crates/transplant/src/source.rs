//! What of a Python goes into an archive, and where to.
//!
//! The archive's root is one prefix: a virtual environment is merged with the Python that it was
//! made from, since links to another place are what keeps environments from moving. The subtlety is
//! in what names the old place: scripts, links, run-time search paths of libraries, and the times in
//! `.pyc` files; each is made to fit wherever the tree will lie.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use htmap_exec_interpreter::{Interpreter, PythonVersion};
use walkdir::WalkDir;

use crate::editable;
use crate::elf;
use crate::error::Error;
use crate::pack::MTIME;
use crate::tree::{Content, Entry, Kind, refusal};

/// A tree that is ready to be packed.
#[derive(Debug)]
pub struct Source {
    /// Sorted, a directory before what is in it.
    pub entries: Vec<Entry>,
    /// Of the files among them, at the same index.
    pub contents: Vec<Option<Content>>,
    /// The interpreter, below the root.
    pub python: String,
    /// What could not be taken along as it was, each in a sentence.
    pub remarks: Vec<String>,
}

impl Source {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| {
                if let Kind::File(size) = entry.kind {
                    size
                } else {
                    0
                }
            })
            .sum()
    }
}

/// Where libraries of the operating system lie below the root; the loader is told by LD_LIBRARY_PATH.
pub const LIBRARIES: &str = "lib/htmap-exec";

/// Where the sources of editable installs lie below the root.
const EDITABLE: &str = "lib/htmap-exec-editable";

/// What to leave out.
pub type Excluded<'a> = &'a dyn Fn(&Path) -> bool;

struct Collector<'a> {
    version: PythonVersion,
    prefix: PathBuf,
    base: PathBuf,
    excluded: Excluded<'a>,
    /// By path with NUL in the place of `/`: so a directory comes right before what is in it.
    found: BTreeMap<Vec<u8>, (Entry, Option<Content>)>,
    remarks: Vec<String>,
}

/// Collects everything that this interpreter needs.
pub fn collect(interpreter: &Interpreter, excluded: Excluded<'_>) -> Result<Source, Error> {
    let canonical = |path: &Path| path.canonicalize().map_err(Error::io("find", path));
    let prefix = canonical(&interpreter.prefix)?;
    let base = canonical(&interpreter.base_prefix)?;
    let name = format!("python{}", interpreter.version);
    let mut collector = Collector {
        version: interpreter.version,
        base: base.clone(),
        prefix: prefix.clone(),
        excluded,
        found: BTreeMap::new(),
        remarks: Vec::new(),
    };
    let library = Path::new("lib").join(&name);
    let packages = library.join("site-packages");
    let in_venv = prefix != base;
    let shared = !in_venv || reads_base_packages(&prefix);
    let mut debian = false;
    if is_system(&base) {
        debian = base.join("lib/python3/dist-packages").is_dir();
        collector.add_system(&base, &name, shared)?;
    } else {
        collector.add_tree(&base, Path::new(""), &|path| {
            let outside = shared || path == packages || !path.starts_with(&packages);
            outside && !(in_venv && is_of_another_python(path, &name))
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
            // Debian's Python looks for packages there, and not in site-packages.
            let place = Path::new("local").join(&library).join("dist-packages");
            collector.add_parents(&place.join("x"));
            collector.add_tree(&own, &place, &|_| true)?;
        }
    }
    collector.bundle_editables()?;
    collector.add_libraries()?;
    let python = format!("bin/{name}");
    if !collector
        .found
        .contains_key(key(Path::new(&python)).as_slice())
    {
        return Err(Error::Unsupported {
            path: base.join(&python),
            reason: "there is no such interpreter in its prefix".to_owned(),
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
        remarks: collector.remarks,
    })
}

/// The directories and files that [`collect`] looks at.
pub(crate) fn roots(interpreter: &Interpreter) -> Vec<PathBuf> {
    let base = &interpreter.base_prefix;
    let mut roots = if is_system(base) {
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
        roots.push(interpreter.prefix.clone());
    }
    roots.extend(editable_sources(interpreter));
    roots.retain(|root| root.exists());
    roots
}

/// Outside of the prefix, and yet part of the environment.
fn editable_sources(interpreter: &Interpreter) -> Vec<PathBuf> {
    let outside = |path: &Path| {
        !path.starts_with(&interpreter.prefix) && !path.starts_with(&interpreter.base_prefix)
    };
    let mut found = Vec::new();
    for directory in &interpreter.sys_path {
        // A line of a `.pth` file has become a part of the path already.
        if outside(directory) && directory.is_dir() {
            found.push(directory.clone());
        }
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| {
                name.starts_with("__editable___") && name.ends_with("_finder.py")
            }) {
                let mapping = fs::read_to_string(entry.path())
                    .ok()
                    .and_then(|text| editable::mapping(&text));
                for (_, source) in mapping.unwrap_or_default() {
                    found.push(if source.is_dir() {
                        source
                    } else {
                        source.with_extension("py")
                    });
                }
            }
        }
    }
    found
}

/// Of the operating system: its files lie among everybody's.
fn is_system(base: &Path) -> bool {
    matches!(base.as_os_str().as_bytes(), b"/usr" | b"/usr/local" | b"/")
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

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

fn key(path: &Path) -> Vec<u8> {
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(|&byte| if byte == b'/' { 0 } else { byte })
        .collect()
}

impl Collector<'_> {
    /// Of a Python whose files lie among everybody's, those that are its.
    fn add_system(&mut self, base: &Path, name: &str, with_packages: bool) -> Result<(), Error> {
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

    /// Sources of editable installs come along, and the files that point to them point into the tree.
    fn bundle_editables(&mut self) -> Result<(), Error> {
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

    fn is_outside(&self, path: &Path) -> bool {
        !path.starts_with(&self.prefix) && !path.starts_with(&self.base)
    }

    /// The directories above a path.
    fn add_parents(&mut self, path: &Path) {
        let parents: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
            .collect();
        for parent in parents.into_iter().rev() {
            self.put(parent, Kind::Directory, 0o755, None);
        }
    }

    /// Libraries of the operating system that the Python of the operating system needs, but for the C
    /// library: a node has its own, and no two fit together.
    fn add_libraries(&mut self) -> Result<(), Error> {
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
                if elf::is_of_libc(&library) || self.found.contains_key(&key(&place)) {
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

    fn add_tree(
        &mut self,
        root: &Path,
        at: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<(), Error> {
        let excluded = self.excluded;
        let walk = WalkDir::new(root)
            .min_depth(1)
            .sort_by_file_name()
            .into_iter();
        let relative = |path: &Path| at.join(path.strip_prefix(root).unwrap_or(path));
        let walk = walk.filter_entry(|entry| {
            let path = relative(entry.path());
            wanted(&path) && !excluded(&path)
        });
        for entry in walk {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(root).to_path_buf();
                Error::io("read", &path)(error.into())
            })?;
            let path = relative(entry.path());
            let metadata = entry
                .metadata()
                .map_err(|error| Error::io("read", entry.path())(error.into()))?;
            self.add(entry.path(), &path, &metadata)?;
        }
        Ok(())
    }

    fn add(&mut self, file: &Path, path: &Path, metadata: &fs::Metadata) -> Result<(), Error> {
        let mode = metadata.permissions().mode();
        if metadata.is_dir() {
            self.put(path, Kind::Directory, 0o755, None);
        } else if metadata.is_symlink() {
            self.add_link(file, path)?;
        } else if metadata.is_file() {
            let content = self.content(file, path, metadata)?;
            let Some(content) = content else {
                return Ok(());
            };
            let size = match &content {
                Content::Made(bytes) => bytes.len() as u64,
                Content::OnDisk(_) | Content::Patched(..) => metadata.len(),
            };
            // What its owner may do everybody may, but write: another user may run it.
            let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
            self.put(path, Kind::File(size), mode, Some(content));
        }
        // Sockets and devices are no part of a Python.
        Ok(())
    }

    fn put(&mut self, path: &Path, kind: Kind, mode: u32, content: Option<Content>) {
        let entry = Entry {
            path: path.as_os_str().as_bytes().to_vec(),
            kind,
            mode,
        };
        self.found.insert(key(path), (entry, content));
    }

    /// A link within the tree becomes relative; what another one leads to is taken in its place.
    fn add_link(&mut self, file: &Path, path: &Path) -> Result<(), Error> {
        let target = fs::read_link(file).map_err(Error::io("read", file))?;
        let inside = [&self.prefix, &self.base].into_iter().find_map(|root| {
            let below = target.strip_prefix(root).ok()?;
            let depth = path.components().count() - 1;
            let mut relative = PathBuf::from("../".repeat(depth));
            relative.push(below);
            Some(relative)
        });
        let relative = if target.is_absolute() {
            inside
        } else {
            stays_inside(path, &target).then(|| target.clone())
        };
        if let Some(relative) = relative {
            self.put(
                path,
                Kind::Symlink(relative.into_os_string().into_vec()),
                0o777,
                None,
            );
            return Ok(());
        }
        match fs::metadata(file) {
            Ok(metadata) if metadata.is_file() => self.add(file, path, &metadata),
            Ok(metadata) if metadata.is_dir() => {
                let real = file.canonicalize().map_err(Error::io("find", file))?;
                self.put(path, Kind::Directory, 0o755, None);
                self.remarks.push(format!(
                    "`{}` is a link out of the environment: taken from `{}`",
                    path.display(),
                    real.display()
                ));
                self.add_tree(&real, path, &|_| true)
            }
            _ => {
                self.remarks.push(format!(
                    "`{}` is a link to nowhere (`{}`): left out",
                    path.display(),
                    target.display()
                ));
                Ok(())
            }
        }
    }

    /// Nothing for a file that is of no use on another machine.
    fn content(
        &mut self,
        file: &Path,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Result<Option<Content>, Error> {
        let on_disk = || Content::OnDisk(file.to_path_buf());
        let extension = path.extension().map(OsStrExt::as_bytes);
        if extension == Some(b"pyc") {
            return self.bytecode(file, path).map(|fate| match fate {
                Bytecode::AsItIs => Some(on_disk()),
                Bytecode::Stale => None,
                Bytecode::Timed(at) => {
                    let time = u32::try_from(MTIME)
                        .expect("before 2106")
                        .to_le_bytes()
                        .to_vec();
                    Some(Content::Patched(file.to_path_buf(), vec![(at, time)]))
                }
            });
        }
        if metadata.len() == 0 || extension == Some(b"py") {
            return Ok(Some(on_disk()));
        }
        let in_bin = path.parent() == Some(Path::new("bin"));
        let maybe_elf = metadata.mode() & 0o111 != 0 || path.to_string_lossy().contains(".so");
        if !in_bin && !maybe_elf {
            return Ok(Some(on_disk()));
        }
        let head = head(file, 4096)?;
        if head.starts_with(b"\x7fELF") {
            let patches = elf::relocate(file, path, &[&self.prefix, &self.base])?;
            return Ok(Some(if patches.is_empty() {
                on_disk()
            } else {
                Content::Patched(file.to_path_buf(), patches)
            }));
        }
        if in_bin
            && head.starts_with(b"#!")
            && let Some(made) = self.script(file)?
        {
            return Ok(Some(Content::Made(made)));
        }
        Ok(Some(on_disk()))
    }

    /// A script that names its interpreter by the place of the environment finds it beside itself.
    fn script(&self, file: &Path) -> Result<Option<Vec<u8>>, Error> {
        let bytes = fs::read(file).map_err(Error::io("read", file))?;
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&bytes[2..end]).trim().to_owned();
        let (line, rest) = if line == "/bin/sh" && bytes[end + 1..].starts_with(b"'''exec' ") {
            // pip's own way around a long path: https://github.com/pypa/pip/blob/main/src/pip/_vendor/distlib/scripts.py
            let second = &bytes[end + 1..];
            let Some(after) = find(second, b"\n' '''\n") else {
                return Ok(None);
            };
            let call = String::from_utf8_lossy(&second[9..after]).into_owned();
            (
                call.trim_matches('"')
                    .split("\" ")
                    .next()
                    .unwrap_or("")
                    .split(" \"$0\"")
                    .next()
                    .unwrap_or("")
                    .to_owned(),
                &second[after + 7..],
            )
        } else {
            (line, &bytes[end + 1..])
        };
        let interpreter = line.split_whitespace().next().unwrap_or("");
        let named = Path::new(interpreter);
        let name = [&self.prefix, &self.base].into_iter().find_map(|root| {
            let below = named.strip_prefix(root.join("bin")).ok()?;
            below
                .to_str()
                .filter(|name| !name.contains('/'))
                .map(str::to_owned)
        });
        let Some(name) = name.filter(|name| name.starts_with("python")) else {
            return Ok(None);
        };
        let mut made = format!(
            "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'{name}' \"$0\" \"$@\"\n' '''\n"
        )
        .into_bytes();
        made.extend_from_slice(rest);
        Ok(Some(made))
    }

    fn bytecode(&self, file: &Path, path: &Path) -> Result<Bytecode, Error> {
        let header = head(file, 16)?;
        // PEP 552; before it there were no flags.
        let time_at = if self.version >= (PythonVersion { major: 3, minor: 7 }) {
            if header.get(4..8) != Some(&[0; 4]) {
                return Ok(Bytecode::AsItIs);
            }
            8
        } else {
            4
        };
        let Some(source) = source_of(file) else {
            return Ok(Bytecode::AsItIs);
        };
        let Ok(metadata) = fs::metadata(&source) else {
            // Python does not look at it without its source: PEP 3147.
            return Ok(if in_cache(path) {
                Bytecode::Stale
            } else {
                Bytecode::AsItIs
            });
        };
        let recorded = |at: usize| {
            header
                .get(at..at + 4)
                .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
        };
        // Both are kept modulo 2**32.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let is_current = recorded(time_at) == Some(metadata.mtime() as u32)
            && recorded(time_at + 4) == Some(metadata.len() as u32);
        Ok(if is_current {
            Bytecode::Timed(time_at as u64)
        } else {
            Bytecode::Stale
        })
    }
}

enum Bytecode {
    AsItIs,
    Stale,
    /// Holds the time of its source, at this place.
    Timed(u64),
}

fn in_cache(path: &Path) -> bool {
    path.parent()
        .and_then(Path::file_name)
        .is_some_and(|name| name == "__pycache__")
}

/// `x/__pycache__/y.cpython-311.opt-1.pyc` comes from `x/y.py`.
fn source_of(file: &Path) -> Option<PathBuf> {
    if !in_cache(file) {
        return None;
    }
    let name = file.file_name()?.as_bytes();
    let stem = &name[..name.iter().position(|&byte| byte == b'.')?];
    let mut source = file.parent()?.parent()?.as_os_str().to_owned();
    source.push("/");
    source.push(OsStr::from_bytes(stem));
    source.push(".py");
    Some(source.into())
}

fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    for component in target.components() {
        match component {
            Component::ParentDir if depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            _ => depth += 1,
        }
    }
    true
}

fn head(file: &Path, length: u64) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(length).read_to_end(&mut bytes))
        .map_err(Error::io("read", file))?;
    Ok(bytes)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
