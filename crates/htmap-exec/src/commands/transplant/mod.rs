//! `htmap-exec transplant`: packs Pythons on the submit machine, and shows what was packed.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use htmap_exec_interpreter::{Distributions, probe};
use htmap_exec_transplant::{self as transplant, Archive, Manifest, Memory};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{TransplantBuild, TransplantCommand};
use crate::commands::python;
use crate::exit;

pub(crate) fn run(command: TransplantCommand) -> anyhow::Result<ExitCode> {
    match command {
        TransplantCommand::Build(options) => build(&options)?,
        TransplantCommand::List { dir, json } => list(&directory(dir)?, json)?,
        TransplantCommand::Info { archive, dir, json } => info(&directory(dir)?, &archive, json)?,
        TransplantCommand::Verify { archive, dir } => verify(&directory(dir)?, &archive)?,
        TransplantCommand::Unpack {
            archive,
            target,
            dir,
        } => unpack(&directory(dir)?, &archive, &target)?,
        TransplantCommand::Remove { archives, dir } => remove(&directory(dir)?, &archives)?,
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
    tracing::debug!("looked at all files after {:.2?}", begun.elapsed());
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
    let place = cache
        .as_ref()
        .map(|cache| transplant::place(cache, &interpreter, &how));
    let memory = place.as_deref().map_or_else(Memory::default, Memory::load);
    let excluded = |path: &Path| patterns.iter().any(|pattern| pattern.matches_path(path));
    let mut source = transplant::collect(&interpreter, &excluded)?;
    tracing::debug!("collected after {:.2?}", begun.elapsed());
    if !options.no_check {
        source
            .remarks
            .extend(transplant::check(&interpreter, &source)?);
    }
    tracing::debug!("checked after {:.2?}", begun.elapsed());
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
    let (path, packed) = transplant::build(
        &directory,
        &manifest,
        &source,
        options.level,
        &memory,
        &|bytes| bar.inc(bytes),
    )?;
    bar.finish_and_clear();
    tracing::debug!("packed after {:.2?}", begun.elapsed());
    if let (Some(cache), Some(place)) = (&cache, &place)
        && let Err(error) = transplant::remember(cache, fingerprint, packed.digest)
            .and_then(|()| transplant::keep(place, &path, &packed))
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

fn list(directory: &Path, as_json: bool) -> anyhow::Result<()> {
    let found = transplant::list(directory)?;
    let mut out = io::stdout().lock();
    if as_json {
        let values: Vec<Value> = found
            .iter()
            .map(|(path, archive)| match archive {
                Ok(archive) => describe(path, archive),
                Err(error) => json!({ "path": path, "error": error.to_string() }),
            })
            .collect();
        writeln!(out, "{}", Value::Array(values))?;
        return Ok(());
    }
    for (path, archive) in found {
        let name = path
            .file_name()
            .map(|name| name.display().to_string())
            .unwrap_or_default();
        let name = name.get(..12).unwrap_or(&name);
        match archive {
            Ok(archive) => {
                let manifest = manifest(&archive)?;
                writeln!(
                    out,
                    "{name}  Python {}, {} packages, {}",
                    manifest.python_version,
                    manifest.packages.len(),
                    size(archive.bytes())
                )?;
            }
            Err(error) => writeln!(out, "{name}  {error}")?,
        }
    }
    Ok(())
}

fn info(directory: &Path, archive: &Path, as_json: bool) -> anyhow::Result<()> {
    let path = transplant::find(directory, archive)?;
    let (archive, _) = Archive::open(&path)?;
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", describe(&path, &archive))?;
        return Ok(());
    }
    let manifest = manifest(&archive)?;
    writeln!(out, "Archive   {}", path.display())?;
    writeln!(out, "Digest    {}", archive.digest)?;
    writeln!(
        out,
        "Python    {} {}, {}, for {}",
        manifest.implementation, manifest.python_version, manifest.python, manifest.machine
    )?;
    writeln!(
        out,
        "Holds     {} in {} files and directories",
        size(archive.bytes()),
        archive.entries.len()
    )?;
    for (what, text) in manifest.needs() {
        writeln!(out, "{what:<9} {text}")?;
    }
    writeln!(out, "Packages  {}", manifest.packages.len())?;
    for line in &manifest.packages {
        writeln!(out, "    {line}")?;
    }
    Ok(())
}

fn describe(path: &Path, archive: &Archive) -> Value {
    let manifest: Value = serde_json::from_slice(&archive.manifest).unwrap_or(Value::Null);
    json!({
        "digest": archive.digest.to_string(),
        "path": path,
        "content": archive.bytes(),
        "entries": archive.entries.len(),
        "manifest": manifest,
    })
}

fn manifest(archive: &Archive) -> anyhow::Result<Manifest> {
    serde_json::from_slice(&archive.manifest).with_context(|| {
        format!(
            "`{}` does not say what Python it holds",
            archive.path().display()
        )
    })
}

fn verify(directory: &Path, archive: &Path) -> anyhow::Result<()> {
    let path = transplant::find(directory, archive)?;
    let (archive, file) = Archive::open(&path)?;
    if !transplant::is_named_by(&path, archive.digest) {
        bail!(
            "`{}` is not what its name says: its digest is {}",
            path.display(),
            archive.digest
        );
    }
    transplant::verify(&archive, &file)?;
    writeln!(io::stdout(), "{}: whole", archive.digest)?;
    Ok(())
}

fn unpack(directory: &Path, archive: &Path, target: &Path) -> anyhow::Result<()> {
    let path = transplant::find(directory, archive)?;
    let (archive, file) = Archive::open(&path)?;
    let is_new = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(target)
                .with_context(|| format!("cannot make `{}`", target.display()))?;
            true
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot unpack into `{}`", target.display()));
        }
    };
    if !is_new {
        bail!("`{}` is not empty: name a new directory", target.display());
    }
    transplant::unpack(&archive, &file, target)?;
    let place = target
        .canonicalize()
        .with_context(|| format!("cannot find `{}`", target.display()))?;
    for left in transplant::apply(target, &place)? {
        tracing::warn!("{left}");
    }
    writeln!(
        io::stdout(),
        "{}",
        target.join(manifest(&archive)?.python).display()
    )?;
    Ok(())
}

fn remove(directory: &Path, archives: &[PathBuf]) -> anyhow::Result<()> {
    let paths = archives
        .iter()
        .map(|archive| transplant::find(directory, archive))
        .collect::<Result<Vec<_>, _>>()?;
    for path in paths {
        // The packages last: HTMap reads them for every archive that it finds.
        for each in [path.clone(), path.with_extension("pip")] {
            match std::fs::remove_file(&each) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove `{}`", each.display()));
                }
                _ => {}
            }
        }
        writeln!(io::stdout(), "removed {}", path.display())?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
