//! Remembers which archive an environment gave, so that packing an unchanged one is a matter of
//! looking at every file's metadata.
//!
//! Change times cannot be set back, so a file whose metadata is the same has the same content.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::Interpreter;
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::archive::Digest;
use crate::error::Error;
use crate::source;
use crate::tree::Stamp;

/// The metadata of all that [`crate::collect`] looks at, and `how` it is packed, as one digest.
pub fn fingerprint(interpreter: &Interpreter, how: &str) -> Result<Digest, Error> {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    put(env!("CARGO_PKG_VERSION").as_bytes());
    put(how.as_bytes());
    put(interpreter.full_version.as_bytes());
    for root in source::roots(interpreter) {
        put(root.as_os_str().as_bytes());
        for entry in WalkDir::new(&root).sort_by_file_name() {
            let failed = |error: walkdir::Error| {
                let path = error.path().unwrap_or(&root).to_path_buf();
                Error::io("read", &path)(error.into())
            };
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            put(entry.path().as_os_str().as_bytes());
            put(&metadata.mode().to_le_bytes());
            // Python writes new `.pyc` files into a directory; they show by themselves.
            if !metadata.is_dir() {
                put(&Stamp::of(&metadata).bytes());
            }
        }
    }
    Ok(Digest(hash.finalize().into()))
}

/// The archive in `directory` that the same environment gave before.
pub fn recall(cache: &Path, fingerprint: Digest, directory: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(cache.join(fingerprint.to_string())).ok()?;
    let path = directory.join(name.trim());
    let (archive, _) = crate::archive::Archive::open(&path).ok()?;
    crate::store::is_named_by(&path, archive.digest).then_some(path)
}

/// For the next time. A cache that cannot be written costs that time and nothing else.
pub fn remember(cache: &Path, fingerprint: Digest, digest: Digest) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let mut file = tempfile::NamedTempFile::new_in(cache)?;
    io::Write::write_all(&mut file, digest.to_string().as_bytes())?;
    file.persist(cache.join(fingerprint.to_string()))?;
    Ok(())
}
