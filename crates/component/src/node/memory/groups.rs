//! The control groups that this process lies in, as far up as they can be seen, and their counters.
//!
//! Where they are mounted is asked of `/proc/self/mountinfo`: sites and containers mount them in
//! places of their own, and a hybrid system has both versions, of which one counts memory.
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

/// Version 1 says "no limit" as a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// Which interface counts memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// What one group says now; `None` for what cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Processes that the kernel killed so far, for lack of memory. In version 2 those of the
    /// groups below are among them.
    pub(super) kills: Option<u64>,
    /// In bytes; `None` for no limit as well.
    pub(super) limit: Option<u64>,
    /// The most that was ever in use, with the cache of files.
    pub(super) peak: Option<u64>,
}

/// A group and those above it.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) version: Version,
    /// The innermost first.
    pub(super) directories: Vec<PathBuf>,
    /// Whether the first is this process's own, and not one somewhere above it.
    pub(super) own: bool,
}

impl Groups {
    /// Those of this process. `root` stands in for `/`.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let memberships = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let mounts = std::fs::read(root.join("proc/self/mountinfo")).ok()?;
        let mounts = mounts_of(&mounts);
        // A controller belongs to one version at a time; version 1 names the ones that it has.
        [Version::One, Version::Two]
            .into_iter()
            .find_map(|version| {
                let path = membership(&memberships, version)?;
                let mut seen: Vec<Self> = mounts
                    .iter()
                    .filter(|mount| mount.version == version)
                    .filter_map(|mount| mount.groups(root, path))
                    .filter(Self::counts)
                    .collect();
                // The one that shows most of what is above.
                seen.sort_by_key(|groups| (groups.own, groups.directories.len()));
                seen.pop()
            })
    }

    fn counts(&self) -> bool {
        let name = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.events",
        };
        let mut directories = self.directories.iter();
        directories.any(|directory| directory.join(name).exists())
    }

    /// The counters of all of them.
    pub(super) fn read(&self) -> Vec<Reading> {
        let directories = self.directories.iter();
        directories
            .map(|directory| read(directory, self.version))
            .collect()
    }

    /// The lowest limit that holds for this process, and the group that has it, if that can be seen.
    pub(super) fn limit(&self) -> Option<(u64, Option<PathBuf>)> {
        let holds = |at: usize, directory: &Path| {
            // Before Linux 5.11 a group of version 1 could leave those below it alone.
            at == 0
                || self.version == Version::Two
                || text(directory, "memory.use_hierarchy").is_none_or(|text| text.trim() != "0")
        };
        let seen = self
            .directories
            .iter()
            .enumerate()
            .filter(|(at, directory)| holds(*at, directory))
            .filter_map(|(_, directory)| Some((read(directory, self.version).limit?, directory)))
            .min_by_key(|(limit, _)| *limit)
            .map(|(limit, directory)| (limit, Some(directory.clone())));
        // Version 1 knows the lowest one, even if a container does not show whose it is.
        let lowest = self.directories.first().and_then(|directory| {
            let stat = text(directory, "memory.stat").filter(|_| self.version == Version::One)?;
            number(&stat, "hierarchical_memory_limit ").filter(|limit| *limit < NO_LIMIT)
        });
        match (seen, lowest) {
            (Some((limit, _)), Some(lowest)) if lowest < limit => Some((lowest, None)),
            (None, Some(lowest)) => Some((lowest, None)),
            (seen, _) => seen,
        }
    }

    /// Whether the group is this process's own and holds nobody but who started this process, and
    /// whom it started. So HTCondor makes one for a job; a pilot's holds other jobs as well.
    pub(super) fn alone(&self, root: &Path) -> bool {
        let Some(members) = self
            .directories
            .first()
            .filter(|_| self.own)
            .and_then(|directory| text(directory, "cgroup.procs"))
        else {
            return false;
        };
        let me = std::process::id();
        let above = line_of(root, me);
        // One outside of this namespace is called 0.
        let mut members = members.lines().map(|pid| pid.trim().parse::<u32>());
        members.all(|pid| {
            pid.is_ok_and(|pid| {
                pid != 0
                    && (above.contains(&pid)
                        || line_of(root, pid).contains(&me)
                        // Gone meanwhile.
                        || !root.join(format!("proc/{pid}")).exists())
            })
        })
    }
}

