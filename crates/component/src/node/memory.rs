//! The memory limit that the kernel enforces on this job, and whether it struck.
//!
//! HTCondor puts every job into a control group of its own where it can. The counter is read
//! before and after the run: a difference is the kernel's word that memory ran out.
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>

use std::path::PathBuf;

/// The counter of out-of-memory kills, and the limit.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MemoryEvents {
    /// Processes of this group killed so far; `None` where nothing can be read.
    pub kills: Option<u64>,
    /// In bytes; `None` for no limit.
    pub limit: Option<u64>,
}

impl MemoryEvents {
    /// Reads them now: version 2 first, then version 1.
    pub(crate) fn read() -> Self {
        let Ok(membership) = std::fs::read_to_string("/proc/self/cgroup") else {
            return Self::default();
        };
        let group = |wanted: &str| {
            membership.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let controllers = fields.nth(1)?;
                controllers
                    .split(',')
                    .any(|name| name == wanted)
                    .then(|| fields.next())?
            })
        };
        let read = |directories: [PathBuf; 2], counter: &str, limit: &str| {
            directories.iter().find_map(|directory| {
                let text = std::fs::read_to_string(directory.join(counter)).ok()?;
                let kills = text
                    .lines()
                    .find_map(|line| line.strip_prefix("oom_kill "))?
                    .parse();
                let limit = std::fs::read_to_string(directory.join(limit)).ok();
                Some(Self {
                    kills: kills.ok(),
                    limit: limit
                        .and_then(|limit| limit.trim().parse().ok())
                        // Version 1 says "no limit" as a number near 2^63.
                        .filter(|limit| *limit < 1 << 60),
                })
            })
        };
        // Inside a container the group's own directory is the root of the mount.
        let places =
            |root: &str, path: &str| [PathBuf::from(format!("{root}{path}")), PathBuf::from(root)];
        group("")
            .and_then(|path| {
                read(
                    places("/sys/fs/cgroup", path),
                    "memory.events",
                    "memory.max",
                )
            })
            .or_else(|| {
                let path = group("memory")?;
                let places = places("/sys/fs/cgroup/memory", path);
                read(places, "memory.oom_control", "memory.limit_in_bytes")
            })
            .unwrap_or_default()
    }

    /// How many processes were killed for memory since an earlier reading.
    pub(crate) fn kills_since(self, before: Self) -> u64 {
        match (before.kills, self.kills) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => 0,
        }
    }
}
