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
        no_mount,
        cache_dir,
        cache_size,
        keep_variable,
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
    let explicit = match &running.python {
        // A bare name is looked up in PATH, as everywhere.
        Some(path) if path.components().count() > 1 => Some(std::path::absolute(path)?),
        named => named.clone(),
    };
    // Until Python is gone.
    let mut keep = None;
    let ending = landing.run(|machine_ad| {
        let mut environment = Vec::new();
        let mut served = None;
        let mut shared = None;
        let interpreters = match (explicit, transplant) {
            _ if no_image.is_some() => no_image.map(Search::none).unwrap_or_default(),
            (None, Some(archive)) => {
                let brought = transplanted::bring(&transplanted::Request {
                    archive: &scratch.join(archive),
                    scratch: &scratch,
                    cache: transplanted::WantedCache {
                        directory: cache_dir,
                        size: cache_size,
                    },
                    keep: &keep_variable,
                    may_mount: !no_mount,
                    machine_ad,
                });
                environment = brought.environment;
                keep = brought.keep;
                served = brought.served;
                shared = brought.shared;
                brought.interpreters
            }
            (Some(path), _) => Search::only(path, Origin::Explicit),
            (None, None) => search(&SearchEnvironment::from_process()),
        };
        Options {
            interpreters,
            environment,
            served,
            shared,
            submit_python: running.submit_python,
            allow_python_mismatch: running.allow_python_mismatch,
            cloudpickle,
            exit_grace: running.exit_grace,
            start_limit: running.start_limit,
            timeout: running.timeout,
        }
    })?;
    drop(keep);
    Ok(ExitCode::from(match ending {
        Ending::Output | Ending::AlreadyFinished => exit::SUCCESS,
        Ending::Evicted(_) => exit::EVICTED,
    }))
}
