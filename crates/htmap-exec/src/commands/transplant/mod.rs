//! `htmap-exec transplant`: packs Pythons on the submit machine, and shows what was packed.

mod build;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use htmap_exec_transplant::{self as transplant, Archive, Manifest};
use serde_json::{Value, json};

use crate::cli::TransplantCommand;
use crate::exit;

pub(crate) fn run(command: TransplantCommand) -> anyhow::Result<ExitCode> {
    match command {
        TransplantCommand::Build(options) => build::build(&options)?,
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
