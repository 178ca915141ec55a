//! What a session does next: a pure function of its state, an event and the time.
//!
//! Nothing here reads, writes, waits or looks at a clock. [`super::conduct`] does, and tells what
//! happened. So every fault that Python, the function or HTCondor can make is a test of a few lines.
//! The one subtlety: what is settled stays settled. A result or a whole report that came before a
//! signal, a broken connection or the end of Python is the outcome, whatever happens afterwards.

use std::time::Duration;

use htmap_exec_interpreter::MINIMUM_VERSION;
use nix::sys::signal::Signal;

use super::clock::Time;
use super::events::{Action, Event, Limits, Outcome};
use super::protocol::Said;
use crate::failure::{Cause, Failure, Raised, Stage};
use crate::process::Ended;

/// For the texts of the arguments, which no run depends on.
const SHOW: Duration = Duration::from_secs(10);
/// A report that takes longer than this is taken as far as it came.
const REPORT: Duration = Duration::from_secs(15);
/// Between asking Python to end and killing it, where nothing else is said.
pub(crate) const AFTER_TERM: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Phase {
    /// Python has not said anything.
    Starting,
    /// It has the program, and waits for the inputs.
    Waiting,
    /// It has the inputs.
    Loading,
    /// The function runs.
    Running,
    /// The result is on its way.
    Returning,
    /// An exception is on its way.
    Reporting(Box<Failure>),
    /// It is settled.
    Settled(Outcome),
}

/// Every deadline there is.
#[derive(Debug, Default)]
struct Deadlines {
    /// For Python to answer.
    start: Option<Time>,
    /// For the texts of the arguments.
    show: Option<Time>,
    /// For the description of an exception.
    report: Option<Time>,
    /// When Python is asked to end.
    ask: Option<Time>,
    /// When it is killed.
    kill: Option<Time>,
    /// For everything.
    whole: Option<Time>,
}

impl Deadlines {
    fn each(&self) -> [Option<Time>; 6] {
        [
            self.start,
            self.show,
            self.report,
            self.ask,
            self.kill,
            self.whole,
        ]
    }

    /// What Python is given to do something; it cannot while it is stopped.
    fn shift(&mut self, by: Duration) {
        for deadline in [
            &mut self.start,
            &mut self.show,
            &mut self.report,
            &mut self.ask,
            &mut self.kill,
        ] {
            *deadline = deadline.map(|deadline| deadline + by);
        }
    }

    fn kill_by(&mut self, deadline: Time) {
        self.kill = Some(self.kill.map_or(deadline, |earlier| earlier.min(deadline)));
    }
}

/// One Python, from its start to its end.
#[derive(Debug)]
pub(crate) struct Session {
    phase: Phase,
    stage: Stage,
    limits: Limits,
    deadlines: Deadlines,
    prepared: bool,
    evicted: Option<Signal>,
    stopped: Option<Time>,
}

impl Session {
    /// Python was started just now.
    pub(crate) fn begin(limits: Limits, prepared: bool, now: Time) -> Self {
        Self {
            phase: Phase::Starting,
            stage: Stage::StartingPython,
            limits,
            deadlines: Deadlines {
                start: Some(now + limits.start),
                whole: limits.timeout.map(|timeout| now + timeout),
                ..Deadlines::default()
            },
            prepared,
            evicted: None,
            stopped: None,
        }
    }

