//! The last step of a build: the archive gets its name when it is whole, and was read back.

use std::fs;
use std::path::{Path, PathBuf};

use super::memory::Memory;
use super::pack::{Packed, pack};
use crate::archive::index::Archive;
use crate::archive::manifest::Manifest;
use crate::environment::Source;
use crate::error::Error;
use crate::store::names::{publish, publish_packages, remove_leftovers, unfinished};

/// Writes an archive into `directory`, under its name. Two at once, or a kill at any moment, leave a
/// whole archive or none.
pub fn build(
    directory: &Path,
    source: &Source,
    level: i32,
    memory: &Memory,
    progress: &(dyn Fn(u64) + Sync),
    manifest: impl FnOnce() -> Result<Manifest, Error>,
) -> Result<(PathBuf, Packed, Manifest), Error> {
    fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    remove_leftovers(directory);
    let mut made = None;
    let mut file = unfinished(directory)?;
    let packed = pack(
        || {
            let manifest = made.insert(manifest()?);
            Ok(serde_json::to_vec(manifest).expect("text and lists of text"))
        },
        &source.entries,
        &source.contents,
        &mut file,
        level,
        memory,
        progress,
    )?;
    let manifest = made.expect("it was asked for");
    // What a reader would refuse must not get a name: there are bounds that a tree may be beyond.
    if let Err(error) = Archive::open(file.path()) {
        let reason = match error {
            Error::Damaged { reason, .. } | Error::Hostile { reason, .. } => reason,
            error => return Err(error),
        };
        let path = directory.to_path_buf();
        let reason = format!("its archive would be refused: {reason}");
        return Err(Error::Unsupported { path, reason });
    }
    let path = directory.join(packed.digest.to_string());
    publish_packages(directory, &path, &manifest.packages)?;
    publish(file, &path)?;
    Ok((path, packed, manifest))
}
