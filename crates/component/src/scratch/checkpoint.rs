//! Checkpoints: finding the newest complete one, restoring it, and tidying up.
//!
//! The driver's `htmap` module writes them (a manifest makes a generation complete). HTCondor
//! merges every eviction's files into SPOOL and never prunes there, so files of several
//! generations may lie in one directory: the manifest says which count.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::hex::hex;
use crate::names;
use crate::scratch::Scratch;

#[derive(Debug, Deserialize)]
struct Manifest {
    generation: u64,
    files: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    File { size: u64, sha256: String },
    Link { link: PathBuf },
    Directory { directory: bool },
}

const DIRECTORIES: [&str; 3] = [
    names::CHECKPOINT_CURRENT,
    names::CHECKPOINT_PREP,
    names::CHECKPOINT_OLD,
];

/// Brings the newest complete checkpoint back into the scratch directory.
///
/// The checkpoint itself ends up in `_htmap_transfer/`, whole: a second eviction must not lose
/// it, so files are copied out. Returns the paths of what was restored.
pub(crate) fn restore(scratch: &Scratch) -> Result<Vec<PathBuf>, Error> {
    let Some(chosen) = newest(scratch) else {
        return Ok(Vec::new());
    };
    let place = scratch.transfer().join(names::CHECKPOINT_CURRENT);
    let error = |source| Error::Io {
        action: "restore the checkpoint from",
        path: place.clone(),
        source,
    };
    if chosen.directory != place {
        let aside = scratch.transfer().join(names::CHECKPOINT_OLD);
        if place.exists() {
            remove(&aside).map_err(error)?;
            fs::rename(&place, &aside).map_err(error)?;
        }
        fs::rename(&chosen.directory, &place).map_err(error)?;
    }
    for directory in candidates(scratch) {
        if directory != place {
            remove(&directory).map_err(error)?;
        }
    }
    for relative in &chosen.files {
        if is_contract(scratch, relative) {
            tracing::warn!(
                "`{}` in the checkpoint is not restored: htmap-exec needs that name",
                relative.display()
            );
            continue;
        }
        bring_out(&place.join(relative), &scratch.root().join(relative)).map_err(error)?;
    }
    Ok(chosen.files)
}

/// After Python ended before its result stood: one complete checkpoint, and nothing half-written.
pub(crate) fn tidy(scratch: &Scratch) -> Result<(), Error> {
    let transfer = scratch.transfer();
    let place = transfer.join(names::CHECKPOINT_CURRENT);
    let error = |source| Error::Io {
        action: "tidy the checkpoint in",
        path: transfer.clone(),
        source,
    };
    if candidates(scratch)
        .iter()
        .all(|directory| *directory == place)
    {
        return Ok(());
    }
    let Some(chosen) = newest(scratch) else {
        return remove(&transfer.join(names::CHECKPOINT_PREP)).map_err(error);
    };
    if chosen.directory != place {
        remove(&place).map_err(error)?;
        fs::rename(&chosen.directory, &place).map_err(error)?;
    }
    for name in [names::CHECKPOINT_PREP, names::CHECKPOINT_OLD] {
        remove(&transfer.join(name)).map_err(error)?;
    }
    Ok(())
}

/// Once the output stands: nothing of a checkpoint may land in the map's `output_files`.
pub(crate) fn drop_all(scratch: &Scratch) -> Result<(), Error> {
    for directory in candidates(scratch) {
        remove(&directory).map_err(Error::io("remove the checkpoint", &directory))?;
    }
    Ok(())
}

struct Chosen {
    directory: PathBuf,
    files: Vec<PathBuf>,
}

fn candidates(scratch: &Scratch) -> Vec<PathBuf> {
    [scratch.transfer(), scratch.root().to_path_buf()]
        .iter()
        .flat_map(|parent| DIRECTORIES.map(|name| parent.join(name)))
        .filter(|directory| directory.symlink_metadata().is_ok())
        .collect()
}

/// The complete generation with the highest number; else, in HTMap's own layout (files without a
/// manifest), the current one before the old one if it holds anything.
fn newest(scratch: &Scratch) -> Option<Chosen> {
    let directories = candidates(scratch);
    let complete = directories
        .iter()
        .filter_map(|directory| {
            let manifest = read_manifest(directory)?;
            let damaged = manifest.files.iter().find(|(path, entry)| !is_sound(directory, path, entry));
            if let Some((path, _)) = damaged {
                tracing::warn!(
                    "generation {} of the checkpoint in `{}` is passed over: `{}` is missing or damaged",
                    manifest.generation, directory.display(), path.display()
                );
                return None;
            }
            Some((manifest, directory))
        })
        .max_by_key(|(manifest, _)| manifest.generation);
    if let Some((manifest, directory)) = complete {
        let files = manifest.files.into_keys().collect();
        return Some(Chosen {
            directory: directory.clone(),
            files,
        });
    }
    directories
        .iter()
        .filter(|directory| !directory.ends_with(names::CHECKPOINT_PREP))
        .filter(|directory| !directory.join(names::CHECKPOINT_MANIFEST).exists())
        .find_map(|directory| {
            let files: Vec<PathBuf> = walkdir::WalkDir::new(directory)
                .min_depth(1)
                .into_iter()
                .filter_map(Result::ok)
                .filter(|entry| !entry.file_type().is_dir())
                .filter_map(|entry| Some(entry.path().strip_prefix(directory).ok()?.to_path_buf()))
                .collect();
            (!files.is_empty()).then(|| Chosen {
                directory: directory.clone(),
                files,
            })
        })
}

