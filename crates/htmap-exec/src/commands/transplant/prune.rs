//! `transplant prune`: removes what nothing needs any more, and never what a map does.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use htmap_exec_component::on_one_line;
use htmap_exec_transplant as transplant;
use serde_json::json;

use super::archives::discard;
use super::{cache, directory, size, text};
use crate::cli::TransplantPrune;

const DAY: u64 = 24 * 60 * 60;

/// What is to go.
struct Gone {
    path: PathBuf,
    bytes: u64,
    why: String,
}

pub(super) fn prune(options: &TransplantPrune) -> anyhow::Result<()> {
    let store = directory(options.dir.clone())?;
    let mut gone: Vec<Gone> = transplant::leftovers(&store)?
        .into_iter()
        .map(Gone::from)
        .collect();
    let mut kept = Vec::new();
    if options.keep.is_some() || options.older_than.is_some() {
        let needed = needed(&maps(options, &store))?;
        for each in archives(options, &store)? {
            match each.path.file_name().and_then(|name| needed.get(name)) {
                Some(map) => kept.push((each.path, map.clone())),
                None => gone.push(each),
            }
        }
    }
    if !options.dry_run {
        for each in &gone {
            discard(&each.path)?;
        }
    }
    // After the archives: what is remembered of those goes as well.
    if let Some(cache) = cache() {
        let mut known = vec![store];
        known.extend(directory(None));
        for each in transplant::forgotten(&cache, &known)? {
            if !options.dry_run {
                discard(&each.path)?;
            }
            gone.push(each.into());
        }
    }
    let bytes: u64 = gone.iter().map(|each| each.bytes).sum();
    let mut out = io::stdout().lock();
    if options.json {
        let removed = gone.iter().map(
            |Gone { path, bytes, why }| json!({ "path": text(path), "size": bytes, "why": why }),
        );
        let report = json!({
            "dry_run": options.dry_run,
            "removed": removed.collect::<Vec<_>>(),
            "kept": kept
                .iter()
                .map(|(path, map)| json!({ "path": text(path), "map": text(map) }))
                .collect::<Vec<_>>(),
            "size": bytes,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    let (did, all) = if options.dry_run {
        ("would remove", "could be freed")
    } else {
        ("removed", "freed")
    };
    for Gone { path, bytes, why } in &gone {
        writeln!(out, "{did} {} ({}): {why}", on_one_line(path), size(*bytes))?;
    }
    for (path, map) in &kept {
        let (path, map) = (on_one_line(path), on_one_line(map));
        writeln!(out, "kept {path}: the map `{map}` needs it")?;
    }
    writeln!(out, "{} {all}", size(bytes))?;
    Ok(())
}

impl From<transplant::Leftover> for Gone {
    fn from(leftover: transplant::Leftover) -> Self {
        Self {
            path: leftover.path,
            bytes: leftover.bytes,
            why: leftover.what.to_owned(),
        }
    }
}

/// Those that the options name, whatever needs them.
fn archives(options: &TransplantPrune, store: &Path) -> anyhow::Result<Vec<Gone>> {
    let mut found = Vec::new();
    for (path, _) in transplant::list(store)? {
        let metadata =
            fs::metadata(&path).with_context(|| format!("cannot look at `{}`", path.display()))?;
        let built = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push((built, metadata.len(), path));
    }
    found.sort_by(|one, other| other.cmp(one));
    let limit = options
        .older_than
        .map(|days| Duration::from_secs(days.saturating_mul(DAY)));
    let now = SystemTime::now();
    let found = found
        .into_iter()
        .skip(options.keep.unwrap_or(0))
        .filter_map(|(built, bytes, path)| {
            // From the future, if clocks differ: that is new.
            let age = now.duration_since(built).unwrap_or_default();
            limit.is_none_or(|limit| age > limit).then(|| Gone {
                path,
                bytes,
                why: format!("built {} ago", indicatif::HumanDuration(age)),
            })
        });
    Ok(found.collect())
}

/// Where maps may be: beside the archives, where HTMap has them, and where the options say.
fn maps(options: &TransplantPrune, store: &Path) -> Vec<PathBuf> {
    let beside = [Some(store.to_path_buf()), directory(None).ok()];
    let beside = beside.into_iter().flatten();
    let beside = beside.filter_map(|store| Some(store.parent()?.join("maps")));
    beside.chain(options.maps.iter().cloned()).collect()
}

/// Names of archives that maps were made with, and such a map. It may be run again at any time.
fn needed(maps: &[PathBuf]) -> anyhow::Result<HashMap<std::ffi::OsString, PathBuf>> {
    let mut found = HashMap::new();
    for directory in maps {
        let failed = || {
            format!(
                "cannot see which archives maps in `{}` need",
                directory.display()
            )
        };
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.with_context(failed)?,
        };
        for entry in entries {
            let map = entry.with_context(failed)?.path();
            let named = match fs::read_to_string(map.join("transplant")) {
                Ok(named) => named,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                error => error.with_context(failed)?,
            };
            // A path by another way, such as through a link, is the same archive.
            if let Some(name) = Path::new(named.trim()).file_name() {
                found.insert(name.to_owned(), map);
            }
        }
    }
    Ok(found)
}
