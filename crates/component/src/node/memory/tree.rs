//! How much memory all processes below this one take together, looked at now and then.
//!
//! The kernel remembers the peak of a process, but of no tree of them, and the peak of a control
//! group counts the files that were read. What forked processes share is counted once (PSS), where
//! the kernel tells. That takes its time for large processes, so it is asked when the plain sum has
//! come to rest, and all looks together take no more than a thousandth of a core.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// Between two looks at the beginning, and whenever processes came or went.
const SHORTEST: Duration = Duration::from_millis(100);
/// Between two looks at a tree that stays as it is.
const LONGEST: Duration = Duration::from_secs(1);
/// Times the work of all looks: what is left for the function.
const REST: u32 = 1000;
/// Of work, ahead of time: most of what happens to a tree happens at its beginning.
const AHEAD: Duration = Duration::from_millis(50);
/// Looks without asking for the shares, while the sum grows, and while it stays: what was shared
/// may have been written to.
const GROWING: u32 = 4;
const STAYING: u32 = 10;
/// More processes than any machine runs for one job.
const MOST: usize = 10_000;

/// What the looks found.
#[derive(Debug)]
pub(crate) struct Sampler {
    proc: PathBuf,
    me: u32,
    page: u64,
    peak: u64,
    processes: usize,
    interval: Duration,
    begun: Instant,
    work: Duration,
    /// The plain sum at the last look, and when the shares were asked for.
    last: u64,
    asked: u64,
    not_asked: u32,
}

impl Sampler {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            me: std::process::id(),
            page: sysconf(SysconfVar::PAGE_SIZE)
                .ok()
                .flatten()
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or(4096),
            peak: 0,
            processes: 0,
            interval: SHORTEST,
            begun: Instant::now(),
            work: Duration::ZERO,
            last: 0,
            asked: 0,
            not_asked: 0,
        }
    }

    /// The highest sum so far, in bytes; 0 if there never was more than one process.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// When to look next.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Looks once. May wait for the lock of a process's memory: not for a thread that others wait for.
    pub(super) fn sample(&mut self) {
        let begun = processor_time();
        let resident: Vec<(u32, Resident)> = self
            .descendants()
            .into_iter()
            .filter_map(|pid| Some((pid, self.resident(pid)?)))
            .collect();
        // Of a single process the kernel knows the peak itself.
        if resident.len() > 1 {
            // At most this.
            let most: u64 = resident.iter().map(|(_, resident)| resident.all).sum();
            if most > self.peak && self.is_worth_asking(most) {
                let sum = resident
                    .iter()
                    .map(|(pid, resident)| self.share(*pid).unwrap_or(resident.private))
                    .sum();
                self.peak = self.peak.max(sum);
                self.asked = most;
                self.not_asked = 0;
            } else {
                self.not_asked += 1;
            }
            self.last = most;
        }
        self.interval = if resident.len() == self.processes {
            (self.interval * 5 / 4).min(LONGEST)
        } else {
            SHORTEST
        };
        self.processes = resident.len();
        self.work += processor_time().saturating_sub(begun);
        let owed = self.work.saturating_sub(AHEAD) * REST;
        self.interval = self.interval.max(owed.saturating_sub(self.begun.elapsed()));
    }

    fn is_worth_asking(&self, most: u64) -> bool {
        let rose = most > self.asked + self.asked / 50;
        let rests = most <= self.last + self.last / 20;
        self.asked == 0
            || (rose && (rests || self.not_asked >= GROWING))
            || self.not_asked >= STAYING
    }

    fn descendants(&self) -> Vec<u32> {
        let listed = self.proc.join(format!("{0}/task/{0}/children", self.me));
        if !listed.exists() {
            return self.descendants_by_parent();
        }
        let mut found = self.children(self.me);
        let mut next = 0;
        while next < found.len() && found.len() < MOST {
            found.extend(self.children(found[next]));
            next += 1;
        }
        found
    }

    /// Each thread has those that it started.
    fn children(&self, pid: u32) -> Vec<u32> {
        let Ok(threads) = std::fs::read_dir(self.proc.join(format!("{pid}/task"))) else {
            return Vec::new();
        };
        threads
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok())
            .flat_map(|listed| {
                let pids = listed.split_whitespace();
                pids.filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<u32>>()
            })
            .collect()
    }

    /// For a kernel without `CONFIG_PROC_CHILDREN`.
    fn descendants_by_parent(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(&self.proc) else {
            return Vec::new();
        };
        let parents: Vec<(u32, u32)> = entries
            .filter_map(|entry| {
                let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let stat = std::fs::read(self.proc.join(format!("{pid}/stat"))).ok()?;
                let rest = stat.rsplit(|byte| *byte == b')').next()?;
                let mut fields = std::str::from_utf8(rest).ok()?.split_whitespace();
                Some((pid, fields.nth(1)?.parse().ok()?))
            })
            .collect();
        let mut found = vec![self.me];
        let mut next = 0;
        while next < found.len() && found.len() < MOST {
            let parent = found[next];
            let children = parents.iter().filter(|(_, of)| *of == parent);
            found.extend(children.map(|(pid, _)| pid));
            next += 1;
        }
        found.split_off(1)
    }

    /// <https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html>
    fn resident(&self, pid: u32) -> Option<Resident> {
        let text = std::fs::read_to_string(self.proc.join(format!("{pid}/statm"))).ok()?;
        let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
        let (all, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        // One that has ended and waits to be collected has none.
        (all > 0).then(|| Resident {
            all: all * self.page,
            private: all.saturating_sub(shared) * self.page,
        })
    }

    /// Its part of what it shares with others, and all of what it does not.
    fn share(&self, pid: u32) -> Option<u64> {
        let path = self.proc.join(format!("{pid}/smaps_rollup"));
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    }
}

struct Resident {
    all: u64,
    /// Without files and shared memory. Memory that a fork left in common is still in it.
    private: u64,
}

/// Of this thread.
fn processor_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else {
        return Duration::ZERO;
    };
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| {
            let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros(u64::try_from(micros).unwrap_or(0))
        })
        .sum()
}
