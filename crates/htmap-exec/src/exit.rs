//! Exit statuses: 0 whenever an output stands, else one of 1..127 with a line on stderr.
//!
//! Above 128 Docker's and Apptainer's statuses mean signals. docs/exit-codes.md lists them for users.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use htmap_exec_component::{Error, on_one_line};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A result or an error record stands.
pub(crate) const SUCCESS: u8 = 0;
/// A command other than `run` did not succeed.
pub(crate) const FAILURE: u8 = 1;
/// The command line is wrong (clap's own choice, and the shell's).
pub(crate) const USAGE: u8 = 2;
/// A bug of ours (`EX_SOFTWARE` of sysexits.h).
pub(crate) const INTERNAL: u8 = 70;
/// The kernel refused what supervision needs (`EX_OSERR`).
pub(crate) const SYSTEM: u8 = 71;
/// No output could be written (`EX_IOERR`).
pub(crate) const OUTPUT: u8 = 74;
/// Ended by a signal before there was an output, or before all of `local`'s components were done. HTCondor does not
/// look at it.
pub(crate) const EVICTED: u8 = 79;

/// Whether it is only that the reader of our stdout has gone, such as `head`: nothing to say, as in ripgrep.
///
/// Not for `run`, whose success is an output.
pub(crate) fn nobody_reads(error: &anyhow::Error) -> bool {
    let broken = error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        // serde_json has its own around it, without naming it as the cause.
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    });
    broken && is_broken(&io::stdout())
}

/// Another pipe may have broken, to a program that a command has started.
fn is_broken(stdout: &io::Stdout) -> bool {
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
}

/// Says what went wrong, once, and chooses the status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("htmap-exec: error: {error:#}");
    let component = error.downcast_ref::<Error>();
    // One line in all for the runner: it may be all that HTCondor's hold reason shows.
    if let Some(hint) = component.and_then(Error::hint) {
        text.push_str(&format!(" (hint: {hint})"));
    }
    let transplant = error.chain().find_map(|cause| cause.downcast_ref());
    if let Some(hint) = transplant.and_then(htmap_exec_transplant::Error::hint) {
        text.push_str(&format!("\nhint: {hint}"));
    }
    // Names that an archive or a map has may be anything.
    let _ = writeln!(io::stderr(), "{}", readable(&text));
    ExitCode::from(match component {
        Some(Error::Io { .. } | Error::NotRestored { .. }) => OUTPUT,
        Some(_) => SYSTEM,
        None => FAILURE,
    })
}

/// What others say, on lines as they have it: it may recolour a terminal, or write over what stands there.
pub(crate) fn readable(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(on_one_line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_broken_pipe_is_an_error() {
        let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        // Of a test somebody reads the stdout.
        assert!(!nobody_reads(&broken));
        assert!(!nobody_reads(&anyhow::anyhow!("something else")));
    }
}
