//! What to say of lack of memory: only as much as is known of it.

use crate::node::memory::{Findings, Killed, PeakOf};

/// Where words of people who ran out of memory are looked for: the last lines before the end.
const LAST_LINES: usize = 20;

/// What C++, Rust, the loader and `perror` say when they get no memory; nothing else is known then.
const SAID: [&str; 5] = [
    "std::bad_alloc",
    "memory allocation of ",
    "annot allocate memory",
    "ut of memory",
    "MemoryError",
];

/// Memory that nobody can ask HTCondor for.
const OTHERS: [&str; 3] = ["CUDA", "GPU", "HIP"];

/// For the end of a message: the peak, with what it is the peak of.
pub(crate) fn peak(memory: &Findings) -> String {
    let Some(bytes) = memory.peak.bytes else {
        return String::new();
    };
    let of = match memory.peak.of {
        PeakOf::Process => "its peak memory",
        PeakOf::Tree => "the peak memory of it and its children",
        PeakOf::Cgroup => "the peak memory of the job, cached files included,",
    };
    format!("; {of} was {} MiB", bytes >> 20)
}

/// In parentheses, the limit that holds for the job.
pub(crate) fn limit(memory: &Findings) -> String {
    let Some(limit) = &memory.limit else {
        return String::new();
    };
    let mib = limit.bytes >> 20;
    match &limit.group {
        Some(group) => format!(" (the limit is {mib} MiB, of `{}`)", group.display()),
        None => format!(" (the limit is {mib} MiB, of a control group above this one)"),
    }
}

fn asked(memory: &Findings) -> String {
    memory.asked.map_or_else(String::new, |mib| {
        format!(" (this job asked for {mib} MiB)")
    })
}

/// What to do about it.
pub(crate) fn more(memory: &Findings) -> String {
    format!("ask for more memory with request_memory{}", asked(memory))
}

/// What each process may have, if that is limited.
pub(crate) fn process_limits(memory: &Findings) -> Vec<String> {
    let limits = memory.process_limits.iter();
    limits
        .map(|limit| {
            format!(
                "each process may take {} MiB of addresses here ({}, as `{}` sets it), whatever \
                 request_memory says: whoever runs this node, or wraps its jobs, can raise it",
                limit.bytes >> 20,
                limit.name,
                limit.set_by
            )
        })
        .collect()
}

/// The kernel's word that processes of this job died of it.
pub(crate) fn killed(memory: &Findings) -> Option<String> {
    let who = match memory.kills() {
        0 => return None,
        1 => "a process".to_owned(),
        kills => format!("{kills} processes"),
    };
    Some(format!(
        "the kernel killed {who} of this job for lack of memory{}: {}",
        limit(memory),
        more(memory)
    ))
}

/// About something that ended by SIGKILL, where the kernel's counters are all there is to know.
pub(crate) fn sigkill(memory: &Findings, who: &str) -> String {
    if let Some(killed) = killed(memory) {
        return killed;
    }
    let more = more(memory);
    let near = memory.is_near();
    match &memory.killed {
        Killed::InGroup(group) => format!(
            "perhaps {who} ran out of memory: meanwhile the kernel killed a process for it in \
             `{}`, which other jobs may share. If it was this job's, {more}",
            group.display()
        ),
        Killed::OnNode => format!(
            "perhaps {who} ran out of memory: meanwhile the kernel killed a process for it \
             somewhere on this node. If it was this job's, {more}"
        ),
        _ if near => format!(
            "perhaps {who} took too much memory: the kernel did not say so, but the job came near \
             to what it may have{}: {more}",
            limit(memory)
        ),
        Killed::Unknown => format!(
            "perhaps {who} ran out of memory, which cannot be told on this node: then {more}. Or \
             somebody killed it: HTCondor, an administrator, or the function itself"
        ),
        _ => format!(
            "it was not for memory, says the kernel: somebody killed {who}. That may be HTCondor, \
             an administrator, or the function itself"
        ),
    }
}

/// Whether the last words on stderr say that there was no memory.
pub(crate) fn is_said(stderr: &str) -> bool {
    // What faulthandler prints comes after them.
    let before = stderr
        .rfind("Fatal Python error")
        .map_or(stderr, |at| &stderr[..at]);
    let mut last = before.lines().rev().take(LAST_LINES);
    last.any(|line| {
        SAID.iter().any(|said| line.contains(said))
            && !OTHERS.iter().any(|other| line.contains(other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::memory::{Limit, Peak};

    fn findings(killed: Killed, peak_mib: u64) -> Findings {
        Findings {
            killed,
            peak: Peak {
                bytes: Some(peak_mib << 20),
                of: PeakOf::Process,
            },
            asked: Some(128),
            ..Findings::default()
        }
    }

    #[test]
    fn a_kill_hints_at_memory_only_as_far_as_there_is_reason_to() {
        let said = |killed, peak| sigkill(&findings(killed, peak), "Python");
        assert!(said(Killed::Ours(2), 14).starts_with("the kernel killed 2 processes of this job"));
        assert!(said(Killed::Nobody, 14).starts_with("it was not for memory"));
        assert!(!said(Killed::Nobody, 14).contains("request_memory"));
        assert!(said(Killed::Nobody, 120).starts_with("perhaps Python took too much memory"));
        for unsure in [
            Killed::Unknown,
            Killed::OnNode,
            Killed::InGroup("/sys/fs/cgroup/x".into()),
        ] {
            assert!(said(unsure, 14).starts_with("perhaps"));
        }
    }

    #[test]
    fn the_limit_is_told_with_its_place() {
        let mut memory = findings(Killed::Ours(1), 64);
        memory.limit = Some(Limit {
            bytes: 64 << 20,
            group: Some("/sys/fs/cgroup/slot1".into()),
        });
        assert_eq!(
            killed(&memory).unwrap(),
            "the kernel killed a process of this job for lack of memory (the limit is 64 MiB, of \
             `/sys/fs/cgroup/slot1`): ask for more memory with request_memory (this job asked for \
             128 MiB)"
        );
    }

    #[test]
    fn last_words_are_the_last_lines() {
        let abort = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  \
                     std::bad_alloc\nFatal Python error: Aborted\n\nCurrent thread 0x1:\n";
        assert!(is_said(abort));
        let long_ago = format!("MemoryError\n{}", "busy\n".repeat(30));
        assert!(!is_said(&long_ago));
        assert!(!is_said(
            "torch: CUDA out of memory. Tried to allocate 2 GiB\n"
        ));
    }
}
