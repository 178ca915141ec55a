//! `transplant verify`, `unpack` and `remove`: what is done with archives that are there.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use htmap_exec_component::on_one_line;
use htmap_exec_transplant::{self as transplant, Archive};
use serde_json::json;

use super::{manifest, print_path, text};

/// Damage of an index can make another tree of it, which nothing but its name tells.
fn open(directory: &Path, archive: &Path) -> anyhow::Result<(Archive, File, PathBuf)> {
    let path = transplant::find(directory, archive)?;
    let (archive, file) = Archive::open(&path)?;
    if !transplant::is_named_by(&path, archive.digest) {
        bail!(
            "`{}` is not what its name says: its digest is {}",
            path.display(),
            archive.digest
        );
    }
    Ok((archive, file, path))
}

pub(super) fn verify(directory: &Path, archive: &Path, as_json: bool) -> anyhow::Result<()> {
    let (archive, file, path) = open(directory, archive)?;
    transplant::verify(&archive, &file)?;
    let mut out = io::stdout().lock();
    if as_json {
        let digest = archive.digest.to_string();
        let report = json!({ "digest": digest, "path": text(&path), "whole": true });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "{}: whole", archive.digest)?;
    }
    Ok(())
}

pub(super) fn unpack(
    directory: &Path,
    archive: &Path,
    target: &Path,
    as_json: bool,
) -> anyhow::Result<()> {
    let (archive, file, _) = open(directory, archive)?;
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
    let place = target
        .canonicalize()
        .with_context(|| format!("cannot find `{}`", target.display()))?;
    let remarks = transplant::unpack(&archive, &file, target)
        .and_then(|_| transplant::apply(target, &place))
        .inspect_err(|_| empty(target))?;
    for left in &remarks {
        tracing::warn!("{left}");
    }
    let python = target.join(manifest(&archive)?.python);
    let mut out = io::stdout().lock();
    if as_json {
        let report = json!({
            "digest": archive.digest.to_string(),
            "target": text(&place),
            "python": text(&python),
            "remarks": remarks,
        });
        writeln!(out, "{report}")?;
    } else {
        print_path(out, &python)?;
    }
    Ok(())
}

/// What there is of a tree is of no use, and must not be taken for one. The directory may be the user's.
fn empty(target: &Path) {
    for entry in std::fs::read_dir(target).into_iter().flatten().flatten() {
        transplant::remove(&entry.path()).ok();
    }
}

pub(super) fn remove(directory: &Path, archives: &[PathBuf], as_json: bool) -> anyhow::Result<()> {
    let paths = archives
        .iter()
        .map(|archive| transplant::find(directory, archive))
        .collect::<Result<Vec<_>, _>>()?;
    for path in &paths {
        // One of the store may be damaged; any other file has to be an archive.
        if path.parent() != Some(directory) {
            Archive::identify(path)?;
        }
    }
    let mut out = io::stdout().lock();
    for path in &paths {
        discard(path)?;
        if !as_json {
            writeln!(out, "removed {}", on_one_line(path))?;
        }
    }
    if as_json {
        let paths: Vec<String> = paths.iter().map(|path| text(path)).collect();
        writeln!(out, "{}", json!({ "removed": paths }))?;
    }
    Ok(())
}

/// An archive with its packages, or another file.
pub(super) fn discard(path: &Path) -> anyhow::Result<()> {
    let mut all = vec![path.to_path_buf()];
    if path.extension().is_none() {
        all.extend(transplant::Format::ALL.map(|format| format.path(path)));
    }
    // The packages last: HTMap reads them for every archive that it finds.
    all.extend(["pip", "tar.pip"].map(|end| path.with_extension(end)));
    for each in all {
        match std::fs::remove_file(&each) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove `{}`", each.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