fn read_manifest(directory: &Path) -> Option<Manifest> {
    let file = File::open(directory.join(names::CHECKPOINT_MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_reader(io::BufReader::new(file)).ok()?;
    let inside = |path: &PathBuf| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_)))
    };
    manifest.files.keys().all(inside).then_some(manifest)
}

fn is_sound(directory: &Path, relative: &Path, entry: &Entry) -> bool {
    let path = directory.join(relative);
    match entry {
        Entry::Directory { directory } => *directory && path.is_dir(),
        // HTCondor's transfer may bring back what a link pointed to in its place.
        Entry::Link { link } => fs::read_link(&path).map_or(path.exists(), |found| found == *link),
        Entry::File { size, sha256 } => {
            path.symlink_metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == *size)
                && digest(&path).is_ok_and(|found| found == *sha256)
        }
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            size => hasher.update(&buffer[..size]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn is_contract(scratch: &Scratch, relative: &Path) -> bool {
    let path = scratch.root().join(relative);
    path == scratch.function()
        || path == scratch.input()
        || relative.starts_with(names::TRANSFER_DIR)
        || relative.starts_with(names::USER_TRANSFER_DIR)
        || relative == Path::new(names::CHECKPOINT_MANIFEST)
}

/// Never by a hard link: the function writes to its files, and the checkpoint must stay as it is.
/// `fs::copy` makes a reflink where the file system has them (`copy_file_range`).
fn bring_out(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    if metadata.is_dir() {
        return fs::create_dir_all(to);
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if to.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
        fs::remove_file(to)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    fs::copy(from, to)?;
    // Programs compare times of checkpoint files; a copy has the time of copying.
    if let Ok(modified) = metadata.modified() {
        File::options()
            .write(true)
            .open(to)
            .and_then(|file| file.set_modified(modified))
            .ok();
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(directory: &Path) -> Scratch {
        Scratch::prepare(directory, 0).unwrap()
    }

    fn generation(directory: &Path, number: u64, content: &str) {
        fs::create_dir_all(directory.join("d")).unwrap();
        fs::write(directory.join("d/state"), content).unwrap();
        let sha256 = digest(&directory.join("d/state")).unwrap();
        let size = content.len();
        fs::write(
            directory.join(names::CHECKPOINT_MANIFEST),
            format!(
                r#"{{"version": 1, "generation": {number}, "files": {{"d/state": {{"size": {size}, "sha256": "{sha256}"}}}}}}"#
            ),
        )
        .unwrap();
    }

    #[test]
    fn the_newest_complete_generation_wins_wherever_it_lies() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let scratch = scratch(root);
        generation(&root.join(names::CHECKPOINT_CURRENT), 2, "two");
        generation(&root.join(names::CHECKPOINT_OLD), 1, "one");
        generation(&scratch.transfer().join(names::CHECKPOINT_PREP), 3, "three");
        assert_eq!(restore(&scratch).unwrap(), [PathBuf::from("d/state")]);
        assert_eq!(fs::read_to_string(root.join("d/state")).unwrap(), "three");
        // What was restored may change without the checkpoint.
        fs::write(root.join("d/state"), "changed").unwrap();
        let kept = scratch.transfer().join(names::CHECKPOINT_CURRENT);
        assert_eq!(fs::read_to_string(kept.join("d/state")).unwrap(), "three");
        assert_eq!(candidates(&scratch), [kept]);
    }

    #[test]
    fn a_damaged_generation_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let scratch = scratch(root);
        let current = root.join(names::CHECKPOINT_CURRENT);
        generation(&current, 2, "two");
        fs::write(current.join("d/state"), "tw").unwrap();
        generation(&root.join(names::CHECKPOINT_OLD), 1, "one");
        restore(&scratch).unwrap();
        assert_eq!(fs::read_to_string(root.join("d/state")).unwrap(), "one");
    }

    #[test]
    fn htmaps_own_layout_is_restored() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let scratch = scratch(root);
        // An eviction during HTMap's first copy leaves the current one empty.
        fs::create_dir(root.join(names::CHECKPOINT_CURRENT)).unwrap();
        fs::create_dir(root.join(names::CHECKPOINT_OLD)).unwrap();
        fs::write(root.join(names::CHECKPOINT_OLD).join("state"), "old").unwrap();
        restore(&scratch).unwrap();
        assert_eq!(fs::read_to_string(root.join("state")).unwrap(), "old");
    }

    #[test]
    fn a_manifest_cannot_lead_outside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let scratch = scratch(root);
        let current = root.join(names::CHECKPOINT_CURRENT);
        fs::create_dir(&current).unwrap();
        fs::write(
            current.join(names::CHECKPOINT_MANIFEST),
            r#"{"generation": 9, "files": {"../../evil": {"directory": true}}}"#,
        )
        .unwrap();
        assert!(restore(&scratch).unwrap().is_empty());
    }

    #[test]
    fn tidying_leaves_one_complete_generation() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = scratch(directory.path());
        let transfer = scratch.transfer();
        generation(&transfer.join(names::CHECKPOINT_OLD), 4, "four");
        generation(&transfer.join(names::CHECKPOINT_PREP), 5, "five");
        tidy(&scratch).unwrap();
        let kept = transfer.join(names::CHECKPOINT_CURRENT);
        assert_eq!(fs::read_to_string(kept.join("d/state")).unwrap(), "five");
        assert_eq!(candidates(&scratch), std::slice::from_ref(&kept));
        // Half a generation does not replace it.
        fs::create_dir(transfer.join(names::CHECKPOINT_PREP)).unwrap();
        tidy(&scratch).unwrap();
        assert_eq!(candidates(&scratch), [kept]);
    }
}
