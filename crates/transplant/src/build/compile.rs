//! Compiles the modules that have no `.pyc`, so that no component has to.
//!
//! Installers such as uv leave compiling to the first import. On a node nothing of a transplant can be
//! written, so every component would compile everything that it imports. The environment's own Python
//! does it here, once. What it makes is good without a look at its source (PEP 552: an unchecked
//! hash), names no place of this machine, and is the same bytes whenever it is made.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use htmap_exec_interpreter::{Interpreter, PythonVersion};

use crate::archive::encoding::{Reader, put, put_bytes};
use crate::archive::entry::{Entry, Kind, compare};
use crate::archive::place::{EDITABLES, EDITS, MTIME};
use crate::build::memory::{self, Key};
use crate::environment::{Excluded, Source};
use crate::parallel;
use crate::relocate::content::{self, Content};
use crate::relocate::edits::Edits;

const PROGRAM: &str = include_str!("compile.py");
const SIGNATURE: &[u8] = b"htmap-exec compiled 1\n";
/// Larger ones are data, and take more memory to compile than a build should.
const LARGEST_SOURCE: u64 = 4 << 20;
/// Of a `.pyc`.
const LARGEST: u64 = 64 << 20;
/// For one module. What takes longer is left as it is.
const SECONDS: u64 = 30;
/// For all of them. The rest is left as it is.
const LIMIT: Duration = Duration::from_mins(10);

/// What was compiled.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Modules that were compiled now.
    pub made: usize,
    /// Those that were compiled for the last archive.
    pub known: usize,
    /// Those that do not compile: templates, and what is for another Python.
    pub failed: usize,
}

/// A module without a `.pyc`.
struct Module {
    entry: usize,
    size: u64,
    /// Of the `.pyc`, below the root.
    target: Vec<u8>,
    key: Key,
}

/// Adds a `.pyc` for each module that has none. `kept` is where they are remembered for the next build.
/// A module that cannot be compiled is no error: its import says why, as it would anywhere.
pub fn compile(
    interpreter: &Interpreter,
    source: &mut Source,
    excluded: Excluded<'_>,
    kept: Option<&Path>,
) -> Compiled {
    let modules = missing(interpreter, source, excluded);
    if modules.is_empty() {
        return Compiled::default();
    }
    // Bytecode is known by its module's times: those have to tell.
    let kept = kept.filter(|_| source.ledger.is_settled());
    let bytes = kept.and_then(|kept| fs::read(kept).ok());
    let mut found = bytes.as_deref().and_then(parse).unwrap_or_default();
    let (known, unknown): (Vec<_>, Vec<_>) = modules
        .iter()
        .partition(|module| found.contains_key(&module.key));
    let made = run(interpreter, source, &unknown);
    let compiled = Compiled {
        made: made.values().filter(|pyc| !pyc.is_empty()).count(),
        known: known.len(),
        failed: made.values().filter(|pyc| pyc.is_empty()).count(),
    };
    found.extend(made);
    if !unknown.is_empty()
        && let Some(kept) = kept
        && let Err(error) = save(kept, &modules, &found)
    {
        tracing::debug!("cannot remember what was compiled: {error}");
    }
    let made = modules.iter().filter_map(|module| {
        let pyc = found.get(&module.key).filter(|pyc| !pyc.is_empty())?;
        Some((module.target.clone(), pyc.clone()))
    });
    add(source, made.collect());
    compiled
}

/// The modules that Python would look for a `.pyc` of, and not find it.
fn missing(interpreter: &Interpreter, source: &Source, excluded: Excluded<'_>) -> Vec<Module> {
    if interpreter.implementation != "CPython" {
        return Vec::new();
    }
    let tag = tag(interpreter.version);
    let there: HashMap<&[u8], &Kind> = source
        .entries
        .iter()
        .map(|entry| (entry.path.as_slice(), &entry.kind))
        .collect();
    let rewritten = rewritten(source);
    let library = format!("lib/python{}/", interpreter.version);
    let mut modules = Vec::new();
    for (index, entry) in source.entries.iter().enumerate() {
        let (Kind::File(size), Some(content)) = (&entry.kind, &source.contents[index]) else {
            continue;
        };
        if *size > LARGEST_SOURCE
            || rewritten.contains(entry.path.as_slice())
            || !is_imported(&entry.path, library.as_bytes())
        {
            continue;
        }
        let (cache, target) = target(&entry.path, &tag);
        let is_free = there
            .get(cache.as_slice())
            .is_none_or(|kind| **kind == Kind::Directory);
        if !is_free
            || there.contains_key(target.as_slice())
            || excluded(path(&cache))
            || excluded(path(&target))
        {
            continue;
        }
        let mut described = Vec::new();
        content.describe(&mut described);
        let key = memory::key(&[
            PROGRAM.as_bytes(),
            interpreter.full_version.as_bytes(),
            interpreter.extension_suffix.as_bytes(),
            &entry.path,
            &described,
        ]);
        modules.push(Module {
            entry: index,
            size: *size,
            target,
            key,
        });
    }
    modules
}

