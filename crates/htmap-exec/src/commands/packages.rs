//! `htmap-exec packages`: what a Python has installed.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use htmap_exec_interpreter::{Distributions, probe};

use crate::commands::python;
use crate::exit;

pub(crate) fn run(path: Option<&Path>) -> anyhow::Result<ExitCode> {
    let interpreter = match path {
        Some(path) => probe(path).with_context(|| format!("cannot use `{}`", path.display()))?,
        None => python::discover()?,
    };
    let lines = Distributions::new().freeze(&interpreter.sys_path, interpreter.version);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(ExitCode::from(exit::SUCCESS))
}
