//! `transplant verify`, `unpack` and `remove`: what is done with archives that are there.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use htmap_exec_transplant::{self as transplant, Archive};

use super::manifest;

pub(super) fn verify(directory: &Path, archive: &Path) -> anyhow::Result<()> {
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

pub(super) fn unpack(directory: &Path, archive: &Path, target: &Path) -> anyhow::Result<()> {
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

pub(super) fn remove(directory: &Path, archives: &[PathBuf]) -> anyhow::Result<()> {
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
