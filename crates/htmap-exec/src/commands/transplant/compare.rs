//! `transplant diff`: what became of an environment between two archives.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use htmap_exec_component::on_one_line;
use htmap_exec_transplant::{self as transplant, Archive, Change, Manifest};
use serde_json::{Value, json};

use super::manifest;
use crate::commands::counted;

pub(super) fn diff(
    directory: &Path,
    one: &Path,
    other: &Path,
    as_json: bool,
) -> anyhow::Result<()> {
    let one = Archive::open(&transplant::find(directory, one)?)?;
    let other = Archive::open(&transplant::find(directory, other)?)?;
    let files = transplant::difference((&one.0, &one.1), (&other.0, &other.1))?;
    let (before, now) = (manifest(&one.0)?, manifest(&other.0)?);
    let packages = packages(&before, &now);
    let python = (python(&before), python(&now));
    let mut out = io::stdout().lock();
    if as_json {
        let changed = files.changed.iter().map(|(path, change)| {
            let mut value = match change {
                Change::Kind => json!({ "what": "kind" }),
                Change::Content => json!({ "what": "content" }),
                Change::Target(from, to) => {
                    json!({ "what": "target", "from": text(from), "to": text(to) })
                }
                Change::Mode(from, to) => {
                    json!({ "what": "mode", "from": octal(*from), "to": octal(*to) })
                }
            };
            value["path"] = text(path).into();
            value
        });
        let report = json!({
            "same": one.0.digest == other.0.digest,
            "from": one.0.digest.to_string(),
            "to": other.0.digest.to_string(),
            "python": { "from": python.0, "to": python.1 },
            "packages": packages
                .iter()
                .map(|(name, (from, to))| json!({ "name": name, "from": from, "to": to }))
                .collect::<Vec<_>>(),
            "files": {
                "added": files.added.iter().map(|path| text(path)).collect::<Vec<_>>(),
                "removed": files.removed.iter().map(|path| text(path)).collect::<Vec<_>>(),
                "changed": changed.collect::<Vec<Value>>(),
            },
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    if one.0.digest == other.0.digest {
        writeln!(out, "the same")?;
        return Ok(());
    }
    if python.0 != python.1 {
        let (before, now) = (on_one_line(python.0), on_one_line(python.1));
        writeln!(out, "Python    {before} -> {now}")?;
    }
    for (name, versions) in &packages {
        let line = match versions {
            (Some(from), Some(to)) => format!("~ {name} {from} -> {to}"),
            (Some(from), None) => format!("- {name} {from}"),
            (None, Some(to)) => format!("+ {name} {to}"),
            (None, None) => continue,
        };
        writeln!(out, "package {}", on_one_line(line))?;
    }
    for path in &files.added {
        writeln!(out, "file    + {}", shown(path))?;
    }
    for path in &files.removed {
        writeln!(out, "file    - {}", shown(path))?;
    }
    for (path, change) in &files.changed {
        let path = shown(path);
        match change {
            Change::Kind => writeln!(out, "file    ~ {path}: of another kind")?,
            Change::Content => writeln!(out, "file    ~ {path}")?,
            Change::Target(from, to) => {
                writeln!(
                    out,
                    "file    ~ {path}: -> {}, was {}",
                    shown(to),
                    shown(from)
                )?;
            }
            Change::Mode(from, to) => {
                let (from, to) = (octal(*from), octal(*to));
                writeln!(out, "file    ~ {path}: mode {to}, was {from}")?;
            }
        }
    }
    let differ = if packages.len() == 1 {
        "differs"
    } else {
        "differ"
    };
    writeln!(
        out,
        "{} {differ}; files and directories: {} added, {} removed, {} changed",
        counted(packages.len(), "package"),
        files.added.len(),
        files.removed.len(),
        files.changed.len()
    )?;
    Ok(())
}

fn python(manifest: &Manifest) -> String {
    let Manifest {
        implementation,
        python_version,
        machine,
        ..
    } = manifest;
    format!("{implementation} {python_version} for {machine}")
}

type Versions = (Option<String>, Option<String>);

/// Those that are not the same, by name.
fn packages(before: &Manifest, now: &Manifest) -> BTreeMap<String, Versions> {
    let mut found: BTreeMap<String, Versions> = BTreeMap::new();
    for line in &before.packages {
        let (name, version) = package(line);
        found.entry(name).or_default().0 = Some(version);
    }
    for line in &now.packages {
        let (name, version) = package(line);
        found.entry(name).or_default().1 = Some(version);
    }
    found.retain(|_, (from, to)| from != to);
    found
}

/// A line of `pip freeze`. Editable installs are called by the whole line.
fn package(line: &str) -> (String, String) {
    let parts = line.split_once("==").or_else(|| line.split_once(" @ "));
    let (name, version) = parts.unwrap_or((line, ""));
    (name.to_owned(), version.to_owned())
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// On a terminal.
fn shown(path: &[u8]) -> String {
    on_one_line(text(path))
}

fn octal(mode: u32) -> String {
    format!("{mode:o}")
}
