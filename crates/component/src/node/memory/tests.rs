use std::fs;

use tempfile::TempDir;

use super::*;

const HYBRID_MOUNTS: &str = "\
    31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
    32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:6 master:1 - cgroup cgroup rw,memory\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
const UNIFIED_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

/// A machine as files: `/proc` of one process, and control groups where it says that they are.
struct Machine(TempDir);

impl Machine {
    fn new(mounts: &str, memberships: &str) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.write("proc/self/mountinfo", mounts);
        machine.write("proc/self/cgroup", memberships);
        let me = std::process::id();
        machine.write(&format!("proc/{me}/stat"), &format!("{me} (a) b) S 1 1 1"));
        machine.write("proc/1/stat", "1 (init) S 0 1 1");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn group(&self, directory: &str, kills: u64, limit: &str) {
        let events = format!("low 0\nhigh 0\nmax 9\noom 9\noom_kill {kills}\noom_group_kill 0\n");
        self.write(&format!("{directory}/memory.events"), &events);
        self.write(&format!("{directory}/memory.max"), limit);
        self.write(&format!("{directory}/memory.peak"), "1048576\n");
    }

    fn group_of_version_1(&self, directory: &str, kills: u64, limit: &str) {
        let control = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
        self.write(&format!("{directory}/memory.oom_control"), &control);
        self.write(&format!("{directory}/memory.limit_in_bytes"), limit);
        self.write(&format!("{directory}/memory.use_hierarchy"), "1\n");
    }

