//! `htmap-exec transplant`: packs Pythons on the submit machine, and shows what was packed.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use htmap_exec_interpreter::{Distributions, probe};
use htmap_exec_transplant::{self as transplant, Archive, Manifest};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::{TransplantBuild, TransplantCommand};
use crate::commands::python;
use crate::exit;

mod archives;
mod compare;
mod prune;
mod show;

use archives::{remove, unpack, verify};
use compare::diff;
use prune::prune;
use show::{describe, info, list};

pub(crate) fn run(command: TransplantCommand) -> anyhow::Result<ExitCode> {
    match command {
        TransplantCommand::Build(options) => build(&options)?,
        TransplantCommand::List { dir, json } => list(&directory(dir)?, json)?,
        TransplantCommand::Info { archive, dir, json } => info(&directory(dir)?, &archive, json)?,
        TransplantCommand::Verify { archive, dir, json } => {
            verify(&directory(dir)?, &archive, json)?;
        }
        TransplantCommand::Unpack {
            archive,
            target,
            dir,
            json,
        } => unpack(&directory(dir)?, &archive, &target, json)?,
        TransplantCommand::Diff {
            from,
            to,
            dir,
            json,
        } => diff(&directory(dir)?, &from, &to, json)?,
        TransplantCommand::Remove {
            archives,
            dir,
            json,
        } => remove(&directory(dir)?, &archives, json)?,
        TransplantCommand::Prune(options) => prune(&options)?,
    }
    Ok(ExitCode::from(exit::SUCCESS))
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

fn build(options: &TransplantBuild) -> anyhow::Result<()> {
    let begun = Instant::now();
    let directory = directory(options.dir.clone())?;
    let interpreter = match &options.python {
        Some(path) => probe(path).with_context(|| format!("cannot use `{}`", path.display()))?,
        None => python::discover()?,
    };
    let patterns = options
        .exclude
        .iter()
        .map(|pattern| {
            glob::Pattern::new(pattern).with_context(|| format!("`{pattern}` is no pattern"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let how = format!("level {} exclude {:?}", options.level, options.exclude);
    let fingerprint = transplant::fingerprint(&interpreter, &how)?;
    let cache = cache();
    let recalled = cache
        .as_ref()
        .and_then(|cache| transplant::recall(cache, fingerprint, &directory));
    if let Some(path) = recalled {
        let (archive, _) = Archive::open(&path)?;
        let mut out = io::stdout().lock();
        if options.json {
            writeln!(out, "{}", describe(&path, &archive))?;
        } else {
            writeln!(out, "{}", path.display())?;
            writeln!(
                io::stderr(),
                "nothing to do: no file of `{}` has changed since this archive was built",
                interpreter.prefix.display()
            )?;
        }
        return Ok(());
    }
    let mut source = transplant::collect(&interpreter, &|path| {
        patterns.iter().any(|pattern| pattern.matches_path(path))
    })?;
    if !options.no_check {
        source
            .remarks
            .extend(transplant::check(&interpreter, &source)?);
    }
    for remark in &source.remarks {
        tracing::warn!("{remark}");
    }
    let packages = Distributions::new().freeze(&interpreter.sys_path, interpreter.version);
    let manifest = Manifest::new(&interpreter, &source, packages);
    let total: u64 = source.bytes();
    let bar = ProgressBar::with_draw_target(
        Some(total),
        if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        },
    )
    .with_style(
        ProgressStyle::with_template("packing {wide_bar} {bytes}/{total_bytes}")
            .expect("a fixed template"),
    );
    let (path, packed) =
        transplant::build(&directory, &manifest, &source, options.level, &|bytes| {
            bar.inc(bytes);
        })?;
    bar.finish_and_clear();
    if let Some(cache) = &cache
        && let Err(error) = transplant::remember(cache, fingerprint, packed.digest)
    {
        tracing::warn!(
            "cannot remember the archive in `{}`: {error}",
            cache.display()
        );
    }
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(
            out,
            "{}",
            json!({
                "digest": packed.digest.to_string(),
                "path": path,
                "size": packed.size,
                "content": packed.content,
                "entries": source.entries.len(),
                "remarks": source.remarks,
            })
        )?;
    } else {
        writeln!(out, "{}", path.display())?;
        writeln!(
            io::stderr(),
            "{} {} with {} packages: {} files and directories, {} in {}, {:.1} s",
            manifest.implementation,
            manifest.python_version,
            manifest.packages.len(),
            source.entries.len(),
            size(packed.content),
            size(packed.size),
            begun.elapsed().as_secs_f64(),
        )?;
    }
    Ok(())
}

/// What is known about environments that were packed.
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

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
