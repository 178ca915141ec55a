//! A Python that was brought along: the ways to its tree on this node, the best one first, and the
//! variables that make it the only one.
//!
//! An archive is looked at before anything is written: a node that cannot run it says so in one
//! sentence. Each way that is passed over says why; only the last one's trouble is the component's.

mod activate;
mod cached;
mod mounted;

use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use htmap_exec_component::{ClassAd, Served, names, on_one_line};
use htmap_exec_interpreter::{Origin, Rejection, Search};
use htmap_exec_transplant::{self as transplant, Archive, Holder, Index, Manifest, Node, Refusal};

pub(crate) use cached::Wanted as WantedCache;

/// What to run with.
pub(crate) struct Brought {
    pub(crate) interpreters: Search,
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
    /// What keeps the tree in its place, until Python is gone.
    pub(crate) keep: Option<Box<dyn Any>>,
    /// If the runner itself serves it.
    pub(crate) served: Option<Served>,
    /// Where it is, if other jobs use it as well.
    pub(crate) shared: Option<PathBuf>,
}

/// What there is to bring, and how.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) archive: &'a Path,
    pub(crate) scratch: &'a Path,
    pub(crate) cache: WantedCache,
    /// Variables that are let through although they are another Python's.
    pub(crate) keep: &'a [OsString],
    pub(crate) machine_ad: &'a ClassAd,
    pub(crate) may_mount: bool,
}

impl Request<'_> {
    /// Where in the scratch directory a tree stands.
    fn root(&self) -> PathBuf {
        self.scratch.join(names::TRANSPLANT_DIR)
    }
}

/// An archive that this node can run.
struct Suited<'a> {
    request: &'a Request<'a>,
    index: &'a Index,
    manifest: &'a Manifest,
    opened: OnceCell<(Arc<Archive>, File)>,
    /// Waits to be told to mount, if that may be.
    holder: Cell<Option<Result<Holder, Refusal>>>,
}

impl Suited<'_> {
    /// All of its entries, which a hit in the cache does without.
    fn open(&self) -> Result<(Arc<Archive>, File), transplant::Error> {
        if self.opened.get().is_none() {
            let (archive, file) = self.index.open()?;
            self.opened.set((Arc::new(archive), file)).ok();
        }
        let (archive, file) = self.opened.get().expect("it was set");
        let file = file.try_clone().map_err(|source| transplant::Error::Io {
            action: "open",
            path: self.request.archive.to_path_buf(),
            source,
        })?;
        Ok((Arc::clone(archive), file))
    }

    /// An empty directory of the scratch directory, which goes with the job.
    fn new_root(&self) -> anyhow::Result<PathBuf> {
        let root = self.request.root();
        // An earlier attempt in the same sandbox may have been killed half way.
        transplant::remove(&root).with_context(|| format!("cannot remove `{}`", root.display()))?;
        fs::create_dir(&root).with_context(|| format!("cannot make `{}`", root.display()))?;
        Ok(root)
    }
}

/// A tree that stands.
struct Tree {
    root: PathBuf,
    /// Whether other jobs use it as well, and nothing may be written to it.
    shared: bool,
    keep: Option<Box<dyn Any>>,
    served: Option<Served>,
}

