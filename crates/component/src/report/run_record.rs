//! The run record, `N.json`: what a run was, for tools. Its fields are listed in docs/run-record.md.

use std::fs;
use std::time::Instant;

use serde::Serialize;

use crate::error::Error;
use crate::failure::PythonFacts;
use crate::node::NodeFacts;
use crate::node::memory::PeakOf;
use crate::scratch::Scratch;

/// Everything in it.
#[derive(Debug, Serialize)]
pub(crate) struct RunRecord<'a> {
    /// Grows when a field changes its meaning.
    pub format: u32,
    /// The version of htmap-exec.
    pub htmap_exec: &'static str,
    /// The component's number.
    pub component: u64,
    /// `OK` or `ERR`.
    pub status: &'static str,
    /// First line of the failure's message.
    pub error: Option<&'a str>,
    /// The whole of it, with hints.
    pub report: Option<String>,
    /// Where Python was when it failed.
    pub error_stage: Option<&'a str>,
    /// The exception's class.
    pub error_type: Option<&'a str>,
    /// Where it ran.
    pub node: Node<'a>,
    /// What ran it.
    pub python: Option<&'a PythonFacts>,
    /// Interpreters that were passed over.
    pub passed_over: Vec<String>,
    /// When it landed, UTC, as Python prints it.
    pub started: String,
    /// Seconds from the start of the runner to each of these.
    pub stages: &'a [(&'static str, f64)],
    /// How Python ended.
    pub exit: Option<String>,
    /// The most memory that was in use, bytes.
    pub peak_memory: Option<u64>,
    /// By whom.
    pub peak_memory_of: PeakOf,
    /// The lowest limit of the control groups, bytes.
    pub memory_limit: Option<u64>,
    /// Processes of the job that the kernel killed for lack of memory.
    pub memory_kills: u64,
    /// Processor time of Python and its children, seconds.
    pub cpu_seconds: f64,
    /// 1 for the first attempt, from the job ad.
    pub attempt: Option<i64>,
    /// `ClusterId.ProcId`
    pub job: Option<String>,
    /// Paths that came back from a checkpoint.
    pub restored: usize,
}

/// The node's facts.
#[derive(Debug, Serialize)]
pub(crate) struct Node<'a> {
    host: &'a str,
    address: &'a str,
    user: &'a str,
}

impl<'a> From<&'a NodeFacts> for Node<'a> {
    fn from(node: &'a NodeFacts) -> Self {
        Self {
            host: &node.host,
            address: &node.address,
            user: &node.user,
        }
    }
}

impl RunRecord<'_> {
    /// Writes it beside the output.
    pub(crate) fn write(&self, scratch: &Scratch) -> Result<(), Error> {
        let path = scratch.run_record();
        let text = serde_json::to_vec_pretty(self).expect("plain data has no reason to fail");
        fs::write(&path, text).map_err(Error::io("write the run record", &path))
    }
}

/// When things happened.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    start: Instant,
    /// Seconds since the start.
    pub stages: Vec<(&'static str, f64)>,
}

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            stages: Vec::new(),
        }
    }

    /// Notes that this begins now.
    pub(crate) fn mark(&mut self, stage: &'static str) {
        let micros = self.start.elapsed().as_micros();
        #[allow(clippy::cast_precision_loss)]
        self.stages.push((stage, micros as f64 / 1e6));
    }
}
