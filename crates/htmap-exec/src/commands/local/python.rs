//! Which Python runs the components: found and tried once, before the first of them.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use htmap_exec_interpreter::{MINIMUM_VERSION, probe};

use crate::commands::{htmap, python};

/// The one that was named; else the one beside this program; else the one that `htmap-exec python` picks.
pub(super) fn choose(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        // A bare name is looked up in PATH, as everywhere.
        let path = if named.components().count() > 1 {
            std::path::absolute(named)?
        } else {
            named.to_path_buf()
        };
        let interpreter =
            probe(&path).with_context(|| format!("cannot use `{}`", path.display()))?;
        if interpreter.version < MINIMUM_VERSION {
            bail!(
                "`{}` is Python {}, and {MINIMUM_VERSION} or later is needed",
                path.display(),
                interpreter.full_version
            );
        }
        return Ok(path);
    }
    if let Some(beside) = beside() {
        match probe(&beside) {
            Ok(found) if found.version >= MINIMUM_VERSION => return Ok(beside),
            Ok(found) => tracing::info!("`{}` is {}", beside.display(), found.full_version),
            Err(error) => tracing::info!("`{}` is passed over: {error}", beside.display()),
        }
    }
    Ok(python::pick()?.0.path)
}

/// Where this program was called, not where links lead: `~/.local/bin` may hold a link into an environment of its
/// own, which has nobody's packages.
fn beside() -> Option<PathBuf> {
    let directory = htmap::where_called()?;
    let found = htmap::python_in(&directory)?;
    let prefix = directory.parent()?;
    let is_environment = prefix.join("pyvenv.cfg").is_file() || prefix.join("conda-meta").is_dir();
    let is_active = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    // `/usr/bin` has a Python as well, and says nothing of what its user works with.
    let other = is_active("VIRTUAL_ENV") || is_active("CONDA_PREFIX");
    (is_environment || !other).then_some(found)
}
