//! What to tell people about a failure beyond the failure itself: which file, which interpreter,
//! what to do.

use std::path::Path;

use htmap_exec_interpreter::{MINIMUM_VERSION, Origin, Rejection};

use crate::failure::{Cause, Failure, PythonFacts, Raised, Stage};
use crate::node::memory::{Findings, Killed};
use crate::process::Ended;
use crate::report::loader::Loader;
use crate::report::{death, lack, source};
use crate::scratch::Scratch;
use crate::session::conduct::Finished;

/// What advice can draw on.
pub(crate) struct Known<'a> {
    /// The execute node.
    pub(crate) host: &'a str,
    /// What ran the component, if anything did.
    pub(crate) python: Option<&'a PythonFacts>,
    /// What is known of its memory.
    pub(crate) memory: &'a Findings,
    /// Where a Python that was brought along is mounted, read-only.
    pub(crate) mounted: Option<&'a Path>,
    /// Where it lies instead if other jobs use it as well.
    pub(crate) shared: Option<&'a Path>,
    /// Where its files are.
    pub(crate) scratch: &'a Scratch,
}

impl Known<'_> {
    fn interpreter(&self) -> String {
        self.python.map_or_else(
            || "the interpreter".to_owned(),
            |python| format!("`{}` (Python {})", python.executable, python.version),
        )
    }
}

/// Adds hints, and the file's name where the failure is a file's.
pub(crate) fn advise(failure: &mut Failure, known: &Known<'_>) {
    match failure.cause.clone() {
        Cause::Raised(raised) => of_exception(failure, &raised, known),
        // These have looked at the memory themselves.
        Cause::Died | Cause::OutOfMemory => {}
        Cause::NoPython => {
            if let Some(killed) = lack::killed(known.memory) {
                failure.cause = Cause::OutOfMemory;
                failure.message =
                    format!("memory ran out while starting Python\n{}", failure.message);
                // A Python is there: what was said of finding one is beside the point.
                failure.hints = vec![killed];
            }
            failure.hints.extend(lack::process_limits(known.memory));
        }
        _ => failure.hints.extend(lack::killed(known.memory)),
    }
    source::fill(failure, known.scratch);
    if failure.frames_left_out > 0 {
        let left_out = failure.frames_left_out;
        failure.message.push_str(&format!(
            "\n({left_out} frames in the middle are not shown)"
        ));
    }
}

/// An exception reached the driver.
fn of_exception(failure: &mut Failure, raised: &Raised, known: &Known<'_>) {
    let missing_module = raised.missing_module.as_str();
    let loader = Loader::find(&failure.message).map(|found| loader(&found, known));
    if let Some(hint) = loader {
        failure.hints.push(hint);
    } else if raised.is_a("ModuleNotFoundError") && !missing_module.is_empty() {
        failure
            .hints
            .push(self::missing_module(missing_module, known));
    } else if raised.is_a("ImportError")
        && !missing_module.is_empty()
        // Python's own words: a module may raise this for any reason.
        && failure.message.contains("cannot import name")
    {
        failure.hints.push(other_version(missing_module, known));
    }
    failure.hints.extend(of_memory(failure, raised, known));
    failure.hints.extend(read_only(failure, raised, known));
    failure.hints.extend(not_there(raised, failure.stage));
    match failure.stage {
        _ if raised.is_a("SystemExit") => failure.hints.push(
            "the function called sys.exit (or exit, or quit): return a value or raise another \
             exception instead"
                .to_owned(),
        ),
        Stage::PicklingResult if !is_memory_error(raised) => failure.hints.push(
            "the function ran to its end, but what it returned cannot be pickled: return plain \
             data instead"
                .to_owned(),
        ),
        stage @ (Stage::LoadingFunction | Stage::LoadingArguments) if is_of_a_pickle(raised) => {
            let file = if stage == Stage::LoadingFunction {
                known.scratch.function()
            } else {
                known.scratch.input()
            };
            failure.message = format!(
                "the input file `{}` cannot be unpickled: {}",
                file.display(),
                failure.message
            );
            failure.hints.push(format!(
                "if the file is whole, it was made by a Python or cloudpickle that is too \
                 different from {}",
                known.interpreter()
            ));
        }
        _ => {}
    }
}

/// Python's own, and those of libraries below it. A GPU's is none.
fn is_memory_error(raised: &Raised) -> bool {
    raised.is_a("MemoryError")
}

/// What a damaged pickle, or one of another version, makes `pickle.load` raise.
fn is_of_a_pickle(raised: &Raised) -> bool {
    // Not a class of the interpreter's.
    raised.class == "UnpicklingError"
        || ["EOFError", "ValueError", "AttributeError", "TypeError"]
            .iter()
            .any(|class| raised.is_a(class))
}

/// A file beside the script is not beside the function.
fn not_there(raised: &Raised, stage: Stage) -> Option<String> {
    let relative = !raised.filename.is_empty() && !raised.filename.starts_with('/');
    let asked = stage == Stage::RunningFunction && raised.is_a("FileNotFoundError") && relative;
    asked.then(|| {
        format!(
            "the function runs in a scratch directory of its own, which holds no `{}`: send the file \
             along with `input_files` or `fixed_input_files` in the map's options (`--input PATH` of \
             `htmap-exec local`)",
            raised.filename
        )
    })
}

/// What says that a child of Python ended, and not how.
fn is_about_child(class: &str, message: &str) -> bool {
    match class {
        // concurrent.futures, loky and joblib, dask, billiard.
        "BrokenProcessPool"
        | "BrokenExecutor"
        | "TerminatedWorkerError"
        | "KilledWorker"
        | "WorkerLostError" => true,
        // Its status is in its text only; a shell's is 128 and the signal.
        "CalledProcessError" => {
            message.contains("SIGKILL: 9>") || message.contains("exit status 137")
        }
        _ => false,
    }
}

