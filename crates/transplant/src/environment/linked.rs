//! Which library each file of the environment would get from this machine's loader, and where from.
//!
//! A library that lies in the tree counts as found where the search paths lead to it; that another
//! directory has one of that name is of no use to the loader. A search path of the kind RPATH counts
//! for whatever is loaded in turn, one of the kind RUNPATH for the file itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::PythonVersion;

use super::collector::Collector;
use super::libraries::place_of;
use crate::archive::entry::Kind;
use crate::archive::place::LIBRARIES;
use crate::elf::libraries as elf;
use crate::elf::loader::{self, Loader};
use crate::relocate::content::Content;
use crate::relocate::search_path::Linked;

/// More directories are searched for no file, or there is something wrong with it.
const LONGEST_CHAIN: usize = 64;

/// Which glibc opens when a thread ends early, and nothing names: `pthread_exit(3)`.
const UNWINDER: &str = "libgcc_s.so.1";
/// Since which Python ends no thread so.
/// <https://docs.python.org/3.14/c-api/init.html#cautions-regarding-runtime-finalization>
const ENDS_NO_THREADS: PythonVersion = PythonVersion {
    major: 3,
    minor: 14,
};

/// Where a library is.
pub(super) enum Whereabouts {
    /// Where the file's loader finds it on a node, too.
    InTree,
    OfLibc,
    /// In the tree, where the loader would not look.
    Elsewhere(PathBuf),
    /// Outside of the environment.
    OnMachine(PathBuf),
    /// In the environment, and excluded from the tree.
    LeftOut,
    OfNode,
    /// In several places of the tree, none of which the loader would look at.
    Ambiguous(Vec<PathBuf>),
    Nowhere,
}

struct Compiled {
    /// On this machine.
    file: PathBuf,
    /// Below the root.
    path: PathBuf,
    linked: Linked,
    /// Where those look that load it.
    inherited: Vec<PathBuf>,
    /// Files that it loads.
    loads: Vec<usize>,
    /// Whether it asks for a library of ours.
    asks: bool,
}

/// A program whose search path may have to change.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) is_interpreter: bool,
    pub(super) needs_ours: bool,
}

/// All programs and libraries that come along.
pub(super) struct Files {
    loader: Loader,
    compiled: Vec<Compiled>,
    by_file: HashMap<PathBuf, usize>,
    by_path: HashMap<PathBuf, usize>,
    /// Everything in the tree that is named like a library.
    named: HashMap<Vec<u8>, Vec<PathBuf>>,
    /// Where files of this machine lie in the tree.
    places: HashMap<PathBuf, PathBuf>,
    interpreter: Option<usize>,
    waiting: VecDeque<(usize, String)>,
    known: HashMap<PathBuf, bool>,
    /// Where this machine's loader may find what no search path leads to.
    candidates: HashSet<PathBuf>,
}

impl Files {
    pub(super) fn new(collector: &mut Collector<'_>, python: &str) -> Self {
        let mut named: HashMap<Vec<u8>, Vec<PathBuf>> = HashMap::new();
        let mut places = HashMap::new();
        for (entry, content) in collector.found.values() {
            if matches!(entry.kind, Kind::Directory) {
                continue;
            }
            let path = Path::new(OsStr::from_bytes(&entry.path));
            let name = path.file_name().unwrap_or_default().as_bytes();
            if name.windows(3).any(|part| part == b".so") {
                named
                    .entry(name.to_vec())
                    .or_default()
                    .push(path.to_path_buf());
            }
            if let Some(Content::OnDisk(file, _) | Content::Patched(file, ..)) = content {
                places.insert(file.clone(), path.to_path_buf());
            }
        }
        let library_path = std::env::var_os("LD_LIBRARY_PATH");
        let mut files = Self {
            loader: Loader::new(library_path.as_deref()),
            compiled: Vec::new(),
            by_file: HashMap::new(),
            by_path: HashMap::new(),
            named,
            places,
            interpreter: None,
            waiting: VecDeque::new(),
            known: HashMap::new(),
            candidates: HashSet::new(),
        };
        for (file, linked) in collector.linked.drain(..) {
            let path = files.places.get(&file).cloned().unwrap_or_default();
            files.push(file, path, linked, Vec::new());
        }
        files.interpreter = files.by_path.get(Path::new(python)).copied();
        if collector.old.version < ENDS_NO_THREADS && files.loader.find(UNWINDER).is_some() {
            let linked = Linked {
                needed: vec![UNWINDER.to_owned()],
                ..Linked::default()
            };
            files.push(PathBuf::new(), PathBuf::new(), linked, Vec::new());
        }
        // What it looks at counts for all the modules that it loads.
        if let Some(interpreter) = files.interpreter {
            let own = files.directories(interpreter);
            for each in &mut files.compiled {
                each.inherited.clone_from(&own);
            }
            files.compiled[interpreter].inherited.clear();
        }
        files.inherit(collector);
        files
    }

