//! Starts the Python of an archive as a node will, before anything is packed.
//!
//! What starts a Python (its program, its libpython, the heart of its standard library) is copied
//! to another place; there it has to be the same version and build, from that place alone. Where
//! this user may make namespaces, the old place is hidden from it as well.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use htmap_exec_interpreter::Interpreter;

use crate::archive::encoding::{put, put_bytes};
use crate::archive::entry::Kind;
use crate::archive::place::LIBRARIES;
use crate::build::memory::{self, Key, Memory};
use crate::environment::{self, Source};
use crate::error::Error;
use crate::relocate::content::Content;
use crate::relocate::search_path;

/// Prints version and build, and the libpython that the loader took.
const PROGRAM: &str = r#"
import sys, encodings
print(sys.version.replace("\n", " "))
with open("/proc/self/maps") as maps:
    for line in maps:
        if "/libpython" in line:
            print(line.split(None, 5)[5].strip())
            break
"#;

/// Printed where the old place is hidden from then on.
const HIDDEN: &str = "hidden";

/// Hides so many directories, and starts what follows them.
const HIDE: &str = r#"
count=$1; shift
while [ "$count" -gt 0 ]; do mount -t tmpfs none "$1" || exit 125; shift; count=$((count-1)); done
echo hidden
exec "$@"
"#;

/// A Python that starts, as far as that could be found out.
#[derive(Debug)]
pub struct Checked {
    /// What was not checked, and why; or nothing.
    pub remark: Option<String>,
    /// Of what it was started from.
    pub(crate) key: Key,
}

/// Not done again for what started the last time.
pub fn check(
    interpreter: &Interpreter,
    source: &Source,
    memory: &Memory,
) -> Result<Checked, Error> {
    let wanted = wanted(source, interpreter)?;
    let key = key(source, interpreter, &wanted);
    let remark = if memory.checked == Some(key) {
        None
    } else {
        start(interpreter, source, &wanted)?
    };
    Ok(Checked { remark, key })
}

fn start(
    interpreter: &Interpreter,
    source: &Source,
    wanted: &BTreeSet<usize>,
) -> Result<Option<String>, Error> {
    let original = said(&run(
        Command::new(&interpreter.executable),
        &interpreter.executable,
        None,
    )?)
    .0;
    let temporary = std::env::temp_dir();
    let root = tempfile::Builder::new()
        .prefix("htmap-exec-check-")
        .tempdir_in(&temporary)
        .map_err(Error::io("write into", &temporary))?;
    let root_path = root
        .path()
        .canonicalize()
        .map_err(Error::io("find", root.path()))?;
    copy(source, wanted, &root_path)?;
    let python = root_path.join(&source.python);
    let hide: Vec<PathBuf> = environment::homes(interpreter)
        .into_iter()
        .filter(|home| home.is_dir() && !root_path.starts_with(home))
        .collect();
    let copied = Root {
        path: &root_path,
        has_search_path: source.has_search_path,
    };
    let mut unchecked = None;
    let mut output = run(hiding(&hide, &python), &python, Some(&copied))?;
    if output.stdout.starts_with(HIDDEN.as_bytes()) {
        output.stdout.drain(..=HIDDEN.len());
    } else {
        unchecked = Some(format!(
            "that the packed Python starts without `{}` is not checked: this user may not hide it (`unshare --mount`)",
            interpreter.base_prefix.display()
        ));
        output = match run(Command::new(&python), &python, Some(&copied)) {
            Ok(output) => output,
            // Such as a temporary directory that is mounted with noexec.
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                return Ok(Some(format!(
                    "that the packed Python starts is not checked: nothing in `{}` can be executed",
                    temporary.display()
                )));
            }
            Err(error) => return Err(error),
        };
    }
    if output.status.code() == Some(126) {
        return Ok(Some(format!(
            "that the packed Python starts is not checked: nothing in `{}` can be executed",
            temporary.display()
        )));
    }
    let refuse = |reason: String| {
        Err(Error::Unsupported {
            path: interpreter.prefix.clone(),
            reason,
        })
    };
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        return refuse(format!(
            "moved to another place it does not start: {}",
            last.unwrap_or("it says nothing")
        ));
    }
    let (packed, library) = said(&output);
    if packed != original {
        return refuse(format!(
            "moved to another place it starts as another Python: as `{packed}`, and not as `{original}`"
        ));
    }
    if let Some(library) = library
        && !Path::new(&library).starts_with(&root_path)
    {
        return refuse(format!(
            "moved to another place it starts with `{library}`, which does not come along"
        ));
    }
    Ok(unchecked)
}

/// What it is, and the libpython that it has.
fn said(output: &Output) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap_or_default(), lines.next())
}

/// Started by a shell that hides these directories from it.
fn hiding(hide: &[PathBuf], python: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "--", "sh", "-c", HIDE, "sh"])
        .arg(hide.len().to_string())
        .args(hide)
        .arg(python);
    command
}

