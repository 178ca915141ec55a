//! `htmap-exec transplant`: packs Pythons on the submit machine, and shows what was packed.

mod archives;
mod build;
mod compare;
mod progress;
mod prune;
mod show;

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use htmap_exec_transplant::{Archive, Manifest};

use crate::cli::TransplantCommand;
use crate::exit;

use archives::{remove, unpack, verify};
use build::build;
use compare::diff;
use prune::prune;
use show::{describe, info, list};

pub(crate) fn run(command: TransplantCommand) -> anyhow::Result<ExitCode> {
    match command {
        TransplantCommand::Build(options) => build(&options)?,
        TransplantCommand::List { dir, json } => list(&directory(dir)?, json)?,
        TransplantCommand::Info { archive, dir, json } => {
            info(&directory_of(dir, &[&archive])?, &archive, json)?;
        }
        TransplantCommand::Verify { archive, dir, json } => {
            verify(&directory_of(dir, &[&archive])?, &archive, json)?;
        }
        TransplantCommand::Unpack {
            archive,
            target,
            dir,
            json,
        } => unpack(&directory_of(dir, &[&archive])?, &archive, &target, json)?,
        TransplantCommand::Diff {
            from,
            to,
            dir,
            json,
        } => diff(&directory_of(dir, &[&from, &to])?, &from, &to, json)?,
        TransplantCommand::Remove {
            archives,
            dir,
            json,
        } => remove(&directory(dir)?, &archives, json)?,
        TransplantCommand::Prune(options) => prune(&options)?,
    }
    Ok(ExitCode::from(exit::SUCCESS))
}

/// Where to look for archives, which does not matter for those that are named by their files.
fn directory_of(named: Option<PathBuf>, archives: &[&Path]) -> anyhow::Result<PathBuf> {
    let are_files = archives.iter().all(|archive| archive.is_file());
    directory(named).or_else(|error| are_files.then(PathBuf::new).ok_or(error))
}

/// HTMap's own: `TRANSPLANT.DIR`.
fn directory(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named);
    }
    let htmap = std::env::var_os("HTMAP_DIR").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".htmap"));
    match htmap.or_else(home) {
        Some(htmap) => Ok(htmap.join("transplants")),
        None => {
            bail!("there is no HOME to look for `.htmap/transplants` in: name a directory by --dir")
        }
    }
}

/// The user's, for what was made from other things and can be made again.
fn cache() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("htmap-exec/transplants"))
}

fn manifest(archive: &Archive) -> anyhow::Result<Manifest> {
    serde_json::from_slice(&archive.manifest).with_context(|| {
        format!(
            "`{}` does not say what Python it holds",
            archive.path().display()
        )
    })
}

/// A path in JSON, which holds text alone.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path on a line of its own, which programs read: its very bytes.
fn print_path(mut out: impl Write, path: &Path) -> io::Result<()> {
    out.write_all(path.as_os_str().as_bytes())?;
    out.write_all(b"\n")
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
