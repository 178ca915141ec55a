//! Checkpoints: taking over what earlier attempts left, restoring the newest sound generation, and
//! tidying up.
//!
//! The driver's `htmap` module writes them (a manifest makes a generation complete). HTCondor
//! merges every eviction's files into SPOOL and never prunes there, so several generations may lie
//! side by side. Nothing is chosen, and nothing goes, before [`restore`] has held every byte of a
//! generation against its manifest: until then all of them lie where HTCondor takes them back.

mod copy;
mod manifest;
mod restore;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use self::restore::{NotRestored, Restored, restore};

use crate::error::Error;
use crate::names;
use crate::scratch::Scratch;
use crate::scratch::files::{clear, relocate, remove};

const KINDS: [&str; 3] = [
    names::CHECKPOINT_CURRENT,
    names::CHECKPOINT_PREP,
    names::CHECKPOINT_OLD,
];
/// Generations that meet under one name, and damaged ones that are kept, get one of these.
const SUFFIXES: [&str; 3] = ["", ".1", ".2"];

/// What an earlier attempt left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Adopted {
    /// Whether there is anything to restore.
    pub found: bool,
}

/// Brings every generation to where HTCondor takes it back from, by renames only.
///
/// An eviction at any later moment loses nothing, however little of it has been restored.
pub(crate) fn adopt(scratch: &Scratch) -> Result<Adopted, Error> {
    let transfer = scratch.transfer();
    for name in all_names() {
        let path = transfer.join(name);
        clear(&path, fs::Metadata::is_dir).map_err(Error::io("remove", &path))?;
    }
    for directory in candidates_in(scratch.root()) {
        let Some(place) = free_place(&transfer, kind(&directory)) else {
            tracing::warn!(
                "`{}` stays where it is: there are too many generations of the checkpoint",
                directory.display()
            );
            continue;
        };
        relocate(&directory, &place).map_err(Error::io("move the checkpoint to", &place))?;
    }
    Ok(Adopted {
        found: !candidates(scratch).is_empty(),
    })
}

/// Before an eviction is over: what `htmap.checkpoint` did not complete need not be transferred.
///
/// Renames only: reading the content would take the time that HTCondor gives for its transfer.
pub(crate) fn tidy(scratch: &Scratch) -> Result<(), Error> {
    for directory in candidates_in(&scratch.transfer()) {
        if is_unfinished(&directory) {
            discard(scratch, &directory)
                .map_err(Error::io("tidy the checkpoint in", &directory))?;
        }
    }
    Ok(())
}

/// Once the output stands: nothing of a checkpoint may land in the map's `output_files`.
pub(crate) fn drop_all(scratch: &Scratch) -> Result<(), Error> {
    for directory in candidates(scratch) {
        discard(scratch, &directory).map_err(Error::io("remove the checkpoint", &directory))?;
    }
    // It is in nobody's way there.
    remove(&scratch.root().join(names::DROPPED)).ok();
    Ok(())
}

fn all_names() -> impl Iterator<Item = String> {
    KINDS
        .iter()
        .flat_map(|kind| SUFFIXES.map(|suffix| format!("{kind}{suffix}")))
}

fn candidates(scratch: &Scratch) -> Vec<PathBuf> {
    let mut found = candidates_in(&scratch.transfer());
    found.extend(candidates_in(scratch.root()));
    found
}

fn candidates_in(parent: &Path) -> Vec<PathBuf> {
    all_names()
        .map(|name| parent.join(name))
        .filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_dir()))
        .collect()
}

/// The name without its suffix.
fn kind(directory: &Path) -> &'static str {
    let name = directory.file_name().unwrap_or_default().as_encoded_bytes();
    KINDS
        .into_iter()
        .find(|kind| name.starts_with(kind.as_bytes()))
        .unwrap_or(names::CHECKPOINT_OLD)
}