/// What a node writes the place of the tree into: a `.pyc` of it would name the old one.
fn rewritten(source: &Source) -> HashSet<Vec<u8>> {
    let list = source
        .entries
        .iter()
        .position(|entry| entry.path == EDITS.as_bytes());
    let Some(Content::Made(bytes)) = list.and_then(|index| source.contents[index].as_ref()) else {
        return HashSet::new();
    };
    let edits = Edits::decode(bytes).unwrap_or_default();
    edits.files.into_keys().map(String::into_bytes).collect()
}

/// Whether it lies where modules do, and has the name of one. Python's own tests are no part of
/// any function.
fn is_imported(path: &[u8], library: &[u8]) -> bool {
    let Some(stem) = path.strip_suffix(b".py") else {
        return false;
    };
    let name = stem.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let is_name = !name.is_empty()
        && name
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii());
    let below = |root: &[u8]| path.starts_with(root);
    let is_test = path
        .strip_prefix(library)
        .is_some_and(|below| below.starts_with(b"test/"));
    is_name
        && !is_test
        && (below(b"lib/python")
            || below(b"lib64/python")
            || below(b"local/lib/python")
            || below(EDITABLES.as_bytes()))
}

/// As PEP 3147 has it.
fn tag(version: PythonVersion) -> String {
    format!("cpython-{}{}", version.major, version.minor)
}

