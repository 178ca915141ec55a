//! A directory of archives, each named by its digest, as HTMap's `transplants` expects them: beside
//! `DIGEST` lies `DIGEST.pip`, the packages in it.
//!
//! An archive appears whole or not at all. What is still being written has a name that ends in
//! `.pip`, because HTMap takes every other file for an archive.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::archive::digest::Digest;
use crate::archive::index::Archive;
use crate::error::Error;

const UNFINISHED: &str = ".making-";

/// Before the archive itself: HTMap reads them for every archive that it finds.
pub(crate) fn publish_packages(
    directory: &Path,
    archive: &Path,
    packages: &[String],
) -> Result<(), Error> {
    let mut file = unfinished(directory)?;
    for line in packages {
        writeln!(file, "{line}").map_err(Error::io("write", file.path()))?;
    }
    publish(file, &archive.with_extension("pip"))
}

/// Locked for as long as somebody writes it.
pub(crate) fn unfinished(directory: &Path) -> Result<tempfile::NamedTempFile, Error> {
    let file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .suffix(".pip")
        .tempfile_in(directory)
        .map_err(Error::io("write into", directory))?;
    // Where there are no locks, leftovers stay.
    file.as_file().try_lock().ok();
    Ok(file)
}

/// Of builds that were killed.
pub(crate) fn remove_leftovers(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        // Between its making and its lock a file is empty, and young.
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() >= 1));
        if is_unfinished
            && is_old
            && let Ok(file) = fs::File::open(&path)
            && file.try_lock().is_ok()
        {
            fs::remove_file(&path).ok();
        }
    }
}

pub(crate) fn publish(file: tempfile::NamedTempFile, path: &Path) -> Result<(), Error> {
    // HTCondor's daemons may have to read it, and it was made for its owner alone.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file()
        .set_permissions(mode)
        .map_err(Error::io("write", path))?;
    file.as_file()
        .sync_all()
        .map_err(Error::io("write", path))?;
    file.persist(path)
        .map_err(|error| Error::io("write", path)(error.error))?;
    let directory = path.parent().unwrap_or(path);
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io("write", directory))
}

/// A file that is named like an archive, and what it holds, or why it is none.
pub type Listed = (PathBuf, Result<Archive, Error>);

/// Every archive of a directory, by name.
pub fn list(directory: &Path) -> Result<Vec<Listed>, Error> {
    let open = |path: PathBuf| {
        let opened = Archive::open(&path).map(|(archive, _)| archive);
        (path, opened)
    };
    Ok(named(directory)?.into_iter().map(open).collect())
}

/// What has the name of an archive, sorted.
fn named(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(Error::io("read", directory)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io("read", directory))?.path();
        if path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_digest)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn is_digest(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// The archive that is meant by a path, a digest, or the beginning of one.
pub fn find(directory: &Path, name: &Path) -> Result<PathBuf, Error> {
    if name.is_file() {
        return Ok(name.to_path_buf());
    }
    let wrong = |reason: String| Error::Unknown {
        name: name.to_path_buf(),
        reason,
    };
    let start = name.to_str().unwrap_or_default();
    let mut matching: Vec<PathBuf> = named(directory)?
        .into_iter()
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|digest| digest.starts_with(start))
        })
        .collect();
    match (matching.len(), start.is_empty()) {
        (1, false) => Ok(matching.remove(0)),
        (0, _) | (_, true) => Err(wrong(format!(
            "there is neither such a file nor such a digest in `{}`",
            directory.display()
        ))),
        (count, _) => {
            let names = matching
                .iter()
                .filter_map(|path| path.file_name()?.to_str());
            let names: Vec<String> = names.map(|name| format!("`{}`", &name[..16])).collect();
            Err(wrong(format!(
                "{count} archives begin so, {}: name more of the digest",
                names.join(", ")
            )))
        }
    }
}

/// Whether the archive's name is its digest; one of another name says nothing.
pub fn is_named_by(path: &Path, digest: Digest) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_none_or(|name| !is_digest(name) || name == digest.to_string())
}
