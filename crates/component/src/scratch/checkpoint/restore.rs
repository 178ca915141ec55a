//! Restoring: the newest generation whose every byte is right is copied out.
//!
//! Files are put together in a private directory first, and move to their places only when all of
//! them are there and sound: a generation that turns out to be damaged leaves no trace, and the
//! user's input files of the same names stay as they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::copy::{Trouble, copy, time};
use super::manifest::{self, Attributes, Digest, Entry, Manifest, Opened};
use super::{candidates, discard, free_place, kind};
use crate::failure::{Cause, Failure, Stage};
use crate::names;
use crate::scratch::Scratch;
use crate::scratch::files::{merge, relocate, remove};

/// What came out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Files and links.
    pub files: usize,
}

/// Why nothing came out. The checkpoint is where it was.
#[derive(Debug)]
pub(crate) enum NotRestored {
    /// The machine is to be given back.
    Stopped,
    /// The node did not let us.
    Failed(Box<Failure>),
}

/// The files of a generation, by path below the scratch directory.
type Files = BTreeMap<PathBuf, Entry>;

enum Content {
    Manifest(Manifest),
    /// There is a manifest that cannot be used: its files are not to be taken for anything else.
    Refused,
    /// HTMap's own layout.
    Plain,
    Unfinished,
}

/// A file that did not come out, and why.
struct Obstacle {
    path: PathBuf,
    trouble: Trouble,
}

impl Obstacle {
    fn new(path: &Path, trouble: Trouble) -> Self {
        Self {
            path: path.to_path_buf(),
            trouble,
        }
    }

    fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(path, Trouble::Failed(action, error))
    }
}

/// Brings the newest sound checkpoint back into the scratch directory.
///
/// The checkpoint itself stays, as `_htmap_transfer/_htmap_current_checkpoint`: a second eviction
/// must not lose it. `stop` is looked at between files, and between the blocks of a large one.
pub(crate) fn restore(scratch: &Scratch, stop: &AtomicBool) -> Result<Restored, NotRestored> {
    let mut found = Vec::new();
    for directory in candidates(scratch) {
        let content = inspect(&directory).map_err(|error| {
            let path = directory.join(names::CHECKPOINT_MANIFEST);
            failure(&directory, &path, "read", &error)
        })?;
        found.push((directory, content));
    }
    // Stable: with the same number, the current one comes first.
    found.sort_by_key(|(_, content)| match content {
        Content::Manifest(manifest) => (0, u64::MAX - manifest.generation),
        Content::Refused => (1, 0),
        Content::Plain => (2, 0),
        Content::Unfinished => (3, 0),
    });
    let mut passed_over = false;
    for (place, (directory, content)) in found.iter().enumerate() {
        let plain;
        let files = match content {
            Content::Manifest(manifest) => &manifest.files,
            Content::Plain => {
                plain = plain_files(directory)?;
                &plain
            }
            Content::Refused => {
                passed_over = true;
                continue;
            }
            Content::Unfinished => continue,
        };
        // HTMap leaves an empty one where it was interrupted.
        if matches!(content, Content::Plain) && files.is_empty() {
            continue;
        }
        match bring_out(scratch, directory, files, stop) {
            Ok(count) => {
                settle(scratch, &found, place)
                    .map_err(|error| failure(directory, directory, "move", &error))?;
                return Ok(Restored { files: count });
            }
            // What was copied lies in nobody's way, and the machine is wanted back.
            Err(Obstacle {
                trouble: Trouble::Stopped,
                ..
            }) => return Err(NotRestored::Stopped),
            Err(obstacle) => {
                remove(&staging(scratch)).ok();
                match obstacle.trouble {
                    Trouble::Failed(action, error) => {
                        return Err(failure(directory, &obstacle.path, action, &error));
                    }
                    Trouble::Damaged(reason) => {
                        passed_over = true;
                        tracing::warn!(
                            "the checkpoint in `{}` is passed over: `{}` is damaged: {reason}",
                            directory.display(),
                            obstacle.path.display()
                        );
                    }
                    Trouble::Stopped => {}
                }
            }
        }
    }
    if passed_over {
        tracing::warn!("no checkpoint could be used: the function begins anew");
    }
    park(scratch, &found).map_err(|(place, error)| failure(&place, &place, "move", &error))?;
    Ok(Restored::default())
}

