//! Runs one component, in the order of events that docs/design-decisions.md gives reasons for.
//!
//! Python starts as early as possible; what the runner has to find out, it finds out meanwhile.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use htmap_exec_interpreter::{
    Candidate, Distributions, PythonVersion, Rejection, likely_site_directories,
};

use crate::driver::{self, Hello, Loaded, workers};
use crate::error::Error;
use crate::failure::{Cause, Failure, PythonFacts, Stage};
use crate::guard;
use crate::landing::{Ending, Options};
use crate::names;
use crate::node::classad::ClassAd;
use crate::node::memory::MemoryEvents;
use crate::node::usage::Usage;
use crate::node::{self, NodeFacts};
use crate::pickle::scanner;
use crate::process::Signals;
use crate::report::advice::{self, Known};
use crate::report::error_record::{self, Context};
use crate::report::run_record::{RunRecord, Stopwatch};
use crate::report::{death, transcript};
use crate::scratch::Scratch;
use crate::scratch::checkpoint::{self, Adopted, NotRestored, Restoring};
use crate::scratch::input::{BadInput, Input};
use crate::scratch::listing;
use crate::scratch::output::Output;
use crate::session::channel::{Connection, Feed};
use crate::session::{self, Finished, Limits, Outcome, Steps};

/// The inputs, or what is wrong with which.
type OpenedInputs = Result<Vec<Input>, (BadInput, Stage)>;

/// A component on its way.
pub(crate) struct ComponentRun<'a> {
    options: &'a Options,
    scratch: &'a Scratch,
    job_ad: ClassAd,
    memory_before: MemoryEvents,
    node: NodeFacts,
    watch: Stopwatch,
    tree: String,
    distributions: Distributions,
    inputs: Option<OpenedInputs>,
    python: Option<PythonFacts>,
    rejections: Vec<Rejection>,
    prepared: bool,
    adopted: Adopted,
    restoring: Option<Restoring>,
    not_restored: Option<Box<Failure>>,
    announced: bool,
    restored: usize,
    show_arguments: bool,
}

impl<'a> ComponentRun<'a> {
    /// Nothing has been started yet.
    pub(crate) fn new(
        options: &'a Options,
        scratch: &'a Scratch,
        adopted: Adopted,
        job_ad: ClassAd,
        node: NodeFacts,
        watch: Stopwatch,
    ) -> Self {
        Self {
            options,
            memory_before: MemoryEvents::read(),
            node,
            job_ad,
            watch,
            tree: String::new(),
            distributions: Distributions::new(),
            inputs: None,
            python: None,
            rejections: options.interpreters.rejections.clone(),
            prepared: false,
            adopted,
            restoring: None,
            not_restored: None,
            announced: false,
            restored: 0,
            show_arguments: true,
            scratch,
        }
    }

    /// Tries one interpreter after the other, and sees to it that an output stands.
    pub(crate) fn run(mut self, signals: &Signals, limits: Limits) -> Result<Ending, Error> {
        let mut finished = None;
        for candidate in &self.options.interpreters.candidates {
            let mut ended = self.attempt(candidate, signals, limits)?;
            if matches!(ended.outcome, Outcome::NotShown) {
                // The function has not run yet: once more, without looking at its arguments.
                self.show_arguments = false;
                self.inputs = Some(self.open_inputs());
                ended = self.attempt(candidate, signals, limits)?;
            }
            if let Outcome::NotStarted(reason) = &ended.outcome {
                if let Some(failure) = self.unread(Stage::StartingPython) {
                    self.prepare();
                    return self.fail(failure, &ended);
                }
                self.rejections.push(Rejection {
                    path: candidate.path.clone(),
                    origin: candidate.origin,
                    reason: advice::not_started(reason, &ended),
                });
                continue;
            }
            finished = Some(ended);
            break;
        }
        self.prepare();
        if let Some(failure) = self.not_restored.take()
            && finished
                .as_ref()
                .is_none_or(|finished| !matches!(finished.outcome, Outcome::Evicted(_)))
        {
            // No output: with one, the checkpoint would be dropped.
            return Err(Error::NotRestored {
                message: failure.message,
                hint: failure.hints.join("; "),
            });
        }
        match finished {
            Some(finished) => self.conclude(&finished),
            None => {
                let failure = advice::no_python(&self.rejections, &self.options.interpreters.hints);
                let stderr = String::new();
                self.fail(
                    failure,
                    &Finished {
                        outcome: Outcome::Result,
                        stderr,
                        ended: None,
                    },
                )
            }
        }
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
        let path = candidate.path.clone();
        let command = self.command(&path);
        let this = std::cell::RefCell::new(self);
        // The session calls either this closure or the steps, never one within the other.
        let mut steps = Shared(&this);
        session::run(command, signals, limits, &mut steps, || {
            let mut this = this.borrow_mut();
            this.prepare();
            this.distributions.preload(&likely_site_directories(&path));
        })
    }

