//! How a run ends: its outcome becomes an output, a run record, and the last lines of stdout.

use nix::sys::signal::Signal;

use super::{ComponentRun, Preparing, Situation};
use crate::error::Error;
use crate::failure::{Blame, Cause, Failure, Stage};
use crate::node::memory::Findings;
use crate::node::usage::Usage;
use crate::options::Ending;
use crate::report::advice::{self, Known};
use crate::report::error_record::{self, Context};
use crate::report::run_record::RunRecord;
use crate::report::{death, transcript};
use crate::scratch::output::Output;
use crate::scratch::{checkpoint, listing};
use crate::session::conduct::Finished;
use crate::session::events::Outcome;
use crate::{last_resort, names};

impl ComponentRun<'_> {
    pub(super) fn conclude(mut self, finished: &Finished) -> Result<Ending, Error> {
        self.watch.mark("ended");
        let memory = self.memory.findings();
        if !matches!(finished.outcome, Outcome::Evicted(_))
            && let Some(failure) = self.unread(Stage::RunningFunction)
        {
            return self.fail(failure, Some(finished), &memory);
        }
        let failure = match &finished.outcome {
            Outcome::Result => {
                self.finish(None, Some(finished), &memory);
                return Ok(Ending::Output);
            }
            Outcome::Evicted(signal) => return Ok(self.evicted(*signal, finished, &memory)),
            Outcome::NotStarted(reason) => {
                Failure::new(Stage::StartingPython, Cause::NoPython, reason.as_str())
            }
            Outcome::NotShown => Failure::new(
                Stage::ShowingArguments,
                Cause::EndlessText,
                "the text of an argument does not end",
            ),
            Outcome::Failed(failure) if not_restored(failure) => {
                // No output: it would be the end of the component, and of its checkpoint.
                return Err(Error::NotRestored {
                    message: failure.message.clone(),
                    hint: failure.hints.join("; "),
                });
            }
            Outcome::Failed(failure) => (**failure).clone(),
            Outcome::TimedOut { stage } => {
                let timeout = self.situation.options.timeout.unwrap_or_default();
                let seconds = timeout.as_secs_f64();
                Failure::new(
                    *stage,
                    Cause::TimedOut,
                    format!("Python was ended after {seconds} s while {stage}: --timeout"),
                )
                .hint("give it more time with --timeout")
            }
            Outcome::Died { ended, stage } => death::failure(
                *ended,
                *stage,
                &finished.stderr,
                finished.fatal.as_deref(),
                &memory,
            ),
        };
        self.fail(failure, Some(finished), &memory)
    }

    /// The component runs again: its checkpoint is whole, and what became of this attempt is told.
    fn evicted(&mut self, signal: Signal, finished: &Finished, memory: &Findings) -> Ending {
        let scratch = self.situation.scratch;
        // Stops a restore.
        self.preparing = Preparing::Failed;
        // What stays only costs its transfer: a restart takes complete generations. An error record would be
        // the end of a component that is to run again.
        if let Err(error) = checkpoint::tidy(scratch) {
            tracing::warn!("{}", error.whole());
        }
        let record = RunRecord {
            status: names::STATUS_EVICTED,
            ..self.record(Some(finished), memory)
        };
        if let Err(error) = record.write(scratch) {
            tracing::warn!("{error}");
        }
        Ending::Evicted(signal)
    }

    pub(super) fn fail(
        &mut self,
        mut failure: Failure,
        finished: Option<&Finished>,
        memory: &Findings,
    ) -> Result<Ending, Error> {
        self.output = None;
        // What it was brings no other failure.
        let _ = self.finish_preparing();
        self.announce();
        let Situation {
            options,
            scratch,
            reserve,
            node,
            ..
        } = self.situation;
        advice::advise(
            &mut failure,
            &Known {
                host: &node.host,
                python: self.python.as_ref(),
                memory,
                mounted: options.served.as_ref().map(|served| served.root.as_path()),
                shared: options.shared.as_deref(),
                scratch,
            },
        );
        transcript::failed(&failure);
        let context = Context {
            component: scratch.component(),
            node,
            python: self.python.as_ref(),
            scratch_dir_contents: listing::top_level(scratch.root()),
            stderr_tail: finished.map_or_else(String::new, |finished| finished.stderr.clone()),
            peak_memory: memory.peak,
        };
        let pickled = error_record::pickle(&context, &failure);
        if let Err(error) = Output::write_failure(scratch, reserve, &pickled) {
            // Without the local variables it may still fit.
            tracing::warn!("the whole report cannot be written: {error}");
            for frame in &mut failure.frames {
                frame.locals.clear();
            }
            last_resort::record(&failure).map_err(|_| error)?;
        }
        self.finish(Some(&failure), finished, memory);
        Ok(Ending::Output)
    }

    /// The output stands: nothing that goes wrong from here on changes that.
    fn finish(
        &mut self,
        failure: Option<&Failure>,
        finished: Option<&Finished>,
        memory: &Findings,
    ) {
        self.watch.mark("output");
        let Situation {
            scratch, reserve, ..
        } = self.situation;
        // Whatever was given while Python exited.
        if let Err(error) = scratch.deliver_output_files() {
            tracing::warn!("{error}");
        }
        // A node's failure is none of the component's: what it has stored stays.
        let blame = failure.map(|failure| failure.cause.blame());
        if !matches!(blame, Some(Blame::Node | Blame::Runner))
            && let Err(error) = checkpoint::drop_all(scratch)
        {
            tracing::warn!("{error}");
        }
        reserve.give_up();
        let record = self.record(finished, memory);
        let record = match failure {
            Some(failure) => record.failed(failure),
            None => RunRecord {
                status: names::STATUS_OK,
                ..record
            },
        };
        if let Err(error) = record.write(scratch) {
            tracing::warn!("{error}");
        }
        transcript::finished(&listing::tree(scratch.root()));
    }

    fn record(&self, finished: Option<&Finished>, memory: &Findings) -> RunRecord<'_> {
        let Situation {
            scratch,
            job_ad,
            node,
            attempts,
            ..
        } = self.situation;
        let usage = Usage::of_children();
        let number = |name| job_ad.integer(name);
        RunRecord {
            python: self.python.as_ref(),
            cloudpickle: self.cloudpickle.as_ref(),
            passed_over: self.rejections.iter().map(ToString::to_string).collect(),
            stages: &self.watch.stages,
            exit: finished
                .and_then(|finished| finished.ended)
                .map(death::describe),
            peak_memory: memory.peak.bytes,
            peak_memory_of: memory.peak.of,
            memory_limit: memory.limit.as_ref().map(|limit| limit.bytes),
            memory_kills: memory.kills(),
            cpu_seconds: usage.cpu_seconds,
            attempt: number("NumShadowStarts"),
            job: number("ClusterId")
                .zip(number("ProcId"))
                .map(|(cluster, process)| format!("{cluster}.{process}")),
            restored: match self.preparing {
                Preparing::Done { restored, .. } => restored,
                _ => 0,
            },
            attempts,
            ..RunRecord::new(scratch, node)
        }
    }
}

/// Whether it is still the node that is in the way of a checkpoint.
fn not_restored(failure: &Failure) -> bool {
    failure.stage == Stage::RestoringCheckpoint && failure.cause.blame() == Blame::Node
}
