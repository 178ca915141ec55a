//! Conducts a session: polls, tells [`Session`] what happened, does what it says.
//!
//! The one subtlety: what Python said before it died may still wait in the channel, so the channel is
//! read until nothing comes before its death counts. An end of file is never waited for: a child that
//! the function forked can withhold it for ever.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::channel::{Channel, Incoming};
use super::clock::{Clock, LONGEST_WAIT, Time};
use super::events::{Action, Event, Limits, Outcome};
use super::frames::Piece;
use super::protocol::{Hello, Loaded, Say};
use super::step::Session;
use crate::error::Error;
use crate::failure::Failure;
use crate::process::signals::{Heard, Signals};
use crate::process::stderr::StderrTail;
use crate::process::{Change, Ended, ProcessTree, signal_name};
use crate::scratch::input::Input;

/// What the runner does as Python goes on.
pub(crate) trait Component {
    /// Python was started: there is time for something until it answers.
    fn begun(&mut self) -> Result<(), Error>;
    /// Readable once [`Component::prepared`] has something to say; `None` if it has said it.
    fn preparation(&self) -> Option<BorrowedFd<'_>>;
    /// The inputs are open and the checkpoint is restored, or this is why not.
    fn prepared(&mut self) -> Result<(), Box<Failure>>;
    /// Python has started: send it the program.
    fn started(&mut self, hello: &Hello, channel: &mut Channel);
    /// The inputs, if this Python may run them.
    fn inputs(&mut self) -> Result<Vec<Input>, Box<Failure>>;
    /// This is the cloudpickle it uses.
    fn cloudpickle(&mut self, version: String, file: String);
    /// The function starts now.
    fn running(&mut self, loaded: &Loaded);
    /// The function returned; its result follows.
    fn returned(&mut self) -> Result<(), Box<Failure>>;
    /// Some of the result.
    fn write(&mut self, data: &[u8]) -> Result<(), Box<Failure>>;
    /// The result is complete.
    fn commit(&mut self) -> Result<(), Box<Failure>>;
    /// There is no result after all.
    fn abandon(&mut self);
}

/// What is known about Python when it is over.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it came out.
    pub outcome: Outcome,
    /// The last of its stderr.
    pub stderr: String,
    /// Python's own dump after a deadly signal.
    pub fatal: Option<String>,
    /// How the process ended.
    pub ended: Option<Ended>,
}

impl Finished {
    /// There was no Python.
    pub(crate) fn without_python(outcome: Outcome) -> Self {
        Self {
            outcome,
            stderr: String::new(),
            fatal: None,
            ended: None,
        }
    }
}

/// Runs Python with this command, whose arguments are complete but for the channel's variable.
pub(crate) fn run(
    mut command: Command,
    signals: &Signals,
    limits: Limits,
    component: &mut dyn Component,
) -> Result<Finished, Error> {
    let channel = Channel::open().map_err(Error::system("open the channel to Python"))?;
    command.env(crate::driver::ENV_CHANNEL, channel.address());
    let tree = match ProcessTree::spawn(command, signals) {
        Ok(tree) => tree,
        Err(error) => {
            let reason = format!("it cannot be started: {error}");
            return Ok(Finished::without_python(Outcome::NotStarted(reason)));
        }
    };
    let begun = component.begun();
    let mut conductor = Conductor {
        session: Session::begin(limits, component.preparation().is_none(), Time::ZERO),
        clock: Clock::start(Instant::now()),
        now: Time::ZERO,
        tree,
        channel,
        stderr: StderrTail::default(),
        component,
        finished: false,
    };
    let looped = begun.and_then(|()| conductor.run(signals));
    let Conductor {
        session,
        mut tree,
        mut stderr,
        ..
    } = conductor;
    tree.kill();
    if let Some(pipe) = &tree.stderr {
        stderr.drain(pipe, &mut vec![0; 1 << 16]);
    }
    looped?;
    Ok(Finished {
        outcome: session.outcome(),
        stderr: stderr.text(),
        fatal: stderr.fatal(),
        ended: tree.ended,
    })
}

struct Conductor<'a> {
    session: Session,
    clock: Clock,
    now: Time,
    tree: ProcessTree,
    channel: Channel,
    stderr: StderrTail,
    component: &'a mut dyn Component,
    finished: bool,
}