    fn command(&self, python: &Path) -> Command {
        let root = self.scratch.root();
        let mut command = Command::new(python);
        command.args(["-u", "-c", driver::BOOT]).current_dir(root);
        for (name, value) in &self.options.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env(names::ENV_ON_EXECUTE, "1");
        command.env(names::ENV_COMPONENT, self.scratch.component().to_string());
        let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        if unset(names::ENV_SCRATCH) {
            command.env(names::ENV_SCRATCH, root);
        }
        if let Some(served) = &self.options.served {
            served.house(&mut command, root);
        }
        // HTCondor before 24 sets none, and `~` of an account without an entry is an error.
        if unset("HOME") {
            command.env("HOME", root);
        }
        command
    }

    /// What goes on while Python starts. Failures come out when Python is done for.
    fn prepare(&mut self) {
        if std::mem::replace(&mut self.prepared, true) {
            return;
        }
        if self.adopted.found {
            // It takes its time, which is not Python's.
            self.restoring = Some(Restoring::start(self.scratch));
        }
        self.inputs = Some(self.open_inputs());
        workers::write_modules(self.scratch.root(), self.scratch.component());
        if self.restoring.is_none() {
            self.tree = listing::tree(self.scratch.root());
        }
        self.watch.mark("prepared");
    }

    /// The function must not start before its files are there.
    fn finish_restoring(&mut self) {
        let Some(restoring) = self.restoring.take() else {
            return;
        };
        match restoring.wait(self.scratch) {
            Ok(restored) => self.restored = restored.files,
            Err(NotRestored::Failed(failure)) => self.not_restored = Some(failure),
            // Only an eviction stops it, and that ends the run.
            Err(NotRestored::Stopped) => {}
        }
        self.tree = listing::tree(self.scratch.root());
        self.watch.mark("restored");
    }

