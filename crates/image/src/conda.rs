//! What conda says of the packages of an environment: where they are from, and which files are theirs.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Distribution, Source, regular};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Of what is said of one package, whose files may be many thousands.
const LARGEST: u64 = 64 << 20;

/// Where packages are built that are installed elsewhere: the address in their `direct_url.json` is one on the builder's
/// machine. Conda's, Spack's, those of distributions.
const BUILDERS: [&str; 7] = [
    "/feedstock_root/",
    "/croot/",
    "/conda-bld/",
    "/spack-stage/",
    "/builddir/build/",
    "/rpmbuild/BUILD/",
    "/var/tmp/portage/",
];

#[derive(Deserialize)]
struct CondaPackage {
    name: String,
    version: String,
    url: Option<String>,
    md5: Option<String>,
    sha256: Option<String>,
}

/// The lines of an explicit lock file, which conda installs without solving anything.
pub(crate) fn lock(prefix: &Path) -> Result<Vec<String>, Error> {
    let mut lines: Vec<String> = records::<CondaPackage>(prefix)?
        .into_iter()
        .map(|package| match (package.url, package.sha256, package.md5) {
            (Some(url), Some(digest), _) => format!("{url}#sha256:{digest}"),
            (Some(url), None, Some(digest)) => format!("{url}#{digest}"),
            (Some(url), None, None) => url,
            (None, ..) => format!(
                "# {} {}: nobody knows where it is from",
                package.name, package.version
            ),
        })
        .collect();
    lines.sort();
    Ok(lines)
}

/// What `conda-meta` has of each package; files that make no sense are left out.
fn records<T: DeserializeOwned>(prefix: &Path) -> Result<Vec<T>, Error> {
    let directory = prefix.join("conda-meta");
    let Ok(entries) = fs::read_dir(&directory) else {
        return Err(Error::NotConda {
            prefix: prefix.to_path_buf(),
        });
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", &directory))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = regular::read(&path, LARGEST).map_err(Error::io("read", &path))?;
        if let Ok(record) = serde_json::from_slice(&text) {
            records.push(record);
        }
    }
    Ok(records)
}

/// The files of conda's packages.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    files: HashSet<PathBuf>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    files: Vec<PathBuf>,
}

impl Owned {
    /// Of the environments at these prefixes; of any other, nothing is conda's.
    pub(crate) fn read(prefixes: &[&Path]) -> Self {
        let mut files = HashSet::new();
        for prefix in prefixes {
            for record in records::<Record>(prefix).unwrap_or_default() {
                files.extend(record.files.into_iter().map(|file| prefix.join(file)));
            }
        }
        Self { files }
    }

    /// Whether conda installed this file.
    pub(crate) fn has(&self, file: &Path) -> bool {
        self.files.contains(file)
    }

    /// Whether conda installed this distribution, which has its metadata there. pip may have replaced it since.
    pub(crate) fn is_conda(&self, found: &Distribution, metadata: Option<&Path>) -> bool {
        match found.installer.as_deref() {
            Some("conda") => true,
            // Old packages of conda's have pip's mark, or none.
            _ => {
                let is_listed = metadata.is_some_and(|metadata| {
                    self.has(metadata)
                        || ["METADATA", "PKG-INFO"]
                            .iter()
                            .any(|name| self.has(&metadata.join(name)))
                });
                is_listed && !comes_from_here(found)
            }
        }
    }
}

/// Whether what it was installed from lies on this machine.
fn comes_from_here(found: &Distribution) -> bool {
    found
        .source
        .as_ref()
        .and_then(Source::local_path)
        .is_some_and(|path| path.exists())
}

/// Whether it is an address on another machine, on which packages are built.
pub(crate) fn is_builders(source: &Source) -> bool {
    source.local_path().is_some_and(|path| {
        let text = path.to_string_lossy();
        let is_one =
            text.starts_with("/build/") || BUILDERS.iter().any(|place| text.contains(place));
        is_one && !path.exists()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conda_packages_with_their_digests() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path();
        assert!(matches!(lock(prefix), Err(Error::NotConda { .. })));
        fs::create_dir(prefix.join("conda-meta")).unwrap();
        fs::write(
            prefix.join("conda-meta/zlib-1.3-0.json"),
            r#"{"name": "zlib", "version": "1.3", "url": "https://e.org/zlib-1.3-0.conda", "md5": "12"}"#,
        )
        .unwrap();
        fs::write(prefix.join("conda-meta/history"), "").unwrap();
        assert_eq!(lock(prefix).unwrap(), ["https://e.org/zlib-1.3-0.conda#12"]);
    }
}
