//! What still writes an error record when nothing else does: after a panic of any thread, or an error
//! that the runner has no other place for.
//!
//! HTCondor holds a job that brings no output back, without a reason that its user could read. So the
//! outermost layer keeps what a record needs in one place, from landing to the end. Only what cannot
//! write at all leaves none.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::failure::{Cause, Failure, PythonFacts, Stage};
use crate::names;
use crate::node::NodeFacts;
use crate::node::classad::ClassAd;
use crate::node::memory::Peak;
use crate::pickle::{Value, dumps};
use crate::process;
use crate::regular;
use crate::report::error_record::{self, Context};
use crate::report::run_record::RunRecord;
use crate::scratch::Scratch;
use crate::scratch::reserve::Reserve;

struct LastResort {
    scratch: Scratch,
    reserve: Arc<Reserve>,
    node: Option<NodeFacts>,
    python: Option<PythonFacts>,
}

static LAST_RESORT: Mutex<Option<LastResort>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<LastResort>> {
    LAST_RESORT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on, a record can be written.
pub(crate) fn arm(scratch: &Scratch, reserve: &Arc<Reserve>) {
    *known() = Some(LastResort {
        scratch: scratch.clone(),
        reserve: Arc::clone(reserve),
        node: None,
        python: None,
    });
}

/// The record will name this node.
pub(crate) fn know_node(node: &NodeFacts) {
    if let Some(known) = known().as_mut() {
        known.node = Some(node.clone());
    }
}

/// The record will name this Python.
pub(crate) fn know_python(python: &PythonFacts) {
    if let Some(known) = known().as_mut() {
        known.python = Some(python.clone());
    }
}

/// The run is over.
pub(crate) fn disarm() {
    *known() = None;
}

/// A thread panicked: Python goes, and the record says what happened. Returns whether an output stands;
/// then the process ends as it does after any other failure.
pub fn panicked(panic: &str) -> bool {
    let mut guard = known();
    let Some(known) = guard.as_mut() else {
        return false;
    };
    process::kill_group_of_python();
    let failure = Failure::new(
        Stage::Landing,
        Cause::Internal,
        format!("htmap-exec itself failed: {panic}"),
    )
    .hint("this is a bug of htmap-exec: please report it with the lines above");
    // The lock is kept: a second thread that panics waits here until the process ends.
    known.write(&failure).is_ok()
}

/// Writes the record of a failure that has no other place. Returns whether an output stands.
pub(crate) fn record(failure: &Failure) -> io::Result<()> {
    match known().as_mut() {
        Some(known) => known.write(failure),
        None => Err(io::Error::other("the run is over")),
    }
}

impl LastResort {
    fn write(&mut self, failure: &Failure) -> io::Result<()> {
        let place = self.scratch.output();
        if place.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Ok(());
        }
        self.reserve.give_up();
        let node = self
            .node
            .take()
            .unwrap_or_else(|| NodeFacts::collect(&ClassAd::default()));
        let context = Context {
            component: self.scratch.component(),
            node: &node,
            python: self.python.as_ref(),
            scratch_dir_contents: Vec::new(),
            stderr_tail: String::new(),
            peak_memory: Peak::default(),
        };
        let record = error_record::pickle(&context, failure);
        // Not the name that another thread may be writing to just now.
        let unfinished = self.scratch.root().join(format!(
            "{}{}.last.part",
            names::PRIVATE_PREFIX,
            self.scratch.component()
        ));
        let written = write_output(&unfinished, &record).and_then(|()| {
            self.scratch.make_directories().map_err(io::Error::other)?;
            if let Err(error) = self.scratch.deliver_output_files() {
                tracing::warn!("{error}");
            }
            // A link, since it replaces nothing: a result that came in between stands.
            std::fs::hard_link(&unfinished, &place).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => std::fs::rename(&unfinished, &place),
            })
        });
        std::fs::remove_file(&unfinished).ok();
        written?;
        if let Err(error) = RunRecord::new(&self.scratch, &node)
            .failed(failure)
            .write(&self.scratch)
        {
            tracing::warn!("{error}");
        }
        Ok(())
    }
}

fn write_output(path: &Path, record: &[u8]) -> io::Result<()> {
    let mut gzip = GzEncoder::new(regular::create(path)?, Compression::new(3));
    gzip.write_all(&dumps(&Value::str(names::STATUS_ERR)))?;
    gzip.write_all(record)?;
    gzip.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Command;

    use flate2::read::MultiGzDecoder;

    use super::*;

    const VARIABLE: &str = "HTMAP_EXEC_TEST_PANIC_IN";

    /// The child of the test below: a thread of it panics, as the binary's hook would find it.
    #[test]
    fn panics_if_told_to() {
        let Some(directory) = std::env::var_os(VARIABLE) else {
            return;
        };
        let scratch = Scratch::prepare(Path::new(&directory), 7).unwrap();
        let reserve = Arc::new(Reserve::take(&scratch.reserve()));
        arm(&scratch, &reserve);
        std::panic::set_hook(Box::new(|panic| {
            let stands = panicked(&panic.to_string());
            #[allow(clippy::exit)]
            std::process::exit(if stands { 42 } else { 43 });
        }));
        let panicking = std::thread::spawn(|| panic!("for the test"));
        let _ = panicking.join();
    }

    #[test]
    fn a_panic_of_any_thread_leaves_a_record() {
        let directory = tempfile::tempdir().unwrap();
        let name = "last_resort::tests::panics_if_told_to";
        let status = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(VARIABLE, directory.path())
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), Some(42));
        let output = std::fs::read(directory.path().join("_htmap_transfer/7.out")).unwrap();
        let mut pickles = Vec::new();
        MultiGzDecoder::new(&output[..])
            .read_to_end(&mut pickles)
            .unwrap();
        let text = String::from_utf8_lossy(&pickles);
        assert!(
            text.contains("ERR") && text.contains("for the test"),
            "{text}"
        );
        let record = std::fs::read(directory.path().join("_htmap_transfer/7.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["cause"], "runner");
    }

    #[test]
    fn what_stands_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        std::fs::write(scratch.output(), "a result").unwrap();
        let mut known = LastResort {
            reserve: Arc::new(Reserve::take(&scratch.reserve())),
            node: None,
            python: None,
            scratch,
        };
        known.write(&Failure::default()).unwrap();
        assert_eq!(std::fs::read(known.scratch.output()).unwrap(), b"a result");
    }
}