    fn members(&self, directory: &str, pids: &str) {
        self.write(&format!("{directory}/cgroup.procs"), pids);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn watch(&self) -> Watch {
        Watch::at(self.0.path(), &ClassAd::parse("RequestMemory = 128"))
    }
}

fn mine() -> String {
    format!("{}\n", std::process::id())
}

#[test]
fn version_2_tells_whose_the_kill_is() {
    let slot = "sys/fs/cgroup/htcondor/slot1";
    let machine = Machine::new(UNIFIED_MOUNT, "0::/htcondor/slot1\n");
    machine.group("sys/fs/cgroup/htcondor", 5, "1073741824\n");
    machine.group(slot, 1, "max\n");
    machine.members(slot, &mine());

    let mut watch = machine.watch();
    let found = watch.findings();
    assert_eq!(found.killed, Killed::Nobody);
    assert_eq!(found.asked, Some(128));
    // The lowest limit is the one above.
    assert_eq!(
        found.limit,
        Some(Limit {
            bytes: 1 << 30,
            group: Some(machine.path("sys/fs/cgroup/htcondor")),
        })
    );

    // A sibling's death counts above, and is none of ours.
    machine.group("sys/fs/cgroup/htcondor", 6, "1073741824\n");
    assert_eq!(watch.findings().killed, Killed::Nobody);
    machine.group(slot, 3, "67108864\n");
    let found = watch.findings();
    assert_eq!(found.killed, Killed::Ours(2));
    assert_eq!(found.limit.unwrap().bytes, 64 << 20);

    // Another job of the same pilot has come.
    machine.write("proc/77/stat", "77 (job) S 1 1 1");
    machine.members(slot, &format!("{}77\n", mine()));
    assert_eq!(watch.findings().killed, Killed::InGroup(machine.path(slot)));
}

#[test]
fn a_group_without_the_controller_is_counted_above() {
    let machine = Machine::new(UNIFIED_MOUNT, "0::/user/session\n");
    machine.group("sys/fs/cgroup/user", 0, "max\n");
    machine.members("sys/fs/cgroup/user/session", &mine());
    let mut watch = machine.watch();
    assert_eq!(watch.findings().killed, Killed::Nobody);
    machine.group("sys/fs/cgroup/user", 1, "max\n");
    assert_eq!(
        watch.findings().killed,
        Killed::InGroup(machine.path("sys/fs/cgroup/user"))
    );
}

#[test]
fn a_container_shows_its_own_group_as_the_root() {
    for (mounts, membership) in [
        // With a namespace of its own, and in one that it shares with the host.
        (UNIFIED_MOUNT, "0::/\n"),
        (
            "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            "0::/docker/abc\n",
        ),
        // The mount point may lie anywhere, with blanks.
        (
            "30 23 0:26 / /my\\040groups ro - cgroup2 cgroup rw\n",
            "0::/\n",
        ),
    ] {
        let machine = Machine::new(mounts, membership);
        let place = if mounts.contains("groups") {
            "my groups"
        } else {
            "sys/fs/cgroup"
        };
        machine.group(place, 0, "max\n");
        machine.members(place, &mine());
        let mut watch = machine.watch();
        machine.group(place, 1, "max\n");
        assert_eq!(watch.findings().killed, Killed::Ours(1), "{mounts}");
    }
}

#[test]
fn what_cannot_be_placed_is_not_taken_for_ours() {
    // The host's path, and a mount of the container only; or a path outside of the namespace.
    for membership in ["0::/docker/abc\n", "0::/../sibling\n"] {
        let machine = Machine::new(UNIFIED_MOUNT, membership);
        machine.group("sys/fs/cgroup", 0, "max\n");
        machine.members("sys/fs/cgroup", &mine());
        let mut watch = machine.watch();
        machine.group("sys/fs/cgroup", 1, "max\n");
        let killed = watch.findings().killed;
        assert!(
            !matches!(killed, Killed::Ours(_)),
            "{membership}: {killed:?}"
        );
    }
}

#[test]
fn a_hybrid_system_counts_memory_in_version_1() {
    let slot = "sys/fs/cgroup/memory/htcondor/slot1";
    let machine = Machine::new(HYBRID_MOUNTS, "4:memory:/htcondor/slot1\n1:cpu:/\n0::/\n");
    machine.members("sys/fs/cgroup/unified", &mine());
    machine.group_of_version_1("sys/fs/cgroup/memory", 0, "9223372036854771712\n");
    machine.group_of_version_1("sys/fs/cgroup/memory/htcondor", 0, "1073741824\n");
    machine.group_of_version_1(slot, 0, "67108864\n");
    machine.members(slot, &mine());
    let mut watch = machine.watch();
    let found = watch.findings();
    assert_eq!(found.killed, Killed::Nobody);
    assert_eq!(found.limit.unwrap().bytes, 64 << 20);
    machine.group_of_version_1(slot, 1, "9223372036854771712\n");
    let found = watch.findings();
    assert_eq!(found.killed, Killed::Ours(1));
    assert_eq!(found.limit.unwrap().bytes, 1 << 30);
    // An old kernel's group that leaves those below it alone.
    machine.write("sys/fs/cgroup/memory/htcondor/memory.use_hierarchy", "0\n");
    assert_eq!(watch.findings().limit, None);
    // A container does not show who limits it, and the kernel says that somebody does.
    let stat = "cache 0\nhierarchical_memory_limit 33554432\n";
    machine.write(&format!("{slot}/memory.stat"), stat);
    assert_eq!(
        watch.findings().limit,
        Some(Limit {
            bytes: 32 << 20,
            group: None,
        })
    );
}

#[test]
fn without_groups_the_machine_itself_is_asked() {
    let machine = Machine::new("", "");
    assert_eq!(machine.watch().findings().killed, Killed::Unknown);
    machine.write("proc/vmstat", "pgfault 1\noom_kill 4\n");
    let mut watch = machine.watch();
    assert_eq!(watch.findings().killed, Killed::Nobody);
    machine.write("proc/vmstat", "pgfault 1\noom_kill 5\n");
    assert_eq!(watch.findings().killed, Killed::OnNode);
}

#[test]
fn a_peak_is_the_groups_only_if_it_rose_with_a_kill() {
    let machine = Machine::new(UNIFIED_MOUNT, "0::/\n");
    machine.group("sys/fs/cgroup", 0, "max\n");
    machine.members("sys/fs/cgroup", &mine());
    let mut watch = machine.watch();
    // No process of this test comes near that.
    let most = 1_u64 << 50;
    machine.write("sys/fs/cgroup/memory.peak", &most.to_string());
    assert_ne!(watch.findings().peak.of, PeakOf::Cgroup);
    machine.write("sys/fs/cgroup/memory.events", "oom_kill 1\n");
    assert_eq!(
        watch.findings().peak,
        Peak {
            bytes: Some(most),
            of: PeakOf::Cgroup,
        }
    );
    assert_ne!(machine.watch().findings().peak.of, PeakOf::Cgroup);
}

#[test]
fn a_tree_is_summed_and_shared_memory_counted_once() {
    let me = std::process::id();
    let machine = Machine::new("", "");
    let process = |pid: u32, children: &str, resident: u64, pss: Option<u64>| {
        machine.write(&format!("proc/{pid}/task/{pid}/children"), children);
        machine.write(
            &format!("proc/{pid}/statm"),
            &format!("900 {resident} 10 1 0 1 0"),
        );
        if let Some(kib) = pss {
            let text = format!("0-1 ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss:      {kib} kB\n");
            machine.write(&format!("proc/{pid}/smaps_rollup"), &text);
        }
    };
    process(me, "101 ", 50, None);
    process(101, "", 100, Some(999));
    let mut sampler = Sampler::new(machine.0.path());
    sampler.sample();
    assert_eq!(
        sampler.peak(),
        0,
        "of one process the kernel knows the peak"
    );
    // A thread's child, and one that has ended and is not collected yet.
    machine.write("proc/101/task/102/children", "103 104 ");
    process(103, "", 60, None);
    process(104, "", 0, None);
    sampler.sample();
    let page = sysconf_page();
    assert_eq!(sampler.peak(), (999 << 10) + 50 * page);
    // No higher than it was: nobody is asked for more.
    process(101, "", 1, Some(9_999_999));
    sampler.sample();
    assert_eq!(sampler.peak(), (999 << 10) + 50 * page);
}

#[test]
fn a_tree_that_stays_as_it_is_is_looked_at_less_often() {
    let machine = Machine::new("", "");
    let mut sampler = Sampler::new(machine.0.path());
    let first = sampler.interval();
    for _ in 0..30 {
        sampler.sample();
    }
    assert!(sampler.interval() > first);
}

fn sysconf_page() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.unwrap().unwrap().try_into().unwrap()
}

#[test]
fn a_request_that_is_an_expression_is_known_by_what_was_given() {
    let asked = |ad: &str| {
        let machine = Machine::new("", "");
        let mut watch = Watch::at(machine.0.path(), &ClassAd::parse(ad));
        watch.findings().asked
    };
    assert_eq!(
        asked("RequestMemory = 2 * 64\nMemoryProvisioned = 256"),
        Some(128)
    );
    assert_eq!(
        asked("RequestMemory = ifThenElse(a, b, c)\nMemoryProvisioned = 256"),
        Some(256)
    );
    assert_eq!(asked("RequestMemory = -1"), None);
}
