//! The user's own input files: those of `--input`, and those that HTMap's submit description names.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use htmap_exec_component::names;
use serde_json::Value;

use super::files;
use super::map::Map;

/// Of the files that HTMap writes about a map.
const LARGEST: u64 = 1 << 30;

pub(super) struct Inputs {
    /// For every component, with the name that each has in the scratch directory.
    fixed: Vec<(PathBuf, PathBuf)>,
    /// As HTMap wrote them: the list for all, and what is put in the place of its last entry.
    listed: Vec<String>,
    extra: HashMap<u64, String>,
}

impl Inputs {
    pub(super) fn of(map: &Map, named: &[PathBuf]) -> anyhow::Result<Self> {
        let mut fixed: Vec<(PathBuf, PathBuf)> = Vec::new();
        let scratches = std::env::temp_dir();
        let scratches = scratches.canonicalize().unwrap_or(scratches);
        for path in named {
            let absolute = std::path::absolute(path)?;
            let real = absolute
                .canonicalize()
                .with_context(|| format!("cannot bring the input `{}`", path.display()))?;
            // `..` has no name, what it leads to has one.
            let name = absolute.file_name().or(real.file_name());
            let Some(name) = name.map(PathBuf::from) else {
                bail!("`{}` has no name: it cannot be brought", path.display());
            };
            if is_ours(&name) {
                bail!(
                    "the input `{}` has a name that HTMap needs\nhint: rename it",
                    path.display()
                );
            }
            if let Some((other, _)) = fixed.iter().find(|(_, other)| *other == name) {
                bail!(
                    "`{}` and `{}` would arrive under one name\nhint: put them into directories, and bring these",
                    other.display(),
                    path.display()
                );
            }
            let metadata = real.metadata()?;
            if !metadata.is_dir() && !metadata.is_file() {
                bail!(
                    "the input `{}` is neither a file nor a directory",
                    path.display()
                );
            }
            if scratches.starts_with(&real) {
                bail!(
                    "the input `{}` holds the scratch directories, in `{}`\nhint: name what the function needs of it, or another TMPDIR",
                    path.display(),
                    scratches.display()
                );
            }
            fixed.push((real, name));
        }
        Ok(Self {
            fixed,
            listed: listed(map),
            extra: extra(map),
        })
    }

    /// Copies those of a component, as HTCondor would. What the map names and is not there is said, since the map may
    /// come from elsewhere; the function may not need it.
    pub(super) fn bring(&self, component: u64, scratch: &Path) -> io::Result<Vec<String>> {
        let mut notes = Vec::new();
        for (from, name) in &self.fixed {
            files::copy(from, &scratch.join(name)).map_err(|error| {
                let text = format!("cannot bring the input `{}`: {error}", from.display());
                io::Error::new(error.kind(), text)
            })?;
        }
        for entry in self.named(component) {
            if entry.contains("://") {
                notes.push(format!("the input `{entry}` is not fetched here"));
            } else if let Err(error) = bring_listed(&entry, scratch) {
                notes.push(format!("cannot bring the input `{entry}`: {error}"));
            }
        }
        Ok(notes)
    }

    fn named(&self, component: u64) -> Vec<String> {
        let mut entries = Vec::new();
        for entry in &self.listed {
            if entry == "$(extra_input_files)" {
                let extra = self.extra.get(&component).map_or("", String::as_str);
                entries.extend(split(extra));
            } else {
                entries.push(entry.replace("$(component)", &component.to_string()));
            }
        }
        entries
            .iter()
            .map(|entry| entry.replace("$(DOLLAR)", "$"))
            .collect()
    }
}

/// A directory's content where there is a slash at the end.
fn bring_listed(entry: &str, scratch: &Path) -> io::Result<()> {
    let from = Path::new(entry);
    if entry.ends_with('/') {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            bring_one(&entry.path(), scratch)?;
        }
        return Ok(());
    }
    bring_one(from, scratch)
}

fn bring_one(from: &Path, scratch: &Path) -> io::Result<()> {
    match from.file_name() {
        Some(name) if !is_ours(Path::new(name)) => files::copy(from, &scratch.join(name)),
        _ => Err(io::Error::other("it has a name that HTMap needs")),
    }
}

fn is_ours(name: &Path) -> bool {
    let text = name.to_string_lossy();
    let is_input = text
        .strip_suffix(".in")
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let is_ad = text == ".job.ad" || text == ".machine.ad";
    text == names::FUNC || is_input || is_ad || text.starts_with("_htmap")
}

/// HTMap's submit description without what is HTMap's own: everything of the map's directory, and packed Pythons.
fn listed(map: &Map) -> Vec<String> {
    let text = files::read_text(&map.directory.join("submit"), LARGEST).unwrap_or_default();
    let submit: Value = serde_json::from_str(&text).unwrap_or_default();
    let list = submit["transfer_input_files"].as_str().unwrap_or_default();
    let archive = files::read_text(&map.directory.join("transplant"), 1 << 16).unwrap_or_default();
    // HTMap wrote the directory's name as it was then; a map may have been moved since.
    let inputs = format!("/{}", "inputs/$(component).in");
    let home = split(list)
        .find_map(|entry| entry.strip_suffix(inputs.as_str()).map(str::to_owned))
        .unwrap_or_else(|| map.directory.to_string_lossy().into_owned());
    split(list)
        .filter(|entry| {
            let path = Path::new(entry);
            let packed = path.parent().and_then(Path::file_name);
            !path.starts_with(&home)
                && entry != archive.trim()
                && packed.is_none_or(|directory| directory != "transplants")
        })
        .collect()
}

fn extra(map: &Map) -> HashMap<u64, String> {
    let text = files::read_text(&map.directory.join("itemdata"), LARGEST).unwrap_or_default();
    let items: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            let component = item["component"].as_str()?.parse().ok()?;
            Some((component, item["extra_input_files"].as_str()?.to_owned()))
        })
        .collect()
}

fn split(list: &str) -> impl Iterator<Item = String> + '_ {
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
}