fn staging(scratch: &Scratch) -> PathBuf {
    scratch.root().join(names::RESTORING)
}

fn inspect(directory: &Path) -> io::Result<Content> {
    Ok(match manifest::read(directory)? {
        Opened::Manifest(manifest) => Content::Manifest(manifest),
        Opened::Refused(reason) => {
            tracing::warn!(
                "the checkpoint in `{}` is passed over: its manifest cannot be used: {reason}",
                directory.display()
            );
            Content::Refused
        }
        Opened::Nothing if kind(directory) == names::CHECKPOINT_PREP => Content::Unfinished,
        Opened::Nothing => Content::Plain,
    })
}

/// What HTMap's own `checkpoint` stored.
fn plain_files(directory: &Path) -> Result<Files, NotRestored> {
    let mut files = Files::new();
    for entry in walkdir::WalkDir::new(directory).min_depth(1) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(directory).to_path_buf();
            failure(directory, &path, "read", &error.into())
        })?;
        let kind = entry.file_type();
        let described = if kind.is_file() {
            Entry::File {
                size: None,
                digest: Digest::None,
                attributes: Attributes::default(),
            }
        } else if kind.is_symlink() {
            let link = fs::read_link(entry.path())
                .map_err(|error| failure(directory, entry.path(), "read", &error))?;
            Entry::Link(link)
        } else {
            continue;
        };
        if let Ok(relative) = entry.path().strip_prefix(directory) {
            files.insert(relative.to_path_buf(), described);
        }
    }
    Ok(files)
}

/// Copies the files of one generation to their places. Returns how many there are.
fn bring_out(
    scratch: &Scratch,
    directory: &Path,
    files: &Files,
    stop: &AtomicBool,
) -> Result<usize, Obstacle> {
    check_sizes(directory, files)?;
    let staging = staging(scratch);
    remove(&staging)
        .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&staging))
        .map_err(Obstacle::failed(&staging, "create"))?;
    let mut links = Vec::new();
    let mut directories = Vec::new();
    let mut count = 0;
    let mut parent = PathBuf::new();
    for (relative, entry) in files {
        if stop.load(Ordering::Relaxed) {
            return Err(Obstacle::new(relative, Trouble::Stopped));
        }
        if is_contract(scratch, relative) {
            tracing::warn!(
                "`{}` in the checkpoint is not restored: htmap-exec needs that name",
                relative.display()
            );
            continue;
        }
        let target = staging.join(relative);
        if let Some(above) = relative.parent()
            && above != parent
        {
            make_directory(&staging.join(above))
                .map_err(Obstacle::failed(relative, "make the directory of"))?;
            parent = above.to_path_buf();
        }
        match entry {
            Entry::File {
                size,
                digest,
                attributes,
            } => {
                copy(
                    &directory.join(relative),
                    &target,
                    *size,
                    digest,
                    *attributes,
                    stop,
                )
                .map_err(|trouble| Obstacle::new(relative, trouble))?;
                count += 1;
            }
            Entry::Directory(attributes) => {
                make_directory(&target).map_err(Obstacle::failed(relative, "create"))?;
                directories.push((relative, attributes));
            }
            // Last: nothing may be written through one.
            Entry::Link(link) => links.push((relative, target, link)),
        }
    }
    for (relative, target, link) in links {
        symlink(link, target).map_err(Obstacle::failed(relative, "write"))?;
        count += 1;
    }
    merge(&staging, scratch.root()).map_err(Obstacle::failed(&staging, "move"))?;
    // From the inside out: each one may take the right to write, and has a time that its entries
    // change.
    for (relative, attributes) in directories.into_iter().rev() {
        if let Err(error) = dress(&scratch.root().join(relative), attributes) {
            tracing::debug!(
                "mode or time of `{}` is not restored: {error}",
                relative.display()
            );
        }
    }
    Ok(count)
}

