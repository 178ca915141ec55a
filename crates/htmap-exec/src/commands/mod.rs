//! The subcommands, a module each.

mod htmap;
mod image;
mod local;
mod packages;
mod python;
mod run;
mod transplant;

use std::process::ExitCode;

use crate::cli::Command;
use crate::exit;

pub(crate) fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => run::run(options),
        Command::Local(options) => local::run(&options),
        Command::Htmap { arguments } => htmap::run(&arguments),
        Command::Explain { delivery } => htmap::explain(delivery),
        Command::Python { json } => python::run(json),
        Command::Transplant(command) => transplant::run(command),
        Command::MountHolder { target } => {
            htmap_exec_transplant::hold(&target);
            Ok(ExitCode::from(exit::SUCCESS))
        }
        Command::Image(command) => image::run(command),
        Command::Packages { python } => packages::run(python.as_deref()),
    }
}

/// `1 package`, `2 packages`.
fn counted(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}
