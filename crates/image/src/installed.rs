//! Finds what lies beside an installed distribution's metadata.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Distribution, canonical_name, regular};

use crate::libraries;

/// Of a `WHEEL` file.
const LARGEST: u64 = 64 << 10;
/// Of a `RECORD` file.
const LARGEST_LIST: u64 = 64 << 20;

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

    /// The tags of the wheel that it was installed from: `cp311-cp311-manylinux_2_17_x86_64`.
    pub(crate) fn tags(&mut self, found: &Distribution) -> Vec<String> {
        self.metadata(found)
            .and_then(|metadata| regular::read_text(&metadata.join("WHEEL"), LARGEST).ok())
            .unwrap_or_default()
            .lines()
            .filter_map(|line| Some(line.strip_prefix("Tag:")?.trim().to_owned()))
            .collect()
    }

    /// The extension modules and libraries that its installer listed.
    pub(crate) fn libraries(&mut self, found: &Distribution) -> Vec<PathBuf> {
        self.metadata(found)
            .and_then(|metadata| regular::read_text(&metadata.join("RECORD"), LARGEST_LIST).ok())
            .unwrap_or_default()
            .lines()
            .filter_map(|line| Some(found.directory.join(line.split(',').next()?)))
            .filter(|path| libraries::is_library(path))
            .collect()
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
