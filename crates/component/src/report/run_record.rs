//! The run record, `N.json`: what a run was, for tools. Its fields are listed in docs/run-record.md.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::failure::{Blame, Failure, PythonFacts};
use crate::names;
use crate::node::memory::PeakOf;
use crate::node::{self, NodeFacts};
use crate::regular;
use crate::scratch::Scratch;

/// No record of ours is larger; what is, is not ours.
const LARGEST: u64 = 16 << 20;
/// More than that say nothing new.
const MOST_ATTEMPTS: usize = 100;

/// Everything in it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RunRecord<'a> {
    /// Grows when a field changes its meaning.
    pub format: u32,
    /// The version of htmap-exec.
    pub htmap_exec: &'static str,
    /// The component's number.
    pub component: u64,
    /// `OK`, `ERR` or `EVICTED`.
    pub status: &'static str,
    /// First line of the failure's message.
    pub error: Option<&'a str>,
    /// The whole of it, with hints.
    pub report: Option<String>,
    /// Where Python was when it failed.
    pub error_stage: Option<&'a str>,
    /// The exception's class.
    pub error_type: Option<&'a str>,
    /// Whose failure it is.
    pub cause: Option<Blame>,
    /// Where it ran.
    pub node: Node<'a>,
    /// What ran it.
    pub python: Option<&'a PythonFacts>,
    /// The cloudpickle that loaded the function.
    pub cloudpickle: Option<&'a Cloudpickle>,
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
    /// What became of the attempts before this one, oldest first.
    pub attempts: &'a [Value],
}

/// Which cloudpickle ran.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cloudpickle {
    /// `cloudpickle.__version__`
    pub version: String,
    /// Where it was imported from.
    pub file: String,
}

/// The node's facts.
#[derive(Debug, Default, Serialize)]
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

impl<'a> RunRecord<'a> {
    /// What every record says.
    pub(crate) fn new(scratch: &Scratch, node: &'a NodeFacts) -> Self {
        Self {
            format: 1,
            htmap_exec: env!("CARGO_PKG_VERSION"),
            component: scratch.component(),
            node: node.into(),
            started: node::python_time(node.landed),
            ..Self::default()
        }
    }

    /// There is no result.
    #[must_use]
    pub(crate) fn failed(self, failure: &'a Failure) -> Self {
        Self {
            status: names::STATUS_ERR,
            error: failure.message.lines().next().or(Some("")),
            report: Some(failure.text()),
            error_stage: Some(failure.stage.text()),
            error_type: Some(failure.cause.class()),
            cause: Some(failure.cause.blame()),
            ..self
        }
    }

    /// Writes it beside the output.
    pub(crate) fn write(&self, scratch: &Scratch) -> Result<(), Error> {
        let path = scratch.run_record();
        let text = serde_json::to_vec_pretty(self).expect("plain data has no reason to fail");
        regular::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &text))
            .map_err(Error::io("write the run record", &path))
    }
}

/// The attempts that an earlier one's record in this sandbox tells of, itself the last.
pub(crate) fn earlier_attempts(scratch: &Scratch) -> Vec<Value> {
    let Some(mut record) = earlier(scratch) else {
        return Vec::new();
    };
    let mut attempts = match record.remove("attempts") {
        Some(Value::Array(attempts)) => attempts,
        _ => Vec::new(),
    };
    let wanted = [
        "attempt", "status", "error", "cause", "node", "started", "stages", "exit",
    ];
    let summary = wanted.iter().filter_map(|name| record.remove_entry(*name));
    attempts.push(Value::Object(summary.collect()));
    let superfluous = attempts.len().saturating_sub(MOST_ATTEMPTS);
    attempts.drain(..superfluous);
    attempts
}

/// After an eviction it comes back to the top level, where a file of the user's may have that name.
fn earlier(scratch: &Scratch) -> Option<serde_json::Map<String, Value>> {
    let places = [scratch.run_record(), scratch.earlier_run_record()];
    places.iter().find_map(|path| {
        let text = regular::read(path, LARGEST).ok()?;
        let Value::Object(record) = serde_json::from_slice(&text).ok()? else {
            return None;
        };
        let ours = record.contains_key("htmap_exec")
            && record.get("component") == Some(&scratch.component().into());
        ours.then_some(record)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_add_up() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 3).unwrap();
        assert!(earlier_attempts(&scratch).is_empty());
        // A user's file of that name.
        std::fs::write(directory.path().join("3.json"), "[1, 2]").unwrap();
        assert!(earlier_attempts(&scratch).is_empty());
        let node = NodeFacts::collect(&crate::node::classad::ClassAd::default());
        for attempt in 1..=3 {
            let attempts = earlier_attempts(&scratch);
            assert_eq!(attempts.len(), attempt - 1);
            let record = RunRecord {
                status: names::STATUS_EVICTED,
                attempt: i64::try_from(attempt).ok(),
                attempts: &attempts,
                ..RunRecord::new(&scratch, &node)
            };
            record.write(&scratch).unwrap();
            // As HTCondor brings it back.
            std::fs::rename(scratch.run_record(), directory.path().join("3.json")).unwrap();
        }
        let attempts = earlier_attempts(&scratch);
        let numbers: Vec<_> = attempts
            .iter()
            .map(|each| each["attempt"].clone())
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(attempts[0]["status"], "EVICTED");
    }
}