/// The counters of one group.
pub(super) fn read(directory: &Path, version: Version) -> Reading {
    let (events, limit, peak) = match version {
        Version::One => (
            "memory.oom_control",
            "memory.limit_in_bytes",
            "memory.max_usage_in_bytes",
        ),
        Version::Two => ("memory.events", "memory.max", "memory.peak"),
    };
    let whole = |name| text(directory, name)?.trim().parse::<u64>().ok();
    Reading {
        kills: text(directory, events).and_then(|text| number(&text, "oom_kill ")),
        limit: whole(limit).filter(|limit| *limit < NO_LIMIT),
        peak: whole(peak),
    }
}

/// A number in a file of names and numbers.
pub(super) fn number(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .parse()
        .ok()
}

fn text(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(name)).ok()
}

/// The path of this process in a hierarchy.
fn membership(memberships: &str, version: Version) -> Option<&str> {
    memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        let found = match version {
            Version::One => controllers.split(',').any(|name| name == "memory"),
            Version::Two => number == "0" && controllers.is_empty(),
        };
        found.then(|| fields.next())?
    })
}

/// A process and who started it, up to the first.
fn line_of(root: &Path, pid: u32) -> Vec<u32> {
    let mut line = vec![pid];
    while let Some(parent) = parent_of(root, line[line.len() - 1]) {
        if parent == 0 || line.len() > 200 {
            break;
        }
        line.push(parent);
    }
    line
}

fn parent_of(root: &Path, pid: u32) -> Option<u32> {
    let stat = std::fs::read(root.join(format!("proc/{pid}/stat"))).ok()?;
    // The fourth field, behind a name that may hold anything.
    let rest = stat.rsplit(|byte| *byte == b')').next()?;
    let mut fields = std::str::from_utf8(rest).ok()?.split_whitespace();
    fields.nth(1)?.parse().ok()
}

#[derive(Debug)]
struct Mount {
    version: Version,
    /// The group that is mounted.
    top: PathBuf,
    place: PathBuf,
}

impl Mount {
    /// The groups of the process at this path, as this mount shows them.
    fn groups(&self, root: &Path, path: &str) -> Option<Groups> {
        // `/../x` is outside of the namespace: no mount shows it.
        let below = Path::new(path).strip_prefix(&self.top).ok()?;
        let mut components = below.components();
        if !components.all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        let top = root.join(self.place.strip_prefix("/").ok()?);
        // Joined with nothing, it would end in a slash.
        let innermost: PathBuf = top.components().chain(below.components()).collect();
        let steps = below.components().count() + 1;
        let directories: Vec<PathBuf> = innermost
            .ancestors()
            .take(steps)
            // The path may be the host's, where only the container's part is mounted.
            .skip_while(|directory| !directory.is_dir())
            .map(Path::to_path_buf)
            .collect();
        Some(Groups {
            version: self.version,
            own: directories.len() == steps,
            directories,
        })
    }
}

/// <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
fn mounts_of(mountinfo: &[u8]) -> Vec<Mount> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            // Between these and the dash there are none or more.
            let dash = fields.iter().position(|field| *field == b"-")?;
            let options = fields.get(dash + 3)?;
            let version = match *fields.get(dash + 1)? {
                b"cgroup2" => Version::Two,
                b"cgroup"
                    if options
                        .split(|byte| *byte == b',')
                        .any(|name| name == b"memory") =>
                {
                    Version::One
                }
                _ => return None,
            };
            Some(Mount {
                version,
                top: unescape(fields.get(3)?),
                place: unescape(fields.get(4)?),
            })
        })
        .collect()
}

/// Blanks are written as octal numbers there.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}
