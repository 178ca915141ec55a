//! Why a component has no result: what every layer hands up, and the error record shows.
//!
//! Advice, exit status and retry follow from [`Stage`] and [`Cause`], never from a text.

use std::fmt;

use serde::Serialize;

/// What was going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The runner made and looked at the scratch directory.
    #[default]
    Landing,
    /// Files of a checkpoint were brought back.
    RestoringCheckpoint,
    /// Interpreters were tried.
    StartingPython,
    /// The bytecode of the map was held against the interpreter.
    CheckingVersion,
    /// The driver imported what it needs.
    ImportingCloudpickle,
    /// `func` was unpickled.
    LoadingFunction,
    /// `N.in` was unpickled.
    LoadingArguments,
    /// Texts of function and arguments were made for stdout.
    ShowingArguments,
    /// The user's code ran.
    RunningFunction,
    /// The function had returned.
    PicklingResult,
    /// The result was complete.
    WritingOutput,
}

impl Stage {
    /// All of them, in their order.
    pub(crate) const ALL: [Self; 11] = [
        Self::Landing,
        Self::RestoringCheckpoint,
        Self::StartingPython,
        Self::CheckingVersion,
        Self::ImportingCloudpickle,
        Self::LoadingFunction,
        Self::LoadingArguments,
        Self::ShowingArguments,
        Self::RunningFunction,
        Self::PicklingResult,
        Self::WritingOutput,
    ];

    /// As records and messages call it: what follows "while".
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Landing => "landing on the execute node",
            Self::RestoringCheckpoint => "restoring the checkpoint",
            Self::StartingPython => "starting Python",
            Self::CheckingVersion => "checking the Python version",
            Self::ImportingCloudpickle => "importing cloudpickle",
            Self::LoadingFunction => "loading the function",
            Self::LoadingArguments => "loading the arguments",
            Self::ShowingArguments => "showing the arguments",
            Self::RunningFunction => "running the function",
            Self::PicklingResult => "pickling the result",
            Self::WritingOutput => "writing the output",
        }
    }

    /// The stage of that text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.text() == text)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Why it failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An exception reached the driver.
    Raised(Raised),
    /// Python ended without a word.
    Died,
    /// Memory ran out, whoever died of it.
    OutOfMemory,
    /// It took longer than `--timeout`.
    TimedOut,
    /// The text of an argument did not end.
    EndlessText,
    /// An input file is missing or damaged.
    BadInput,
    /// The bytecode of the map is another Python's.
    VersionMismatch,
    /// No interpreter started.
    NoPython,
    /// The Python that was brought along could not be read.
    UnreadablePython,
    /// The result does not fit on the disk.
    NoRoom,
    /// A file of the contract, the node's or ours, could not be used.
    NodeFile,
    /// A bug of htmap-exec.
    #[default]
    Internal,
}

/// What an exception is, as far as advice depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Raised {
    /// Its class.
    pub class: String,
    /// The interpreter's own classes that it is one of, such as `FileNotFoundError`, `OSError`.
    pub lineage: Vec<String>,
    /// The module that an `ImportError` misses, else empty.
    pub missing_module: String,
    /// An `OSError`'s number.
    pub errno: Option<i32>,
    /// An `OSError`'s file, else empty.
    pub filename: String,
}

impl Raised {
    /// Whether it is one of these, or of a class below.
    pub(crate) fn is_a(&self, class: &str) -> bool {
        self.lineage.iter().any(|each| each == class)
    }
}

/// Whose failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Blame {
    /// The user's function, or a library that it called. Never run again.
    Function,
    /// The files of the map: the same on every node.
    Map,
    /// This execute node: another one may do.
    Node,
    /// htmap-exec.
    Runner,
}

impl Cause {
    /// Whose failure it is.
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::Raised(_)
            | Self::Died
            | Self::OutOfMemory
            | Self::TimedOut
            | Self::EndlessText => Blame::Function,
            Self::BadInput | Self::VersionMismatch => Blame::Map,
            Self::NoPython | Self::UnreadablePython | Self::NoRoom | Self::NodeFile => Blame::Node,
            Self::Internal => Blame::Runner,
        }
    }

    /// The exception's class, a name of ours in the form of one, or nothing.
    pub(crate) fn class(&self) -> &str {
        match self {
            Self::Raised(raised) => &raised.class,
            Self::NoPython => "NoPython",
            Self::VersionMismatch => "PythonVersionMismatch",
            Self::Internal => "InternalError",
            _ => "",
        }
    }
}

/// One frame of the user's code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The source file's name, as compiled.
    pub filename: String,
    /// 1-based.
    pub lineno: i64,
    /// The function.
    pub name: String,
    /// The source line, empty where the file is not on the node.
    pub line: String,
    /// Names and texts of the local variables.
    pub locals: Vec<(String, String)>,
}

/// The Python that ran the component.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct PythonFacts {
    /// Absolute path.
    pub executable: String,
    /// Full version, such as `3.11.7`.
    pub version: String,
    /// The lines of `pip freeze`.
    #[serde(skip)]
    pub packages: Vec<String>,
}

/// Why a component has no result.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure {
    /// What was going on.
    pub stage: Stage,
    /// Why it failed.
    pub cause: Cause,
    /// The whole message, for people.
    pub message: String,
    /// The traceback as Python prints it, where there is one.
    pub traceback: String,
    /// Outermost first.
    pub frames: Vec<Frame>,
    /// Frames that were too many.
    pub frames_left_out: u64,
    /// What the user can do.
    pub hints: Vec<String>,
    /// How Python ended, where it ended before it could say anything.
    pub ended: Option<String>,
}

impl Failure {
    /// A failure without an exception.
    pub(crate) fn new(stage: Stage, cause: Cause, message: impl Into<String>) -> Self {
        Self {
            stage,
            cause,
            message: message.into(),
            ..Self::default()
        }
    }

    /// Adds what the user can do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The message and the hints, as reports show them.
    pub(crate) fn text(&self) -> String {
        let mut text = self.message.clone();
        for hint in &self.hints {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_found_by_its_text() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.text()), Some(stage));
        }
        assert_eq!(Stage::parse("idling"), None);
    }
}
