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

use crate::archive::index::Digest;
use crate::environment::walk::Walk;
use crate::relocate::content::Stamp;

/// The metadata of all that was seen, and `how` it is packed, as one digest.
pub fn fingerprint(walk: &Walk, interpreter: &Interpreter, how: &str) -> Digest {
    let mut hash = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    put(env!("CARGO_PKG_VERSION").as_bytes());
    put(how.as_bytes());
    put(interpreter.full_version.as_bytes());
    // By which libraries are found.
    let library_path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    put(library_path.as_bytes());
    for found in walk.all() {
        put(found.path.as_os_str().as_bytes());
        put(&found.metadata.mode().to_le_bytes());
        // Python writes new `.pyc` files into a directory; they show by themselves.
        if !found.metadata.is_dir() {
            put(&Stamp::of(&found.metadata).bytes());
        }
    }
    Digest(hash.finalize().into())
}

/// The archive in `directory` that the same environment gave before.
pub fn recall(cache: &Path, fingerprint: Digest, directory: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(cache.join(fingerprint.to_string())).ok()?;
    let path = directory.join(name.trim());
    let (digest, _) = crate::archive::index::Archive::identify(&path).ok()?;
    crate::store::names::is_named_by(&path, digest).then_some(path)
}

/// For the next time. A cache that cannot be written costs that time and nothing else.
pub fn remember(cache: &Path, fingerprint: Digest, digest: Digest) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let mut file = tempfile::NamedTempFile::new_in(cache)?;
    io::Write::write_all(&mut file, digest.to_string().as_bytes())?;
    file.persist(cache.join(fingerprint.to_string()))?;
    Ok(())
}
