//! Runs one component, in the order of events that docs/design-decisions.md gives reasons for.
//!
//! Python starts as early as possible; what the runner has to find out, it finds out meanwhile.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use htmap_exec_interpreter::{
    Candidate, Distributions, PythonVersion, Rejection, likely_site_directories,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::environment::Given;
use crate::error::Error;
use crate::failure::{Blame, Cause, Failure, PythonFacts, Stage};
use crate::node::classad::ClassAd;
use crate::node::memory::{self, Findings};
use crate::node::usage::Usage;
use crate::node::{self, NodeFacts};
use crate::options::{Ending, Options};
use crate::preparation::{OpenedInputs, Preparation, Prepared, open_inputs};
use crate::process::signals::Signals;
use crate::report::advice::{self, Known};
use crate::report::error_record::{self, Context};
use crate::report::run_record::{Cloudpickle, RunRecord, Stopwatch};
use crate::report::{death, transcript};
use crate::scratch::checkpoint::{self, Adopted, NotRestored};
use crate::scratch::input::Input;
use crate::scratch::output::Output;
use crate::scratch::reserve::Reserve;
use crate::scratch::{Scratch, listing};
use crate::session::channel::Channel;
use crate::session::conduct::{self, Component, Finished};
use crate::session::protocol::{self, Hello, Loaded, Say};
use crate::session::step::{Limits, Outcome};
use crate::{driver, guard, last_resort, names, shipped};

/// What does not change while a component runs.
#[derive(Clone, Copy)]
pub(crate) struct Situation<'a> {
    /// What to run and how.
    pub options: &'a Options,
    /// Where.
    pub scratch: &'a Scratch,
    /// Room for the report.
    pub reserve: &'a Reserve,
    /// What HTCondor says of the job.
    pub job_ad: &'a ClassAd,
    /// Of the slot.
    pub processors: usize,
    /// The execute node.
    pub node: &'a NodeFacts,
    /// What they left of checkpoints.
    pub adopted: Adopted,
    /// What became of earlier attempts.
    pub attempts: &'a [Value],
}

/// What was prepared while Python started.
enum Preparing {
    /// Python comes first: at a limit of processes there may be none left for a thread.
    Later,
    /// It goes on.
    Busy(Preparation),
    /// It is done; the inputs are there until they are sent.
    Done {
        tree: String,
        restored: usize,
        inputs: Option<OpenedInputs>,
    },
    /// It cannot be done.
    Failed,
}

/// A component on its way.
pub(crate) struct ComponentRun<'a> {
    situation: Situation<'a>,
    memory: memory::Watch,
    watch: Stopwatch,
    preparing: Preparing,
    distributions: Distributions,
    likely_sites: Vec<PathBuf>,
    rejections: Vec<Rejection>,
    answered: Answered,
    python: Option<PythonFacts>,
    cloudpickle: Option<Cloudpickle>,
    output: Option<Output<'a>>,
    announced: bool,
    show_arguments: bool,
}

impl<'a> ComponentRun<'a> {
    /// Nothing has been started yet.
    pub(crate) fn new(situation: Situation<'a>, watch: Stopwatch) -> Self {
        Self {
            memory: memory::Watch::begin(situation.job_ad),
            watch,
            preparing: Preparing::Later,
            distributions: Distributions::new(),
            likely_sites: Vec::new(),
            rejections: situation.options.interpreters.rejections.clone(),
            answered: Answered::default(),
            python: None,
            cloudpickle: None,
            output: None,
            announced: false,
            show_arguments: true,
            situation,
        }
    }

