//! What Python and its children took of the machine.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Of all children that have ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Peak resident memory of the largest process, in bytes.
    pub(crate) peak_memory: Option<u64>,
    /// Processor time, user and system.
    pub(crate) cpu_seconds: f64,
}

impl Usage {
    pub(crate) fn of_children() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
            return Self::default();
        };
        // The kernel counts kibibytes.
        let peak_memory = u64::try_from(usage.max_rss()).ok().map(|kib| kib << 10);
        let cpu_seconds = seconds(usage.user_time()) + seconds(usage.system_time());
        Self {
            peak_memory,
            cpu_seconds,
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}
