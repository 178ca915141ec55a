//! What goes on in the runner while Python starts: inputs are opened, the checkpoint comes back, the
//! scratch directory is drawn.
//!
//! In a thread of the runner's, since restoring a large checkpoint takes longer than Python's start and
//! must not keep the runner from hearing a SIGTERM.

use std::io::{PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use crate::error::Error;
use crate::failure::{Cause, Failure, Stage};
use crate::scratch::input::{BadInput, Input};
use crate::scratch::{Scratch, checkpoint, listing};

/// The inputs, or what is wrong with which.
pub(crate) type OpenedInputs = Result<Vec<Input>, (BadInput, Stage)>;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Function and arguments.
    pub inputs: OpenedInputs,
    /// How many paths came back from a checkpoint.
    pub restored: Result<usize, Error>,
    /// The scratch directory, for people.
    pub tree: String,
}

/// It is still going on.
#[derive(Debug)]
pub(crate) struct Preparation {
    /// At its end once there is an answer.
    ready: PipeReader,
    answer: Receiver<Prepared>,
}

impl AsFd for Preparation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Preparation {
    /// Begins. Where no thread can be started (a limit of processes), it is over when this returns.
    pub(crate) fn begin(scratch: &Scratch) -> Result<Self, Error> {
        let (ready, writer) = pipe().map_err(Error::system("make a pipe"))?;
        let (sender, answer) = channel();
        let place = scratch.clone();
        let mut held = Some((writer, sender));
        let started = std::thread::Builder::new().spawn({
            let held = held.take();
            move || {
                let Some((writer, sender)) = held else { return };
                let _ = sender.send(prepare(&place));
                drop(writer);
            }
        });
        if started.is_ok() {
            return Ok(Self { ready, answer });
        }
        let (sender, answer) = channel();
        let _ = sender.send(prepare(scratch));
        Ok(Self { ready, answer })
    }

    /// Waits for the answer.
    pub(crate) fn finish(self) -> Result<Prepared, Failure> {
        self.answer.recv().map_err(|_| {
            let message = "what prepares the scratch directory ended without a word";
            Failure::new(Stage::RestoringCheckpoint, Cause::Internal, message)
        })
    }
}

fn prepare(scratch: &Scratch) -> Prepared {
    // Before anything is restored: a checkpoint may hold a file named `func`.
    let inputs = open_inputs(scratch);
    let restored = checkpoint::restore(scratch).map(|files| files.len());
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
