//! What can happen to a session, what it may ask for, and how it may come out.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::protocol::{Hello, Loaded, Said};
use crate::failure::{Failure, Stage};
use crate::process::Ended;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For Python to exit once its result stands.
    pub exit_grace: Duration,
    /// For everything.
    pub timeout: Option<Duration>,
    /// For Python to say its version; a cold start from a network file system takes its time.
    pub start: Duration,
    /// From SIGTERM to the kill.
    pub vacate: Duration,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The inputs are open and the checkpoint is restored, or this is why not.
    Prepared(Result<(), Box<Failure>>),
    /// A connection showed the token. The one before it counts no longer.
    Connected,
    /// Python says something.
    Said(Said),
    /// Some of the result.
    Data(Vec<u8>),
    /// An action could not be done: Python must not go on.
    Refused(Box<Failure>),
    /// The result cannot be kept.
    Unwritten(Box<Failure>),
    /// HTCondor, or whoever, wants this to end.
    End(Signal),
    /// Python is stopped, by whoever; it goes on at [`Event::Continued`].
    Stopped,
    /// It goes on.
    Continued,
    /// Python is gone, and all that it said has been heard.
    Gone(Ended),
    /// Time passed.
    Tick,
}

/// What is to be done about it.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send the driver's program: Python says that it is this.
    SendProgram(Box<Hello>),
    /// Hold the map against the interpreter and send the inputs.
    SendInputs,
    /// Note which cloudpickle is used.
    NoteCloudpickle { version: String, file: String },
    /// The function starts: say so, and send the go.
    Go(Box<Loaded>),
    /// The function returned: begin an output.
    BeginOutput,
    /// Add to it.
    Write(Vec<u8>),
    /// It is complete.
    Commit,
    /// It will not be.
    Abandon,
    /// Ask Python's process group to end.
    Ask(Signal),
    /// Kill it.
    Kill,
    /// Nothing more is to come.
    Finish,
}

/// How one Python came out.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The output stands.
    Result,
    /// There is a reason.
    Failed(Box<Failure>),
    /// Python ended without a word.
    Died { ended: Ended, stage: Stage },
    /// The text of an argument did not end, and cannot be interrupted.
    NotShown,
    /// Python did not even start.
    NotStarted(String),
    /// It took longer than `--timeout`.
    TimedOut { stage: Stage },
    /// HTCondor wants the machine back.
    Evicted(Signal),
}