    fn open_inputs(&self) -> OpenedInputs {
        let open = |path: PathBuf, stage| Input::open(&path).map_err(|bad| (bad, stage));
        Ok(vec![
            open(self.scratch.function(), Stage::LoadingFunction)?,
            open(self.scratch.input(), Stage::LoadingArguments)?,
        ])
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.announced, true) {
            if self.tree.is_empty() {
                // Nobody waited for the checkpoint.
                self.tree = listing::tree(self.scratch.root());
            }
            transcript::surroundings(&self.tree, self.python.as_ref());
        }
    }

    /// Why the files of this Python could not be read.
    fn unread(&self, stage: Stage) -> Option<Failure> {
        self.options.served.as_ref()?.failure(stage)
    }

    fn conclude(&mut self, finished: &Finished) -> Result<Ending, Error> {
        self.watch.mark("ended");
        if !matches!(finished.outcome, Outcome::Evicted(_))
            && let Some(failure) = self.unread(Stage::RunningFunction)
        {
            return self.fail(failure, finished);
        }
        let failure = match &finished.outcome {
            Outcome::Result => {
                self.finish(None, finished);
                return Ok(Ending::Output);
            }
            Outcome::Evicted(signal) => {
                // Stops it.
                self.restoring = None;
                checkpoint::tidy(self.scratch)?;
                return Ok(Ending::Evicted(*signal));
            }
            Outcome::NotStarted(_) => unreachable!("another candidate was tried"),
            Outcome::NotShown => Failure::new(
                Stage::ShowingArguments,
                Cause::EndlessText,
                "the text of an argument does not end",
            ),
            Outcome::Failed(failure) => (**failure).clone(),
            Outcome::TimedOut { stage } => {
                let seconds = self.options.timeout.unwrap_or_default().as_secs_f64();
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
                &death::Circumstances {
                    stderr: &finished.stderr,
                    memory_before: self.memory_before,
                    memory_after: MemoryEvents::read(),
                    peak_memory: Usage::of_children().peak_memory,
                    request_memory: self.job_ad.integer("RequestMemory"),
                },
            ),
        };
        self.fail(failure, finished)
    }

    fn fail(&mut self, mut failure: Failure, finished: &Finished) -> Result<Ending, Error> {
        self.announce();
        advice::advise(
            &mut failure,
            &Known {
                host: &self.node.host,
                python: self.python.as_ref(),
                request_memory: self.job_ad.integer("RequestMemory"),
                scratch: self.scratch,
            },
        );
        transcript::failed(&failure);
        let context = Context {
            component: self.scratch.component(),
            node: &self.node,
            python: self.python.as_ref(),
            scratch_dir_contents: listing::top_level(self.scratch.root()),
            stderr_tail: finished.stderr.clone(),
            peak_memory: Usage::of_children().peak_memory,
        };
        let pickled = error_record::pickle(&context, &failure);
        Output::write_failure(self.scratch, &pickled)?;
        self.finish(Some(&failure), finished);
        Ok(Ending::Output)
    }

    /// The output stands: nothing that goes wrong from here on changes that.
    fn finish(&mut self, failure: Option<&Failure>, finished: &Finished) {
        self.watch.mark("output");
        self.restoring = None;
        // Whatever was given while Python exited.
        if let Err(error) = self.scratch.deliver_output_files() {
            tracing::warn!("{error}");
        }
        if let Err(error) = checkpoint::drop_all(self.scratch) {
            tracing::warn!("{error}");
        }
        let usage = Usage::of_children();
        let record = RunRecord {
            format: 1,
            htmap_exec: env!("CARGO_PKG_VERSION"),
            component: self.scratch.component(),
            status: if failure.is_some() {
                names::STATUS_ERR
            } else {
                names::STATUS_OK
            },
            error: failure.map(|failure| failure.message.lines().next().unwrap_or_default()),
            report: failure.map(Failure::text),
            error_stage: failure.map(|failure| failure.stage.text()),
            error_type: failure.map(|failure| failure.cause.class()),
            node: (&self.node).into(),
            python: self.python.as_ref(),
            passed_over: self.rejections.iter().map(ToString::to_string).collect(),
            started: node::python_time(self.node.landed),
            stages: &self.watch.stages,
            exit: finished.ended.map(death::describe),
            peak_memory: usage.peak_memory,
            cpu_seconds: usage.cpu_seconds,
            attempt: self.job_ad.integer("NumShadowStarts"),
            job: self
                .job_ad
                .integer("ClusterId")
                .zip(self.job_ad.integer("ProcId"))
                .map(|(cluster, process)| format!("{cluster}.{process}")),
            restored: self.restored,
        };
        if let Err(error) = record.write(self.scratch) {
            tracing::warn!("{error}");
        }
        transcript::finished(&listing::tree(self.scratch.root()));
    }
}

