//! One Python from its start to its end: a loop over signals, its stderr and the channel.
//!
//! What happens on the way is told to [`Steps`]; how it came out is the [`Outcome`]. The one
//! subtlety: what Python said before it died may still wait in the channel, so the channel is read
//! to its end before its death counts.

pub(crate) mod channel;

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use htmap_exec_interpreter::MINIMUM_VERSION;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::driver::{Hello, Loaded, Message};
use crate::error::Error;
use crate::failure::{Cause, Failure, Stage};
use crate::process::{Ended, Heard, Signals, StderrTail, Tree};
use crate::scratch::output::Output;
use crate::session::channel::{Connection, Event, Feed, Listener};

/// For the texts of the arguments, which no run depends on.
const SHOW: Duration = Duration::from_secs(10);
/// A report that takes longer than this is taken as far as it came.
const REPORT: Duration = Duration::from_secs(15);
/// Between asking Python to end and killing it, where nothing else is said.
const AFTER_TERM: Duration = Duration::from_secs(2);

/// What the runner does as Python goes on.
pub(crate) trait Steps {
    /// Python has started: queue the program and give the inputs, or refuse to run it.
    fn started(&mut self, hello: &Hello, connection: &mut Connection)
    -> Result<Feed, Box<Failure>>;
    /// The function starts now.
    fn loaded(&mut self, loaded: &Loaded);
    /// The function returned; its result goes into this output.
    fn returned(&mut self) -> Result<Output, Error>;
    /// The result is complete.
    fn result(&mut self, output: Output) -> Result<(), Error>;
}

/// The time limits of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For Python to exit once its result stands.
    pub exit_grace: Duration,
    /// For everything.
    pub timeout: Option<Duration>,
    /// For Python to say its version; a cold start from a network file system takes its time.
    pub start: Duration,
    /// From SIGTERM to the kill.
    pub vacate: Duration,
}

/// How one Python came out.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The output stands.
    Result,
    /// There is a reason.
    Failed(Box<Failure>),
    /// Python ended without a word.
    Died { ended: Ended, stage: Stage },
    /// The text of an argument did not end, and cannot be interrupted.
    NotShown,
    /// Python did not even start.
    NotStarted(String),
    /// It took longer than `--timeout`.
    TimedOut { stage: Stage },
    /// HTCondor wants the machine back.
    Evicted(Signal),
}

/// What is known about Python when it is over.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it came out.
    pub outcome: Outcome,
    /// The last of its stderr.
    pub stderr: String,
    /// How the process ended.
    pub ended: Option<Ended>,
}

enum Phase {
    Starting,
    Loading,
    Running,
    Returning(Output),
    Reporting(Box<Failure>),
    Over(Outcome),
}

struct Session<'a> {
    tree: Tree,
    listener: Listener,
    connection: Option<Connection>,
    phase: Phase,
    stage: Stage,
    steps: &'a mut dyn Steps,
    evicted: Option<Signal>,
    report_until: Option<Instant>,
    start_until: Option<Instant>,
    kill_at: Option<Instant>,
    term_at: Option<Instant>,
}

/// Runs Python with this command, whose arguments are complete but for the channel's variable.
pub(crate) fn run(
    mut command: Command,
    signals: &Signals,
    limits: Limits,
    steps: &mut dyn Steps,
    begun: impl FnOnce(),
) -> Result<Finished, Error> {
    let listener = Listener::open().map_err(Error::system("open the channel to Python"))?;
    command.env(crate::driver::ENV_CHANNEL, listener.address());
    let tree = match Tree::spawn(command, signals) {
        Ok(tree) => tree,
        Err(error) => {
            let outcome = Outcome::NotStarted(format!("it cannot be started: {error}"));
            return Ok(Finished {
                outcome,
                stderr: String::new(),
                ended: None,
            });
        }
    };
    let mut session = Session {
        tree,
        listener,
        connection: None,
        phase: Phase::Starting,
        stage: Stage::StartingPython,
        steps,
        evicted: None,
        report_until: None,
        start_until: Some(Instant::now() + limits.start),
        kill_at: None,
        term_at: None,
    };
    // What the runner can prepare meanwhile.
    begun();
    let mut stderr = StderrTail::default();
    let looped = session.run(signals, limits, &mut stderr);
    session.tree.kill();
    if let Some(pipe) = &session.tree.stderr {
        stderr.drain(pipe, &mut vec![0; 1 << 16]);
    }
    looped?;
    let ended = session.tree.ended;
    Ok(Finished {
        outcome: session.outcome(),
        stderr: stderr.text(),
        ended,
    })
}

