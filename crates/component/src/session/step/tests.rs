//! Each fault of a session in a few lines.

use super::*;
use crate::failure::Blame;
use crate::session::protocol::{Described, Hello, Loaded};

const SECOND: Time = Duration::from_secs(1);

/// A session, and everything it asked for.
struct Told {
    session: Session,
    now: Time,
}

impl Told {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits {
            exit_grace: 5 * SECOND,
            timeout: None,
            start: 60 * SECOND,
            vacate: 100 * SECOND,
        };
        change(&mut limits);
        Self {
            session: Session::begin(limits, false, Time::ZERO),
            now: Time::ZERO,
        }
    }

    /// The names of what it asks for.
    fn tell(&mut self, event: Event) -> Vec<String> {
        self.session
            .step(event, self.now)
            .iter()
            .map(|action| {
                let text = format!("{action:?}");
                let end = text.find([' ', '{', '(']).unwrap_or(text.len());
                match action {
                    Action::Ask(signal) => format!("Ask {signal}"),
                    _ => text[..end].to_owned(),
                }
            })
            .collect()
    }

    fn say(&mut self, said: Said) -> Vec<String> {
        self.tell(Event::Said(said))
    }

    fn after(&mut self, passed: Duration) -> Vec<String> {
        self.now += passed;
        self.tell(Event::Tick)
    }

    fn hello(&mut self) -> Vec<String> {
        self.say(Said::Hello(Hello {
            version: "3.11".parse().ok(),
            full_version: "3.11.7".to_owned(),
            ..Hello::default()
        }))
    }

    /// Up to where the function runs.
    fn running() -> Self {
        Self::new().run()
    }

    fn run(mut self) -> Self {
        self.tell(Event::Prepared(Ok(())));
        self.hello();
        self.say(Said::Loaded(Loaded::default()));
        self
    }

    fn returning() -> Self {
        let mut told = Self::running();
        told.say(Said::Returned);
        told
    }

    fn raise(&mut self) -> Vec<String> {
        self.say(raised(Stage::RunningFunction, "ValueError"))
    }

    fn gone(&mut self, status: i32) -> Vec<String> {
        self.tell(Event::Gone(Ended::Exited(status)))
    }

    fn outcome(self) -> String {
        match self.session.outcome() {
            Outcome::Failed(failure) => format!("Failed: {}", failure.message),
            other => format!("{other:?}"),
        }
    }
}

fn raised(stage: Stage, class: &str) -> Said {
    let class = class.to_owned();
    Said::Raised(
        stage,
        Raised {
            class,
            ..Raised::default()
        },
    )
}

fn failure() -> Box<Failure> {
    Box::new(Failure::new(Stage::LoadingFunction, Cause::BadInput, "bad"))
}

#[test]
fn a_run_from_start_to_end() {
    let mut told = Told::new();
    assert_eq!(told.hello(), ["SendProgram"]);
    assert_eq!(told.tell(Event::Prepared(Ok(()))), ["SendInputs"]);
    assert_eq!(told.session.next_deadline(), None);
    assert!(told.say(Said::Stage(Stage::LoadingFunction)).is_empty());
    assert_eq!(told.say(Said::Loaded(Loaded::default())), ["Go"]);
    assert_eq!(told.say(Said::Returned), ["BeginOutput"]);
    assert_eq!(told.tell(Event::Data(vec![1])), ["Write"]);
    assert_eq!(told.say(Said::End), ["Commit"]);
    assert_eq!(told.gone(0), ["Finish"]);
    assert_eq!(told.outcome(), "Result");
}

#[test]
fn preparations_may_come_first() {
    let mut told = Told::new();
    assert!(told.tell(Event::Prepared(Ok(()))).is_empty());
    assert_eq!(told.hello(), ["SendProgram", "SendInputs"]);
}

#[test]
fn a_long_restore_is_not_pythons_start() {
    let mut told = Told::new();
    told.hello();
    assert!(told.after(3600 * SECOND).is_empty());
    assert_eq!(told.tell(Event::Prepared(Ok(()))), ["SendInputs"]);
}

#[test]
fn a_restore_that_fails_ends_the_run_with_its_reason() {
    let mut told = Told::new();
    told.hello();
    assert_eq!(told.tell(Event::Prepared(Err(failure()))), ["Kill"]);
    assert_eq!(told.tell(Event::Gone(Ended::Signaled(9))), ["Finish"]);
    assert_eq!(told.outcome(), "Failed: bad");
}

#[test]
fn a_python_that_does_not_answer_is_passed_over() {
    let mut told = Told::new();
    assert!(told.after(59 * SECOND).is_empty());
    assert_eq!(told.after(SECOND), ["Kill", "Finish"]);
    assert_eq!(told.outcome(), "NotStarted(\"it did not answer in time\")");
}

#[test]
fn a_python_that_ends_before_it_answers_is_passed_over() {
    let mut told = Told::new();
    assert_eq!(told.gone(1), ["Finish"]);
    assert!(told.outcome().starts_with("NotStarted"));
}

