//! Processes: starting Python, hearing what becomes of it, leaving nothing behind.
//!
//! The runner is a subreaper: whatever daemon the function leaves behind becomes its child and is
//! found, with or without `/proc`.
//! <https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html>

pub(crate) mod served;
pub(crate) mod signals;
pub(crate) mod stderr;

use std::io::{self, IsTerminal as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigmaskHow, Signal, killpg, sigprocmask};
use nix::unistd::Pid;

use self::signals::Signals;

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
pub(crate) struct ProcessTree {
    python: Pid,
    /// Set once Python itself is gone.
    pub(crate) ended: Option<Ended>,
    /// What else became of it, since somebody asked.
    pub(crate) changes: Vec<Change>,
    stopped: bool,
    /// The read end of its stderr.
    pub(crate) stderr: Option<OwnedFd>,
}

/// What a shell calls job control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// By the signal of this number.
    Stopped(i32),
    /// By SIGCONT.
    Continued,
}

/// The process group of the Python that runs, for [`kill_group_of_python`]; 0 for none.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// From any thread, for a runner that is about to end without a word to anybody.
pub(crate) fn kill_group_of_python() {
    let group = GROUP.load(Ordering::Relaxed);
    if group > 0 {
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    for child in children() {
        nix::sys::signal::kill(child, Signal::SIGKILL).ok();
    }
}

impl ProcessTree {
    /// Starts a command in a process group of its own, stdin from /dev/null, stderr to a pipe.
    pub(crate) fn spawn(mut command: Command, signals: &Signals) -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true).ok();
        command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let before = signals.before;
        // Python is no foreground group: under `stty tostop` a print would stop it.
        let terminal = io::stdout().is_terminal() || io::stderr().is_terminal();
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
                    nix::sys::signal::signal(ignored, SigHandler::SigDfl)?;
                }
                if terminal {
                    nix::sys::signal::signal(Signal::SIGTTOU, SigHandler::SigIgn)?;
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
        GROUP.store(python.as_raw(), Ordering::Relaxed);
        Ok(Self {
            python,
            ended: None,
            changes: Vec::new(),
            stopped: false,
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

    /// Asks it to end, also where it is stopped.
    pub(crate) fn ask(&self, signal: Signal) {
        self.signal(signal);
        if self.stopped {
            self.signal(Signal::SIGCONT);
        }
    }

    /// Collects every child that has ended. Returns whether any is left.
    pub(crate) fn reap(&mut self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call. nix's own waitpid fails for realtime signals,
            // after it has reaped the child.
            #[allow(unsafe_code)]
            let pid = unsafe {
                use nix::libc::{WCONTINUED, WNOHANG, WUNTRACED, waitpid};
                waitpid(-1, &raw mut status, WNOHANG | WUNTRACED | WCONTINUED)
            };
            match pid {
                0 => return true,
                -1 if Errno::last() == Errno::EINTR => {}
                -1 => return false,
                pid if pid != self.python.as_raw() => {}
                _ if nix::libc::WIFSTOPPED(status) => {
                    self.stopped = true;
                    self.changes
                        .push(Change::Stopped(nix::libc::WSTOPSIG(status)));
                }
                _ if nix::libc::WIFCONTINUED(status) => {
                    self.stopped = false;
                    self.changes.push(Change::Continued);
                }
                _ => {
                    self.ended = Some(Ended::from_status(status));
                    // The number may be somebody else's from now on.
                    GROUP.store(0, Ordering::Relaxed);
                }
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
