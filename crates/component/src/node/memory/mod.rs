//! What this job may have of the memory, what it took, and whether the kernel killed somebody for it.
//!
//! HTCondor puts every job into a control group of its own where it can. The counters are read
//! before and after the run, of that group and of those above it: a difference is the kernel's word.
//! Only what is certain counts as this job's; a group may be shared with other jobs.

mod groups;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::Serialize;

use crate::node::classad::ClassAd;
use crate::node::memory::groups::{Groups, Reading, Version, number};
use crate::node::memory::tree::Sampler;
use crate::node::usage::Usage;

/// Whom the kernel killed for lack of memory during the run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Killed {
    /// So many processes of this job.
    Ours(u64),
    /// Somebody in this control group, which other jobs may share.
    InGroup(PathBuf),
    /// Somebody on this machine.
    OnNode,
    /// Nobody who could be this job's.
    Nobody,
    /// Nothing can be read here.
    #[default]
    Unknown,
}

/// A limit of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    /// Whose it is, if that can be seen.
    pub(crate) group: Option<PathBuf>,
}

/// A limit of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessLimit {
    pub(crate) bytes: u64,
    /// As the kernel calls it, and how a shell sets it.
    pub(crate) name: &'static str,
    pub(crate) set_by: &'static str,
}

/// What a peak is the peak of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PeakOf {
    /// The largest process, by the kernel's own count.
    #[default]
    Process,
    /// Python and everything that it started, as looked at now and then.
    Tree,
    /// The control group, the cache of files included.
    Cgroup,
}

impl PeakOf {
    /// As records call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Tree => "tree",
            Self::Cgroup => "cgroup",
        }
    }
}

/// The most memory that was in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Peak {
    pub(crate) bytes: Option<u64>,
    pub(crate) of: PeakOf,
}

/// All that is known when the run is over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(crate) killed: Killed,
    /// The lowest one of the job's group and those above.
    pub(crate) limit: Option<Limit>,
    /// Handed down to Python.
    pub(crate) process_limits: Vec<ProcessLimit>,
    pub(crate) peak: Peak,
    /// What the job asked for, or was given, MiB.
    pub(crate) asked: Option<u64>,
}

impl Findings {
    /// How many of this job's processes were killed, for certain.
    pub(crate) fn kills(&self) -> u64 {
        match self.killed {
            Killed::Ours(kills) => kills,
            _ => 0,
        }
    }

    /// Whether the peak came near to what the job may have.
    pub(crate) fn is_near(&self) -> bool {
        let limit = self.limit.as_ref().map(|limit| limit.bytes);
        let most = limit
            .into_iter()
            .chain(self.asked.map(|mib| mib << 20))
            .min();
        most.zip(self.peak.bytes)
            .is_some_and(|(most, peak)| peak >= most / 100 * 85)
    }
}

/// Keeps an eye on the memory from before Python starts.
#[derive(Debug)]
pub(crate) struct Watch {
    root: PathBuf,
    groups: Option<Groups>,
    before: Vec<Reading>,
    alone: bool,
    on_node: Option<u64>,
    asked: Option<u64>,
    tree_peak: Arc<AtomicU64>,
    /// Ends the thread when it goes.
    looking: Option<mpsc::Sender<()>>,
}

impl Watch {
    /// Reads the counters now.
    pub(crate) fn begin(job_ad: &ClassAd) -> Self {
        Self::at(Path::new("/"), job_ad)
    }

    /// Without the thread; `root` stands in for `/`.
    fn at(root: &Path, job_ad: &ClassAd) -> Self {
        let groups = Groups::find(root);
        // The first may be an expression.
        let asked = ["RequestMemory", "MemoryProvisioned"]
            .into_iter()
            .find_map(|name| u64::try_from(job_ad.integer(name)?).ok());
        Self {
            before: groups.as_ref().map(Groups::read).unwrap_or_default(),
            alone: groups.as_ref().is_some_and(|groups| groups.alone(root)),
            groups,
            on_node: kills_on_node(root),
            asked,
            tree_peak: Arc::default(),
            looking: None,
            root: root.to_path_buf(),
        }
    }

    /// Looks at the processes from now on, once Python is one of them.
    ///
    /// In a thread of its own: a look may have to wait, and nobody waits for it. Where there can be
    /// no thread, the largest process is all that is known.
    pub(crate) fn look(&mut self) {
        if self.looking.is_some() {
            return;
        }
        let (sender, stopped) = mpsc::channel::<()>();
        let peak = Arc::clone(&self.tree_peak);
        let mut sampler = Sampler::new(&self.root);
        let mut alarm = self.alarm();
        let thread = std::thread::Builder::new().name("memory".to_owned());
        let started = thread.spawn(move || {
            while stopped.recv_timeout(sampler.interval()) == Err(RecvTimeoutError::Timeout) {
                sampler.sample();
                peak.store(sampler.peak(), Ordering::Relaxed);
                alarm = alarm.take().filter(|alarm| !alarm.rings());
            }
        });
        match started {
            Ok(_) => self.looking = Some(sender),
            Err(error) => tracing::debug!("the memory is not looked at: {error}"),
        }
    }

