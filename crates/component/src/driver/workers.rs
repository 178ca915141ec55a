//! `import htmap` in other Pythons than the driver's: the workers of multiprocessing and loky.
//!
//! A forked worker has the driver's finder. A spawned one, and so every worker of Python 3.14's
//! forkserver, has its `sys.path` only; so the same source lies in a directory there. Nothing
//! depends on it but such an import: where it cannot be written, the run goes on.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::hex::hex;
use crate::names;
use crate::regular;
use crate::scratch::remove;

/// The module that is both of them, in a worker.
const SOURCE: &str = "_htmap_exec_worker.py";
/// What the import system finds: it gives way to the real one.
const STUB: &str = "import _htmap_exec_worker\n_htmap_exec_worker.take_place(__name__)\n";

/// Writes the directory that the driver has put on `sys.path`.
pub(crate) fn write_modules(scratch: &Path, component: u64) {
    let directory = scratch.join(names::MODULES_DIR);
    if let Err(error) = write(&directory, scratch, component) {
        tracing::debug!("no `htmap` for spawned workers: {error}");
        // Half a module is worse than none.
        remove(&directory).ok();
    }
}

fn write(directory: &Path, scratch: &Path, component: u64) -> io::Result<()> {
    remove(directory)?;
    fs::DirBuilder::new().mode(0o700).create(directory)?;
    let source = format!(
        "scratch = bytes.fromhex(\"{}\")\ncomponent = \"{component}\"\n{}\n{}",
        hex(scratch.as_os_str().as_bytes()),
        include_str!("worker.py"),
        super::HTMAP,
    );
    for (name, text) in [
        (SOURCE, source.as_str()),
        ("htmap.py", STUB),
        ("htmap_exec.py", STUB),
    ] {
        regular::create(&directory.join(name))?.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_in_its_place_goes_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let place = directory.path().join(names::MODULES_DIR);
        symlink(elsewhere.path(), &place).unwrap();
        write_modules(directory.path(), 3);
        write_modules(directory.path(), 3);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        assert_eq!(
            place.metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::read_dir(&place).unwrap().count(), 3);
        let source = fs::read_to_string(place.join(SOURCE)).unwrap();
        assert!(source.contains("component = \"3\"") && source.contains("def checkpoint("));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_no_error() {
        write_modules(Path::new("/nonexistent"), 0);
    }
}