/// The directory of the `.pyc`, and its path.
fn target(module: &[u8], tag: &str) -> (Vec<u8>, Vec<u8>) {
    let begin = module
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let cache = [&module[..begin], b"__pycache__"].concat();
    let stem = &module[begin..module.len() - ".py".len()];
    let target = [&cache, &b"/"[..], stem, b".", tag.as_bytes(), b".pyc"].concat();
    (cache, target)
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// What the environment's Python makes of them; nothing of one that does not compile. Those that
/// nobody got to are missing.
fn run(interpreter: &Interpreter, source: &Source, modules: &[&Module]) -> HashMap<Key, Vec<u8>> {
    let end = Instant::now() + LIMIT;
    let next = AtomicUsize::new(0);
    let gone = AtomicBool::new(false);
    let all = Mutex::new(HashMap::new());
    parallel::share(modules.len(), || {
        let mut compiler = match Compiler::start(interpreter) {
            Ok(compiler) => compiler,
            Err(error) => {
                tracing::debug!("nothing is compiled: {error}");
                return;
            }
        };
        let mut bytes = Vec::new();
        while Instant::now() < end
            && !gone.load(Ordering::Relaxed)
            && let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed))
        {
            bytes.clear();
            let Some(content) = &source.contents[module.entry] else {
                continue;
            };
            if content::read(content, 0, module.size, &mut bytes).is_err() {
                // It changes meanwhile: packing finds that as well, and says so.
                continue;
            }
            match compiler.compile(&source.entries[module.entry].path, &bytes) {
                Ok(pyc) => {
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert(module.key, pyc);
                }
                Err(error) => {
                    tracing::debug!("no more modules are compiled: {error}");
                    gone.store(true, Ordering::Relaxed);
                }
            }
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A Python that compiles one module after the other.
struct Compiler {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Compiler {
    fn start(interpreter: &Interpreter) -> io::Result<Self> {
        let mut command = Command::new(&interpreter.executable);
        for (name, _) in std::env::vars_os() {
            if name.as_bytes().starts_with(b"PYTHON") {
                command.env_remove(name);
            }
        }
        // Not -I, which would not read PYTHONHASHSEED: the order of a frozenset depends on it.
        let mut child = command
            .args(["-s", "-S", "-B", "-W", "ignore", "-c"])
            .arg(format!("import sys; del sys.path[0]\n{PROGRAM}"))
            .args([SECONDS.to_string(), MTIME.to_string()])
            .env("PYTHONHASHSEED", "0")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (requests, answers) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        let mut compiler = Self {
            child,
            requests,
            answers: BufReader::new(answers),
        };
        let said = compiler.answer()?;
        if said == tag(interpreter.version).as_bytes() {
            Ok(compiler)
        } else {
            let said = String::from_utf8_lossy(&said).into_owned();
            Err(io::Error::other(format!(
                "its `.pyc` files are those of `{said}`"
            )))
        }
    }

    fn compile(&mut self, path: &[u8], source: &[u8]) -> io::Result<Vec<u8>> {
        for part in [path, source] {
            self.requests
                .write_all(&(part.len() as u64).to_le_bytes())?;
            self.requests.write_all(part)?;
        }
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 8];
        self.answers.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.answers.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // It has nothing to lose, and may hang.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Puts the `.pyc` files where they belong.
fn add(source: &mut Source, made: Vec<(Vec<u8>, Vec<u8>)>) {
    let mut there: HashSet<Vec<u8>> = source
        .entries
        .iter()
        .map(|entry| entry.path.clone())
        .collect();
    let entries = std::mem::take(&mut source.entries);
    let mut all: Vec<(Entry, Option<Content>)> = entries
        .into_iter()
        .zip(std::mem::take(&mut source.contents))
        .collect();
    for (target, pyc) in made {
        let end = target.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        if there.insert(target[..end].to_vec()) {
            let directory = Entry {
                path: target[..end].to_vec(),
                kind: Kind::Directory,
                mode: 0o755,
            };
            all.push((directory, None));
        }
        let file = Entry {
            path: target,
            kind: Kind::File(pyc.len() as u64),
            mode: 0o644,
        };
        all.push((file, Some(Content::Made(pyc))));
    }
    // A directory comes right before what is in it.
    all.sort_by(|(one, _), (other, _)| compare(&one.path, &other.path));
    (source.entries, source.contents) = all.into_iter().unzip();
}

/// Where the `.pyc` files of this build are remembered.
pub fn beside(memory: &Path) -> PathBuf {
    memory.with_extension("compiled")
}

fn save(kept: &Path, modules: &[Module], found: &HashMap<Key, Vec<u8>>) -> io::Result<()> {
    let mut out = SIGNATURE.to_vec();
    let all: Vec<_> = modules
        .iter()
        .filter_map(|module| found.get_key_value(&module.key))
        .collect();
    put(&mut out, all.len() as u64);
    for (key, pyc) in all {
        out.extend_from_slice(key);
        put_bytes(&mut out, pyc);
    }
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    let directory = kept.parent().unwrap_or(kept);
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&out)?;
    file.persist(kept)?;
    Ok(())
}

/// Nothing of what is damaged.
fn parse(bytes: &[u8]) -> Option<HashMap<Key, Vec<u8>>> {
    let (bytes, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(bytes) != *checksum {
        return None;
    }
    let mut reader = Reader(bytes.strip_prefix(SIGNATURE)?);
    let mut found = HashMap::new();
    for _ in 0..reader.count(17)? {
        let key = reader.bytes(16)?.try_into().ok()?;
        found.insert(key, reader.sized()?.to_vec());
    }
    reader.0.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_told_from_scripts_and_tests() {
        let library = b"lib/python3.11/";
        for (path, is) in [
            ("lib/python3.11/os.py", true),
            ("lib/python3.11/site-packages/numpy/tests/test_x.py", true),
            ("lib/htmap-exec-editable/0/mine.py", true),
            ("lib/python3.11/test/test_os.py", false),
            ("lib/python3.11/site-packages/x/not-a-module.py", false),
            ("lib/python3.11/site-packages/x/.py", false),
            ("lib/python3.11/site-packages/x/data.txt", false),
            ("bin/script.py", false),
        ] {
            assert_eq!(is_imported(path.as_bytes(), library), is, "{path}");
        }
        let (cache, target) = target(b"lib/x/y.py", "cpython-311");
        assert_eq!(cache, b"lib/x/__pycache__");
        assert_eq!(target, b"lib/x/__pycache__/y.cpython-311.pyc");
    }

    #[test]
    fn what_is_remembered_comes_back_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let kept = directory.path().join("deeper/x.compiled");
        let module = |name: &[u8]| Module {
            entry: 0,
            size: 0,
            target: Vec::new(),
            key: memory::key(&[name]),
        };
        let modules = [module(b"one"), module(b"two"), module(b"three")];
        let found = HashMap::from([
            (modules[0].key, b"bytes".to_vec()),
            (modules[1].key, Vec::new()),
            (memory::key(&[b"not of this build"]), b"old".to_vec()),
        ]);
        save(&kept, &modules, &found).unwrap();
        let whole = fs::read(&kept).unwrap();
        let back = parse(&whole).unwrap();
        assert_eq!(back.len(), 2);
        assert_eq!(back[&modules[0].key], b"bytes");
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_none(), "{end}");
        }
    }
}
