//! A Python whose files this very process serves, in a namespace that it stays out of itself.
//!
//! The runner must never touch one of these files: a reader that is also who answers, and is killed
//! meanwhile, waits for itself for ever. So what it would look up there, it is told.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use crate::failure::{Cause, Failure, Stage};

/// What is known about it.
#[derive(Debug)]
pub struct Served {
    /// Nothing below it is seen by this process.
    pub root: PathBuf,
    /// What is installed there, as `pip freeze` lists it.
    pub packages: Vec<String>,
    /// For Python to enter, in this order.
    pub namespaces: Vec<OwnedFd>,
    /// What is answered by. Python must not hold it when it starts to read.
    pub device: RawFd,
    /// Why some of it could not be read, once that has happened.
    pub failure: Arc<OnceLock<String>>,
}

impl Served {
    /// Has a command start in there, in this directory.
    pub fn house(&self, command: &mut Command, directory: &Path) {
        let namespaces: Vec<RawFd> = self.namespaces.iter().map(AsRawFd::as_raw_fd).collect();
        let device = self.device;
        let directory = CString::new(directory.as_os_str().as_bytes()).unwrap_or_default();
        // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing
        // is allocated; the descriptors belong to `self`, which outlives every Python.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                nix::libc::close(device);
                for &namespace in &namespaces {
                    nix::errno::Errno::result(nix::libc::setns(namespace, 0))?;
                }
                // Entering a mount namespace leads to its root.
                nix::errno::Errno::result(nix::libc::chdir(directory.as_ptr()))?;
                Ok(())
            });
        }
    }

    /// Whatever Python made of it: without these files nothing that it says counts.
    pub(crate) fn failure(&self, stage: Stage) -> Option<Failure> {
        let reason = self.failure.get()?;
        let message = format!("the Python that was brought along could not be read: {reason}");
        Some(Failure::new(stage, Cause::UnreadablePython, message).hint(
            "the archive was damaged on its way, or something on this node writes to it; if it happens again, build the transplant again",
        ))
    }
}