    /// Tries one interpreter after the other, and sees to it that an output stands.
    pub(crate) fn run(mut self, signals: &Signals, limits: Limits) -> Result<Ending, Error> {
        for candidate in &self.situation.options.interpreters.candidates {
            let mut finished = self.attempt(candidate, signals, limits)?;
            if matches!(finished.outcome, Outcome::NotShown) {
                // The function has not run yet: once more, without looking at its arguments.
                self.show_arguments = false;
                if let Preparing::Done { inputs, .. } = &mut self.preparing {
                    *inputs = Some(open_inputs(self.situation.scratch));
                }
                finished = self.attempt(candidate, signals, limits)?;
            }
            let Outcome::NotStarted(reason) = &finished.outcome else {
                return self.conclude(&finished);
            };
            if let Some(failure) = self.unread(Stage::StartingPython) {
                return self.fail(failure, Some(&finished));
            }
            self.rejections.push(Rejection {
                path: candidate.path.clone(),
                origin: candidate.origin,
                reason: advice::not_started(reason, &finished),
            });
        }
        if let Err(failure) = self.finish_preparing() {
            return self.conclude(&Finished::without_python(Outcome::Failed(failure)));
        }
        let failure =
            advice::no_python(&self.rejections, &self.situation.options.interpreters.hints);
        self.fail(failure, None)
    }

    fn attempt(
        &mut self,
        candidate: &Candidate,
        signals: &Signals,
        limits: Limits,
    ) -> Result<Finished, Error> {
        tracing::debug!(
            "trying `{}` ({})",
            candidate.path.display(),
            candidate.origin
        );
        self.watch.mark("python");
        let command = self.command(&candidate.path);
        self.likely_sites = likely_site_directories(&candidate.path);
        conduct::run(command, signals, limits, self)
    }

    fn command(&self, python: &Path) -> Command {
        let Situation {
            options,
            scratch,
            job_ad,
            node,
            ..
        } = self.situation;
        let root = scratch.root();
        let mut command = Command::new(python);
        command.args(["-c", driver::BOOT]).current_dir(root);
        for (name, value) in &options.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env(names::ENV_ON_EXECUTE, "1");
        command.env(names::ENV_COMPONENT, scratch.component().to_string());
        if std::env::var_os(names::ENV_SCRATCH).is_none_or(|value| value.is_empty()) {
            command.env(names::ENV_SCRATCH, root);
        }
        if let Some(served) = &options.served {
            served.house(&mut command, root);
        }
        let given = Given {
            variable: &|name| std::env::var_os(name),
            scratch: root,
            owner: job_ad.string("Owner"),
            is_known: node::account().is_some(),
            user: &node.user,
        };
        for (name, value) in given.changes() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    fn begin_preparing(&mut self) -> Result<(), Error> {
        let Situation {
            scratch, adopted, ..
        } = self.situation;
        if matches!(self.preparing, Preparing::Later) {
            self.preparing = Preparing::Busy(Preparation::begin(scratch, adopted)?);
        }
        Ok(())
    }

    /// Waits for what goes on while Python starts.
    fn finish_preparing(&mut self) -> Result<(), Box<Failure>> {
        self.begin_preparing()
            .map_err(|error| error.failure(Stage::Landing))?;
        let preparation = match std::mem::replace(&mut self.preparing, Preparing::Failed) {
            Preparing::Busy(preparation) => preparation,
            other => {
                self.preparing = other;
                return Ok(());
            }
        };
        let Prepared {
            inputs,
            restored,
            tree,
        } = preparation.finish()?;
        self.watch.mark("prepared");
        let (restored, failure) = match restored {
            Ok(restored) => (restored.files, None),
            Err(NotRestored::Failed(failure)) => (0, Some(failure)),
            // Only an end of the run stops it.
            Err(NotRestored::Stopped) => (0, None),
        };
        self.preparing = Preparing::Done {
            tree,
            restored,
            inputs: Some(inputs),
        };
        failure.map_or(Ok(()), Err)
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.announced, true) {
            let tree = match &self.preparing {
                Preparing::Done { tree, .. } => tree.as_str(),
                _ => "",
            };
            transcript::surroundings(tree, self.python.as_ref());
        }
    }

    /// Why the files of this Python could not be read.
    fn unread(&self, stage: Stage) -> Option<Failure> {
        self.situation.options.served.as_ref()?.failure(stage)
    }

