//! Processes and signals: starting Python, hearing what becomes of it, leaving nothing behind.
//!
//! HTCondor signals the runner only, so the runner forwards. It is a subreaper: whatever daemon
//! the function leaves behind becomes its child and is found, with or without `/proc`.
//! <https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html>

pub(crate) mod served;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

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
    before: SigSet,
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
            .chain(FORWARDED)
            .chain([Signal::SIGCHLD, UNHEARD])
        {
            mask.add(signal);
        }
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

impl AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By the signal of this number. No `Signal`: nix has no realtime signals.
    Signaled(i32),
}

impl Ended {
    fn from_status(status: i32) -> Self {
        if nix::libc::WIFSIGNALED(status) {
            Self::Signaled(nix::libc::WTERMSIG(status))
        } else {
            Self::Exited(nix::libc::WEXITSTATUS(status))
        }
    }
}

/// A signal's name, such as `SIGSEGV`.
pub(crate) fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => match number - nix::libc::SIGRTMIN() {
            0 => "SIGRTMIN".to_owned(),
            offset if offset > 0 => format!("SIGRTMIN+{offset}"),
            _ => format!("signal {number}"),
        },
    }
}

/// Python and everything it starts.
#[derive(Debug)]
pub(crate) struct Tree {
    python: Pid,
    /// Set once Python itself is gone.
    pub ended: Option<Ended>,
    /// The read end of its stderr.
    pub stderr: Option<OwnedFd>,
}

impl Tree {
    /// Starts a command in a process group of its own, stdin from /dev/null, stderr to a pipe.
    pub(crate) fn spawn(mut command: Command, signals: &Signals) -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true).ok();
        command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let before = signals.before;
        let parent = nix::unistd::getpid();
        // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing
        // is allocated.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                // std hands the parent's blocked signals down; Python must hear them.
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
                // A shell ignores these for what it starts in the background, and Python would then
                // have no KeyboardInterrupt. It is in a group of its own in any case.
                for ignored in [Signal::SIGINT, Signal::SIGQUIT] {
                    nix::sys::signal::signal(ignored, nix::sys::signal::SigHandler::SigDfl)?;
                }
                // A runner that is killed outright takes Python with it.
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                if nix::unistd::getppid() != parent {
                    return Err(Errno::ESRCH.into());
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let python = Pid::from_raw(i32::try_from(child.id()).expect("a pid is an i32"));
        let stderr = child.stderr.take().map(OwnedFd::from);
        if let Some(stderr) = &stderr {
            let flags = nix::fcntl::OFlag::O_NONBLOCK;
            nix::fcntl::fcntl(stderr, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        }
        Ok(Self {
            python,
            ended: None,
            stderr,
        })
    }

    /// Sends a signal to Python's process group.
    pub(crate) fn signal(&self, signal: Signal) {
        if killpg(self.python, signal).is_err() && self.ended.is_none() {
            // A function may have moved itself to another group.
            nix::sys::signal::kill(self.python, signal).ok();
        }
    }

    /// Collects every child that has ended. Returns whether any is left.
    pub(crate) fn reap(&mut self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call. nix's own waitpid fails for realtime signals,
            // after it has reaped the child.
            #[allow(unsafe_code)]
            let pid = unsafe { nix::libc::waitpid(-1, &raw mut status, nix::libc::WNOHANG) };
            match pid {
                0 => return true,
                -1 if Errno::last() == Errno::EINTR => {}
                -1 => return false,
                pid if pid == self.python.as_raw() => self.ended = Some(Ended::from_status(status)),
                _ => {}
            }
        }
    }

    /// Kills Python and everything it left behind, and waits for the last of it.
    pub(crate) fn kill(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        self.signal(Signal::SIGKILL);
        while self.reap() {
            for child in children() {
                nix::sys::signal::kill(child, Signal::SIGKILL).ok();
            }
            if Instant::now() > deadline {
                tracing::warn!("processes of the function do not end, although they were killed");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The children of this process, orphans of the function's among them.
fn children() -> Vec<Pid> {
    let me = nix::unistd::getpid();
    let listed = std::fs::read_to_string(format!("/proc/self/task/{me}/children"));
    if let Ok(listed) = listed {
        return listed
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(Pid::from_raw)
            .collect();
    }
    // A kernel without CONFIG_PROC_CHILDREN: the fourth field of stat is the parent, behind a
    // name that may hold anything.
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            parent.and_then(|parent| parent.parse().ok()) == Some(me.as_raw())
        })
        .map(Pid::from_raw)
        .collect()
}

/// What the component writes to stderr: passed on at once, and the last of it kept for the report.
#[derive(Debug, Default)]
pub(crate) struct StderrTail {
    tail: Vec<u8>,
}

impl StderrTail {
    const KEPT: usize = 32 << 10;

    /// Reads what is there; false at the end.
    pub(crate) fn pump(&mut self, pipe: &OwnedFd, buffer: &mut [u8]) -> bool {
        match nix::unistd::read(pipe, buffer) {
            Ok(0) => false,
            Ok(size) => {
                let piece = &buffer[..size];
                // Nobody reads it: that is no reason to stop the function.
                io::Write::write_all(&mut io::stderr(), piece).ok();
                let kept = &piece[piece.len().saturating_sub(Self::KEPT)..];
                self.tail.extend_from_slice(kept);
                if self.tail.len() > 2 * Self::KEPT {
                    self.tail.drain(..self.tail.len() - Self::KEPT);
                }
                true
            }
            Err(error) => matches!(error, Errno::EAGAIN | Errno::EINTR),
        }
    }

    /// Reads everything that is still in the pipe.
    pub(crate) fn drain(&mut self, pipe: &OwnedFd, buffer: &mut [u8]) {
        let mut poll = [nix::poll::PollFd::new(
            pipe.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        while nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && self.pump(pipe, buffer)
        {}
    }

    /// The last lines.
    pub(crate) fn text(&self) -> String {
        let tail = &self.tail[self.tail.len().saturating_sub(Self::KEPT)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}