    /// When the time alone will be an event.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.paused() {
            self.deadlines.whole
        } else {
            self.deadlines.each().into_iter().flatten().min()
        }
    }

    /// What Python does, as far as it said so.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes one event in.
    pub(crate) fn step(&mut self, event: Event, now: Time) -> Vec<Action> {
        match event {
            Event::Prepared(Ok(())) => {
                self.prepared = true;
                self.give()
            }
            Event::Prepared(Err(failure)) | Event::Refused(failure) => self.refuse(failure, now),
            Event::Unwritten(failure) => self.unwritten(failure, now),
            Event::Connected => self.connected(),
            Event::Said(said) => self.said(said, now),
            Event::Data(data) => match self.phase {
                Phase::Returning => vec![Action::Write(data)],
                _ => Vec::new(),
            },
            Event::End(signal) => self.end(signal, now),
            Event::Stopped => {
                self.stopped.get_or_insert(now);
                Vec::new()
            }
            Event::Continued => {
                if let Some(since) = self.stopped.take()
                    && self.evicted.is_none()
                {
                    self.deadlines.shift(now.saturating_sub(since));
                }
                Vec::new()
            }
            Event::Gone(ended) => self.gone(ended),
            Event::Tick => self.tick(now),
        }
    }

    /// How it came out; there is an outcome once there was [`Action::Finish`].
    pub(crate) fn outcome(self) -> Outcome {
        match self.phase {
            Phase::Settled(outcome) => outcome,
            // As far as the report came.
            Phase::Reporting(failure) => Outcome::Failed(failure),
            _ => match self.evicted {
                Some(signal) => Outcome::Evicted(signal),
                None => Outcome::Died {
                    ended: Ended::Exited(0),
                    stage: self.stage,
                },
            },
        }
    }

    /// A stopped Python can do nothing; but who is to be evicted is not waited for.
    fn paused(&self) -> bool {
        self.stopped.is_some() && self.evicted.is_none()
    }

    fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled(_))
    }

    fn settle(&mut self, outcome: Outcome) {
        self.phase = Phase::Settled(outcome);
        self.deadlines = Deadlines {
            ask: self.deadlines.ask,
            kill: self.deadlines.kill,
            ..Deadlines::default()
        };
    }

    /// Python goes on to exit by itself, is asked after this grace, and killed soon after.
    fn let_exit(&mut self, grace: Duration, now: Time) {
        self.deadlines.ask.get_or_insert(now + grace);
        self.deadlines.kill_by(now + grace + AFTER_TERM);
    }

    /// Ends Python at once. A process that the kernel cannot end is not waited for long.
    fn kill(&mut self, outcome: Outcome, now: Time) -> Vec<Action> {
        let returning = matches!(self.phase, Phase::Returning);
        if !self.is_settled() {
            self.settle(outcome);
        }
        self.deadlines.kill_by(now + AFTER_TERM);
        let mut actions = vec![Action::Kill];
        if returning {
            actions.insert(0, Action::Abandon);
        }
        actions
    }

    fn refuse(&mut self, failure: Box<Failure>, now: Time) -> Vec<Action> {
        if self.is_settled() {
            return Vec::new();
        }
        let outcome = match self.evicted {
            // The next attempt finds out whether it was the signal's doing.
            Some(signal) => Outcome::Evicted(signal),
            None => Outcome::Failed(failure),
        };
        self.kill(outcome, now)
    }

    /// The function's work is done, and lost: Python may still exit in order.
    fn unwritten(&mut self, failure: Box<Failure>, now: Time) -> Vec<Action> {
        if !matches!(
            self.phase,
            Phase::Returning | Phase::Settled(Outcome::Result)
        ) {
            return Vec::new();
        }
        self.settle(match self.evicted {
            Some(signal) => Outcome::Evicted(signal),
            None => Outcome::Failed(failure),
        });
        self.let_exit(self.limits.exit_grace, now);
        vec![Action::Abandon]
    }

    fn give(&mut self) -> Vec<Action> {
        if self.prepared && matches!(self.phase, Phase::Waiting) {
            self.phase = Phase::Loading;
            vec![Action::SendInputs]
        } else {
            Vec::new()
        }
    }

    /// Half a result on the old connection is none; the driver says it again on the new one.
    fn connected(&mut self) -> Vec<Action> {
        if matches!(self.phase, Phase::Returning) {
            self.phase = Phase::Running;
            vec![Action::Abandon]
        } else {
            Vec::new()
        }
    }

    fn said(&mut self, said: Said, now: Time) -> Vec<Action> {
        match said {
            Said::Hello(hello) if matches!(self.phase, Phase::Starting) => {
                self.deadlines.start = None;
                if hello
                    .version
                    .is_none_or(|version| version < MINIMUM_VERSION)
                {
                    let reason = format!(
                        "it is Python {}, and {MINIMUM_VERSION} or later is needed",
                        hello.full_version
                    );
                    return self.kill(Outcome::NotStarted(reason), now);
                }
                self.phase = Phase::Waiting;
                let mut actions = vec![Action::SendProgram(Box::new(hello))];
                actions.extend(self.give());
                actions
            }
            Said::Stage(stage) if matches!(self.phase, Phase::Waiting | Phase::Loading) => {
                self.deadlines.show = (stage == Stage::ShowingArguments).then_some(now + SHOW);
                self.stage = stage;
                Vec::new()
            }
            Said::Cloudpickle { version, file } => {
                vec![Action::NoteCloudpickle { version, file }]
            }
            Said::Loaded(loaded) if matches!(self.phase, Phase::Loading) => {
                self.deadlines.show = None;
                self.phase = Phase::Running;
                self.stage = Stage::RunningFunction;
                vec![Action::Go(Box::new(loaded))]
            }
            Said::Returned if matches!(self.phase, Phase::Running | Phase::Returning) => {
                self.stage = Stage::PicklingResult;
                let again = matches!(self.phase, Phase::Returning);
                self.phase = Phase::Returning;
                if again {
                    vec![Action::Abandon, Action::BeginOutput]
                } else {
                    vec![Action::BeginOutput]
                }
            }
            Said::Raised(stage, raised) => self.raised(stage, raised, now),
            Said::Described(described) => {
                if let Phase::Reporting(failure) = &mut self.phase {
                    failure.frames = described.frames();
                    failure.message = described.message;
                    failure.traceback = described.traceback;
                    failure.frames_left_out = described.left_out;
                }
                Vec::new()
            }
            Said::Variable(frame, name, text) => {
                if let Phase::Reporting(failure) = &mut self.phase
                    && let Some(frame) = failure.frames.get_mut(frame)
                {
                    frame.locals.push((name, text));
                }
                Vec::new()
            }
            Said::Note(note) => {
                if let Phase::Reporting(failure) = &mut self.phase {
                    failure.message.push_str(&format!("\n({note})"));
                }
                Vec::new()
            }
            Said::End => self.complete(now),
            Said::Hello(_) | Said::Stage(_) | Said::Loaded(_) | Said::Returned => Vec::new(),
        }
    }

    fn raised(&mut self, stage: Stage, raised: Raised, now: Time) -> Vec<Action> {
        let actions = match self.phase {
            Phase::Returning => vec![Action::Abandon],
            Phase::Waiting | Phase::Loading | Phase::Running => Vec::new(),
            // Whatever broke the first report, it is the one that says why.
            Phase::Starting | Phase::Reporting(_) | Phase::Settled(_) => return Vec::new(),
        };
        self.stage = stage;
        if let (Some(signal), None) = (self.evicted, self.deadlines.ask) {
            // Python was asked already. What is raised after the signal is the signal's doing: the component runs again.
            self.settle(Outcome::Evicted(signal));
            return actions;
        }
        let message = format!("{} while {stage}", raised.class);
        let failure = Failure::new(stage, Cause::Raised(raised), message);
        self.phase = Phase::Reporting(Box::new(failure));
        self.deadlines.show = None;
        self.deadlines.report = Some(now + REPORT);
        actions
    }

    /// The end of a result, or of a report.
    fn complete(&mut self, now: Time) -> Vec<Action> {
        let (outcome, actions) = match std::mem::replace(&mut self.phase, Phase::Starting) {
            Phase::Returning => (Outcome::Result, vec![Action::Commit]),
            Phase::Reporting(failure) => (Outcome::Failed(failure), Vec::new()),
            other => {
                self.phase = other;
                return Vec::new();
            }
        };
        self.settle(outcome);
        // Asked first: a pool of processes can still tidy up after itself.
        self.let_exit(self.limits.exit_grace, now);
        actions
    }

    fn end(&mut self, signal: Signal, now: Time) -> Vec<Action> {
        if self.evicted.is_some() {
            return Vec::new();
        }
        // Asked now, or, where an answer is on its way, when half of the time is over.
        let ask = match self.phase {
            Phase::Returning | Phase::Reporting(_) => now + self.limits.vacate / 2,
            _ => now,
        };
        self.deadlines.ask = Some(ask);
        self.evicted = Some(signal);
        match self.phase {
            // There is nothing left to wait for but a tidy exit.
            Phase::Settled(_) => self
                .deadlines
                .kill_by(now + self.limits.vacate.min(AFTER_TERM)),
            _ => self.deadlines.kill_by(now + self.limits.vacate),
        }
        self.tick(now)
    }

    fn gone(&mut self, ended: Ended) -> Vec<Action> {
        let mut actions = Vec::new();
        let outcome = match std::mem::replace(&mut self.phase, Phase::Starting) {
            Phase::Settled(outcome) => outcome,
            // As far as the report came.
            Phase::Reporting(failure) => Outcome::Failed(failure),
            phase => {
                if matches!(phase, Phase::Returning) {
                    actions.push(Action::Abandon);
                }
                match (self.evicted, phase) {
                    (Some(signal), _) => Outcome::Evicted(signal),
                    (None, Phase::Starting) => {
                        Outcome::NotStarted("it ended before it could say its version".to_owned())
                    }
                    (None, _) => Outcome::Died {
                        ended,
                        stage: self.stage,
                    },
                }
            }
        };
        self.settle(outcome);
        actions.push(Action::Finish);
        actions
    }

    fn tick(&mut self, now: Time) -> Vec<Action> {
        let reached = |deadline: Option<Time>| deadline.is_some_and(|deadline| deadline <= now);
        let mut actions = Vec::new();
        if !self.is_settled() && reached(self.deadlines.whole) {
            if matches!(self.phase, Phase::Returning) {
                actions.push(Action::Abandon);
            }
            let stage = self.stage;
            // A report that was on its way says more than the limit does.
            let outcome = match std::mem::replace(&mut self.phase, Phase::Starting) {
                Phase::Reporting(failure) => Outcome::Failed(failure),
                _ => Outcome::TimedOut { stage },
            };
            self.settle(outcome);
            self.deadlines.ask = Some(now);
            self.deadlines.kill_by(now + AFTER_TERM);
            // Nobody waits for it to go on.
            self.stopped = None;
        }
        if self.paused() {
            return actions;
        }
        if reached(self.deadlines.ask) {
            self.deadlines.ask = None;
            actions.push(Action::Ask(self.evicted.unwrap_or(Signal::SIGTERM)));
        }
        if !self.is_settled() && reached(self.deadlines.start) {
            let reason = "it did not answer in time".to_owned();
            actions.extend(self.kill(Outcome::NotStarted(reason), now));
            actions.push(Action::Finish);
        } else if !self.is_settled() && reached(self.deadlines.show) {
            actions.extend(self.kill(Outcome::NotShown, now));
            actions.push(Action::Finish);
        } else if reached(self.deadlines.report) || reached(self.deadlines.kill) {
            if matches!(self.phase, Phase::Returning) {
                actions.push(Action::Abandon);
            }
            actions.extend([Action::Kill, Action::Finish]);
        }
        actions
    }
}

#[cfg(test)]
mod tests;