fn of_memory(failure: &Failure, raised: &Raised, known: &Known<'_>) -> Vec<String> {
    let memory = known.memory;
    let mut hints = Vec::new();
    if is_memory_error(raised) || raised.errno == Some(nix::libc::ENOMEM) {
        hints.extend(lack::process_limits(memory));
        hints.push(format!("{}{}", lack::more(memory), lack::limit(memory)));
    } else if let Some(killed) = lack::killed(memory) {
        hints.push(killed);
    } else if is_about_child(&raised.class, &failure.message) {
        hints.push(match &memory.killed {
            Killed::Nobody if !memory.is_near() => "the kernel killed nobody for lack of memory: \
                a child of Python crashed, or something else ended it. What it said last is in \
                the component's stderr"
                .to_owned(),
            _ => lack::sigkill(memory, "a child of Python"),
        });
    }
    hints
}

/// A package that writes beside itself.
fn read_only(failure: &Failure, raised: &Raised, known: &Known<'_>) -> Option<String> {
    let names = |root: &Path| {
        let place = root.display().to_string();
        failure.message.contains(&place) || raised.filename.starts_with(&place)
    };
    let refused = [nix::libc::EACCES, nix::libc::EPERM];
    if let Some(root) = known.shared
        && raised.errno.is_some_and(|errno| refused.contains(&errno))
        && names(root)
    {
        return Some(format!(
            "the Python that was brought along is in the node's cache, `{}`, where nothing can be \
             written since other jobs use it: do without the cache (an empty HTMAP_EXEC_CACHE_DIR) \
             and with `--no-mount`, or tell the package to write elsewhere",
            root.display()
        ));
    }
    let is_errno = raised.errno == Some(nix::libc::EROFS);
    // What C and C++ say, and exceptions that quote another one.
    if !is_errno && !failure.message.contains("Read-only file system") {
        return None;
    }
    // A link may have led there; what names no file names none elsewhere.
    let mounted = known
        .mounted
        .filter(|root| names(root) || is_errno && !failure.message.contains('/'));
    match mounted {
        Some(root) => Some(format!(
            "the Python that was brought along is mounted at `{}`, where nothing can be written: \
             have it unpacked with `--no-mount` (or HTMAP_EXEC_MOUNT=0), or tell the package to \
             write elsewhere",
            root.display()
        )),
        None => is_errno.then(|| {
            format!(
                "write to the scratch directory, `{}`: the function starts in it",
                known.scratch.root().display()
            )
        }),
    }
}

/// A compiled module that is there, and does not load.
fn loader(found: &Loader<'_>, known: &Known<'_>) -> String {
    let python = known.interpreter();
    let host = known.host;
    match found {
        Loader::Missing { library } => format!(
            "{python} on `{host}` does not find the shared library `{library}`. It is no Python \
             module: install the package that holds it there or in the image, or bring Python \
             along as a transplant that was built where it is found"
        ),
        Loader::TooOld { library, version } => format!(
            "`{library}` on `{host}` is too old for a compiled module, which needs `{version}`: \
             install a build of the module for older systems, or use an image"
        ),
        Loader::NoSymbol { symbol } => format!(
            "two compiled packages do not fit together: nothing that is loaded on `{host}` has \
             `{symbol}`. Install both in versions that belong together"
        ),
    }
}

/// The module is there, and not as the function expects it.
fn other_version(module: &str, known: &Known<'_>) -> String {
    format!(
        "the module `{module}` that {} on `{}` has is not the one that the function expects: look \
         for another version, or for a file of the same name that comes before it",
        known.interpreter(),
        known.host
    )
}

fn missing_module(module: &str, known: &Known<'_>) -> String {
    let python = known.interpreter();
    let host = known.host;
    if module.split('.').next() == Some("cloudpickle") {
        format!(
            "{python} on `{host}` has no cloudpickle, and the map brought none along: install it \
             there, or submit with the htmap-exec Python package, which ships it"
        )
    } else {
        format!(
            "{python} on `{host}` lacks the module `{module}`: install it there or in the image, \
             or send the file along (input_files) if it is your own"
        )
    }
}

/// The failure of a component for which there is no Python.
pub(crate) fn no_python(rejections: &[Rejection], hints: &[String]) -> Failure {
    let brought = !rejections.is_empty()
        && rejections
            .iter()
            .all(|rejection| rejection.origin == Origin::Transplant);
    let mut message = if brought {
        "the transplanted Python cannot be used on this execute node".to_owned()
    } else {
        format!("no Python {MINIMUM_VERSION} or later was found on this execute node")
    };
    if rejections.is_empty() {
        message.push_str(": nothing in VIRTUAL_ENV, CONDA_PREFIX, PATH or a well-known place");
    }
    for rejection in rejections {
        message.push_str(&format!("\n  {rejection}"));
    }
    let failure = Failure::new(Stage::StartingPython, Cause::NoPython, message);
    let failure = Failure {
        hints: hints.to_vec(),
        ..failure
    };
    if brought {
        return failure;
    }
    failure.hint(
        "name one with `--python PATH`, use a container image that has one, or send nodes without \
         Python no jobs (requirements)",
    )
}

/// Why an interpreter is passed over, with the last that it said.
pub(crate) fn not_started(reason: &str, finished: &Finished) -> String {
    let mut text = reason.to_owned();
    match finished.ended {
        Some(Ended::Signaled(nix::libc::SIGKILL)) | None => {}
        Some(ended) => text.push_str(&format!(" ({})", death::describe(ended))),
    }
    let last = finished
        .stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty());
    if let Some(line) = last {
        text.push_str(": ");
        text.push_str(line.trim());
    }
    text
}
