//! What is in one directory.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

/// A name in a directory, and what it is; links are not followed.
pub(super) type Listed = (OsString, Metadata);

/// What is in a directory, sorted by name.
pub(super) fn listed(directory: &Path) -> io::Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) => listed.push((entry.file_name(), metadata)),
            // Gone since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    listed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(listed)
}
