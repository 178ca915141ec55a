//! What the runner does as Python goes on: the session's questions and announcements, answered.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use htmap_exec_interpreter::PythonVersion;

use super::{Answered, ComponentRun, Preparing, Situation};
use crate::error::Error;
use crate::failure::{Cause, Failure, PythonFacts, Stage};
use crate::options::Options;
use crate::report::run_record::Cloudpickle;
use crate::report::transcript;
use crate::scratch::input::Input;
use crate::scratch::output::Output;
use crate::session::channel::Channel;
use crate::session::conduct::Component;
use crate::session::protocol::{DriverOptions, Hello, Loaded, Say};
use crate::{driver, guard, last_resort, shipped};

impl ComponentRun<'_> {
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
        channel.say(&Say::Options(&DriverOptions {
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

/// The function returned, and its result cannot be kept.
fn unwritten(error: &Error) -> Box<Failure> {
    let mut failure = error.failure(Stage::WritingOutput);
    failure.message = format!(
        "the function returned, but its result cannot be kept: {}",
        failure.message
    );
    Box::new(failure)
}
