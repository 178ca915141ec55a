//! One component: its scratch directory, its runner, and what comes back of it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context as _;
use htmap_exec_component::names;
use serde_json::Value;

use super::files;
use super::inputs::Inputs;
use super::map::{Map, Stands};
use super::scratch::Scratches;
use super::supervision::Starter;
use crate::{cli, exit};

/// Of a run record, which holds a report.
const LARGEST_RECORD: u64 = 64 << 20;
/// More of what a function left behind is not counted.
const MOST_LEFT: usize = 10_000;

pub(super) enum Came {
    Result,
    /// With the report's first line, and the exception's class where it was one.
    Error(String, String),
    /// No output, and why.
    Nothing(String),
    /// A signal came before it was done.
    Stopped,
}

pub(super) struct Done {
    pub(super) came: Came,
    /// What went wrong beside.
    pub(super) notes: Vec<String>,
    /// Files that the function made and nobody asked for: how many, and one of them.
    pub(super) left: Option<(usize, PathBuf)>,
}

/// What all components of a run have in common.
pub(super) struct Common<'a> {
    pub(super) map: &'a Map,
    pub(super) scratches: &'a Scratches,
    pub(super) inputs: &'a Inputs,
    pub(super) python: &'a Path,
    pub(super) running: &'a cli::Running,
    /// Processors for each component.
    pub(super) share: usize,
}

impl Common<'_> {
    /// Whatever goes wrong here is this component's alone.
    pub(super) fn run(&self, component: u64, starter: &Starter<'_, Done>) -> Done {
        let scratch = self.scratches.of(component);
        let mut done = Done {
            came: Came::Stopped,
            notes: Vec::new(),
            left: None,
        };
        done.came = self
            .attempt(component, &scratch, starter, &mut done)
            .unwrap_or_else(|error| Came::Nothing(format!("{error:#}")));
        if let Err(error) = files::remove(&scratch) {
            done.notes.push(format!(
                "cannot remove its scratch directory `{}`: {error}",
                scratch.display()
            ));
        }
        done
    }

    fn attempt(
        &self,
        component: u64,
        scratch: &Path,
        starter: &Starter<'_, Done>,
        done: &mut Done,
    ) -> anyhow::Result<Came> {
        fs::create_dir(scratch)
            .with_context(|| format!("cannot create `{}`", scratch.display()))?;
        self.fill(component, scratch, done)?;
        let before = listing(scratch);
        let command = self.command(component, scratch)?;
        let Some(status) = starter.run(command).context("cannot start the runner")? else {
            return Ok(Came::Stopped);
        };
        if !status.success() {
            return self.without_output(component, scratch, status, starter);
        }
        let came = self.collect(component, scratch, done)?;
        done.left = left_behind(scratch, &before);
        Ok(came)
    }

    /// What HTCondor would transfer, and the ad that says how long an end may take.
    fn fill(&self, component: u64, scratch: &Path, done: &mut Done) -> anyhow::Result<()> {
        done.notes.extend(self.inputs.bring(component, scratch)?);
        let shipped = self.map.directory.join(names::SHIPPED_CLOUDPICKLE);
        let files = [
            (self.map.function(), names::FUNC.to_owned()),
            (self.map.input(component), format!("{component}.in")),
            (shipped, names::SHIPPED_CLOUDPICKLE.to_owned()),
            (
                self.map.directory.join(names::SOURCE_LINES),
                names::SOURCE_LINES.to_owned(),
            ),
            (
                self.map.checkpoint(component),
                names::CHECKPOINT_CURRENT.to_owned(),
            ),
        ];
        for (from, name) in files {
            // What is missing, the runner reports as it would on a node.
            match files::copy(&from, &scratch.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot copy `{}`", from.display()));
                }
                _ => {}
            }
        }
        // The runner takes half of it for Python.
        let vacate = self.running.exit_grace.as_secs_f64().ceil() * 2.0;
        let ad = format!("Cpus = {}\nMachineMaxVacateTime = {vacate}\n", self.share);
        let path = scratch.join(".machine.ad");
        fs::write(&path, ad).with_context(|| format!("cannot write `{}`", path.display()))
    }

    fn command(&self, component: u64, scratch: &Path) -> anyhow::Result<Command> {
        let log = |kind: &str| {
            let path = self.map.log(component, kind);
            files::create(&path).with_context(|| format!("cannot create `{}`", path.display()))
        };
        // This very program, whatever has become of its file.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("htmap-exec")
            .stdin(Stdio::null())
            .stdout(log("stdout")?)
            .stderr(log("stderr")?)
            .current_dir(scratch)
            .env(names::ENV_SCRATCH, scratch)
            // Of the job that this process may be itself.
            .env_remove("_CONDOR_JOB_AD")
            .env_remove("_CONDOR_MACHINE_AD");
        for (name, value) in threads(self.share) {
            command.env(name, value);
        }
        command.arg("run").arg("--scratch").arg(scratch);
        command.arg("--python").arg(self.python);
        let running = self.running;
        let submit_python = running.submit_python.map(|version| version.to_string());
        if let Some(version) = submit_python.or_else(|| self.map.submit_python.clone()) {
            command.args(["--submit-python", &version]);
        }
        if running.allow_python_mismatch {
            command.arg("--allow-python-mismatch");
        }
        let seconds = |duration: std::time::Duration| duration.as_secs_f64().to_string();
        command.arg("--exit-grace").arg(seconds(running.exit_grace));
        command
            .arg("--start-limit")
            .arg(seconds(running.start_limit));
        if let Some(timeout) = running.timeout {
            command.arg("--timeout").arg(seconds(timeout));
        }
        command.arg(component.to_string());
        Ok(command)
    }

    /// A checkpoint stays for the next run.
    fn without_output(
        &self,
        component: u64,
        scratch: &Path,
        status: ExitStatus,
        starter: &Starter<'_, Done>,
    ) -> anyhow::Result<Came> {
        let checkpoint = scratch
            .join(names::TRANSFER_DIR)
            .join(names::CHECKPOINT_CURRENT);
        if checkpoint.is_dir() {
            let kept = self.map.checkpoint(component);
            kept.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| files::bring(&checkpoint, &kept))
                .with_context(|| format!("cannot keep the checkpoint `{}`", kept.display()))?;
        }
        if starter.is_stopping() {
            return Ok(Came::Stopped);
        }
        if status.code() == Some(i32::from(exit::EVICTED)) {
            return Ok(Came::Nothing("a signal ended its runner".to_owned()));
        }
        let said = files::read_text(&self.map.log(component, "stderr"), LARGEST_RECORD);
        let said = said.unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        Ok(Came::Nothing(format!("{status}: {last}")))
    }

    /// Brings back what HTCondor would bring back: the output at last, since it says that the rest is there.
    fn collect(&self, component: u64, scratch: &Path, done: &mut Done) -> anyhow::Result<Came> {
        let transfer = scratch.join(names::TRANSFER_DIR);
        let map = self.map;
        let from = transfer.join(format!("{component}.json"));
        let record: Value = files::read_text(&from, LARGEST_RECORD)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        if let Err(error) = files::bring(&from, &map.record(component)) {
            done.notes.push(format!(
                "cannot bring back its run record `{}`: {error}",
                map.record(component).display()
            ));
        }
        let bring = |from: &Path, to: &Path, what: &str| {
            files::bring(from, to)
                .with_context(|| format!("cannot bring back its {what} to `{}`", to.display()))
        };
        let user = scratch
            .join(names::USER_TRANSFER_DIR)
            .join(component.to_string());
        bring(&user, &map.output_files(component), "output files")?;
        let output = transfer.join(format!("{component}.out"));
        bring(&output, &map.output(component), "output")?;
        if let Err(error) = files::remove(&map.checkpoint(component)) {
            done.notes
                .push(format!("cannot remove its checkpoint: {error}"));
        }
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        Ok(match map.stands(component) {
            Stands::Result => Came::Result,
            Stands::Error => Came::Error(text("error"), text("error_type")),
            Stands::Nothing => Came::Nothing("its output cannot be read".to_owned()),
        })
    }
}

