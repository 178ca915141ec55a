//! `transplant list` and `transplant info`: what archives there are, and what they hold.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::SystemTime;

use htmap_exec_component::on_one_line;
use htmap_exec_transplant::{self as transplant, Archive};
use serde_json::{Value, json};

use super::{manifest, size, text};
use crate::commands::counted;

pub(super) fn list(directory: &Path, as_json: bool) -> anyhow::Result<()> {
    let mut found = transplant::list(directory)?;
    found.sort_by_cached_key(|(path, _)| std::cmp::Reverse(File::of(path).built));
    let mut out = io::stdout().lock();
    if as_json {
        let values: Vec<Value> = found
            .iter()
            .map(|(path, archive)| match archive {
                Ok(archive) => describe(path, archive),
                Err(error) => json!({ "path": text(path), "error": error.to_string() }),
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
        // One that is of no use does not hide the others.
        match archive
            .map_err(anyhow::Error::from)
            .and_then(|archive| Ok((manifest(&archive)?, archive)))
        {
            Ok((manifest, archive)) => {
                let file = File::of(&path);
                let age = SystemTime::now().duration_since(file.built);
                writeln!(
                    out,
                    "{name}  Python {}, {}, {} in {}, {} ago",
                    on_one_line(&manifest.python_version),
                    counted(manifest.packages.len(), "package"),
                    size(archive.bytes()),
                    size(file.size),
                    indicatif::HumanDuration(age.unwrap_or_default()),
                )?;
            }
            Err(error) => writeln!(out, "{name}  {}", on_one_line(format!("{error:#}")))?,
        }
    }
    Ok(())
}

/// What the file system knows of an archive.
struct File {
    built: SystemTime,
    size: u64,
}

impl File {
    /// Of one that has gone meanwhile: nothing.
    fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path).ok();
        let built = metadata.as_ref().and_then(|found| found.modified().ok());
        Self {
            built: built.unwrap_or(SystemTime::UNIX_EPOCH),
            size: metadata.map_or(0, |found| found.len()),
        }
    }
}

pub(super) fn info(directory: &Path, archive: &Path, as_json: bool) -> anyhow::Result<()> {
    let path = transplant::find(directory, archive)?;
    let (archive, _) = Archive::open(&path)?;
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", describe(&path, &archive))?;
        return Ok(());
    }
    let manifest = manifest(&archive)?;
    writeln!(out, "Archive   {}", on_one_line(&path))?;
    writeln!(out, "Digest    {}", archive.digest)?;
    let python = format!(
        "{} {}, {}, for {}",
        manifest.implementation, manifest.python_version, manifest.python, manifest.machine
    );
    writeln!(out, "Python    {}", on_one_line(python))?;
    writeln!(
        out,
        "Holds     {} in {} files and directories",
        size(archive.bytes()),
        archive.entries.len()
    )?;
    for (what, said) in manifest.needs() {
        writeln!(out, "{what:<9} {}", on_one_line(said))?;
    }
    writeln!(out, "Packages  {}", manifest.packages.len())?;
    for line in &manifest.packages {
        writeln!(out, "    {}", on_one_line(line))?;
    }
    Ok(())
}

pub(super) fn describe(path: &Path, archive: &Archive) -> Value {
    let manifest: Value = serde_json::from_slice(&archive.manifest).unwrap_or(Value::Null);
    let file = File::of(path);
    let built = file.built.duration_since(SystemTime::UNIX_EPOCH);
    json!({
        "digest": archive.digest.to_string(),
        "path": text(path),
        "built": built.unwrap_or_default().as_secs(),
        "size": file.size,
        "content": archive.bytes(),
        "entries": archive.entries.len(),
        "manifest": manifest,
    })
}
