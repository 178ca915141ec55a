//! What a tree was when it was complete, and whether it still is that.
//!
//! Every directory is looked at, every compiled file, and others by sample: looking at each of tens of
//! thousands would take longer than a job should wait. So a module in Python whose bytes were changed in
//! their place may go unnoticed; one that is gone, added or replaced does not.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{PARTIAL, PassedOver, READY, TREE};
use crate::archive::entry::Kind;
use crate::archive::index::Archive;
use crate::parallel;

/// Grows when what [`Ready`] says changes.
const FORMAT: u32 = 2;
/// Files that are looked at one by one, besides programs and libraries.
const SAMPLE: usize = 256;

/// What a complete tree was.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    format: u32,
    /// The boot of this machine that saw it made.
    boot: String,
    /// The latest change of anything below, in seconds and nanoseconds.
    changed: (i64, i64),
    directories: Vec<String>,
    files: Vec<(String, u64)>,
}

/// Makes the directories read-only, so that no Python adds `.pyc` files to them, gives the tree its
/// name, and writes down what it is now.
pub(super) fn publish(entry: &Path, archive: &Archive, boot: &str) -> Result<(), PassedOver> {
    let partial = entry.join(PARTIAL);
    let tree = entry.join(TREE);
    let read_only = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555))
            .map_err(PassedOver::io("change", path))
    };
    let mut directories = vec![String::new()];
    let mut files = Vec::new();
    let count = archive.entries.len().div_ceil(SAMPLE).max(1);
    for (index, each) in archive.entries.iter().enumerate() {
        match each.kind {
            Kind::Directory => directories.push(as_text(&each.path)),
            Kind::File(_) if index % count == 0 || is_compiled(&each.path) => {
                files.push((as_text(&each.path), 0));
            }
            _ => {}
        }
    }
    for path in archive
        .entries
        .iter()
        .filter(|each| each.kind == Kind::Directory)
        .map(|each| partial.join(std::ffi::OsStr::from_bytes(&each.path)))
    {
        read_only(&path)?;
    }
    fs::rename(&partial, &tree).map_err(PassedOver::io("rename", &partial))?;
    read_only(&tree)?;
    // The renaming is a change, too, and so is every other one so far.
    let mut changed = (0, 0);
    let mut look_at = |path: &str| {
        let path = tree.join(as_path(path));
        let metadata = fs::symlink_metadata(&path).map_err(PassedOver::io("look at", &path))?;
        changed = changed.max((metadata.ctime(), metadata.ctime_nsec()));
        Ok::<_, PassedOver>(metadata.len())
    };
    for path in &directories {
        look_at(path)?;
    }
    for (path, size) in &mut files {
        // As it lies there: one that names its place has another size in the archive.
        *size = look_at(path)?;
    }
    let ready = Ready {
        format: FORMAT,
        boot: boot.to_owned(),
        changed,
        directories,
        files,
    };
    let temporary = entry.join(PARTIAL);
    let json = serde_json::to_vec(&ready).expect("text and numbers");
    fs::write(&temporary, json)
        .and_then(|()| fs::rename(&temporary, entry.join(READY)))
        .map_err(PassedOver::io("write", &entry.join(READY)))
}

/// By its name: there are few of them, and they are what brings a Python down.
fn is_compiled(path: &[u8]) -> bool {
    path.starts_with(b"bin/python") || path.windows(3).any(|part| part == b".so")
}

/// JSON holds text alone, and a path may be anything: each byte is the character of its number.
fn as_text(path: &[u8]) -> String {
    path.iter().copied().map(char::from).collect()
}

/// One that nobody wrote down so is none that is there.
fn as_path(text: &str) -> PathBuf {
    let byte = |character| u8::try_from(character).unwrap_or(0);
    OsString::from_vec(text.chars().map(byte).collect()).into()
}

/// Whether the tree is what it was, or why not.
pub(super) fn check(entry: &Path, boot: &str) -> Result<(), String> {
    let text = fs::read(entry.join(READY)).map_err(|_| "it was never complete".to_owned())?;
    let ready: Ready =
        serde_json::from_slice(&text).map_err(|_| "what it was is not readable".to_owned())?;
    if ready.format != FORMAT {
        return Err("another version of htmap-exec made it".to_owned());
    }
    if ready.boot != boot {
        return Err("it is from before the last boot".to_owned());
    }
    let tree = entry.join(TREE);
    let owner = nix::unistd::geteuid().as_raw();
    let is_same = |path: &str, size: Option<u64>| {
        fs::symlink_metadata(tree.join(as_path(path))).is_ok_and(|metadata| {
            let kind = match size {
                Some(size) => metadata.is_file() && metadata.len() == size,
                None => metadata.is_dir(),
            };
            kind && metadata.uid() == owner
                && (metadata.ctime(), metadata.ctime_nsec()) <= ready.changed
        })
    };
    let whole = parallel::map(&ready.directories, |path| is_same(path, None));
    let whole = whole.into_iter().all(|same| same);
    let sampled = ready
        .files
        .iter()
        .all(|(path, size)| is_same(path, Some(*size)));
    if whole && sampled {
        Ok(())
    } else {
        Err("something in it has changed".to_owned())
    }
}