    fn conclude(mut self, finished: &Finished) -> Result<Ending, Error> {
        self.watch.mark("ended");
        if !matches!(finished.outcome, Outcome::Evicted(_))
            && let Some(failure) = self.unread(Stage::RunningFunction)
        {
            return self.fail(failure, Some(finished));
        }
        let failure = match &finished.outcome {
            Outcome::Result => {
                self.finish(None, Some(finished));
                return Ok(Ending::Output);
            }
            Outcome::Evicted(signal) => return self.evicted(*signal, finished),
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
                &self.memory.findings(),
            ),
        };
        self.fail(failure, Some(finished))
    }

    /// The component runs again: its checkpoint is whole, and what became of this attempt is told.
    fn evicted(&mut self, signal: Signal, finished: &Finished) -> Result<Ending, Error> {
        let scratch = self.situation.scratch;
        // Stops a restore.
        self.preparing = Preparing::Failed;
        checkpoint::tidy(scratch)?;
        let memory = self.memory.findings();
        let record = RunRecord {
            status: names::STATUS_EVICTED,
            ..self.record(Some(finished), &memory)
        };
        if let Err(error) = record.write(scratch) {
            tracing::warn!("{error}");
        }
        Ok(Ending::Evicted(signal))
    }

    fn fail(&mut self, mut failure: Failure, finished: Option<&Finished>) -> Result<Ending, Error> {
        self.output = None;
        // What it was brings no other failure.
        let _ = self.finish_preparing();
        self.announce();
        let memory = self.memory.findings();
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
                memory: &memory,
                mounted: options.served.as_ref().map(|served| served.root.as_path()),
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
        self.finish(Some(&failure), finished);
        Ok(Ending::Output)
    }

    /// The output stands: nothing that goes wrong from here on changes that.
    fn finish(&mut self, failure: Option<&Failure>, finished: Option<&Finished>) {
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
        let memory = self.memory.findings();
        let record = self.record(finished, &memory);
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

    fn guard(
        &self,
        inputs: &[Input],
        node: PythonVersion,
        executable: &str,
    ) -> Result<(), Box<Failure>> {
        let Options {
            submit_python,
            allow_python_mismatch,
            ..
        } = *self.situation.options;
        if allow_python_mismatch || submit_python == Some(node) {
            return Ok(());
        }
        let mut evidence = guard::Evidence::new();
        for input in inputs {
            match input.reopen() {
                Ok(pickle) => evidence.read(pickle),
                // Python finds it out, and says more about it.
                Err(error) => tracing::debug!("the pickle cannot be scanned: {error}"),
            }
        }
        evidence
            .check(submit_python, node, executable)
            .map_err(Box::new)
    }

    /// What of `sys.path` the runner may look at.
    fn visible(&self, sys_path: &[PathBuf]) -> Vec<PathBuf> {
        let Situation {
            options, scratch, ..
        } = self.situation;
        let served = options.served.as_ref();
        sys_path
            .iter()
            .filter(|path| *path != scratch.root())
            .filter(|path| served.is_none_or(|served| !path.starts_with(&served.root)))
            .cloned()
            .collect()
    }
}

/// The interpreter that answered; the session goes no further with any that is too old.
#[derive(Debug, Default)]
struct Answered {
    sys_path: Vec<PathBuf>,
    version: Option<PythonVersion>,
}

