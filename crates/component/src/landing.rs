//! The outermost layer of a run: what must exist before anything can go wrong, what an earlier attempt
//! left finished, and a record for every error that no inner layer has made one of.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::failure::Stage;
use crate::last_resort;
use crate::node::NodeFacts;
use crate::node::classad::ClassAd;
use crate::options::{Ending, Options};
use crate::process::signals::Signals;
use crate::report::run_record::{self, Stopwatch};
use crate::report::transcript;
use crate::run::{ComponentRun, Situation};
use crate::scratch::reserve::Reserve;
use crate::scratch::{Scratch, checkpoint};
use crate::session::events::Limits;

/// HTCondor's defaults: `MachineMaxVacateTime` is ten minutes.
const MACHINE_VACATE: i64 = 600;

/// A component that has landed: signals are held back, and what HTCondor wants to take back exists.
#[derive(Debug)]
pub struct Landing {
    signals: Result<Signals, Error>,
    scratch: Scratch,
    reserve: Arc<Reserve>,
    watch: Stopwatch,
}

impl Landing {
    /// The very first thing to do: an eviction before the paths exist puts the job on hold.
    pub fn begin(scratch: &Path, component: u64) -> Result<Self, Error> {
        let signals = Signals::take();
        let scratch = Scratch::prepare(scratch, component)?;
        let reserve = Arc::new(Reserve::take(&scratch.reserve()));
        // From here on, whatever goes wrong ends in a record.
        last_resort::arm(&scratch, &reserve);
        Ok(Self {
            signals,
            scratch,
            reserve,
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
        let ending = self.run_to_an_end(prepare).or_else(|error| match error {
            // An output would be the end of the component, and of its checkpoint.
            Error::NotRestored { .. } => Err(error),
            error => match last_resort::record(&error.failure(Stage::Landing)) {
                Ok(()) => Ok(Ending::Output),
                Err(_) => Err(error),
            },
        });
        last_resort::disarm();
        ending
    }

    fn run_to_an_end(self, prepare: impl FnOnce(&ClassAd) -> Options) -> Result<Ending, Error> {
        let Self {
            signals,
            scratch,
            reserve,
            mut watch,
        } = self;
        let signals = signals?;
        let job_ad = read_ad("_CONDOR_JOB_AD", &scratch, ".job.ad");
        let attempts = run_record::earlier_attempts(&scratch);
        if scratch.take_over(&job_ad)? {
            checkpoint::drop_all(&scratch)?;
            tracing::info!("the output of an earlier attempt stands already");
            return Ok(Ending::AlreadyFinished);
        }
        // Before anything else: from here on an eviction loses nothing of it.
        let adopted = checkpoint::adopt(&scratch)?;
        let machine_ad = read_ad("_CONDOR_MACHINE_AD", &scratch, ".machine.ad");
        let node = NodeFacts::collect(&machine_ad);
        last_resort::know_node(&node);
        transcript::landed(&node);
        let options = prepare(&machine_ad);
        watch.mark("environment");
        let limits = Limits {
            exit_grace: options.exit_grace,
            start: options.start_limit,
            timeout: options.timeout,
            vacate: vacate_time(&machine_ad, &job_ad),
        };
        let situation = Situation {
            options: &options,
            scratch: &scratch,
            reserve: &reserve,
            job_ad: &job_ad,
            processors: processors(&machine_ad),
            node: &node,
            adopted,
            attempts: &attempts,
        };
        ComponentRun::new(situation, watch).run(&signals, limits)
    }
}

fn read_ad(variable: &str, scratch: &Scratch, name: &str) -> ClassAd {
    let path = std::env::var_os(variable).map_or_else(|| scratch.root().join(name), PathBuf::from);
    ClassAd::read(&path)
}

/// What the slot has, else what the machine has.
fn processors(machine_ad: &ClassAd) -> usize {
    machine_ad
        .integer("Cpus")
        .and_then(|cpus| usize::try_from(cpus).ok())
        .filter(|cpus| *cpus > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Half of what HTCondor gives: the other half is for the transfer of the files.
fn vacate_time(machine_ad: &ClassAd, job_ad: &ClassAd) -> Duration {
    let machine = machine_ad
        .integer("MachineMaxVacateTime")
        .unwrap_or(MACHINE_VACATE);
    let job = job_ad.integer("JobMaxVacateTime").unwrap_or(machine);
    let seconds = u64::try_from(machine.min(job)).unwrap_or(0);
    Duration::from_millis(seconds.saturating_mul(500))
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

    #[test]
    fn the_slot_says_how_many_processors_there_are() {
        assert_eq!(processors(&ClassAd::parse("Cpus = 3")), 3);
        assert!(processors(&ClassAd::parse("Cpus = 0")) > 0);
        assert!(processors(&ClassAd::parse("")) > 0);
    }
}
