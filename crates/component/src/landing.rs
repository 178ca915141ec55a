//! The beginning of a run: what must exist before anything can go wrong, and what an earlier
//! attempt left finished.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use htmap_exec_interpreter::{PythonVersion, Search};
use nix::sys::signal::Signal;

use crate::error::Error;
use crate::node::NodeFacts;
use crate::node::classad::ClassAd;
use crate::process::Signals;
use crate::process::served::Served;
use crate::report::run_record::Stopwatch;
use crate::report::transcript;
use crate::run::ComponentRun;
use crate::scratch::Scratch;
use crate::scratch::checkpoint;
use crate::session::Limits;

/// HTCondor's defaults: `MachineMaxVacateTime` is ten minutes.
const MACHINE_VACATE: i64 = 600;

/// What to run and how.
#[derive(Debug)]
pub struct Options {
    /// The interpreters to try, in this order.
    pub interpreters: Search,
    /// Variables to set, and to unset, for Python.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Where the interpreter lies, if this process serves it.
    pub served: Option<Served>,
    /// The Python that pickled the map.
    pub submit_python: Option<PythonVersion>,
    /// Run bytecode of another Python all the same.
    pub allow_python_mismatch: bool,
    /// A zip archive of cloudpickle, for nodes that have none.
    pub cloudpickle: Option<PathBuf>,
    /// For Python to exit once its result stands.
    pub exit_grace: Duration,
    /// For Python to start.
    pub start_limit: Duration,
    /// For everything.
    pub timeout: Option<Duration>,
}

/// How the run came out; each means exit status 0 but the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A result or an error record stands.
    Output,
    /// An earlier attempt had finished.
    AlreadyFinished,
    /// HTCondor wanted the machine back before there was an output.
    Evicted(Signal),
}

/// A component that has landed: signals are held back, and what HTCondor wants to take back exists.
#[derive(Debug)]
pub struct Landing {
    signals: Signals,
    scratch: Scratch,
    watch: Stopwatch,
}

impl Landing {
    /// The very first thing to do: an eviction before the paths exist puts the job on hold.
    pub fn begin(scratch: &Path, component: u64) -> Result<Self, Error> {
        let signals = Signals::take()?;
        let scratch = Scratch::prepare(scratch, component)?;
        Ok(Self {
            signals,
            scratch,
            watch: Stopwatch::start(),
        })
    }

    /// Only the paths, for a run that lands again elsewhere.
    pub fn make_paths(scratch: &Path, component: u64) -> Result<(), Error> {
        Scratch::prepare(scratch, component)?;
        Ok(())
    }

    /// Runs the component. Takes over the process: signals, children, stdout.
    /// `prepare` is told the machine's ad, and is called only if there is something to run.
    pub fn run(self, prepare: impl FnOnce(&ClassAd) -> Options) -> Result<Ending, Error> {
        let Self {
            signals,
            scratch,
            mut watch,
        } = self;
        let job_ad = read_ad("_CONDOR_JOB_AD", &scratch, ".job.ad");
        if scratch.take_over(&job_ad)? {
            checkpoint::drop_all(&scratch)?;
            tracing::info!("the output of an earlier attempt stands already");
            return Ok(Ending::AlreadyFinished);
        }
        // Before anything else: from here on an eviction loses nothing of it.
        let adopted = checkpoint::adopt(&scratch)?;
        let machine_ad = read_ad("_CONDOR_MACHINE_AD", &scratch, ".machine.ad");
        let node = NodeFacts::collect(&machine_ad);
        transcript::landed(&node);
        let options = prepare(&machine_ad);
        watch.mark("environment");
        let limits = Limits {
            exit_grace: options.exit_grace,
            start: options.start_limit,
            timeout: options.timeout,
            vacate: vacate_time(&machine_ad, &job_ad),
        };
        ComponentRun::new(&options, &scratch, adopted, job_ad, node, watch).run(&signals, limits)
    }
}

fn read_ad(variable: &str, scratch: &Scratch, name: &str) -> ClassAd {
    let path = std::env::var_os(variable).map_or_else(|| scratch.root().join(name), PathBuf::from);
    ClassAd::read(&path)
}

/// Half of what HTCondor gives: the other half is for the transfer of the files.
fn vacate_time(machine_ad: &ClassAd, job_ad: &ClassAd) -> Duration {
    let machine = machine_ad
        .integer("MachineMaxVacateTime")
        .unwrap_or(MACHINE_VACATE);
    let job = job_ad.integer("JobMaxVacateTime").unwrap_or(machine);
    let seconds = u64::try_from(machine.min(job)).unwrap_or(0);
    Duration::from_millis(seconds * 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_shorter_vacate_time_is_pythons() {
        let vacate = |machine: &str, job: &str| {
            vacate_time(&ClassAd::parse(machine), &ClassAd::parse(job)).as_secs()
        };
        assert_eq!(vacate("", ""), 300);
        assert_eq!(vacate("MachineMaxVacateTime = 10 * 6", ""), 30);
        assert_eq!(
            vacate("MachineMaxVacateTime = 60", "JobMaxVacateTime = 20"),
            10
        );
        assert_eq!(vacate("MachineMaxVacateTime = -1", ""), 0);
    }
}