impl Conductor<'_> {
    fn run(&mut self, signals: &Signals) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 18];
        while !self.finished {
            let next = [self.session.next_deadline(), self.channel.next_deadline()];
            let limit = next
                .into_iter()
                .flatten()
                .min()
                .map(|deadline| deadline.saturating_sub(self.now).min(LONGEST_WAIT));
            self.wait(signals, limit)?;
            self.now = self.clock.read(Instant::now(), limit);
            self.hear(signals);
            if let Some(pipe) = &self.tree.stderr
                && !self.stderr.pump(pipe, &mut buffer)
            {
                self.tree.stderr = None;
            }
            if self.component.preparation().is_some_and(is_readable) {
                let prepared = self.component.prepared();
                self.tell(Event::Prepared(prepared));
            }
            self.converse(&mut buffer);
            if let Some(ended) = self.tree.ended {
                // Whatever waits in the channel was said before the end.
                while self.converse(&mut buffer) {}
                self.tell(Event::Gone(ended));
            }
            // Last, so that no deadline is missed for what had arrived in time.
            self.tell(Event::Tick);
        }
        Ok(())
    }

    fn wait(&self, signals: &Signals, limit: Option<Duration>) -> Result<(), Error> {
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let others = [
            self.tree.stderr.as_ref().map(|pipe| pipe.as_fd()),
            self.component.preparation(),
        ];
        for descriptor in others.into_iter().flatten() {
            polled.push(PollFd::new(descriptor, PollFlags::POLLIN));
        }
        for (descriptor, flags) in self.channel.polled() {
            polled.push(PollFd::new(descriptor, flags));
        }
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            // Rounded up: waking before a deadline would only spin.
            PollTimeout::try_from(limit.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(Error::system("wait for Python")(error)),
        }
    }

    fn hear(&mut self, signals: &Signals) {
        while let Some(heard) = signals.next() {
            match heard {
                Heard::Child => {
                    self.tree.reap();
                }
                Heard::Forward(signal) => self.tree.signal(signal),
                Heard::End(signal) => {
                    tracing::warn!("received {signal}: ending Python");
                    self.tell(Event::End(signal));
                }
            }
        }
        for change in std::mem::take(&mut self.tree.changes) {
            match change {
                Change::Stopped(signal) => {
                    let name = signal_name(signal);
                    // HTCondor stops and continues jobs as it pleases: that is no news to the user.
                    tracing::info!("Python is stopped by {name}: it goes on after a SIGCONT");
                    self.tell(Event::Stopped);
                }
                Change::Continued => self.tell(Event::Continued),
            }
        }
    }

    /// Receives and sends once; false if there was nothing to do.
    fn converse(&mut self, buffer: &mut [u8]) -> bool {
        let (incoming, busy) = self.channel.receive(buffer, self.now);
        for came in incoming {
            match came {
                Incoming::Connected => self.tell(Event::Connected),
                Incoming::Piece(Piece::Message(said)) => self.tell(Event::Said(said)),
                Incoming::Piece(Piece::Data(data)) => self.tell(Event::Data(data)),
                Incoming::Piece(Piece::Unknown(letter)) => {
                    let letter = char::from(letter).escape_default();
                    tracing::warn!("Python said `{letter}`, which means nothing: it is left out");
                }
            }
        }
        if let Err(bad) = self.channel.send() {
            let failure = bad.failure(self.session.stage());
            self.tell(Event::Refused(Box::new(failure)));
        }
        busy
    }

    /// Tells an event, and what comes of doing what it asks for.
    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.session.step(event, self.now) {
                if let Err(event) = self.act(action) {
                    self.channel.hang_up();
                    events.push_back(event);
                }
            }
        }
    }

    /// Does it, or tells what came in the way.
    fn act(&mut self, action: Action) -> Result<(), Event> {
        match action {
            Action::SendProgram(hello) => {
                self.component.started(&hello, &mut self.channel);
                // On its way before anything else: Python has its imports to do.
                let stage = self.session.stage();
                self.channel
                    .send()
                    .map_err(|bad| Event::Refused(Box::new(bad.failure(stage))))?;
            }
            Action::SendInputs => {
                let inputs = self.component.inputs().map_err(Event::Refused)?;
                self.channel.feed(inputs);
            }
            Action::NoteCloudpickle { version, file } => self.component.cloudpickle(version, file),
            Action::Go(loaded) => {
                self.component.running(&loaded);
                self.channel.say(&Say::Go);
            }
            Action::BeginOutput => self.component.returned().map_err(Event::Unwritten)?,
            Action::Write(data) => self.component.write(&data).map_err(Event::Unwritten)?,
            Action::Commit => self.component.commit().map_err(Event::Unwritten)?,
            Action::Abandon => self.component.abandon(),
            Action::Ask(signal) => self.tree.ask(signal),
            Action::Kill => {
                self.channel.hang_up();
                self.tree.signal(nix::sys::signal::Signal::SIGKILL);
            }
            Action::Finish => self.finished = true,
        }
        Ok(())
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests;