/// The run as the session sees it, while its preparations borrow it as well.
struct Shared<'a, 'b>(&'a std::cell::RefCell<&'a mut ComponentRun<'b>>);

impl Steps for Shared<'_, '_> {
    fn started(
        &mut self,
        hello: &Hello,
        connection: &mut Connection,
    ) -> Result<Feed, Box<Failure>> {
        self.0.borrow_mut().started(hello, connection)
    }

    fn loaded(&mut self, loaded: &Loaded) {
        let mut run = self.0.borrow_mut();
        run.announce();
        run.watch.mark("running");
        transcript::running(run.scratch.component(), loaded);
    }

    fn returned(&mut self) -> Result<Output, Error> {
        let mut run = self.0.borrow_mut();
        run.watch.mark("returned");
        transcript::returned();
        Output::begin(run.scratch)
    }

    fn result(&mut self, output: Output) -> Result<(), Error> {
        let run = self.0.borrow();
        if run.unread(Stage::WritingOutput).is_some() {
            return Ok(());
        }
        output.commit(run.scratch)
    }
}

impl ComponentRun<'_> {
    fn started(
        &mut self,
        hello: &Hello,
        connection: &mut Connection,
    ) -> Result<Feed, Box<Failure>> {
        self.watch.mark("started");
        let root = self.scratch.root();
        let version = hello
            .version
            .expect("the session refuses what is no Python 3.6 or later");
        self.python = Some(PythonFacts {
            executable: hello.executable.clone(),
            version: hello.full_version.clone(),
            packages: Vec::new(),
        });
        let shipped = self.options.cloudpickle.clone().or_else(|| {
            let path = root.join(names::SHIPPED_CLOUDPICKLE);
            path.is_file().then_some(path)
        });
        let shipped: OsString = shipped
            .map(|path| root.join(path).into_os_string())
            .unwrap_or_default();
        driver::queue_program(
            connection,
            self.scratch.component(),
            root.as_os_str().as_bytes(),
            shipped.as_bytes(),
            self.show_arguments,
        );
        // On its way before the rest: Python has its imports to do.
        if connection.send().is_err() {
            unreachable!("no input is queued yet");
        }
        let served = self.options.served.as_ref();
        let sys_path: Vec<PathBuf> = hello
            .sys_path
            .iter()
            .filter(|path| *path != root)
            .filter(|path| served.is_none_or(|served| !path.starts_with(&served.root)))
            .cloned()
            .collect();
        let mut packages = self.distributions.freeze(&sys_path, version);
        if let Some(served) = served {
            packages.extend_from_slice(&served.packages);
            packages.sort_by_key(|line| line.to_lowercase());
        }
        if let Some(python) = &mut self.python {
            python.packages = packages;
        }
        self.finish_restoring();
        if let Some(failure) = &self.not_restored {
            // The run ends with that failure in any case.
            return Err(failure.clone());
        }
        let inputs = match self.inputs.take() {
            Some(Ok(inputs)) => inputs,
            Some(Err((bad, stage))) => return Err(Box::new(bad.failure(stage))),
            None => {
                return Err(Box::new(Failure::new(
                    Stage::LoadingFunction,
                    Cause::Internal,
                    "the inputs were read already",
                )));
            }
        };
        self.guard(&inputs, version, &hello.executable)?;
        Ok(Feed { inputs })
    }

    fn guard(
        &self,
        inputs: &[Input],
        node: PythonVersion,
        executable: &str,
    ) -> Result<(), Box<Failure>> {
        let submit = self.options.submit_python;
        if self.options.allow_python_mismatch || submit == Some(node) {
            return Ok(());
        }
        let mut codes = Vec::new();
        for input in inputs {
            // What is damaged is found out by Python, which says more about it.
            match input.reopen().and_then(scanner::code_objects) {
                Ok(found) => codes.extend(found),
                Err(error) => tracing::debug!("the pickle cannot be scanned: {error}"),
            }
        }
        guard::check(&codes, submit, node, executable).map_err(Box::new)
    }
}
