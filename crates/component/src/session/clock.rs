//! The time that a session goes by: what passed while nobody could run is left out.
//!
//! HTCondor suspends a job by SIGSTOP or the freezer, and CLOCK_MONOTONIC runs on meanwhile. Nobody is
//! told; but a wait that was to take a second and took an hour says so by itself.

use std::time::{Duration, Instant};

/// Since the session began, without suspensions.
pub(crate) type Time = Duration;

/// No wait is longer while a deadline runs, so that no suspension counts for more than this.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// What a loaded machine may add to a wait. More than that, and nobody could run.
const SLACK: Duration = Duration::from_secs(1);

/// Tells the session's time.
#[derive(Debug)]
pub(crate) struct Clock {
    last: Instant,
    time: Time,
}

impl Clock {
    /// Starts at zero.
    pub(crate) fn start(now: Instant) -> Self {
        Self {
            last: now,
            time: Time::ZERO,
        }
    }

    /// The time at `now`, after a wait that was to take no longer than `waited`, if it had a limit.
    pub(crate) fn read(&mut self, now: Instant, waited: Option<Duration>) -> Time {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        self.time += match waited {
            Some(waited) if passed <= waited + SLACK => passed,
            // It began somewhere in between. Half of the wait is fair, and brings a machine forward
            // that is late each time.
            Some(waited) => waited / 2,
            // No deadline ran, so nobody's time was taken.
            None => passed,
        };
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_suspension_is_left_out() {
        let begun = Instant::now();
        let mut clock = Clock::start(begun);
        assert_eq!(clock.read(begun + SECOND, Some(SECOND)), SECOND);
        // A busy machine is late, and that counts.
        assert_eq!(
            clock.read(begun + 5 * SECOND / 2, Some(SECOND)),
            5 * SECOND / 2
        );
        // An hour of suspension counts as half of the wait.
        let later = begun + 3600 * SECOND;
        assert_eq!(clock.read(later, Some(SECOND)), 3 * SECOND);
        assert_eq!(clock.read(later + SECOND, Some(SECOND)), 4 * SECOND);
    }

    #[test]
    fn a_wait_without_limit_counts_whole() {
        let begun = Instant::now();
        let mut clock = Clock::start(begun);
        assert_eq!(clock.read(begun + 60 * SECOND, None), 60 * SECOND);
    }
}
