//! What to run and how, and how it came out.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use htmap_exec_interpreter::{PythonVersion, Search};
use nix::sys::signal::Signal;

use crate::process::served::Served;

/// What to run and how.
#[derive(Debug)]
pub struct Options {
    /// The interpreters to try, in this order.
    pub interpreters: Search,
    /// Variables to set, and to unset, for Python.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Where the interpreter lies, if this process serves it.
    pub served: Option<Served>,
    /// Where the interpreter lies, if other jobs use the same tree: nothing may be written there.
    pub shared: Option<PathBuf>,
    /// The Python that pickled the map.
    pub submit_python: Option<PythonVersion>,
    /// Run bytecode of another Python all the same.
    pub allow_python_mismatch: bool,
    /// A zip archive of cloudpickle, for nodes that have none.
    pub cloudpickle: Option<PathBuf>,
    /// For Python to exit once its result stands.
    pub exit_grace: Duration,
    /// For Python to start.
    pub start_limit: Duration,
    /// For everything.
    pub timeout: Option<Duration>,
}

/// How the run came out; each means exit status 0 but the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A result or an error record stands.
    Output,
    /// An earlier attempt had finished.
    AlreadyFinished,
    /// HTCondor wanted the machine back before there was an output.
    Evicted(Signal),
}