#[test]
fn an_old_python_is_passed_over() {
    let mut told = Told::new();
    let hello = Hello {
        version: "2.7".parse().ok(),
        full_version: "2.7.18".to_owned(),
        ..Hello::default()
    };
    assert_eq!(told.say(Said::Hello(hello)), ["Kill"]);
    told.gone(0);
    assert!(told.outcome().contains("it is Python 2.7.18"));
}

#[test]
fn a_suspension_of_python_takes_no_time() {
    let mut told = Told::new();
    told.tell(Event::Stopped);
    assert_eq!(told.session.next_deadline(), None);
    assert!(told.after(3600 * SECOND).is_empty());
    told.tell(Event::Continued);
    assert!(told.after(59 * SECOND).is_empty());
    assert_eq!(told.after(SECOND), ["Kill", "Finish"]);
}

#[test]
fn the_timeout_counts_while_python_is_stopped() {
    let mut told = Told::with(|limits| limits.timeout = Some(10 * SECOND)).run();
    told.tell(Event::Stopped);
    assert_eq!(told.session.next_deadline(), Some(10 * SECOND));
    assert_eq!(told.after(10 * SECOND), ["Ask SIGTERM"]);
    assert_eq!(told.after(AFTER_TERM), ["Kill", "Finish"]);
    assert!(told.outcome().starts_with("TimedOut"));
}

#[test]
fn who_is_evicted_while_stopped_is_not_waited_for() {
    let mut told = Told::running();
    told.tell(Event::Stopped);
    assert_eq!(told.tell(Event::End(Signal::SIGTERM)), ["Ask SIGTERM"]);
    assert_eq!(told.after(100 * SECOND), ["Kill", "Finish"]);
    assert_eq!(told.outcome(), "Evicted(SIGTERM)");
}

#[test]
fn the_text_of_an_argument_has_ten_seconds() {
    let mut told = Told::new();
    told.tell(Event::Prepared(Ok(())));
    told.hello();
    told.say(Said::Stage(Stage::ShowingArguments));
    assert_eq!(told.after(SHOW), ["Kill", "Finish"]);
    assert_eq!(told.outcome(), "NotShown");
}

#[test]
fn half_a_result_on_an_old_connection_is_none() {
    let mut told = Told::returning();
    told.tell(Event::Data(vec![1]));
    assert_eq!(told.tell(Event::Connected), ["Abandon"]);
    // Data without its beginning is nobody's.
    assert!(told.tell(Event::Data(vec![2])).is_empty());
    assert_eq!(told.say(Said::Returned), ["BeginOutput"]);
    assert_eq!(told.say(Said::End), ["Commit"]);
    assert_eq!(told.outcome(), "Result");
}

#[test]
fn a_result_that_cannot_be_pickled_is_a_failure() {
    let mut told = Told::returning();
    told.tell(Event::Connected);
    assert!(told.raise().is_empty());
    told.say(Said::Described(Described {
        message: "why".to_owned(),
        ..Described::default()
    }));
    told.say(Said::End);
    told.gone(0);
    assert_eq!(told.outcome(), "Failed: why");
}

#[test]
fn a_result_that_cannot_be_kept_is_a_failure_even_when_it_is_complete() {
    let mut told = Told::returning();
    assert_eq!(told.say(Said::End), ["Commit"]);
    assert_eq!(told.tell(Event::Unwritten(failure())), ["Abandon"]);
    assert_eq!(told.gone(0), ["Finish"]);
    assert_eq!(told.outcome(), "Failed: bad");
}

#[test]
fn a_connection_after_the_result_changes_nothing() {
    let mut told = Told::returning();
    told.say(Said::End);
    assert!(told.tell(Event::Connected).is_empty());
    assert!(told.say(Said::Returned).is_empty());
    assert!(told.raise().is_empty());
    assert!(told.tell(Event::Refused(failure())).is_empty());
    assert_eq!(told.outcome(), "Result");
}

#[test]
fn python_has_a_grace_to_exit() {
    let mut told = Told::returning();
    told.say(Said::End);
    assert!(told.after(4 * SECOND).is_empty());
    assert_eq!(told.after(SECOND), ["Ask SIGTERM"]);
    assert_eq!(told.after(AFTER_TERM), ["Kill", "Finish"]);
    assert_eq!(told.outcome(), "Result");
}

#[test]
fn a_death_without_a_word_is_told_with_its_stage() {
    let mut told = Told::running();
    assert_eq!(told.tell(Event::Gone(Ended::Signaled(11))), ["Finish"]);
    assert_eq!(
        told.outcome(),
        "Died { ended: Signaled(11), stage: RunningFunction }"
    );
    let mut told = Told::returning();
    assert_eq!(told.gone(3), ["Abandon", "Finish"]);
    assert_eq!(
        told.outcome(),
        "Died { ended: Exited(3), stage: PicklingResult }"
    );
}

#[test]
fn a_report_counts_as_far_as_it_came() {
    let mut told = Told::running();
    told.raise();
    told.gone(1);
    assert_eq!(
        told.outcome(),
        "Failed: ValueError while running the function"
    );
    let mut told = Told::running();
    told.raise();
    assert_eq!(told.after(REPORT), ["Kill", "Finish"]);
    assert!(told.outcome().starts_with("Failed: ValueError"));
}

