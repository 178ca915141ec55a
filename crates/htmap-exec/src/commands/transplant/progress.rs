//! What a build says while it lasts: a bar on a terminal, and elsewhere a line now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::size;

/// Often enough for somebody who waits, and not too often for a log.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    bar: ProgressBar,
    /// The lines end with it.
    _lines: Option<Sender<()>>,
}

impl Progress {
    /// Says at once that something is done: `what`, of so many bytes.
    pub(super) fn begin(what: &str, total: u64) -> Self {
        say(&format!("{what}: {}", size(total)));
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("packing {wide_bar} {bytes}/{total_bytes}")
            .expect("a fixed template");
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        let lines = (!is_terminal).then(|| lines(what.to_owned(), bar.clone(), PAUSE, say));
        Self { bar, _lines: lines }
    }

    pub(super) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A build goes on whether or not anybody listens.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// By a thread of its own: there is time when nothing is packed, but modules are compiled.
fn lines(
    what: String,
    bar: ProgressBar,
    pause: Duration,
    say: impl Fn(&str) + Send + 'static,
) -> Sender<()> {
    let (lasts, ended) = channel();
    let run = move || {
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let total = size(bar.length().unwrap_or_default());
            say(&format!("{what}: {} of {total}", size(bar.position())));
        }
    };
    // Where there can be no more threads, a build says less.
    std::thread::Builder::new().spawn(run).ok();
    lasts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_now_and_then_until_the_end() {
        let (send, said) = channel();
        let bar = ProgressBar::hidden();
        bar.set_length(3 << 20);
        bar.inc(1 << 20);
        let pause = Duration::from_millis(5);
        let lasts = lines("packing".to_owned(), bar.clone(), pause, move |line| {
            let _ = send.send(line.to_owned());
        });
        let wait = Duration::from_secs(20);
        assert_eq!(
            said.recv_timeout(wait).unwrap(),
            "packing: 1.00 MiB of 3.00 MiB"
        );
        bar.inc(1 << 20);
        let mut later = said.iter().take(1000);
        assert!(later.any(|line| line == "packing: 2.00 MiB of 3.00 MiB"));
        drop(lasts);
        // The thread has gone, and its end of the channel with it.
        while let Ok(line) = said.recv_timeout(wait) {
            assert!(line.starts_with("packing: 2.00 MiB"));
        }
        assert_eq!(
            said.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Disconnected)
        );
    }
}
