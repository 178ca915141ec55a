//! Why a component has no result: what every layer hands up, and the error record shows.

use serde::Serialize;

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
    pub stage: String,
    /// The exception's class, empty where there was none.
    pub kind: String,
    /// The whole message, for people.
    pub message: String,
    /// The module that an `ImportError` misses.
    pub missing_module: String,
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
    pub(crate) fn new(stage: &str, message: impl Into<String>) -> Self {
        Self {
            stage: stage.to_owned(),
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
