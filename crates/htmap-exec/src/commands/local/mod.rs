//! `htmap-exec local`: the components of a map directory on this machine, without HTCondor.
//!
//! Each component runs as HTCondor would run it: the same runner as a process of its own, in a
//! scratch directory of its own, whose files go back to where HTMap expects them. What is finished
//! stays finished: the same command again runs the rest.

mod component;
mod files;
mod inputs;
mod map;
mod python;
mod scratch;
mod summary;
mod supervision;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{cli, exit};
use component::Common;
use inputs::Inputs;
use map::Map;
use scratch::Scratches;
use summary::Summary;
use supervision::Stopped;

pub(crate) fn run(arguments: &cli::Local) -> anyhow::Result<ExitCode> {
    let map = Map::open(&arguments.map)?;
    let inputs = Inputs::of(&map, &arguments.input)?;
    let (components, kept) = map.to_run(arguments.rerun);
    let mut summary = Summary::default();
    if !components.is_empty()
        && let Some(stopped) = work(arguments, &map, &inputs, &components, &mut summary)?
        && (summary.results + summary.failed) < components.len() as u64
    {
        say_stopped(stopped, &summary, components.len() as u64);
        return Ok(ExitCode::from(exit::EVICTED));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = summary
        .print(&map, kept, arguments.rerun, &mut out)
        .and_then(|()| out.flush());
    match printed {
        // The status says it as well.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(ExitCode::from(if summary.failed == 0 {
        exit::SUCCESS
    } else {
        exit::FAILURE
    }))
}

fn work(
    arguments: &cli::Local,
    map: &Map,
    inputs: &Inputs,
    components: &[u64],
    summary: &mut Summary,
) -> anyhow::Result<Option<Stopped>> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = arguments
        .jobs
        .map_or(processors, std::num::NonZero::get)
        .min(components.len());
    let python = python::choose(arguments.running.python.as_deref())?;
    let progress =
        ProgressBar::with_draw_target(Some(components.len() as u64), ProgressDrawTarget::stderr());
    progress.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} components, {msg} ({elapsed})")
            .context("the progress bar's template")?,
    );
    progress.set_message("0 failed");
    let scratches = Scratches::make()?;
    let common = Common {
        map,
        scratches: &scratches,
        inputs,
        python: &python,
        running: &arguments.running,
        share: (processors / jobs).max(1),
    };
    let stopped = supervision::run(
        components,
        jobs,
        arguments.running.exit_grace,
        |component, starter| common.run(component, starter),
        |component, done| {
            summary.add(component, done);
            progress.set_message(format!("{} failed", summary.failed));
            progress.inc(1);
        },
    );
    progress.finish_and_clear();
    stopped
}

fn say_stopped(stopped: Stopped, summary: &Summary, all: u64) {
    let done = summary.results + summary.failed;
    let Stopped {
        signal,
        finished,
        ended,
    } = stopped;
    let _ = writeln!(
        io::stderr(),
        "htmap-exec: {signal}: of the components that were running {finished} finished and {ended} were stopped; \
         {done} are done and {} are left: run the same command again to go on",
        all - done
    );
}
