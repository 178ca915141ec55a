//! `htmap-exec local`: the components of a map directory on this machine, without HTCondor.
//!
//! Each component runs as HTCondor would run it: the same runner as a process of its own, in a
//! scratch directory of its own, whose files go back to where HTMap expects them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use htmap_exec_component::names;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{cli, exit};

/// Written by `htmap_exec.write_map`: the Python that pickled the map.
const SUBMIT_PYTHON: &str = "submit_python";

struct Map {
    directory: PathBuf,
    components: u64,
    submit_python: Option<String>,
}

enum Came {
    Result,
    /// With the report's first line.
    Error(String),
    /// No output: the runner says why.
    Nothing(String),
}

pub(crate) fn run(arguments: &cli::Local) -> anyhow::Result<ExitCode> {
    let map = Map::open(&arguments.map)?;
    let jobs = match arguments.jobs {
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().context("cannot count the processors")?,
    };
    let scratches = tempfile::Builder::new()
        .prefix("htmap-exec-local-")
        .tempdir()
        .context("cannot create a directory for the scratch directories")?;
    let progress =
        ProgressBar::with_draw_target(Some(map.components), ProgressDrawTarget::stderr());
    progress.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} components, {msg} ({elapsed})")
            .context("the progress bar's template")?,
    );
    progress.set_message("0 failed");
    let next = AtomicUsize::new(0);
    let came: Mutex<BTreeMap<u64, Came>> = Mutex::default();
    let worker = || -> anyhow::Result<()> {
        loop {
            let component = next.fetch_add(1, Ordering::Relaxed) as u64;
            if component >= map.components {
                return Ok(());
            }
            let scratch = scratches.path().join(component.to_string());
            let one = map.run(component, &scratch, &arguments.running)?;
            let mut came = came
                .lock()
                .expect("no worker panics while it holds the lock");
            came.insert(component, one);
            let failed = came
                .values()
                .filter(|came| !matches!(came, Came::Result))
                .count();
            progress.set_message(format!("{failed} failed"));
            progress.inc(1);
        }
    };
    let outcome: anyhow::Result<()> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.get()).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker ended early"))??;
        }
        Ok(())
    });
    progress.finish_and_clear();
    outcome?;
    let came = came.into_inner().expect("the workers are gone");
    map.summarize(&came)?;
    let all = came.values().all(|came| matches!(came, Came::Result));
    Ok(ExitCode::from(if all {
        exit::SUCCESS
    } else {
        exit::FAILURE
    }))
}

impl Map {
    fn open(directory: &Path) -> anyhow::Result<Self> {
        let directory = std::path::absolute(directory)?;
        let path = directory.join("num_components");
        let components = fs::read_to_string(&path)
            .with_context(|| {
                format!(
                    "`{}` is no map directory: cannot read `num_components`",
                    directory.display()
                )
            })?
            .trim()
            .parse()
            .with_context(|| format!("`{}` holds no number", path.display()))?;
        for name in ["outputs", "logs", "output_files", "records"] {
            let path = directory.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create `{}`", path.display()))?;
        }
        let submit_python = fs::read_to_string(directory.join(SUBMIT_PYTHON))
            .ok()
            .map(|version| version.trim().to_owned())
            .filter(|version| !version.is_empty());
        Ok(Self {
            directory,
            components,
            submit_python,
        })
    }

