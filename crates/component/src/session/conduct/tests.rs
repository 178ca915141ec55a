//! The loop around a session, with a real process at the other end.
//!
//! That process is this test program, which speaks the driver's part. Each test runs in a process of its
//! own, whose threads have all blocked the signals that the loop takes over: the runner blocks them before
//! it has any other thread.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

use super::*;
use crate::failure::{Cause, Stage};
use crate::session::protocol::{HEADER, TOKEN};

const SCRIPT: &str = "HTMAP_EXEC_TEST_DRIVER";

/// The driver's side, as the variable tells it: `connect`, `say X TEXT`, `hear X`, `sleep`, `end STATUS`.
#[test]
fn drives_if_told_to() {
    let Ok(script) = std::env::var(SCRIPT) else {
        return;
    };
    let address = std::env::var(crate::driver::ENV_CHANNEL).unwrap();
    let (name, token) = address.split_once(':').unwrap();
    assert_eq!(token.len(), TOKEN);
    let mut stream = None;
    for line in script.lines() {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words[..] {
            ["connect"] => {
                let address = SocketAddr::from_abstract_name(name).unwrap();
                let mut new = UnixStream::connect_addr(&address).unwrap();
                new.write_all(token.as_bytes()).unwrap();
                // The old one stays open, as by a child that was forked.
                std::mem::forget(stream.replace(new));
            }
            ["say", letter, text] => {
                let text = text.replace('|', "\0");
                let frame = format!("{letter}{:016x}{text}", text.len());
                let stream = stream.as_mut().unwrap();
                stream.write_all(frame.as_bytes()).unwrap();
            }
            ["hear", letter] => while hear(stream.as_mut().unwrap()) != letter {},
            ["sleep"] => std::thread::sleep(Duration::from_mins(5)),
            #[allow(clippy::exit)]
            ["end", status] => std::process::exit(status.parse().unwrap()),
            _ => panic!("no such line: {line}"),
        }
    }
}

const ALONE: &str = "HTMAP_EXEC_TEST_ALONE";