impl Component for ComponentRun<'_> {
    fn begun(&mut self) -> Result<(), Error> {
        self.begin_preparing()?;
        self.memory.look();
        self.distributions.preload(&self.likely_sites);
        Ok(())
    }

    fn preparation(&self) -> Option<BorrowedFd<'_>> {
        match &self.preparing {
            Preparing::Busy(preparation) => Some(preparation.as_fd()),
            _ => None,
        }
    }

    fn prepared(&mut self) -> Result<(), Box<Failure>> {
        self.finish_preparing()
    }

    fn started(&mut self, hello: &Hello, channel: &mut Channel) {
        self.watch.mark("started");
        let Situation {
            options, scratch, ..
        } = self.situation;
        let sys_path = self.visible(&hello.sys_path);
        let shipped = shipped::find(scratch, options.cloudpickle.as_deref());
        let prefer_it = shipped.as_ref().is_some_and(|shipped| {
            let installed = self.distributions.version_of("cloudpickle", &sys_path);
            installed.is_none() || installed != shipped.version
        });
        for (name, source) in driver::PARTS {
            channel.say(&Say::Part { name, source });
        }
        channel.say(&Say::Options(&protocol::Options {
            component: scratch.component(),
            scratch: scratch.root().to_path_buf(),
            cloudpickle: shipped.map(|shipped| shipped.path).unwrap_or_default(),
            prefer_it,
            show_arguments: self.show_arguments,
        }));
        channel.say(&Say::Begin);
        let python = PythonFacts {
            executable: hello.executable.clone(),
            version: hello.full_version.clone(),
            packages: Vec::new(),
        };
        last_resort::know_python(&python);
        self.python = Some(python);
        self.answered = Answered {
            sys_path,
            version: hello.version,
        };
    }

    fn inputs(&mut self) -> Result<Vec<Input>, Box<Failure>> {
        let internal = |message| {
            let stage = Stage::LoadingFunction;
            Box::new(Failure::new(stage, Cause::Internal, message))
        };
        let Answered { sys_path, version } = std::mem::take(&mut self.answered);
        let version = version.ok_or_else(|| internal("no Python has answered"))?;
        let mut packages = self.distributions.freeze(&sys_path, version);
        if let Some(served) = &self.situation.options.served {
            packages.extend_from_slice(&served.packages);
            packages.sort_by_key(|line| line.to_lowercase());
        }
        let executable = self.python.as_mut().map(|python| {
            python.packages = packages;
            python.executable.clone()
        });
        let opened = match &mut self.preparing {
            Preparing::Done { inputs, .. } => inputs.take(),
            _ => None,
        };
        let inputs = opened
            .ok_or_else(|| internal("the inputs were sent already"))?
            .map_err(|(bad, stage)| Box::new(bad.failure(stage)))?;
        self.guard(&inputs, version, &executable.unwrap_or_default())?;
        Ok(inputs)
    }

    fn cloudpickle(&mut self, version: String, file: String) {
        self.cloudpickle = Some(Cloudpickle { version, file });
    }

    fn running(&mut self, loaded: &Loaded) {
        self.announce();
        self.watch.mark("running");
        transcript::running(self.situation.scratch.component(), loaded);
    }

    fn returned(&mut self) -> Result<(), Box<Failure>> {
        self.watch.mark("returned");
        transcript::returned();
        let Situation {
            scratch,
            reserve,
            processors,
            ..
        } = self.situation;
        let output =
            Output::begin(scratch, reserve, processors).map_err(|error| unwritten(&error))?;
        self.output = Some(output);
        Ok(())
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Box<Failure>> {
        match &mut self.output {
            Some(output) => output.write(data).map_err(|error| unwritten(&error)),
            None => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<(), Box<Failure>> {
        // Nothing counts that comes from a Python whose files could not be read.
        if self.unread(Stage::WritingOutput).is_some() {
            return Ok(());
        }
        match self.output.take() {
            Some(output) => output.commit().map_err(|error| unwritten(&error)),
            None => Ok(()),
        }
    }

    fn abandon(&mut self) {
        self.output = None;
    }
}

/// Whether it is still the node that is in the way of a checkpoint.
fn not_restored(failure: &Failure) -> bool {
    failure.stage == Stage::RestoringCheckpoint && failure.cause.blame() == Blame::Node
}

/// The function returned, and its result cannot be kept.
fn unwritten(error: &Error) -> Box<Failure> {
    let mut failure = error.failure(Stage::WritingOutput);
    failure.message = format!(
        "the function returned, but its result cannot be kept: {}",
        failure.message
    );
    Box::new(failure)
}