    fn run(&self, component: u64, scratch: &Path, running: &cli::Running) -> anyhow::Result<Came> {
        fs::create_dir(scratch)
            .with_context(|| format!("cannot create `{}`", scratch.display()))?;
        let inputs = [
            (self.directory.join(names::FUNC), names::FUNC.to_owned()),
            (
                self.directory
                    .join("inputs")
                    .join(format!("{component}.in")),
                format!("{component}.in"),
            ),
            (
                self.directory.join(names::SHIPPED_CLOUDPICKLE),
                names::SHIPPED_CLOUDPICKLE.to_owned(),
            ),
            (
                self.directory.join(names::SOURCE_LINES),
                names::SOURCE_LINES.to_owned(),
            ),
        ];
        for (from, name) in inputs {
            // What is missing, the runner reports as it would on a node.
            match fs::copy(&from, scratch.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot copy `{}`", from.display()));
                }
                _ => {}
            }
        }
        let log = |kind: &str| {
            let path = self
                .directory
                .join("logs")
                .join(format!("{component}.{kind}"));
            File::create(&path).with_context(|| format!("cannot create `{}`", path.display()))
        };
        let status = self
            .command(component, scratch, running)?
            .stdin(Stdio::null())
            .stdout(log("stdout")?)
            .stderr(log("stderr")?)
            .status()
            .context("cannot start the runner")?;
        let came = self.collect(component, scratch, status)?;
        fs::remove_dir_all(scratch).ok();
        Ok(came)
    }

    fn command(
        &self,
        component: u64,
        scratch: &Path,
        running: &cli::Running,
    ) -> anyhow::Result<Command> {
        let mut command =
            Command::new(std::env::current_exe().context("cannot find this program")?);
        command
            .current_dir(scratch)
            .arg("run")
            .arg("--scratch")
            .arg(scratch);
        command.env(names::ENV_SCRATCH, scratch);
        if let Some(python) = &running.python {
            let path = if python.components().count() > 1 {
                std::path::absolute(python)?
            } else {
                python.clone()
            };
            command.arg("--python").arg(path);
        }
        let submit_python = running.submit_python.map(|version| version.to_string());
        if let Some(version) = submit_python.or_else(|| self.submit_python.clone()) {
            command.args(["--submit-python", &version]);
        }
        if running.allow_python_mismatch {
            command.arg("--allow-python-mismatch");
        }
        command
            .arg("--exit-grace")
            .arg(running.exit_grace.as_secs_f64().to_string());
        command
            .arg("--start-limit")
            .arg(running.start_limit.as_secs_f64().to_string());
        if let Some(timeout) = running.timeout {
            command
                .arg("--timeout")
                .arg(timeout.as_secs_f64().to_string());
        }
        command.arg(component.to_string());
        Ok(command)
    }

    /// Brings back what HTCondor would bring back.
    fn collect(&self, component: u64, scratch: &Path, status: ExitStatus) -> anyhow::Result<Came> {
        let transfer = scratch.join(names::TRANSFER_DIR);
        let number = component.to_string();
        if !status.success() {
            let path = self
                .directory
                .join("logs")
                .join(format!("{component}.stderr"));
            let stderr = fs::read(&path).unwrap_or_default();
            let last = String::from_utf8_lossy(&stderr)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned();
            return Ok(Came::Nothing(format!("{status}: {last}")));
        }
        let record = self
            .directory
            .join("records")
            .join(format!("{number}.json"));
        bring(&transfer.join(format!("{number}.json")), &record)?;
        let output = self.directory.join("outputs").join(format!("{number}.out"));
        bring(&transfer.join(format!("{number}.out")), &output)?;
        let files = self.directory.join("output_files").join(&number);
        if files.exists() {
            fs::remove_dir_all(&files)?;
        }
        let user = scratch.join(names::USER_TRANSFER_DIR).join(&number);
        bring(&user, &files)?;
        let record: serde_json::Value = fs::read(&record)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Ok(match record["error"].as_str() {
            Some(error) => Came::Error(error.to_owned()),
            None => Came::Result,
        })
    }

    fn summarize(&self, came: &BTreeMap<u64, Came>) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let results = came
            .values()
            .filter(|came| matches!(came, Came::Result))
            .count();
        writeln!(
            out,
            "{results} of {} components have a result",
            self.components
        )?;
        for (component, came) in came {
            match came {
                Came::Result => {}
                Came::Error(error) => writeln!(out, "  component {component} failed: {error}")?,
                Came::Nothing(why) => {
                    writeln!(out, "  component {component} has no output: {why}")?;
                }
            }
        }
        writeln!(
            out,
            "outputs, logs, output files and run records are in `{}`",
            self.directory.display()
        )?;
        Ok(())
    }
}

/// Moves a file or directory, across file systems if need be.
fn bring(from: &Path, to: &Path) -> anyhow::Result<()> {
    let moved = match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, to),
        other => other,
    };
    match moved {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
            bail!("the runner left no `{}`", from.display())
        }
        other => {
            other.with_context(|| format!("cannot move `{}` to `{}`", from.display(), to.display()))
        }
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    // Whole or not at all: somebody may be waiting for it.
    let unfinished = to.with_extension("part");
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, &unfinished)?;
    } else {
        fs::copy(from, &unfinished)?;
    }
    fs::rename(&unfinished, to)
}