#[test]
fn the_first_report_is_the_one() {
    let mut told = Told::running();
    told.raise();
    told.tell(Event::Connected);
    told.say(raised(Stage::PicklingResult, "OSError"));
    told.say(Said::End);
    assert!(told.outcome().contains("ValueError"));
}

#[test]
fn a_signal_ends_python_and_then_kills_it() {
    let mut told = Told::running();
    assert_eq!(told.tell(Event::End(Signal::SIGTERM)), ["Ask SIGTERM"]);
    assert!(told.tell(Event::End(Signal::SIGTERM)).is_empty());
    assert!(told.after(99 * SECOND).is_empty());
    assert_eq!(told.after(SECOND), ["Kill", "Finish"]);
    assert_eq!(told.outcome(), "Evicted(SIGTERM)");
}

#[test]
fn what_is_raised_after_the_signal_is_the_signals_doing() {
    let mut told = Told::running();
    told.tell(Event::End(Signal::SIGINT));
    told.raise();
    told.say(Said::End);
    told.gone(0);
    assert_eq!(told.outcome(), "Evicted(SIGINT)");
}

#[test]
fn a_result_after_the_signal_is_a_result() {
    let mut told = Told::running();
    told.tell(Event::End(Signal::SIGTERM));
    assert_eq!(told.say(Said::Returned), ["BeginOutput"]);
    assert_eq!(told.say(Said::End), ["Commit"]);
    told.gone(0);
    assert_eq!(told.outcome(), "Result");
}

#[test]
fn a_result_on_its_way_is_given_half_of_the_time() {
    let mut told = Told::returning();
    assert!(told.tell(Event::End(Signal::SIGTERM)).is_empty());
    assert_eq!(told.after(50 * SECOND), ["Ask SIGTERM"]);
    assert_eq!(told.after(50 * SECOND), ["Abandon", "Kill", "Finish"]);
    assert_eq!(told.outcome(), "Evicted(SIGTERM)");
}

#[test]
fn a_report_that_was_complete_outlasts_the_signal() {
    let mut told = Told::running();
    told.raise();
    told.say(Said::End);
    assert_eq!(told.tell(Event::End(Signal::SIGTERM)), ["Ask SIGTERM"]);
    // A thread that keeps Python alive is not waited for.
    assert_eq!(told.after(AFTER_TERM), ["Kill", "Finish"]);
    assert!(told.outcome().starts_with("Failed: ValueError"));
}

#[test]
fn a_report_on_its_way_outlasts_the_signal() {
    let mut told = Told::running();
    told.raise();
    assert!(told.tell(Event::End(Signal::SIGTERM)).is_empty());
    told.say(Said::End);
    told.gone(0);
    assert!(told.outcome().starts_with("Failed: ValueError"));
}

#[test]
fn a_failure_to_pickle_before_python_was_asked_is_not_the_signals_doing() {
    let mut told = Told::returning();
    told.tell(Event::End(Signal::SIGTERM));
    told.raise();
    told.say(Said::End);
    assert!(told.outcome().starts_with("Failed: ValueError"));
}

#[test]
fn the_timeout_lets_what_is_settled_stand() {
    let mut told = Told::with(|limits| limits.timeout = Some(10 * SECOND)).run();
    told.say(Said::Returned);
    told.say(Said::End);
    assert_eq!(told.after(10 * SECOND), ["Ask SIGTERM", "Kill", "Finish"]);
    assert_eq!(told.outcome(), "Result");
}

#[test]
fn the_timeout_drops_half_a_result() {
    let mut told = Told::with(|limits| limits.timeout = Some(10 * SECOND)).run();
    told.say(Said::Returned);
    assert_eq!(told.after(10 * SECOND), ["Abandon", "Ask SIGTERM"]);
    assert!(told.outcome().starts_with("TimedOut"));
}

#[test]
fn messages_out_of_place_do_nothing() {
    for mut told in [Told::new(), Told::running(), Told::returning()] {
        let before = format!("{:?}", told.session.phase);
        for said in [
            Said::Variable(7, "x".to_owned(), "1".to_owned()),
            Said::Note("why".to_owned()),
            Said::Described(Described::default()),
        ] {
            assert!(told.say(said).is_empty());
        }
        assert_eq!(format!("{:?}", told.session.phase), before);
    }
    // No result without a return, no go without inputs, no second start.
    assert!(Told::running().say(Said::End).is_empty());
    assert!(Told::new().say(Said::Loaded(Loaded::default())).is_empty());
    assert!(Told::running().hello().is_empty());
    assert!(Told::new().raise().is_empty());
}

#[test]
fn whose_failure_it_is_follows_from_the_cause() {
    let mut told = Told::running();
    told.raise();
    told.say(Said::End);
    let Outcome::Failed(failure) = told.session.outcome() else {
        panic!("it failed");
    };
    assert_eq!(failure.cause.blame(), Blame::Function);
}
