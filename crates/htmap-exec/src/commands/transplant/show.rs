//! `transplant list` and `transplant info`: what archives there are, and what they hold.

use std::io::{self, Write as _};
use std::path::Path;

use htmap_exec_transplant::{self as transplant, Archive};
use serde_json::{Value, json};

use super::{manifest, size};

pub(super) fn list(directory: &Path, as_json: bool) -> anyhow::Result<()> {
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

pub(super) fn info(directory: &Path, archive: &Path, as_json: bool) -> anyhow::Result<()> {
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

pub(super) fn describe(path: &Path, archive: &Archive) -> Value {
    let manifest: Value = serde_json::from_slice(&archive.manifest).unwrap_or(Value::Null);
    json!({
        "digest": archive.digest.to_string(),
        "path": path,
        "content": archive.bytes(),
        "entries": archive.entries.len(),
        "manifest": manifest,
    })
}
