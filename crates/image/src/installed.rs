//! Finds what lies beside an installed distribution's metadata.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Distribution, canonical_name};

/// The metadata of directories that were looked at.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    directories: HashMap<PathBuf, HashMap<String, PathBuf>>,
}

impl Installed {
    /// The `.dist-info` or `.egg-info` of a distribution.
    pub(crate) fn metadata(&mut self, found: &Distribution) -> Option<PathBuf> {
        let listed = self
            .directories
            .entry(found.directory.clone())
            .or_insert_with(|| list(&found.directory));
        listed.get(&found.canonical_name()).cloned()
    }
}

fn list(directory: &Path) -> HashMap<String, PathBuf> {
    let mut listed = HashMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let stem = file
            .strip_suffix(".dist-info")
            .or_else(|| file.strip_suffix(".egg-info"));
        if let Some(stem) = stem {
            let name = stem.split('-').next().unwrap_or(stem);
            listed.insert(canonical_name(name), entry.path());
        }
    }
    listed
}