    fn push(&mut self, file: PathBuf, path: PathBuf, linked: Linked, inherited: Vec<PathBuf>) {
        let index = self.compiled.len();
        self.by_file.insert(file.clone(), index);
        self.by_path.insert(path.clone(), index);
        let needed = linked.needed.iter().cloned();
        self.waiting.extend(needed.map(|library| (index, library)));
        self.compiled.push(Compiled {
            file,
            path,
            linked,
            inherited,
            loads: Vec::new(),
            asks: false,
        });
    }

    /// Hands the search paths of files on to those that they load.
    fn inherit(&mut self, collector: &Collector<'_>) {
        let mut changed: Vec<usize> = (0..self.compiled.len()).collect();
        while let Some(index) = changed.pop() {
            let handed = self.directories(index);
            for library in self.compiled[index].linked.needed.clone() {
                let search = self.search(index);
                let Some(found) = self.first(&search, &library) else {
                    continue;
                };
                if let Some(loaded) = self.index_of(collector, &found)
                    && loaded != index
                {
                    let inherited = &mut self.compiled[loaded].inherited;
                    let before = inherited.len();
                    for directory in &handed {
                        if !inherited.contains(directory) && inherited.len() < LONGEST_CHAIN {
                            inherited.push(directory.clone());
                        }
                    }
                    if inherited.len() > before {
                        changed.push(loaded);
                    }
                }
            }
        }
    }

    /// What whatever it loads inherits.
    fn directories(&self, index: usize) -> Vec<PathBuf> {
        let Compiled {
            linked, inherited, ..
        } = &self.compiled[index];
        if linked.runpaths.is_empty() {
            let all = linked.search.iter().chain(inherited);
            all.filter(|directory| directory.is_absolute())
                .take(LONGEST_CHAIN)
                .cloned()
                .collect()
        } else {
            Vec::new()
        }
    }

    /// Where it looks for libraries itself.
    fn search(&self, index: usize) -> Vec<PathBuf> {
        let linked = &self.compiled[index].linked;
        if linked.runpaths.is_empty() {
            return self.directories(index);
        }
        let own = linked.search.iter();
        own.filter(|directory| directory.is_absolute())
            .take(LONGEST_CHAIN)
            .cloned()
            .collect()
    }

    fn first(&mut self, directories: &[PathBuf], library: &str) -> Option<PathBuf> {
        let mut paths = directories.iter().map(|directory| directory.join(library));
        paths.find(|path| {
            if let Some(known) = self.known.get(path) {
                return *known;
            }
            let found = path
                .parent()
                .is_some_and(|parent| loader::first(&[parent.to_path_buf()], library).is_some());
            self.known.insert(path.clone(), found);
            found
        })
    }

    /// Where a file of this machine lies in the tree.
    fn place(&self, collector: &Collector<'_>, file: &Path) -> Option<PathBuf> {
        let inside = |file: &Path| {
            let below = collector.old.inside(file);
            below.filter(|below| collector.has_file(below))
        };
        let known = |file: &Path| self.places.get(file).cloned();
        known(file).or_else(|| inside(file)).or_else(|| {
            let real = file.canonicalize().ok()?;
            known(&real).or_else(|| inside(&real))
        })
    }

    fn index_of(&self, collector: &Collector<'_>, file: &Path) -> Option<usize> {
        if let Some(&index) = self.by_file.get(file) {
            return Some(index);
        }
        let real = file.canonicalize().ok()?;
        if let Some(&index) = self.by_file.get(&real) {
            return Some(index);
        }
        let place = self.place(collector, &real)?;
        self.by_path.get(&place).copied()
    }

    /// A library that a file asks for, which nobody has looked for yet.
    pub(super) fn next(&mut self) -> Option<(usize, String)> {
        self.waiting.pop_front()
    }

    /// A file, on this machine and in the tree.
    pub(super) fn paths(&self, index: usize) -> (PathBuf, PathBuf) {
        let Compiled { file, path, .. } = &self.compiled[index];
        (file.clone(), path.clone())
    }

    /// Adds a library that came along, for the first file that asks for it.
    pub(super) fn extend(&mut self, collector: &mut Collector<'_>, of: usize, place: &Path) {
        let inherited = self.directories(of);
        self.compiled[of].asks |= place.starts_with(LIBRARIES);
        for (file, linked) in std::mem::take(&mut collector.linked) {
            let index = self.compiled.len();
            self.compiled[of].loads.push(index);
            self.push(file, place.to_path_buf(), linked, inherited.clone());
        }
    }

