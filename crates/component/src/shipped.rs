//! The cloudpickle that came along with the map, and which version it is.
//!
//! A pickle is read best by the cloudpickle that wrote it: 1.6 cannot read what 3.1 wrote. So the one that
//! was sent is used wherever the node's is another one, and where they are the same the node's is, because
//! its bytecode is there.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::names;
use crate::regular;
use crate::scratch::Scratch;

/// Where the version stands, in every release since 0.4.
const MODULE: &str = "cloudpickle/__init__.py";
/// That file has 20 lines.
const LARGEST: u64 = 64 << 10;

/// A zip archive of cloudpickle.
#[derive(Debug)]
pub(crate) struct Shipped {
    /// For `sys.path`.
    pub path: PathBuf,
    /// `cloudpickle.__version__`, if it can be read.
    pub version: Option<String>,
}

/// The one that the options name, else the one in the scratch directory.
pub(crate) fn find(scratch: &Scratch, named: Option<&Path>) -> Option<Shipped> {
    let path = scratch
        .root()
        .join(named.unwrap_or(Path::new(names::SHIPPED_CLOUDPICKLE)));
    let file = regular::open_linked(&path).ok()?;
    let version = zip::ZipArchive::new(file).ok().and_then(|mut archive| {
        let module = archive.by_name(MODULE).ok()?;
        let mut source = String::new();
        module.take(LARGEST).read_to_string(&mut source).ok()?;
        version_in(&source)
    });
    Some(Shipped { path, version })
}

/// `__version__ = '3.1.2'`
fn version_in(source: &str) -> Option<String> {
    source.lines().find_map(|line| {
        let value = line.strip_prefix("__version__")?.trim_start();
        let value = value.strip_prefix('=')?.trim();
        let inner = value.trim_matches(['\'', '"']);
        (!inner.is_empty() && inner.len() < 64).then(|| inner.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version() {
        let source = "from . import cloudpickle\n\n__version__ = \"3.1.2\"\n\n__all__ = []\n";
        assert_eq!(version_in(source).as_deref(), Some("3.1.2"));
        assert_eq!(version_in("__version__ = ''"), None);
        assert_eq!(version_in("version = '1'"), None);
    }

    #[test]
    fn what_is_no_archive_has_no_version() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::prepare(directory.path(), 0).unwrap();
        assert!(find(&scratch, None).is_none());
        std::fs::write(directory.path().join(names::SHIPPED_CLOUDPICKLE), "no zip").unwrap();
        assert_eq!(find(&scratch, None).unwrap().version, None);
    }
}
