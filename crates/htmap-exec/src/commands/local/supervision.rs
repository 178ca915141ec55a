//! Starts the runners, and hears what becomes of them and of this process.
//!
//! Everything that waits for files is done by workers, a component each at a time. Only the main thread starts
//! runners and collects their statuses: the kernel ends a runner together with the thread that has started it, and
//! a process id is worth something only as long as nobody has collected it.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];
/// For a runner to end everything, once it has given Python its time.
const RUNNERS_OWN: Duration = Duration::from_secs(10);

/// What a worker asks for or says.
enum Message<T> {
    Start(Box<Command>, SyncSender<io::Result<ExitStatus>>),
    Done(u64, T),
}

/// A worker's way to the main thread.
pub(super) struct Starter<'a, T> {
    messages: Sender<Message<T>>,
    wake: PipeWriter,
    stopping: &'a AtomicBool,
}

impl<T> Starter<'_, T> {
    /// Runs a command to its end; `None` if no more are started.
    pub(super) fn run(&self, command: Command) -> io::Result<Option<ExitStatus>> {
        let (answer, status) = mpsc::sync_channel(1);
        self.send(Message::Start(Box::new(command), answer));
        match status.recv() {
            Ok(status) => status.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Whether everything is to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn send(&self, message: Message<T>) {
        // The main thread lives longer than its workers.
        self.messages.send(message).ok();
        (&self.wake).write_all(&[0]).ok();
    }
}

/// What a signal did to a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped {
    pub(super) signal: Signal,
    /// Runners that wrote an output all the same.
    pub(super) finished: usize,
    /// Runners that did not.
    pub(super) ended: usize,
}

/// Works on the components, so many at once. `done` hears of each on this thread.
pub(super) fn run<T: Send>(
    components: &[u64],
    jobs: usize,
    grace: Duration,
    work: impl Fn(u64, &Starter<'_, T>) -> T + Sync,
    mut done: impl FnMut(u64, T),
) -> anyhow::Result<Option<Stopped>> {
    // Before there are threads: they inherit what is blocked.
    let signals = Signals::take().context("cannot take over signals")?;
    let (read, wake) = io::pipe().context("cannot make a pipe")?;
    let (messages, inbox) = mpsc::channel();
    let (next, stopping) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (next, stopping, work) = (&next, &stopping, &work);
    std::thread::scope(|scope| {
        for number in 0..jobs {
            let started = wake.try_clone().and_then(|wake| {
                let starter = Starter {
                    messages: messages.clone(),
                    wake,
                    stopping,
                };
                let worker = move || {
                    while let Some(&component) =
                        components.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if starter.is_stopping() {
                            return;
                        }
                        let came = work(component, &starter);
                        starter.send(Message::Done(component, came));
                    }
                };
                std::thread::Builder::new().spawn_scoped(scope, worker)
            });
            match started {
                Ok(_) => {}
                // Those that there are do it all.
                Err(error) if number > 0 => {
                    tracing::warn!("only {number} components run at once: {error}");
                    break;
                }
                Err(error) => return Err(error).context("cannot start a thread"),
            }
        }
        drop((messages, wake));
        Supervision {
            signals,
            wake: read,
            inbox,
            running: BTreeMap::new(),
            stopping,
            stopped: None,
            kill_at: None,
            grace: grace + RUNNERS_OWN,
        }
        .run(&mut done)
    })
}

struct Supervision<'a, T> {
    signals: Signals,
    wake: PipeReader,
    inbox: Receiver<Message<T>>,
    running: BTreeMap<u32, (Child, SyncSender<io::Result<ExitStatus>>)>,
    stopping: &'a AtomicBool,
    stopped: Option<Stopped>,
    kill_at: Option<Instant>,
    grace: Duration,
}

impl<T> Supervision<'_, T> {
    fn run(mut self, done: &mut impl FnMut(u64, T)) -> anyhow::Result<Option<Stopped>> {
        loop {
            loop {
                match self.inbox.try_recv() {
                    Ok(Message::Start(command, answer)) => self.start(command, answer),
                    Ok(Message::Done(component, came)) => done(component, came),
                    Err(TryRecvError::Empty) => break,
                    // All workers have ended.
                    Err(TryRecvError::Disconnected) => return Ok(self.stopped),
                }
            }
            if let Err(error) = self.wait() {
                // Nobody would hear of an end any more.
                self.stop(Signal::SIGTERM);
                self.signal(Signal::SIGKILL);
                self.running.clear();
                return Err(error).context("cannot wait for the runners");
            }
            while let Some(signal) = self.signals.next() {
                if signal != Signal::SIGCHLD {
                    self.stop(signal);
                }
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                self.signal(Signal::SIGKILL);
            }
            self.collect();
        }
    }

    fn start(&mut self, mut command: Box<Command>, answer: SyncSender<io::Result<ExitStatus>>) {
        if self.stopped.is_some() {
            // Hearing nothing is the answer.
            return;
        }
        self.signals.give_back(&mut command);
        match command.spawn() {
            Ok(child) => {
                self.running.insert(child.id(), (child, answer));
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn collect(&mut self) {
        self.running.retain(|_, (child, answer)| {
            let ended = match child.try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) => Ok(status),
                Err(error) => Err(error),
            };
            if let Some(stopped) = &mut self.stopped {
                match &ended {
                    Ok(status) if status.success() => stopped.finished += 1,
                    _ => stopped.ended += 1,
                }
            }
            answer.send(ended).ok();
            false
        });
    }

    /// At the second signal somebody has lost patience.
    fn stop(&mut self, signal: Signal) {
        if self.stopped.is_some() {
            self.signal(Signal::SIGKILL);
            return;
        }
        self.stopping.store(true, Ordering::Relaxed);
        self.stopped = Some(Stopped {
            signal,
            finished: 0,
            ended: 0,
        });
        self.kill_at = Some(Instant::now() + self.grace);
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        for pid in self
            .running
            .keys()
            .filter_map(|pid| i32::try_from(*pid).ok())
        {
            nix::sys::signal::kill(Pid::from_raw(pid), signal).ok();
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let limit = self.kill_at.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = [
            PollFd::new(self.signals.descriptor.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, limit) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let woken = polled[1].revents().is_some_and(|events| !events.is_empty());
        if woken {
            // What was said stands in the inbox: this says only that there is something.
            let _ = self.wake.read(&mut [0; 1024])?;
        }
        Ok(())
    }
}

/// The signals of this process, as something to poll.
struct Signals {
    descriptor: SignalFd,
    before: SigSet,
}

impl Signals {
    fn take() -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let ignored = ignored();
        for signal in ENDING {
            // Such as SIGHUP below nohup, and SIGINT in the background.
            if ignored & (1 << (signal as u32 - 1)) == 0 {
                mask.add(signal);
            }
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&mask, flags)?;
        Ok(Self { descriptor, before })
    }

    fn next(&self) -> Option<Signal> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }

    /// A runner hears signals, one of them when this process has gone.
    fn give_back(&self, command: &mut Command) {
        let before = self.before;
        let parent = nix::unistd::getpid();
        // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                if nix::unistd::getppid() != parent {
                    return Err(Errno::ESRCH.into());
                }
                Ok(())
            });
        }
    }
}

/// As the kernel shows them: bit 0 is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