/// As HTCondor sets them for a slot: a library that takes all processors for each of several components makes all of
/// them slow. Where the user has a word on it, that holds for all.
fn threads(share: usize) -> Vec<(&'static str, String)> {
    const OTHERS: [&str; 3] = [
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    ];
    let is_unset = |name: &&str| std::env::var_os(name).is_none();
    if !is_unset(&"OMP_NUM_THREADS") {
        return Vec::new();
    }
    std::iter::once("OMP_NUM_THREADS")
        .chain(OTHERS.into_iter().filter(is_unset))
        .map(|name| (name, share.to_string()))
        .collect()
}

/// All files there, by their paths in it, as far as they are counted.
fn listing(scratch: &Path) -> HashSet<OsString> {
    let mut found = HashSet::new();
    walk(scratch, Path::new(""), &mut |path| {
        found.insert(path.as_os_str().to_owned());
        found.len() < MOST_LEFT
    });
    found
}

fn left_behind(scratch: &Path, before: &HashSet<OsString>) -> Option<(usize, PathBuf)> {
    // Then nobody can tell what is new.
    if before.len() >= MOST_LEFT {
        return None;
    }
    let mut left: Option<(usize, PathBuf)> = None;
    walk(scratch, Path::new(""), &mut |path| {
        if before.contains(path.as_os_str()) {
            return true;
        }
        let (count, first) = left.get_or_insert_with(|| (0, path.to_path_buf()));
        *count += 1;
        if path < first.as_path() {
            *first = path.to_path_buf();
        }
        *count < MOST_LEFT
    });
    left
}

/// Regular files below a directory, without HTMap's and Python's own; ends when `visit` says so.
fn walk(root: &Path, below: &Path, visit: &mut impl FnMut(&Path) -> bool) -> bool {
    let entries = fs::read_dir(root.join(below))
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let name = entry.file_name();
        let path = below.join(&name);
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let text = name.to_string_lossy();
        let is_top = below.as_os_str().is_empty();
        if text == "__pycache__" || is_top && (text.starts_with("_htmap") || text.starts_with('.'))
        {
            continue;
        }
        let goes_on = if kind.is_dir() {
            walk(root, &path, visit)
        } else {
            !kind.is_file() || visit(&path)
        };
        if !goes_on {
            return false;
        }
    }
    true
}
