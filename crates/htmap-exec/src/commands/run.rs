//! `htmap-exec run`: one component, where HTCondor started it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use htmap_exec_component::{Ending, Landing, Options, names};
use htmap_exec_interpreter::{Origin, Search, SearchEnvironment, search};

use crate::{cli, contained, exit, transplanted};

pub(crate) fn run(arguments: cli::Run) -> anyhow::Result<ExitCode> {
    let cli::Run {
        component,
        running,
        scratch,
        transplant,
        cloudpickle,
        image,
    } = arguments;
    let scratch = scratch
        // A container may have it elsewhere; the current directory is right there.
        .or_else(|| {
            std::env::var_os(names::ENV_SCRATCH)
                .map(PathBuf::from)
                .filter(|dir| dir.is_dir())
        })
        .unwrap_or_else(|| PathBuf::from("."));
    let scratch = std::path::absolute(&scratch)
        .with_context(|| format!("cannot find the scratch directory `{}`", scratch.display()))?;
    let mut no_image = None;
    if let Some(image) = image {
        Landing::make_paths(&scratch, component)?;
        no_image = Some(contained::replace(&image, &scratch));
    }
    let landing = Landing::begin(&scratch, component)?;
    let mut environment = Vec::new();
    let interpreters = match (running.python, transplant) {
        _ if no_image.is_some() => no_image.map(Search::none).unwrap_or_default(),
        (None, Some(archive)) => {
            let brought = transplanted::bring(&scratch.join(archive), &scratch);
            environment = brought.environment;
            brought.interpreters
        }
        (Some(path), _) => {
            // A bare name is looked up in PATH, as everywhere.
            let path = if path.components().count() > 1 {
                std::path::absolute(&path)?
            } else {
                path
            };
            Search::only(path, Origin::Explicit)
        }
        (None, None) => search(&SearchEnvironment::from_process()),
    };
    let ending = landing.run(&Options {
        interpreters,
        environment,
        submit_python: running.submit_python,
        allow_python_mismatch: running.allow_python_mismatch,
        cloudpickle,
        exit_grace: running.exit_grace,
        start_limit: running.start_limit,
        timeout: running.timeout,
    })?;
    Ok(ExitCode::from(match ending {
        Ending::Output | Ending::AlreadyFinished => exit::SUCCESS,
        Ending::Evicted(_) => exit::EVICTED,
    }))
}