    /// A worker that was killed may be waited for in vain: somebody should know meanwhile.
    fn alarm(&self) -> Option<Alarm> {
        let groups = self.groups.as_ref().filter(|_| self.alone)?;
        Some(Alarm {
            directory: groups.directories.first()?.clone(),
            version: groups.version,
            before: self.before.first()?.kills?,
        })
    }

    /// What is known now. Ends the looks.
    pub(crate) fn findings(&mut self) -> Findings {
        self.looking = None;
        let killed = self.killed();
        let limit = self.groups.as_ref().and_then(Groups::limit);
        Findings {
            peak: self.peak(&killed),
            killed,
            limit: limit.map(|(bytes, group)| Limit { bytes, group }),
            process_limits: process_limits(),
            asked: self.asked,
        }
    }

    fn killed(&self) -> Killed {
        let rose = |before: Option<u64>, after: Option<u64>| {
            before
                .zip(after)
                .map(|(before, after)| after.saturating_sub(before))
        };
        if let Some(groups) = &self.groups {
            let after = groups.read();
            let counts = self.before.iter().zip(&after).zip(&groups.directories);
            let mut counts = counts
                .enumerate()
                .filter_map(|(at, ((before, after), directory))| {
                    Some((at, rose(before.kills, after.kills)?, directory))
                });
            if groups.version == Version::One {
                // Each group counts for itself: what happens above is none of this job's.
                match counts.next() {
                    Some((0, 0, _)) if groups.own => return Killed::Nobody,
                    Some((0, kills, _)) if self.is_alone(groups) => return Killed::Ours(kills),
                    Some((0, 1.., directory)) => return Killed::InGroup(directory.clone()),
                    _ => {}
                }
            } else if let Some((at, kills, directory)) = counts.next() {
                // The innermost that counts at all counts for all below it.
                return match kills {
                    0 => Killed::Nobody,
                    _ if at == 0 && self.is_alone(groups) => Killed::Ours(kills),
                    _ => Killed::InGroup(directory.clone()),
                };
            }
        }
        match rose(self.on_node, kills_on_node(&self.root)) {
            Some(0) => Killed::Nobody,
            Some(_) => Killed::OnNode,
            None => Killed::Unknown,
        }
    }

    fn is_alone(&self, groups: &Groups) -> bool {
        self.alone && groups.alone(&self.root)
    }

    fn peak(&self, killed: &Killed) -> Peak {
        let process = Usage::of_children().peak_memory;
        let tree = self.tree_peak.load(Ordering::Relaxed);
        let mut peak = Peak {
            bytes: process,
            of: PeakOf::Process,
        };
        let mut higher = |bytes: u64, of: PeakOf| {
            if peak.bytes.is_none_or(|known| known < bytes) && bytes > 0 {
                peak = Peak {
                    bytes: Some(bytes),
                    of,
                };
            }
        };
        higher(tree, PeakOf::Tree);
        // What grew until it was killed grew between two looks. The group's peak may be an earlier
        // job's, unless it rose; and only then is it this run's.
        if matches!(killed, Killed::Ours(_))
            && let Some(groups) = &self.groups
            && let Some((before, after)) = self.before.first().zip(groups.read().first())
            && after.peak > before.peak
        {
            higher(after.peak.unwrap_or(0), PeakOf::Cgroup);
        }
        peak
    }
}

/// Says once, while the function still runs, that somebody was killed.
#[derive(Debug)]
struct Alarm {
    directory: PathBuf,
    version: Version,
    before: u64,
}

impl Alarm {
    fn rings(&self) -> bool {
        let now = groups::read(&self.directory, self.version).kills;
        let rings = now.is_some_and(|now| now > self.before);
        if rings {
            tracing::warn!("the kernel killed a process of this job for lack of memory");
        }
        rings
    }
}

/// All kills on this machine, whatever they were for: containers see them as well.
fn kills_on_node(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/vmstat")).ok()?;
    number(&text, "oom_kill ")
}

/// `RLIMIT_RSS` has no effect on Linux.
fn process_limits() -> Vec<ProcessLimit> {
    [
        (Resource::RLIMIT_AS, "RLIMIT_AS", "ulimit -v"),
        (Resource::RLIMIT_DATA, "RLIMIT_DATA", "ulimit -d"),
    ]
    .into_iter()
    .filter_map(|(resource, name, set_by)| {
        let (bytes, _) = getrlimit(resource).ok()?;
        (bytes != RLIM_INFINITY).then_some(ProcessLimit {
            bytes,
            name,
            set_by,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests;
