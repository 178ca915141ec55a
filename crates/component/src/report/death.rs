//! What to say when Python ended without a word: the cause, as far as it can be known.

use crate::failure::{Cause, Failure, Frame, Stage};
use crate::node::memory::Findings;
use crate::process::{Ended, signal_name};
use crate::report::lack;

/// In the words of a report.
pub(crate) fn describe(ended: Ended) -> String {
    match ended {
        Ended::Exited(status) => format!("exit status {status}"),
        Ended::Signaled(signal) => signal_name(signal),
    }
}

/// The failure of a component whose Python died.
///
/// `stderr` is the last that was written there, `fatal` Python's own dump from its beginning.
pub(crate) fn failure(
    ended: Ended,
    stage: Stage,
    stderr: &str,
    fatal: Option<&str>,
    memory: &Findings,
) -> Failure {
    let peak = lack::peak(memory);
    let signal = match ended {
        Ended::Signaled(signal) => Some(signal),
        Ended::Exited(status) => signal_of_child(status),
    };
    let is_killed = signal == Some(nix::libc::SIGKILL);
    let out_of_memory =
        (is_killed && memory.kills() > 0) || (gives_up(ended, signal) && lack::is_said(stderr));
    let how = match (ended, signal) {
        (Ended::Signaled(_), _) | (_, None) => String::new(),
        (Ended::Exited(status), Some(signal)) => format!(
            " with exit status {status}, by which a shell or a container says that what it ran was \
             killed by {}",
            signal_name(signal)
        ),
    };
    let why = match signal {
        _ if out_of_memory => format!(": it ran out of memory{}", lack::limit(memory)),
        Some(signal) => format!(" ({})", meaning(signal)),
        None => String::new(),
    };
    let message = match ended {
        Ended::Signaled(signal) if out_of_memory => format!(
            "Python was killed by {} while {stage}{why}{peak}",
            signal_name(signal)
        ),
        Ended::Signaled(signal) => format!(
            "Python was killed by {}{why} while {stage}{peak}",
            signal_name(signal)
        ),
        Ended::Exited(status) if how.is_empty() => format!(
            "Python ended with exit status {status} while {stage}, without an exception{why}{peak}"
        ),
        Ended::Exited(_) => format!("Python ended while {stage}{how}{why}{peak}"),
    };
    let cause = if out_of_memory {
        Cause::OutOfMemory
    } else {
        Cause::Died
    };
    let mut failure = Failure::new(stage, cause, message);
    failure.ended = Some(describe(ended));
    failure.hints = hints(ended, signal, out_of_memory, memory);
    let (before, trace) = match fatal {
        // A long dump has pushed out what was said before it.
        Some(trace) => {
            let at = stderr.rfind("Fatal Python error").unwrap_or(0);
            (&stderr[..at], trace)
        }
        None => (stderr, ""),
    };
    if !trace.is_empty() {
        failure.frames = frames(trace);
        trace.clone_into(&mut failure.traceback);
    }
    // A library says why it gives up before faulthandler says where.
    let before: Vec<&str> = before.lines().collect();
    let shown = if trace.is_empty() { 20 } else { 5 };
    let before = &before[before.len().saturating_sub(shown)..];
    let last: Vec<&str> = before
        .iter()
        .copied()
        .chain(trace.lines().take(60))
        .collect();
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

/// How compiled code ends itself; only then are its last words about its end.
fn gives_up(ended: Ended, signal: Option<i32>) -> bool {
    use nix::libc::{SIGABRT, SIGBUS, SIGILL, SIGSEGV, SIGTRAP};
    match signal {
        Some(signal) => [SIGABRT, SIGBUS, SIGILL, SIGSEGV, SIGTRAP].contains(&signal),
        None => ended != Ended::Exited(0),
    }
}

fn hints(ended: Ended, signal: Option<i32>, out_of_memory: bool, memory: &Findings) -> Vec<String> {
    let mut hints = Vec::new();
    if signal == Some(nix::libc::SIGKILL) {
        hints.push(if out_of_memory {
            lack::more(memory)
        } else {
            lack::sigkill(memory, "Python")
        });
        return hints;
    }
    // Whoever gets no memory within such a limit may end in any way.
    hints.extend(lack::process_limits(memory));
    if out_of_memory {
        if hints.is_empty() {
            hints.push(lack::more(memory));
        }
    } else {
        // A child of it, then.
        hints.extend(lack::killed(memory));
        if matches!(ended, Ended::Exited(_)) && signal.is_none() {
            hints.push(
                "something called `os._exit` (or the like of C's `exit`) in the function, in a \
                 library, or in place of it"
                    .to_owned(),
            );
        }
    }
    hints
}

/// Shells, and what runs containers, add 128 to the signal that ended what they ran.
fn signal_of_child(status: i32) -> Option<i32> {
    let signal = status - 128;
    (1..=nix::libc::SIGRTMAX())
        .contains(&signal)
        .then_some(signal)
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
    use crate::node::memory::Killed;

    fn said(ended: Ended, stderr: &str, killed: Killed) -> (Cause, String) {
        let memory = Findings {
            killed,
            ..Findings::default()
        };
        let fatal = stderr.find("Fatal Python error").map(|at| &stderr[at..]);
        let failure = failure(ended, Stage::RunningFunction, stderr, fatal, &memory);
        (failure.cause.clone(), failure.text())
    }

    #[test]
    fn memory_is_blamed_on_the_kernels_word() {
        for ended in [Ended::Signaled(9), Ended::Exited(137)] {
            let (cause, text) = said(ended, "", Killed::Ours(1));
            assert_eq!(cause, Cause::OutOfMemory, "{text}");
            let (cause, text) = said(ended, "", Killed::Nobody);
            assert_eq!(cause, Cause::Died, "{text}");
            assert!(!text.contains("os._exit"), "{text}");
            assert!(text.contains("SIGKILL"), "{text}");
        }
        // A child died of it, and Python of something else.
        let (cause, text) = said(Ended::Signaled(11), "", Killed::Ours(1));
        assert_eq!(cause, Cause::Died);
        assert!(
            text.contains("the kernel killed a process of this job"),
            "{text}"
        );
    }

    #[test]
    fn an_exit_status_is_a_signal_or_not() {
        assert_eq!(signal_of_child(137), Some(9));
        for status in [0, 1, 127, 128, 255] {
            assert_eq!(signal_of_child(status), None, "{status}");
        }
        let (_, text) = said(Ended::Exited(255), "", Killed::Nobody);
        assert!(text.contains("os._exit"), "{text}");
    }

    #[test]
    fn last_words_of_a_compiled_library_count() {
        let (cause, _) = said(
            Ended::Signaled(6),
            "what():  std::bad_alloc\n",
            Killed::Nobody,
        );
        assert_eq!(cause, Cause::OutOfMemory);
        let (cause, _) = said(
            Ended::Signaled(15),
            "log: out of memory, trying less\n",
            Killed::Nobody,
        );
        assert_eq!(cause, Cause::Died);
    }

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
