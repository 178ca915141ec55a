//! Which `.pyc` files stay valid where their sources have another time.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::PythonVersion;

use super::content::head;
use crate::error::Error;

pub(crate) enum Bytecode {
    AsItIs,
    Stale,
    /// Holds the time of its source, at this place.
    Timed(u64),
}

pub(crate) fn bytecode(
    version: PythonVersion,
    file: &Path,
    path: &Path,
) -> Result<Bytecode, Error> {
    let header = head(file, 16)?;
    // PEP 552; before it there were no flags.
    let time_at = if version >= (PythonVersion { major: 3, minor: 7 }) {
        if header.get(4..8) != Some(&[0; 4]) {
            return Ok(Bytecode::AsItIs);
        }
        8
    } else {
        4
    };
    let Some(source) = source_of(file) else {
        return Ok(Bytecode::AsItIs);
    };
    let Ok(metadata) = fs::metadata(&source) else {
        // Python does not look at it without its source: PEP 3147.
        return Ok(if in_cache(path) {
            Bytecode::Stale
        } else {
            Bytecode::AsItIs
        });
    };
    let recorded = |at: usize| {
        header
            .get(at..at + 4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    };
    // Both are kept modulo 2**32.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let is_current = recorded(time_at) == Some(metadata.mtime() as u32)
        && recorded(time_at + 4) == Some(metadata.len() as u32);
    Ok(if is_current {
        Bytecode::Timed(time_at as u64)
    } else {
        Bytecode::Stale
    })
}

/// Whether it is the bytecode of one of these modules.
pub(crate) fn is_of(path: &Path, modules: &HashSet<PathBuf>) -> bool {
    path.extension().is_some_and(|end| end == "pyc")
        && source_of(path).is_some_and(|source| modules.contains(&source))
}

fn in_cache(path: &Path) -> bool {
    path.parent()
        .and_then(Path::file_name)
        .is_some_and(|name| name == "__pycache__")
}

/// `x/__pycache__/y.cpython-311.opt-1.pyc` comes from `x/y.py`.
fn source_of(file: &Path) -> Option<PathBuf> {
    if !in_cache(file) {
        return None;
    }
    let name = file.file_name()?.as_bytes();
    let stem = &name[..name.iter().position(|&byte| byte == b'.')?];
    let mut source = file.parent()?.parent()?.as_os_str().to_owned();
    source.push("/");
    source.push(OsStr::from_bytes(stem));
    source.push(".py");
    Some(source.into())
}
