//! The error record: what a component that did not succeed says of itself.
//!
//! Written here for every kind of failure, as plain pickle, so that it loads wherever the submit
//! side is. HTMap's `ComponentError` reads six attributes of it; the others are additions.

use serde::Serialize;

use crate::node::NodeFacts;
use crate::pickle::{Value, dumps};

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

/// Everything the record says besides the failure.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The component's number.
    pub component: u64,
    /// Where it ran.
    pub node: &'a NodeFacts,
    /// What ran it, if anything did.
    pub python: Option<&'a PythonFacts>,
    /// Absolute paths in the scratch directory.
    pub scratch_dir_contents: Vec<String>,
    /// The last of what the component wrote to stderr.
    pub stderr_tail: String,
    /// Peak resident memory of Python's process tree, in bytes.
    pub peak_memory: Option<u64>,
}

/// The pickle of the error record.
pub(crate) fn pickle(context: &Context<'_>, failure: &Failure) -> Vec<u8> {
    let node = context.node;
    let landed = node.landed;
    let time = Value::Call(
        Box::new(Value::Global("datetime", "datetime")),
        [
            i64::from(landed.year()),
            i64::from(landed.month()),
            i64::from(landed.day()),
            i64::from(landed.hour()),
            i64::from(landed.minute()),
            i64::from(landed.second()),
            i64::from(landed.subsec_nanosecond() / 1000),
        ]
        .map(Value::Int)
        .to_vec(),
    );
    let attributes = vec![
        (
            "component",
            Value::Int(i64::try_from(context.component).unwrap_or(i64::MAX)),
        ),
        ("exception_msg", Value::Str(failure.text())),
        (
            "node_info",
            Value::Tuple(vec![
                Value::str(&node.host),
                Value::str(&node.address),
                time,
                Value::str(&node.user),
            ]),
        ),
        (
            "python_info",
            Value::or_none(context.python, |python| {
                Value::Tuple(vec![
                    Value::str(&python.executable),
                    Value::str(&python.version),
                    Value::Str(python.packages.join("\n")),
                ])
            }),
        ),
        (
            "scratch_dir_contents",
            Value::List(
                context
                    .scratch_dir_contents
                    .iter()
                    .map(Value::str)
                    .collect(),
            ),
        ),
        ("stack_summary", stack_summary(&failure.frames)),
        // Additions to HTMap's record.
        ("stage", Value::str(&failure.stage)),
        ("exception_type", Value::str(&failure.kind)),
        ("traceback", Value::str(&failure.traceback)),
        (
            "hints",
            Value::List(failure.hints.iter().map(Value::str).collect()),
        ),
        (
            "exit_status",
            Value::or_none(failure.ended.as_ref(), Value::str),
        ),
        ("stderr_tail", Value::str(&context.stderr_tail)),
        (
            "peak_memory",
            Value::or_none(context.peak_memory, |bytes| {
                Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX))
            }),
        ),
        ("htmap_exec", Value::str(env!("CARGO_PKG_VERSION"))),
    ];
    dumps(&Value::State(
        Box::new(Value::Call(
            Box::new(Value::Global("types", "SimpleNamespace")),
            Vec::new(),
        )),
        Box::new(Value::Dict(
            attributes
                .into_iter()
                .map(|(name, value)| (Value::str(name), value))
                .collect(),
        )),
    ))
}

/// A `traceback.StackSummary` of `traceback.FrameSummary`, as HTMap's documentation says.
///
/// `FrameSummary` takes its source line by keyword only, which a protocol 2 pickle cannot pass:
/// `functools.partial` can. Its `locals` slot is set afterwards, because its constructor would
/// take the `repr` of our texts.
fn stack_summary(frames: &[Frame]) -> Value {
    let class = || Value::Global("traceback", "FrameSummary");
    let frames = frames
        .iter()
        .map(|frame| {
            let partial = Value::State(
                Box::new(Value::Call(
                    Box::new(Value::Global("functools", "partial")),
                    vec![class()],
                )),
                Box::new(Value::Tuple(vec![
                    class(),
                    Value::Tuple(vec![
                        Value::str(&frame.filename),
                        Value::Int(frame.lineno),
                        Value::str(&frame.name),
                    ]),
                    Value::Dict(vec![
                        (Value::str("lookup_line"), Value::Bool(false)),
                        (Value::str("line"), Value::str(&frame.line)),
                    ]),
                    Value::None,
                ])),
            );
            let locals = frame
                .locals
                .iter()
                .map(|(name, text)| (Value::str(name), Value::str(text)))
                .collect();
            Value::State(
                Box::new(Value::Call(Box::new(partial), Vec::new())),
                Box::new(Value::Tuple(vec![
                    Value::None,
                    Value::Dict(vec![(Value::str("locals"), Value::Dict(locals))]),
                ])),
            )
        })
        .collect();
    Value::Extended(
        Box::new(Value::Call(
            Box::new(Value::Global("traceback", "StackSummary")),
            Vec::new(),
        )),
        frames,
    )
}
