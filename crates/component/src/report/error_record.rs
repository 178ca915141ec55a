//! The error record: what a component that did not succeed says of itself.
//!
//! Written here for every kind of failure, as plain pickle, so that it loads wherever the submit
//! side is. HTMap's `ComponentError` reads six attributes of it; the others are additions.

use crate::failure::{Failure, Frame, PythonFacts};
use crate::node::NodeFacts;
use crate::node::memory::Peak;
use crate::pickle::{Value, dumps};

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
    /// The most memory that was in use.
    pub peak_memory: Peak,
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
        ("stage", Value::str(failure.stage.text())),
        ("exception_type", Value::str(failure.cause.class())),
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
            Value::or_none(context.peak_memory.bytes, |bytes| {
                Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX))
            }),
        ),
        ("peak_memory_of", Value::str(context.peak_memory.of.name())),
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
