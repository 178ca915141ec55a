//! One entry of `sys.path`: the `*.dist-info`, `*.egg-info` and `*.egg-link` entries of a directory,
//! and what an egg says of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::direct_url::{self, Source};
use super::head::{self, Head};
use super::zipped;
use crate::regular;

/// Of the small files beside the metadata.
const LARGEST_NOTE: u64 = 64 << 10;

/// A distribution.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The file or directory that says so.
    pub(super) path: PathBuf,
    /// As its metadata spells it.
    pub(super) name: String,
    pub(super) version: String,
    /// What `pip freeze` prints for it; may be two lines.
    pub(super) line: String,
    /// Where it came from, if not from an index.
    pub(super) source: Option<Source>,
    /// What put it there, such as `pip`, as it says itself.
    pub(super) installer: Option<String>,
}

/// All that are found there; what cannot be read is left out, as pip does.
pub(super) fn read_directory(directory: &Path) -> Vec<Found> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Python imports from archives as well.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let heads = zipped::heads(directory);
            let found = |head| found(directory, head, None);
            return heads.iter().map(found).collect();
        }
        Err(_) => return Vec::new(),
    };
    // The order of the directory is no order; pip takes the first of a name that it meets.
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let is_egg = is_egg(directory);
    names
        .iter()
        .filter_map(|name| {
            if is_egg && name.eq_ignore_ascii_case(zipped::EGG_INFO) {
                let path = directory.join(name);
                let head = head(&path.join("PKG-INFO")).ok()?;
                return Some(found(&path, &head, None));
            }
            read(directory, name)
        })
        .collect()
}

fn is_egg(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("egg"))
}

fn read(directory: &Path, entry: &str) -> Option<Found> {
    // pip renames what it is about to remove: `~umpy-2.0.dist-info`.
    if entry.starts_with('~') {
        return None;
    }
    let path = directory.join(entry);
    if entry.ends_with(".dist-info") {
        let head = head(&path.join("METADATA")).ok()?;
        let mut found = found(&path, &head, direct_url::read(&path));
        found.installer = regular::read_text(&path.join("INSTALLER"), LARGEST_NOTE)
            .ok()
            .map(|text| text.trim().to_owned());
        return Some(found);
    }
    if entry.ends_with(".egg-info") {
        let head = head(&path.join("PKG-INFO")).or_else(|_| head(&path)).ok()?;
        // `setup.py develop` leaves the metadata with the sources and a link elsewhere.
        return Some(found(&path, &head, None));
    }
    if entry.ends_with(".egg-link") {
        return read_link(&path);
    }
    None
}

/// The project that an egg-link names, as an editable one.
fn read_link(link: &Path) -> Option<Found> {
    let text = regular::read_text(link, LARGEST_NOTE).ok()?;
    let project = PathBuf::from(text.lines().next()?.trim());
    let egg_info = fs::read_dir(&project).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        path.extension()
            .is_some_and(|extension| extension == "egg-info")
            .then_some(path)
    })?;
    let head = head(&egg_info.join("PKG-INFO")).ok()?;
    Some(found(link, &head, Some(Source::Editable(project))))
}

fn head(path: &Path) -> io::Result<Head> {
    head::read(regular::open(path)?)
}

fn found(path: &Path, head: &Head, source: Option<Source>) -> Found {
    let field = |wanted: &str| {
        head.iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    let (name, version) = (field("name"), field("version"));
    let pinned = format!("{name}=={version}");
    let line = match &source {
        None => pinned,
        Some(source) => source.line(&name, &pinned),
    };
    Found {
        path: path.to_path_buf(),
        name,
        version,
        line,
        source,
        installer: None,
    }
}