/// One way to a tree; nothing if it was not asked for, and the reason if it does not lead there.
type Way = fn(&Suited<'_>) -> anyhow::Result<Option<Tree>>;

/// The best one first. The last one's failure is the component's.
const WAYS: [(&str, Way); 3] = [
    ("the cache", cached::cached),
    ("mounting", mounted::mounted),
    ("unpacking", unpacked),
];

/// Never fails: an archive that is of no use is a rejection, which ends as an error record.
pub(crate) fn bring(request: &Request<'_>) -> Brought {
    let rejected = |error: &anyhow::Error, hints: Vec<String>| Brought {
        interpreters: Search::none(Rejection {
            path: request.archive.to_path_buf(),
            origin: Origin::Transplant,
            // It may name what is in the archive.
            reason: on_one_line(format!("{error:#}")),
        })
        .with_hints(hints),
        environment: Vec::new(),
        keep: None,
        served: None,
        shared: None,
    };
    // While its namespace is made, the index is read. A hit in a cache would need none.
    let holder = if cached::directory(request).is_none() {
        mounted::start(request)
    } else {
        None
    };
    let (index, manifest) = match identify(request.archive) {
        Ok(found) => found,
        Err(error) => {
            let hints = hints(&error);
            return rejected(&error, hints);
        }
    };
    let node = Node::new(&manifest);
    let unmet = transplant::unmet(&node, &manifest);
    if !unmet.is_empty() {
        let reasons: Vec<&str> = unmet.iter().map(|each| each.reason.as_str()).collect();
        let hints = unmet.iter().map(|each| each.hint.to_owned()).collect();
        return rejected(&anyhow::Error::msg(reasons.join("; ")), hints);
    }
    let suited = Suited {
        request,
        index: &index,
        manifest: &manifest,
        opened: OnceCell::new(),
        holder: Cell::new(holder),
    };
    match way(&suited) {
        Ok(tree) => Brought {
            interpreters: Search::only(tree.root.join(&manifest.python), Origin::Transplant),
            environment: activate::environment(&tree, &manifest, &node, request.keep),
            keep: tree.keep,
            served: tree.served,
            shared: tree.shared.then_some(tree.root),
        },
        Err(error) => {
            let hints = hints(&error);
            rejected(&error, hints)
        }
    }
}

fn identify(path: &Path) -> anyhow::Result<(Index, Manifest)> {
    let index = Index::read(path)?;
    if !transplant::is_named_by(path, index.digest) {
        bail!("its digest is {}, and not its name", index.digest);
    }
    let manifest: Manifest =
        serde_json::from_slice(&index.manifest).context("it does not say what Python it holds")?;
    if let Some(path) = manifest.outside() {
        bail!("it names `{path}`, which does not lie in it");
    }
    Ok((index, manifest))
}

fn way(suited: &Suited<'_>) -> anyhow::Result<Tree> {
    let (&(_, last), others) = WAYS.split_last().expect("there are some");
    for (name, way) in others {
        match way(suited) {
            Ok(Some(tree)) => return Ok(tree),
            Ok(None) => {}
            Err(error) => tracing::warn!("{name} is passed over: {error:#}"),
        }
    }
    last(suited)?.context("there is no way to unpack it")
}

fn unpacked(suited: &Suited<'_>) -> anyhow::Result<Option<Tree>> {
    let (archive, file) = suited.open()?;
    if let Some(lacking) = transplant::no_room(&archive, suited.request.scratch) {
        return Err(lacking.into());
    }
    let root = suited.new_root()?;
    let begun = Instant::now();
    let unpacked = transplant::unpack(&archive, &file, &root).inspect_err(|_| {
        // What there is of it is of no use, and takes the room that the report may need.
        transplant::remove(&root).ok();
    })?;
    for left in transplant::apply(&root, &root)? {
        tracing::warn!("{left}");
    }
    tracing::info!(
        "unpacked {} files and directories in {:.1} s",
        unpacked.entries,
        begun.elapsed().as_secs_f64()
    );
    Ok(Some(Tree {
        root,
        shared: false,
        keep: None,
        served: None,
    }))
}

fn hints(error: &anyhow::Error) -> Vec<String> {
    if error.is::<transplant::NoRoom>() {
        return vec![
            "ask for more disk with request_disk, or name a cache that jobs of a node share: \
             HTMAP_EXEC_CACHE_DIR"
                .to_owned(),
        ];
    }
    error
        .downcast_ref::<transplant::Error>()
        .and_then(transplant::Error::hint)
        .map(str::to_owned)
        .into_iter()
        .collect()
}