impl Session<'_> {
    fn run(
        &mut self,
        signals: &Signals,
        limits: Limits,
        stderr: &mut StderrTail,
    ) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 18];
        let timeout = limits.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let now = Instant::now();
            if self.deadlines(now, timeout) {
                return Ok(());
            }
            let next = [
                self.report_until,
                self.start_until,
                self.kill_at,
                self.term_at,
            ]
            .into_iter()
            .chain([timeout.filter(|_| !self.is_over())])
            .flatten()
            .min();
            self.wait(
                signals,
                next.map(|deadline| deadline.saturating_duration_since(now)),
            )?;
            while let Some(heard) = signals.next() {
                self.heard(heard, limits);
            }
            if let Some(pipe) = &self.tree.stderr
                && !stderr.pump(pipe, &mut buffer)
            {
                self.tree.stderr = None;
            }
            self.converse(&mut buffer, limits)?;
            if self.tree.ended.is_some() {
                // Whatever waits in the channel was said before the end.
                while self.converse(&mut buffer, limits)? {}
                return Ok(());
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Acts on the times that have come; true if Python has to be killed now.
    fn deadlines(&mut self, now: Instant, timeout: Option<Instant>) -> bool {
        let reached = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if reached(self.term_at) {
            self.term_at = None;
            self.tree.signal(self.evicted.unwrap_or(Signal::SIGTERM));
        }
        if !self.is_over() && reached(timeout) {
            self.phase = Phase::Over(Outcome::TimedOut { stage: self.stage });
            self.tree.signal(Signal::SIGTERM);
            self.kill_at = Some(now + AFTER_TERM);
        }
        if !self.is_over() && reached(self.start_until) {
            self.phase = Phase::Over(match self.phase {
                Phase::Starting => Outcome::NotStarted("it did not answer in time".to_owned()),
                _ => Outcome::NotShown,
            });
            return true;
        }
        reached(self.report_until) || reached(self.kill_at)
    }

    fn wait(&self, signals: &Signals, limit: Option<Duration>) -> Result<(), Error> {
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(pipe) = &self.tree.stderr {
            polled.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        match &self.connection {
            None => polled.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)),
            Some(connection) => {
                let mut flags = PollFlags::POLLIN;
                flags.set(PollFlags::POLLOUT, connection.wants_to_send());
                polled.push(PollFd::new(connection.as_fd(), flags));
            }
        }
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            // Rounded up: waking before a deadline would only spin.
            PollTimeout::try_from(limit.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(Error::system("wait for Python")(error)),
        }
    }

    fn heard(&mut self, heard: Heard, limits: Limits) {
        match heard {
            Heard::Child => {
                self.tree.reap();
            }
            Heard::Forward(signal) => self.tree.signal(signal),
            Heard::End(signal) => {
                if self.evicted.is_some() {
                    return;
                }
                tracing::warn!("received {signal}: ending Python");
                self.evicted = Some(signal);
                let now = Instant::now();
                match self.phase {
                    // The answer is on its way: it may still arrive.
                    Phase::Returning(_) => self.term_at = Some(now + limits.vacate / 2),
                    _ => self.term_at = Some(now),
                }
                self.kill_no_later_than(now + limits.vacate);
            }
        }
    }

    /// Accepts, sends and receives once; false if there was nothing to do.
    fn converse(&mut self, buffer: &mut [u8], limits: Limits) -> Result<bool, Error> {
        if self.connection.is_none() {
            self.connection = self
                .listener
                .accept()
                .map_err(Error::system("accept Python's connection"))?;
        }
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        let (events, busy) = connection.receive(buffer);
        for event in events {
            self.handle(event, limits)?;
        }
        let Some(connection) = &mut self.connection else {
            return Ok(true);
        };
        if connection.wants_to_send()
            && let Err(bad) = connection.send()
        {
            self.refuse(Box::new(bad.failure(self.stage)));
        }
        if self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.connection = None;
            return Ok(true);
        }
        Ok(busy)
    }

    /// Python must not go on.
    fn refuse(&mut self, failure: Box<Failure>) {
        if !self.is_over() {
            self.phase = Phase::Over(Outcome::Failed(failure));
        }
        self.connection = None;
        self.tree.signal(Signal::SIGKILL);
    }

    fn handle(&mut self, event: Event, limits: Limits) -> Result<(), Error> {
        match event {
            Event::Data(data) => {
                if let Phase::Returning(output) = &mut self.phase {
                    output.write(&data)?;
                }
                Ok(())
            }
            Event::Message(kind, payload) => match Message::parse(kind, &payload) {
                Some(message) => self.message(message, limits),
                None => {
                    tracing::warn!("a message of an unknown kind came from Python");
                    Ok(())
                }
            },
        }
    }

    fn message(&mut self, message: Message, limits: Limits) -> Result<(), Error> {
        match message {
            Message::Hello(hello) if matches!(self.phase, Phase::Starting) => {
                let Some(connection) = &mut self.connection else {
                    return Ok(());
                };
                self.start_until = None;
                let old = hello
                    .version
                    .is_none_or(|version| version < MINIMUM_VERSION);
                if old {
                    self.phase = Phase::Over(Outcome::NotStarted(format!(
                        "it is Python {}, and {MINIMUM_VERSION} or later is needed",
                        hello.full_version
                    )));
                    self.tree.signal(Signal::SIGKILL);
                    return Ok(());
                }
                self.phase = Phase::Loading;
                match self.steps.started(&hello, connection) {
                    Ok(feed) => connection.queue_feed(feed),
                    Err(failure) => self.refuse(failure),
                }
            }
            Message::Stage(stage) => {
                if stage == Stage::ShowingArguments {
                    self.start_until = Some(Instant::now() + SHOW);
                }
                self.stage = stage;
            }
            Message::Loaded(loaded) if matches!(self.phase, Phase::Loading) => {
                self.start_until = None;
                self.steps.loaded(&loaded);
                self.phase = Phase::Running;
                self.stage = Stage::RunningFunction;
                if let Some(connection) = &mut self.connection {
                    connection.queue(b'G', &[]);
                }
            }
            Message::Returned if matches!(self.phase, Phase::Running) => {
                self.stage = Stage::PicklingResult;
                self.phase = Phase::Returning(self.steps.returned()?);
            }
            Message::Raised {
                stage,
                kind,
                missing_module,
            } if !self.is_over() => {
                self.start_until = None;
                let message = format!("{kind} while {stage}");
                let cause = Cause::Raised {
                    class: kind,
                    missing_module,
                };
                let failure = Failure::new(stage, cause, message);
                self.stage = stage;
                self.phase = Phase::Reporting(Box::new(failure));
                self.report_until = Some(Instant::now() + REPORT);
            }
            Message::Described(described) => {
                if let Phase::Reporting(failure) = &mut self.phase {
                    failure.frames = described.frames();
                    failure.message = described.message;
                    failure.traceback = described.traceback;
                    failure.frames_left_out = described.left_out;
                }
            }
            Message::Local(frame, name, text) => {
                if let Phase::Reporting(failure) = &mut self.phase
                    && let Some(frame) = failure.frames.get_mut(frame)
                {
                    frame.locals.push((name, text));
                }
            }
            Message::Note(note) => {
                if let Phase::Reporting(failure) = &mut self.phase {
                    failure.message.push_str(&format!("\n({note})"));
                }
            }
            Message::End => self.end(limits)?,
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, limits: Limits) -> Result<(), Error> {
        match std::mem::replace(&mut self.phase, Phase::Starting) {
            Phase::Returning(output) => {
                self.steps.result(output)?;
                self.phase = Phase::Over(Outcome::Result);
            }
            Phase::Reporting(failure) => {
                self.report_until = None;
                self.phase = Phase::Over(Outcome::Failed(failure));
            }
            other => {
                self.phase = other;
                return Ok(());
            }
        }
        // Asked first: a pool of processes can still tidy up after itself.
        let grace_over = Instant::now() + limits.exit_grace;
        self.term_at.get_or_insert(grace_over);
        self.kill_no_later_than(grace_over + AFTER_TERM);
        Ok(())
    }

    fn kill_no_later_than(&mut self, deadline: Instant) {
        self.kill_at = Some(
            self.kill_at
                .map_or(deadline, |earlier| earlier.min(deadline)),
        );
    }

    fn outcome(self) -> Outcome {
        let stage = self.stage;
        let outcome = match self.phase {
            Phase::Over(outcome) => outcome,
            // As far as the report came.
            Phase::Reporting(failure) => Outcome::Failed(failure),
            Phase::Starting => {
                Outcome::NotStarted("it ended before it could say its version".to_owned())
            }
            Phase::Loading | Phase::Running | Phase::Returning(_) => Outcome::Died {
                ended: self.tree.ended.unwrap_or(Ended::Exited(0)),
                stage,
            },
        };
        match (outcome, self.evicted) {
            // An answer is an answer; whatever else happens after the signal is its doing.
            (Outcome::Result, _) => Outcome::Result,
            (_, Some(signal)) => Outcome::Evicted(signal),
            (outcome, None) => outcome,
        }
    }
}
