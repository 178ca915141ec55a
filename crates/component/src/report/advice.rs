//! What to tell people about a failure beyond the failure itself: which file, which interpreter,
//! what to do.

use htmap_exec_interpreter::{MINIMUM_VERSION, Origin, Rejection};

use crate::failure::{Cause, Failure, PythonFacts, Stage};
use crate::process::Ended;
use crate::report::death;
use crate::scratch::Scratch;
use crate::session::conduct::Finished;

/// What advice can draw on.
pub(crate) struct Known<'a> {
    /// The execute node.
    pub(crate) host: &'a str,
    /// What ran the component, if anything did.
    pub(crate) python: Option<&'a PythonFacts>,
    /// What the job asked for, MiB.
    pub(crate) request_memory: Option<i64>,
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
    let class = match &failure.cause {
        Cause::Raised {
            class,
            missing_module,
        } => {
            if !missing_module.is_empty() {
                failure
                    .hints
                    .push(self::missing_module(missing_module, known));
            }
            class.as_str()
        }
        _ => "",
    };
    match (class, failure.stage) {
        ("SystemExit", _) => failure.hints.push(
            "the function called sys.exit (or exit, or quit): return a value or raise another \
             exception instead"
                .to_owned(),
        ),
        ("MemoryError", _) => {
            let asked = known.request_memory.map_or_else(String::new, |mib| {
                format!(" (this job asked for {mib} MiB)")
            });
            failure
                .hints
                .push(format!("ask for more memory with request_memory{asked}"));
        }
        ("", _) => {}
        (_, Stage::PicklingResult) => failure.hints.push(
            "the function ran to its end, but what it returned cannot be pickled: return plain \
             data instead"
                .to_owned(),
        ),
        (
            "UnpicklingError" | "EOFError" | "ValueError" | "AttributeError" | "TypeError",
            stage @ (Stage::LoadingFunction | Stage::LoadingArguments),
        ) => {
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
    if failure.frames_left_out > 0 {
        let left_out = failure.frames_left_out;
        failure.message.push_str(&format!(
            "\n({left_out} frames in the middle are not shown)"
        ));
    }
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
