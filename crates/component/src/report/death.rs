//! What to say when Python ended without a word: the cause, as far as it can be known.

use crate::failure::{Cause, Failure, Frame, Stage};
use crate::node::memory::MemoryEvents;
use crate::process::{Ended, signal_name};

/// What is known besides how the process ended.
#[derive(Debug)]
pub(crate) struct Circumstances<'a> {
    /// The last of its stderr.
    pub stderr: &'a str,
    /// Python's own dump.
    pub fatal: Option<&'a str>,
    /// Before Python started.
    pub memory_before: MemoryEvents,
    /// After it ended.
    pub memory_after: MemoryEvents,
    /// Peak resident memory, bytes.
    pub peak_memory: Option<u64>,
    /// What the job asked for, MiB.
    pub request_memory: Option<i64>,
}

/// In the words of a report.
pub(crate) fn describe(ended: Ended) -> String {
    match ended {
        Ended::Exited(status) => format!("exit status {status}"),
        Ended::Signaled(signal) => signal_name(signal),
    }
}

/// The failure of a component whose Python died.
pub(crate) fn failure(ended: Ended, stage: Stage, circumstances: &Circumstances<'_>) -> Failure {
    let peak = circumstances
        .peak_memory
        .map(|bytes| format!("; its peak memory was {} MiB", bytes >> 20))
        .unwrap_or_default();
    let killed_for_memory = circumstances
        .memory_after
        .kills_since(circumstances.memory_before)
        > 0;
    let mut failure = match ended {
        Ended::Exited(status) => Failure::new(
            stage,
            Cause::Died,
            format!("Python ended with exit status {status} while {stage}, without an exception{peak}"),
        )
        .hint("something called `os._exit` (or the like of C's `exit`) in the function, in a library, or in place of it"),
        Ended::Signaled(signal) if killed_for_memory => Failure::new(
            stage,
            Cause::OutOfMemory,
            format!(
                "Python was killed by {} while {stage}: the job ran out of memory{}{peak}",
                signal_name(signal),
                circumstances
                    .memory_after
                    .limit
                    .map(|limit| format!(" (its limit is {} MiB)", limit >> 20))
                    .unwrap_or_default()
            ),
        ),
        Ended::Signaled(signal) => Failure::new(
            stage,
            Cause::Died,
            format!("Python was killed by {} ({}) while {stage}{peak}", signal_name(signal), meaning(signal)),
        ),
    };
    failure.ended = Some(describe(ended));
    if ended == Ended::Signaled(nix::libc::SIGKILL) {
        let asked = circumstances
            .request_memory
            .map(|mib| format!(" (this job asked for {mib} MiB)"))
            .unwrap_or_default();
        failure = failure.hint(format!(
            "SIGKILL is mostly the kernel's answer to too much memory: ask for more with request_memory{asked}"
        ));
    }
    let trace = circumstances.fatal;
    if let Some(trace) = trace {
        failure.frames = frames(trace);
        trace.clone_into(&mut failure.traceback);
    }
    let said = trace.unwrap_or(circumstances.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let last = if trace.is_some() {
        &lines[..lines.len().min(60)]
    } else {
        &lines[lines.len().saturating_sub(20)..]
    };
    if !last.is_empty() {
        failure.message.push_str("\nThe last it wrote to stderr:\n");
        for line in last {
            failure.message.push_str("  ");
            failure
                .message
                .push_str(&line.chars().take(500).collect::<String>());
            failure.message.push('\n');
        }
        failure.message.truncate(failure.message.trim_end().len());
    }
    failure
}

fn meaning(signal: i32) -> &'static str {
    match signal {
        nix::libc::SIGSEGV => {
            "segmentation fault: a compiled library, or bytecode that does not fit"
        }
        nix::libc::SIGABRT => "abort: a compiled library gave up",
        nix::libc::SIGBUS => "bus error: a mapped file that shrank, or a disk that is full",
        nix::libc::SIGFPE => "arithmetic error in compiled code",
        nix::libc::SIGILL => "illegal instruction: compiled for a newer processor than this node's",
        nix::libc::SIGKILL => "killed from outside",
        nix::libc::SIGXCPU => "limit of processor time",
        nix::libc::SIGXFSZ => "limit of file size",
        nix::libc::SIGPIPE => "a pipe whose reader went away",
        nix::libc::SIGTERM => "asked to end, but not by HTCondor",
        _ => "a signal",
    }
}

/// The frames of the current thread in faulthandler's traceback, outermost first.
fn frames(trace: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = trace
        .lines()
        .skip_while(|line| !line.starts_with("Current thread"))
        .skip(1)
        // The driver is what called the function; what called the driver is ours as well.
        .take_while(|line| line.starts_with("  File ") && !line.contains("\"<htmap-exec driver>\""))
        .filter_map(|line| {
            let (filename, rest) = line.strip_prefix("  File \"")?.split_once("\", line ")?;
            let (lineno, name) = rest.split_once(" in ")?;
            Some(Frame {
                filename: filename.to_owned(),
                lineno: lineno.parse().ok()?,
                name: name.to_owned(),
                ..Frame::default()
            })
        })
        .collect();
    frames.reverse();
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_faulthandlers_frames() {
        let trace = "Fatal Python error: Segmentation fault\n\n\
            Thread 0x1 (most recent call first):\n  File \"t.py\", line 9 in other\n\n\
            Current thread 0x2 (most recent call first):\n  File \"/a/ctypes.py\", line 5 in string_at\n  \
            File \"<string>\", line 3 in crash\n  File \"<htmap-exec driver>\", line 1 in <module>\n  \
            File \"<string>\", line 60 in <module>\n\nExtension modules: x\n";
        let names: Vec<String> = frames(trace).into_iter().map(|frame| frame.name).collect();
        assert_eq!(names, ["crash", "string_at"]);
    }
}