fn free_place(transfer: &Path, kind: &str) -> Option<PathBuf> {
    SUFFIXES
        .iter()
        .map(|suffix| transfer.join(format!("{kind}{suffix}")))
        .find(|place| place.symlink_metadata().is_err())
}

/// Whether it was being written, or removed, when its Python ended.
fn is_unfinished(directory: &Path) -> bool {
    kind(directory) == names::CHECKPOINT_PREP
        && directory
            .join(names::CHECKPOINT_MANIFEST)
            .symlink_metadata()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Takes a directory out of what HTCondor takes back, at once; to remove it may take its time.
fn discard(scratch: &Scratch, directory: &Path) -> io::Result<()> {
    let bin = scratch.root().join(names::DROPPED);
    clear(&bin, fs::Metadata::is_dir)?;
    let moved = fs::create_dir_all(&bin).and_then(|()| {
        let place = (0..10_000_u32)
            .map(|number| bin.join(number.to_string()))
            .find(|place| place.symlink_metadata().is_err())
            .unwrap_or_else(|| bin.clone());
        relocate(directory, &place)
    });
    // A full disk has no room for a directory, but lets go of one.
    moved.or_else(|_| remove(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(directory: &Path, manifest: bool) {
        fs::create_dir_all(directory).unwrap();
        fs::write(
            directory.join("state"),
            directory.as_os_str().as_encoded_bytes(),
        )
        .unwrap();
        if manifest {
            fs::write(directory.join(names::CHECKPOINT_MANIFEST), "{}").unwrap();
        }
    }

    fn origin(directory: &Path) -> PathBuf {
        PathBuf::from(fs::read_to_string(directory.join("state")).unwrap())
    }

    #[test]
    fn adopting_loses_nothing_of_what_meets() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let scratch = Scratch::prepare(root, 0).unwrap();
        assert!(!adopt(&scratch).unwrap().found);
        let mut all = Vec::new();
        for parent in [root.to_path_buf(), scratch.transfer()] {
            for kind in KINDS {
                made(&parent.join(kind), true);
                all.push(parent.join(kind));
            }
        }
        assert!(adopt(&scratch).unwrap().found);
        assert!(candidates_in(root).is_empty());
        let mut found: Vec<_> = candidates_in(&scratch.transfer())
            .iter()
            .map(|place| origin(place))
            .collect();
        all.sort();
        found.sort();
        assert_eq!(found, all);
        // A second time, as after a kill: nothing moves.
        assert!(adopt(&scratch).unwrap().found);
        assert_eq!(candidates_in(&scratch.transfer()).len(), 6);
    }

    #[test]
    fn what_only_has_the_name_of_a_checkpoint_goes() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        let transfer = scratch.transfer();
        std::os::unix::fs::symlink("/", transfer.join(names::CHECKPOINT_CURRENT)).unwrap();
        fs::write(transfer.join(names::CHECKPOINT_PREP), "").unwrap();
        assert!(!adopt(&scratch).unwrap().found);
        assert_eq!(fs::read_dir(&transfer).unwrap().count(), 0);
    }

    #[test]
    fn tidying_takes_away_what_is_unfinished_only() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        let at = |kind: &str| scratch.transfer().join(kind);
        made(&at(names::CHECKPOINT_OLD), true);
        made(&at(names::CHECKPOINT_PREP), true);
        tidy(&scratch).unwrap();
        assert_eq!(candidates(&scratch).len(), 2);
        remove(&at(names::CHECKPOINT_PREP).join(names::CHECKPOINT_MANIFEST)).unwrap();
        tidy(&scratch).unwrap();
        assert_eq!(candidates(&scratch), [at(names::CHECKPOINT_OLD)]);
    }

    #[test]
    fn dropping_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        made(&scratch.transfer().join(names::CHECKPOINT_CURRENT), true);
        made(&directory.path().join(names::CHECKPOINT_OLD), true);
        drop_all(&scratch).unwrap();
        assert!(candidates(&scratch).is_empty());
        assert!(!directory.path().join(names::DROPPED).exists());
    }
}