/// Before anything is copied: what was cut off is found out at once.
fn check_sizes(directory: &Path, files: &Files) -> Result<(), Obstacle> {
    for (relative, entry) in files {
        let Entry::File {
            size: Some(size), ..
        } = entry
        else {
            continue;
        };
        let damaged = |reason: String| Obstacle::new(relative, Trouble::Damaged(reason));
        match directory.join(relative).symlink_metadata() {
            Ok(metadata) if !metadata.is_file() => {
                return Err(damaged("it is no regular file".to_owned()));
            }
            Ok(metadata) if metadata.len() != *size => {
                let reason = format!("it has {} bytes instead of {size}", metadata.len());
                return Err(damaged(reason));
            }
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(damaged("it is missing".to_owned()));
            }
            Err(error) => return Err(Obstacle::failed(relative, "read")(error)),
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

fn dress(directory: &Path, attributes: &Attributes) -> io::Result<()> {
    if let Some(modified) = attributes.modified {
        File::open(directory)?.set_modified(time(modified))?;
    }
    if let Some(mode) = attributes.mode {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

fn is_contract(scratch: &Scratch, relative: &Path) -> bool {
    let path = scratch.root().join(relative);
    let first = relative
        .iter()
        .next()
        .unwrap_or_default()
        .as_encoded_bytes();
    path == scratch.function()
        || path == scratch.input()
        || first.starts_with(b"_htmap_")
        || first.starts_with(names::PRIVATE_PREFIX.as_bytes())
        || [&b".job.ad"[..], b".machine.ad"].contains(&first)
}

/// The generation at `chosen` becomes the current one, and what is older goes.
fn settle(scratch: &Scratch, found: &[(PathBuf, Content)], chosen: usize) -> io::Result<()> {
    let place = scratch.transfer().join(names::CHECKPOINT_CURRENT);
    let (directory, _) = &found[chosen];
    for (index, (other, content)) in found.iter().enumerate() {
        // Newer ones that are damaged, and refused ones, may still be of use to somebody.
        let replaced = match content {
            Content::Manifest(_) => index > chosen,
            Content::Plain => index != chosen,
            Content::Unfinished => true,
            Content::Refused => false,
        };
        if replaced && discard(scratch, other).is_ok() {
            continue;
        }
        if index != chosen {
            set_aside(scratch, other)?;
        }
    }
    remove(&scratch.root().join(names::DROPPED)).ok();
    if *directory == place {
        return Ok(());
    }
    relocate(directory, &place)
}

/// Without a sound generation: what there is must not be in the way of the next checkpoint.
fn park(scratch: &Scratch, found: &[(PathBuf, Content)]) -> Result<(), (PathBuf, io::Error)> {
    for (directory, content) in found {
        let done = match content {
            Content::Unfinished => discard(scratch, directory),
            Content::Plain => Ok(()),
            Content::Manifest(_) | Content::Refused => set_aside(scratch, directory),
        };
        done.map_err(|error| (directory.clone(), error))?;
    }
    Ok(())
}

/// Gives a generation a name that `htmap.checkpoint` does not use. HTCondor takes it back as well.
fn set_aside(scratch: &Scratch, directory: &Path) -> io::Result<()> {
    let transfer = scratch.transfer();
    let is_in_the_way = super::KINDS
        .iter()
        .any(|kind| directory == transfer.join(kind));
    if !is_in_the_way {
        return Ok(());
    }
    match free_place(&transfer, kind(directory)) {
        Some(place) => relocate(directory, &place),
        // Nothing is dropped because of an error.
        None => Ok(()),
    }
}

fn failure(directory: &Path, path: &Path, action: &str, error: &io::Error) -> NotRestored {
    let message = format!(
        "the checkpoint in `{}` cannot be restored: cannot {action} `{}`: {error}",
        directory.display(),
        path.display()
    );
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: ask for more with request_disk, at least twice the size of the \
             checkpoint. The checkpoint is kept"
        }
        _ => "the checkpoint is kept: run the component again, on another node",
    };
    let failure = Failure::new(Stage::RestoringCheckpoint, Cause::NodeFile, message).hint(hint);
    NotRestored::Failed(Box::new(failure))
}

#[cfg(test)]
mod tests;
