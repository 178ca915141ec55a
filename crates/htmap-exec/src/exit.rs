//! Exit statuses: 0 whenever an output stands, else one of 1..127 with a line on stderr.
//!
//! Above 128 Docker's and Apptainer's statuses mean signals. docs/exit-codes.md lists them for users.

use std::io::{self, Write as _};
use std::process::ExitCode;

use htmap_exec_component::Error;

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
/// Evicted before there was an output. HTCondor does not look at it.
pub(crate) const EVICTED: u8 = 79;

/// Says what went wrong, once, and chooses the status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::from(SUCCESS);
    }
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
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(match component {
        Some(Error::Io { .. } | Error::NotRestored { .. }) => OUTPUT,
        Some(_) => SYSTEM,
        None => FAILURE,
    })
}
