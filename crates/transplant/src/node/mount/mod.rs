//! Mounts an archive instead of unpacking it: a read-only file system that this process serves,
//! seen only by the processes that enter its namespace (docs/mount.md).
//!
//! Nothing outlives this process: with its descriptors the kernel drops the mount.

mod ahead;
mod content;
mod edited;
mod filesystem;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod namespace;
mod nodes;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};

use crate::archive::index::Archive;
use crate::parallel;
use content::Served;
use filesystem::Server;
use frames::Frames;
pub use namespace::{Holder, hold};
use nodes::Nodes;

/// They mostly wait.
const THREADS: usize = 4;

/// Why an archive is not mounted here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    fn new(action: &str, error: &io::Error) -> Self {
        Self(format!("cannot {action}: {error}"))
    }
}

/// A mounted archive.
pub struct Mounted {
    /// To be entered, in this order, by whoever wants to see it.
    pub namespaces: Vec<OwnedFd>,
    /// The device that is answered by: it must not be held by anybody who waits for an answer.
    pub device: RawFd,
    /// Why some of it could not be read, if that has happened.
    pub failure: Arc<OnceLock<String>>,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").finish_non_exhaustive()
    }
}

/// Mounts at `target`, an empty directory, for which `holder` was started.
pub fn mount(
    archive: &Arc<Archive>,
    file: &File,
    target: &Path,
    holder: Holder,
) -> Result<Mounted, Refusal> {
    let failed = |error: io::Error| Refusal::new("serve the mount", &error);
    let file = file.try_clone().map_err(failed)?;
    let failure = Arc::new(OnceLock::new());
    let store = target
        .parent()
        .and_then(|beside| tempfile::tempfile_in(beside).ok());
    let content = Arc::new(Served::new(
        Arc::clone(archive),
        Frames::new(Arc::clone(archive), file, store),
        Arc::clone(&failure),
    ));
    let (give_nodes, wait_for_nodes) = channel();
    // The first of it is needed as soon as Python starts. Without it, all is read when it is asked for.
    if let Err(error) = ahead::start(Arc::clone(&content), wait_for_nodes) {
        tracing::debug!("nothing is read ahead: {error}");
    }
    let (nodes, made) = parallel::both(|| Nodes::new(archive), || holder.mount());
    let nodes = Arc::new(nodes);
    give_nodes.send(Arc::clone(&nodes)).ok();
    let made = made?;
    let device = made.device.as_raw_fd();
    let tree = Server::new(archive, nodes, content, target)?;
    let mut config = fuser::Config::default();
    config.n_threads = Some(THREADS);
    // The kernel lets nobody else in, where that is to be so.
    config.acl = fuser::SessionACL::All;
    fuser::Session::from_fd(tree, made.device, fuser::SessionACL::All, config)
        .and_then(fuser::Session::spawn)
        .map_err(failed)?;
    Ok(Mounted {
        namespaces: made.namespaces,
        device,
        failure,
    })
}