/// Where the copy lies.
struct Root<'a> {
    path: &'a Path,
    has_search_path: bool,
}

/// Of the original, its environment is the user's; of the copy below `root`, a node's.
fn run(mut command: Command, python: &Path, root: Option<&Root<'_>>) -> Result<Output, Error> {
    if let Some(root) = root {
        // As on a node: a Python without a search path to them is told of its libraries.
        if root.has_search_path {
            command.env_remove("LD_LIBRARY_PATH");
        } else {
            command.env("LD_LIBRARY_PATH", root.path.join(LIBRARIES));
        }
    }
    let output = command
        .args(["-I", "-S", "-B", "-c", PROGRAM])
        .current_dir("/")
        .output();
    match output {
        // No `unshare` at all is the same as one that is refused.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && command.get_program() == "unshare" =>
        {
            Ok(Output {
                status: std::os::unix::process::ExitStatusExt::from_raw(1 << 8),
                stdout: Vec::new(),
                stderr: Vec::new(),
            })
        }
        output => output.map_err(Error::io("start", python)),
    }
}

/// What a start needs.
fn wanted(source: &Source, interpreter: &Interpreter) -> Result<BTreeSet<usize>, Error> {
    let by_path: HashMap<&[u8], usize> = source
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (entry.path.as_slice(), index))
        .collect();
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    let name = format!("python{}", interpreter.version);
    for (index, entry) in source.entries.iter().enumerate() {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let library = ["lib", "lib64"].map(|lib| Path::new(lib).join(&name));
        let below = library.iter().find_map(|root| path.strip_prefix(root).ok());
        let starts = path.starts_with(LIBRARIES)
            || below.is_some_and(|below| {
                let parts = below.components().count();
                let is_python = path.extension().is_some_and(|end| end == "py");
                (parts == 1 && (is_python || path.ends_with("lib-dynload")))
                    || (parts == 2
                        && is_python
                        && ["encodings", "collections", "importlib"]
                            .iter()
                            .any(|package| below.starts_with(package)))
            });
        if starts {
            wanted.insert(index);
        }
    }
    // The program and the libraries of the environment that it is linked with.
    let mut waiting = vec![source.python.clone().into_bytes()];
    while let Some(path) = waiting.pop() {
        let Some(&index) = by_path.get(path.as_slice()) else {
            continue;
        };
        if !wanted.insert(index) {
            continue;
        }
        match (&source.entries[index].kind, &source.contents[index]) {
            (Kind::Symlink(target), _) => {
                let parent = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                waiting.push([&path[..parent], b"/", target].concat());
            }
            (_, Some(Content::OnDisk(file, _) | Content::Patched(file, ..))) => {
                let linked =
                    search_path::read(file, Path::new(OsStr::from_bytes(&path)), &|_| None)?;
                for library in linked.needed {
                    waiting.push(format!("lib/{library}").into_bytes());
                    waiting.push(format!("lib64/{library}").into_bytes());
                }
            }
            _ => {}
        }
    }
    Ok(wanted)
}

/// All that a start depends on, but for the rest of this machine.
fn key(source: &Source, interpreter: &Interpreter, wanted: &BTreeSet<usize>) -> Key {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, interpreter.full_version.as_bytes());
    for &index in wanted {
        let entry = &source.entries[index];
        put_bytes(&mut bytes, &entry.path);
        match &entry.kind {
            Kind::Symlink(target) => put_bytes(&mut bytes, target),
            Kind::File(size) => put(&mut bytes, *size),
            Kind::Directory => {}
        }
        if let Some(content) = &source.contents[index] {
            content.describe(&mut bytes);
        }
    }
    memory::key(&[&bytes])
}

fn copy(source: &Source, wanted: &BTreeSet<usize>, root: &Path) -> Result<(), Error> {
    for &index in wanted {
        let entry = &source.entries[index];
        let place = root.join(OsStr::from_bytes(&entry.path));
        let parent = place.parent().unwrap_or(root);
        fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
        write(
            &entry.kind,
            source.contents[index].as_ref(),
            entry.mode,
            &place,
        )?;
    }
    Ok(())
}

fn write(kind: &Kind, content: Option<&Content>, mode: u32, place: &Path) -> Result<(), Error> {
    match (kind, content) {
        (Kind::Directory, _) => fs::create_dir_all(place).map_err(Error::io("make", place)),
        (Kind::Symlink(target), _) => std::os::unix::fs::symlink(OsStr::from_bytes(target), place)
            .map_err(Error::io("make", place)),
        (Kind::File(_), None) => Ok(()),
        (Kind::File(_), Some(content)) => {
            let bytes = content.whole()?;
            fs::write(place, bytes)
                .and_then(|()| fs::set_permissions(place, fs::Permissions::from_mode(mode)))
                .map_err(Error::io("write", place))
        }
    }
}
