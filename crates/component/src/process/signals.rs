//! The signals of the runner, as something to poll.
//!
//! HTCondor signals the runner only, so the runner forwards. A signal that was ignored when the runner
//! started (by `nohup`, or by a shell for what it starts in the background) stays ignored.

use std::os::fd::AsFd;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// What ends a job: HTCondor's default is SIGTERM, `kill_sig` may name another one.
const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];
/// What is for the function only.
const FORWARDED: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

/// Blocked only: a write beyond the limit of file size shall fail, not kill the runner.
const UNHEARD: Signal = Signal::SIGXFSZ;

/// Signals of this process, as something to poll.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
    /// What the process had blocked before; Python gets it back.
    pub(super) before: SigSet,
}

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// End, with the output or checkpoint that there is.
    End(Signal),
    /// Pass it on.
    Forward(Signal),
    /// A child changed its state.
    Child,
}

impl Signals {
    /// Blocks the signals and takes them from here on. Works for PID 1 as well: blocked signals
    /// wait even where their default action would be ignored.
    pub(crate) fn take() -> Result<Self, Error> {
        let error = "take over signals";
        let mut mask = SigSet::empty();
        for signal in ENDING
            .into_iter()
            .filter(|signal| *signal == Signal::SIGTERM || !is_ignored(*signal))
            .chain(FORWARDED)
            .chain([Signal::SIGCHLD, UNHEARD])
        {
            mask.add(signal);
        }
        // Where it is ignored, the kernel reaps children itself and tells nobody how they ended.
        // SAFETY: no handler is installed, and none was.
        #[allow(unsafe_code)]
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map_err(Error::system(error))?;
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before))
            .map_err(Error::system(error))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&mask, flags).map_err(Error::system(error))?;
        Ok(Self { descriptor, before })
    }

    /// The next signal, if there is one.
    pub(crate) fn next(&self) -> Option<Heard> {
        loop {
            let info = self.descriptor.read_signal().ok().flatten()?;
            let number = i32::try_from(info.ssi_signo).ok()?;
            let Ok(signal) = Signal::try_from(number) else {
                continue;
            };
            if signal == UNHEARD {
                continue;
            }
            return Some(if signal == Signal::SIGCHLD {
                Heard::Child
            } else if FORWARDED.contains(&signal) {
                Heard::Forward(signal)
            } else {
                Heard::End(signal)
            });
        }
    }
}

/// Whether whoever started the runner has switched this signal off.
fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<nix::libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and the kernel fills what is read afterwards; a zeroed one is valid.
    #[allow(unsafe_code)]
    let handler = unsafe {
        nix::libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    };
    handler == nix::libc::SIG_IGN
}

impl AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
