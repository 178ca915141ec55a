//! What goes on in the runner while Python starts: inputs are opened, the checkpoint comes back, the
//! scratch directory is drawn.
//!
//! In a thread of the runner's, since restoring a large checkpoint takes longer than Python's start and
//! must not keep the runner from hearing a SIGTERM.

use std::io::{PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::driver::workers;
use crate::error::Error;
use crate::failure::{Cause, Failure, Stage};
use crate::scratch::checkpoint::{self, Adopted, NotRestored, Restored};
use crate::scratch::input::{BadInput, Input};
use crate::scratch::{Scratch, listing};

/// For a restore to stop: it looks between the blocks of a file.
const PATIENCE: Duration = Duration::from_secs(5);

/// The inputs, or what is wrong with which.
pub(crate) type OpenedInputs = Result<Vec<Input>, (BadInput, Stage)>;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Function and arguments.
    pub inputs: OpenedInputs,
    /// What came back from a checkpoint.
    pub restored: Result<Restored, NotRestored>,
    /// The scratch directory, for people.
    pub tree: String,
}

/// It is still going on; dropped, it is stopped.
#[derive(Debug)]
pub(crate) struct Preparation {
    /// At its end once there is an answer.
    ready: PipeReader,
    answer: Receiver<Prepared>,
    stop: Arc<AtomicBool>,
}

impl AsFd for Preparation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Preparation {
    /// Begins. Where no thread can be started (a limit of processes), it is over when this returns.
    pub(crate) fn begin(scratch: &Scratch, adopted: Adopted) -> Result<Self, Error> {
        let (ready, writer) = pipe().map_err(Error::system("make a pipe"))?;
        let (sender, answer) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let work = {
            let (scratch, stop, sender) = (scratch.clone(), Arc::clone(&stop), sender.clone());
            move || {
                // Nobody may be there to be told any more.
                let _ = sender.send(prepare(&scratch, adopted, &stop));
                drop(writer);
            }
        };
        let thread = std::thread::Builder::new()
            .name("prepare".to_owned())
            .spawn(work);
        if let Err(error) = &thread {
            tracing::debug!("the scratch directory is prepared without a thread: {error}");
            let _ = sender.send(prepare(scratch, adopted, &stop));
        }
        Ok(Self {
            ready,
            answer,
            stop,
        })
    }

    /// Waits for the answer.
    pub(crate) fn finish(self) -> Result<Prepared, Failure> {
        self.answer.recv().map_err(|_| {
            let message = "what prepares the scratch directory ended without a word";
            Failure::new(Stage::RestoringCheckpoint, Cause::Internal, message)
        })
    }
}

impl Drop for Preparation {
    /// Nothing is restored afterwards; but a file system that does not answer is not waited for.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.answer.recv_timeout(PATIENCE);
    }
}

fn prepare(scratch: &Scratch, adopted: Adopted, stop: &AtomicBool) -> Prepared {
    // Before anything is restored: a checkpoint may hold a file named `func`.
    let inputs = open_inputs(scratch);
    workers::write_modules(scratch.root(), scratch.component());
    let restored = if adopted.found {
        checkpoint::restore(scratch, stop)
    } else {
        Ok(Restored::default())
    };
    Prepared {
        inputs,
        restored,
        tree: listing::tree(scratch.root()),
    }
}

/// Function and arguments, from their beginning.
pub(crate) fn open_inputs(scratch: &Scratch) -> OpenedInputs {
    let open = |path: PathBuf, stage| Input::open(&path).map_err(|bad| (bad, stage));
    Ok(vec![
        open(scratch.function(), Stage::LoadingFunction)?,
        open(scratch.input(), Stage::LoadingArguments)?,
    ])
}
