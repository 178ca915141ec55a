//! `htmap-exec python`: which Python a component would run with, and why no other.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::bail;
use htmap_exec_interpreter::{
    Candidate, Interpreter, MINIMUM_VERSION, Origin, Rejection, SearchEnvironment, probe, search,
};
use serde_json::json;

use crate::exit;

struct Discovery {
    picked: Option<(Candidate, Interpreter)>,
    passed_over: Vec<Rejection>,
}

pub(crate) fn run(as_json: bool) -> anyhow::Result<ExitCode> {
    let found = look();
    let mut out = io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, &found.json())?;
        writeln!(out)?;
    } else {
        found.print(&mut out)?;
    }
    Ok(ExitCode::from(if found.picked.is_some() {
        exit::SUCCESS
    } else {
        exit::FAILURE
    }))
}

/// The one that a component would run with.
pub(crate) fn discover() -> anyhow::Result<Interpreter> {
    pick().map(|(_, interpreter)| interpreter)
}

/// The same, with how it was found.
pub(crate) fn pick() -> anyhow::Result<(Candidate, Interpreter)> {
    match look() {
        Discovery {
            picked: Some(picked),
            ..
        } => Ok(picked),
        Discovery { passed_over, .. } => {
            let reasons: Vec<String> = passed_over
                .iter()
                .map(|rejection| format!("\n  {rejection}"))
                .collect();
            bail!(
                "no Python {MINIMUM_VERSION} or later was found{}\nhint: name one with --python",
                reasons.concat()
            )
        }
    }
}

/// Tries all of them at once: a broken one must not make the others wait.
fn look() -> Discovery {
    let found = search(&SearchEnvironment::from_process());
    let answers: Vec<(Candidate, Result<Interpreter, String>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = found
            .candidates
            .into_iter()
            .map(|candidate| {
                scope.spawn(move || {
                    let answer = probe(&candidate.path).map_err(|error| error.to_string());
                    (candidate, answer)
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    let mut picked = None;
    let mut passed_over = found.rejections;
    for (candidate, answer) in answers {
        let reason = match answer {
            Err(reason) => reason,
            Ok(interpreter) if interpreter.version < MINIMUM_VERSION => {
                let version = interpreter.full_version;
                format!("it is Python {version}, and {MINIMUM_VERSION} or later is needed")
            }
            Ok(interpreter) if picked.is_none() => {
                picked = Some((candidate, interpreter));
                continue;
            }
            Ok(interpreter) => {
                format!(
                    "Python {}: an earlier one was picked",
                    interpreter.full_version
                )
            }
        };
        let Candidate { path, origin } = candidate;
        passed_over.push(Rejection {
            path,
            origin,
            reason,
        });
    }
    Discovery {
        picked,
        passed_over,
    }
}

impl Discovery {
    fn json(&self) -> serde_json::Value {
        let origin = |origin: Origin| origin.to_string();
        json!({
            "picked": self.picked.as_ref().map(|(candidate, interpreter)| json!({
                "path": candidate.path.to_string_lossy(),
                "origin": origin(candidate.origin),
                "version": interpreter.full_version,
                "implementation": interpreter.implementation,
                "prefix": interpreter.prefix.to_string_lossy(),
                "base_prefix": interpreter.base_prefix.to_string_lossy(),
                "cloudpickle": interpreter.cloudpickle,
            })),
            "passed_over": self.passed_over.iter().map(|rejection| json!({
                "path": rejection.path.to_string_lossy(),
                "origin": origin(rejection.origin),
                "reason": rejection.reason,
            })).collect::<Vec<_>>(),
        })
    }

    fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        match &self.picked {
            Some((candidate, interpreter)) => {
                let Interpreter {
                    implementation,
                    full_version,
                    cloudpickle,
                    ..
                } = interpreter;
                let path = candidate.path.display();
                writeln!(out, "{path}")?;
                writeln!(
                    out,
                    "  {implementation} {full_version}, from {}",
                    candidate.origin
                )?;
                match cloudpickle {
                    Some(version) => writeln!(out, "  cloudpickle {version}")?,
                    None => writeln!(out, "  no cloudpickle: the map has to bring it along")?,
                }
            }
            None => {
                writeln!(out, "no Python {MINIMUM_VERSION} or later was found")?;
                writeln!(out, "hint: put one on PATH, or name it with --python")?;
            }
        }
        if !self.passed_over.is_empty() {
            writeln!(out, "passed over:")?;
        }
        for rejection in &self.passed_over {
            writeln!(out, "  {rejection}")?;
        }
        Ok(())
    }
}
