//! Runs one component, in the order of events that docs/design-decisions.md gives reasons for.
//!
//! Python starts as early as possible; what the runner has to find out, it finds out meanwhile.

mod conversation;
mod ending;
mod preparation;

use std::path::{Path, PathBuf};
use std::process::Command;

use htmap_exec_interpreter::{
    Candidate, Distributions, PythonVersion, Rejection, likely_site_directories,
};
use serde_json::Value;

use self::preparation::{OpenedInputs, Preparation, Prepared, open_inputs};
use crate::environment::Given;
use crate::error::Error;
use crate::failure::{Failure, PythonFacts, Stage};
use crate::node::classad::ClassAd;
use crate::node::{self, NodeFacts, memory};
use crate::options::{Ending, Options};
use crate::process::signals::Signals;
use crate::report::advice;
use crate::report::run_record::{Cloudpickle, Stopwatch};
use crate::report::transcript;
use crate::scratch::Scratch;
use crate::scratch::checkpoint::{Adopted, NotRestored};
use crate::scratch::output::Output;
use crate::scratch::reserve::Reserve;
use crate::session::conduct::{self, Finished};
use crate::session::events::{Limits, Outcome};
use crate::{driver, names};

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
            let is_unshown = match &finished.outcome {
                Outcome::NotShown => true,
                Outcome::Died { stage, .. } => *stage == Stage::ShowingArguments,
                _ => false,
            };
            if is_unshown {
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
                let memory = self.memory.findings();
                return self.fail(failure, Some(&finished), &memory);
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
        let memory = self.memory.findings();
        self.fail(failure, None, &memory)
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
            is_known: &|| node::account().is_some(),
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
}

/// The interpreter that answered; the session goes no further with any that is too old.
#[derive(Debug, Default)]
struct Answered {
    sys_path: Vec<PathBuf>,
    version: Option<PythonVersion>,
}