    pub(super) fn find(
        &mut self,
        collector: &Collector<'_>,
        index: usize,
        library: &str,
    ) -> Whereabouts {
        if elf::is_of_libc(library) || library.starts_with("libc.musl") {
            return Whereabouts::OfLibc;
        }
        if elf::is_of_driver(library) {
            return Whereabouts::OfNode;
        }
        let search = self.search(index);
        let by_search = self.first(&search, library);
        if let Some(found) = &by_search
            && self.place(collector, found).is_some()
        {
            if let Some(loaded) = self.index_of(collector, found) {
                self.compiled[index].loads.push(loaded);
            }
            return Whereabouts::InTree;
        }
        let ours = [place_of(library), Path::new(LIBRARIES).join(library)];
        if let Some(ours) = ours.iter().find(|place| collector.has_file(place)) {
            self.compiled[index].asks |= ours.starts_with(LIBRARIES);
            let loaded = self.by_path.get(ours).copied();
            self.compiled[index].loads.extend(loaded);
            return Whereabouts::InTree;
        }
        let own = self.named.get(library.as_bytes()).cloned();
        let own = own.unwrap_or_default();
        // Its libpython is the one that belongs to it, by whatever it was found until now; and where there
        // was no room for a directory of the environment, it was the environment's that was found.
        if (self.interpreter == Some(index) || self.compiled[index].linked.is_cut)
            && let [place, ..] = own.as_slice()
        {
            return self.elsewhere(index, place);
        }
        self.candidates.extend(self.loader.candidates(library));
        let found = match self.loader.in_path(library) {
            Some(found) if !self.compiled[index].linked.runpaths.is_empty() => Some(found),
            found => by_search.or(found),
        };
        match found.or_else(|| self.loader.at_last(library)) {
            Some(found) => {
                if let Some(place) = self.place(collector, &found) {
                    return self.elsewhere(index, &place);
                }
                let below = collector.old.inside(&found);
                if below.is_some_and(|below| collector.excludes(&below)) {
                    Whereabouts::LeftOut
                } else if elf::is_of_node(library) {
                    Whereabouts::OfNode
                } else {
                    Whereabouts::OnMachine(found)
                }
            }
            None if elf::is_of_node(library) => Whereabouts::OfNode,
            None => match own.as_slice() {
                [] => Whereabouts::Nowhere,
                [place] => self.elsewhere(index, place),
                _ => Whereabouts::Ambiguous(own),
            },
        }
    }

    fn elsewhere(&mut self, index: usize, place: &Path) -> Whereabouts {
        self.compiled[index].asks = true;
        let loaded = self.by_path.get(place).copied();
        self.compiled[index].loads.extend(loaded);
        Whereabouts::Elsewhere(place.to_path_buf())
    }

    /// All that is loaded when one is.
    fn loaded(&self, by: usize) -> HashSet<usize> {
        let mut found = HashSet::new();
        let mut waiting = vec![by];
        while let Some(index) = waiting.pop() {
            if found.insert(index) {
                waiting.extend(&self.compiled[index].loads);
            }
        }
        found
    }

    /// Where those lie in the tree without which the interpreter cannot start.
    pub(super) fn starting(&self) -> HashSet<&Path> {
        let all = self.interpreter.map(|index| self.loaded(index));
        let all = all.into_iter().flatten();
        all.map(|index| self.compiled[index].path.as_path())
            .collect()
    }

    /// Every path at which a library was looked for outside of what is packed, or might be.
    pub(super) fn looked_at(&self) -> impl Iterator<Item = &Path> {
        let known = self.known.keys().chain(&self.candidates);
        let known = known.map(PathBuf::as_path);
        known.chain([Path::new(loader::CACHE)])
    }

    /// Those that need a search path of ours, and the interpreter, for all the modules that it loads.
    pub(super) fn programs(&self, collector: &Collector<'_>) -> Vec<Program> {
        // What is opened by its name shows in no file: whatever came along may be asked for.
        let any = collector.has(Path::new(LIBRARIES));
        let mut found = Vec::new();
        for (index, each) in self.compiled.iter().enumerate() {
            let is_interpreter = self.interpreter == Some(index);
            let is_program = each.linked.is_program && !each.path.as_os_str().is_empty();
            let asks = || {
                self.loaded(index)
                    .iter()
                    .any(|&each| self.compiled[each].asks)
            };
            if is_interpreter || (is_program && any && asks()) {
                found.push(Program {
                    path: each.path.clone(),
                    is_interpreter,
                    needs_ours: any,
                });
            }
        }
        found
    }

    /// Libraries that ask for one of ours, and do not inherit where it is.
    pub(super) fn closed_libraries(&self) -> Vec<(PathBuf, Vec<u64>)> {
        let closed = self.compiled.iter().filter(|each| {
            each.asks && !each.linked.is_program && !each.linked.runpaths.is_empty()
        });
        closed
            .map(|each| (each.path.clone(), each.linked.runpaths.clone()))
            .collect()
    }
}
