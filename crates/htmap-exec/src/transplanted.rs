//! A Python that was brought along: unpacked into the scratch directory, and the variables that make
//! it the only one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use htmap_exec_component::names;
use htmap_exec_interpreter::{Origin, Rejection, Search};
use htmap_exec_transplant::{self as transplant, Archive, Manifest};

/// Names of another Python's doing: with them it would not be this one that runs.
const FOREIGN: [&str; 4] = ["PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX"];

/// What to run with.
pub(crate) struct Brought {
    pub(crate) interpreters: Search,
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
}

/// Never fails: an archive that is of no use is a rejection, which ends as an error record.
pub(crate) fn bring(archive: &Path, scratch: &Path) -> Brought {
    match unpack(archive, &scratch.join(names::TRANSPLANT_DIR)) {
        Ok(python) => {
            let directory = python.parent().unwrap_or(scratch).to_path_buf();
            let mut path = directory.into_os_string();
            if let Some(rest) = std::env::var_os("PATH").filter(|rest| !rest.is_empty()) {
                path.push(":");
                path.push(rest);
            }
            let mut environment: Vec<(OsString, Option<OsString>)> =
                FOREIGN.iter().map(|&name| (name.into(), None)).collect();
            environment.push(("PATH".into(), Some(path)));
            let libraries = transplant::library_path(&scratch.join(names::TRANSPLANT_DIR));
            if !libraries.is_empty() {
                let path = std::env::join_paths(libraries).unwrap_or_default();
                environment.push(("LD_LIBRARY_PATH".into(), Some(path)));
            }
            Brought {
                interpreters: Search::only(python, Origin::Transplant),
                environment,
            }
        }
        Err(error) => Brought {
            interpreters: Search::none(Rejection {
                path: archive.to_path_buf(),
                origin: Origin::Transplant,
                reason: format!("{error:#}"),
            }),
            environment: Vec::new(),
        },
    }
}

/// The interpreter of the tree that stands in `target` then.
fn unpack(path: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let (archive, file) = Archive::open(path)?;
    if !transplant::is_named_by(path, archive.digest) {
        bail!("its digest is {}, and not its name", archive.digest);
    }
    let manifest: Manifest = serde_json::from_slice(&archive.manifest)
        .context("it does not say what Python it holds")?;
    if manifest.machine != std::env::consts::ARCH {
        bail!(
            "it is for {}, and this node is {}",
            manifest.machine,
            std::env::consts::ARCH
        );
    }
    // An earlier attempt in the same sandbox may have been killed half way.
    match fs::remove_dir_all(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove `{}`", target.display()));
        }
        _ => {}
    }
    fs::create_dir(target).with_context(|| format!("cannot make `{}`", target.display()))?;
    let begun = std::time::Instant::now();
    let unpacked = transplant::unpack(&archive, &file, target)?;
    for left in transplant::apply(target)? {
        tracing::warn!("{left}");
    }
    tracing::info!(
        "unpacked {} files and directories in {:.1} s",
        unpacked.entries,
        begun.elapsed().as_secs_f64()
    );
    Ok(target.join(manifest.python))
}