/// Runs the body in a process of its own; the test's name is how it finds it there.
fn alone(name: &str, body: impl FnOnce()) {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([&format!("session::conduct::tests::{name}"), "--exact"])
        .arg("--nocapture")
        .env(ALONE, "1");
    // SAFETY: one async-signal-safe system call.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| Ok(nix::sys::signal::SigSet::all().thread_block()?));
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The letter of the next frame.
fn hear(stream: &mut UnixStream) -> String {
    use std::io::Read as _;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let size = std::str::from_utf8(&header[1..]).unwrap();
    let size = usize::from_str_radix(size, 16).unwrap();
    stream.read_exact(&mut vec![0; size]).unwrap();
    char::from(header[0]).to_string()
}

/// Notes what it is told.
#[derive(Default)]
struct Notes {
    calls: Vec<String>,
    result: Vec<u8>,
    /// A step that cannot be done.
    fails: &'static str,
}

impl Notes {
    fn note(&mut self, call: &str) -> Result<(), Box<Failure>> {
        self.calls.push(call.to_owned());
        if call == self.fails {
            let failure = Failure::new(Stage::WritingOutput, Cause::NoRoom, call);
            return Err(Box::new(failure));
        }
        Ok(())
    }
}

impl Component for Notes {
    fn begun(&mut self) -> Result<(), Error> {
        let _ = self.note("begun");
        Ok(())
    }

    fn preparation(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn prepared(&mut self) -> Result<(), Box<Failure>> {
        self.note("prepared")
    }

    fn started(&mut self, hello: &Hello, channel: &mut Channel) {
        let _ = self.note(&format!("started {}", hello.full_version));
        channel.say(&Say::Begin);
    }

    fn inputs(&mut self) -> Result<Vec<Input>, Box<Failure>> {
        self.note("inputs").map(|()| Vec::new())
    }

    fn cloudpickle(&mut self, version: String, _file: String) {
        let _ = self.note(&format!("cloudpickle {version}"));
    }

    fn running(&mut self, loaded: &Loaded) {
        let _ = self.note(&format!("running {}", loaded.function));
    }

    fn returned(&mut self) -> Result<(), Box<Failure>> {
        self.result.clear();
        self.note("returned")
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Box<Failure>> {
        self.result.extend_from_slice(data);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Box<Failure>> {
        self.note("commit")
    }

    fn abandon(&mut self) {
        let _ = self.note("abandon");
    }
}

fn conduct(notes: &mut Notes, script: &str) -> Finished {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["session::conduct::tests::drives_if_told_to", "--exact"])
        .env(SCRIPT, script)
        .env_remove(ALONE)
        .stdout(std::process::Stdio::null());
    let limits = Limits {
        exit_grace: Duration::from_millis(200),
        timeout: None,
        start: Duration::from_secs(3),
        vacate: Duration::from_secs(5),
    };
    run(command, &Signals::take().unwrap(), limits, notes).unwrap()
}

const START: &str =
    "connect\nsay H 3.11|3.11.7|/python\nhear B\nsay K 3.1|/f\nsay L f|()|{}\nhear G";

#[test]
fn a_whole_conversation() {
    alone("a_whole_conversation", || {
        let mut notes = Notes::default();
        let script = format!("{START}\nconnect\nsay R \nsay D some\nsay D  data\nsay E \nend 0");
        let finished = conduct(&mut notes, &script);
        assert!(matches!(finished.outcome, Outcome::Result), "{finished:?}");
        assert_eq!(finished.ended, Some(Ended::Exited(0)));
        assert_eq!(notes.result, b"some data");
        let calls = "begun started 3.11.7 inputs cloudpickle 3.1 running f returned commit";
        assert_eq!(notes.calls.join(" "), calls);
    });
}

#[test]
fn half_a_result_is_dropped_when_it_is_said_again() {
    alone("half_a_result_is_dropped_when_it_is_said_again", || {
        let mut notes = Notes::default();
        let script = format!(
            "{START}\nconnect\nsay R \nsay D half\nconnect\nsay R \nsay D whole\nsay E \nsleep"
        );
        let finished = conduct(&mut notes, &script);
        assert!(matches!(finished.outcome, Outcome::Result), "{finished:?}");
        // It did not exit, and was asked to.
        assert!(matches!(finished.ended, Some(Ended::Signaled(_))));
        assert_eq!(notes.result, b"whole");
        assert!(notes.calls.contains(&"abandon".to_owned()));
    });
}

#[test]
fn what_was_said_before_the_end_counts() {
    alone("what_was_said_before_the_end_counts", || {
        let mut notes = Notes::default();
        let script = format!("{START}\nconnect\nsay X running the function|E||||\nend 3");
        let finished = conduct(&mut notes, &script);
        assert!(
            matches!(finished.outcome, Outcome::Failed(_)),
            "{finished:?}"
        );
        assert_eq!(finished.ended, Some(Ended::Exited(3)));
    });
}

#[test]
fn an_end_without_a_word_is_told() {
    alone("an_end_without_a_word_is_told", || {
        let finished = conduct(&mut Notes::default(), &format!("{START}\nend 3"));
        let Outcome::Died { ended, stage } = finished.outcome else {
            panic!("{finished:?}");
        };
        assert_eq!((ended, stage), (Ended::Exited(3), Stage::RunningFunction));
    });
}

#[test]
fn who_does_not_answer_is_passed_over() {
    alone("who_does_not_answer_is_passed_over", || {
        let finished = conduct(&mut Notes::default(), "sleep");
        assert!(
            matches!(finished.outcome, Outcome::NotStarted(_)),
            "{finished:?}"
        );
        let mut command = Command::new("/nonexistent");
        command.arg("x");
        let limits = Limits {
            exit_grace: Duration::ZERO,
            timeout: None,
            start: Duration::from_secs(3),
            vacate: Duration::ZERO,
        };
        let finished = run(
            command,
            &Signals::take().unwrap(),
            limits,
            &mut Notes::default(),
        );
        assert!(matches!(finished.unwrap().outcome, Outcome::NotStarted(_)));
    });
}

#[test]
fn a_step_that_cannot_be_done_is_the_outcome() {
    alone("a_step_that_cannot_be_done_is_the_outcome", || {
        for fails in ["inputs", "returned", "commit"] {
            let mut notes = Notes {
                fails,
                ..Notes::default()
            };
            // Hanging up, the runner makes the driver's writes fail; it may end as it likes.
            let script = format!("{START}\nconnect\nsay R \nsay D data\nsay E \nsleep");
            let finished = conduct(&mut notes, &script);
            let Outcome::Failed(failure) = finished.outcome else {
                panic!("{fails}: {finished:?}");
            };
            assert_eq!(failure.message, fails);
        }
    });
}
