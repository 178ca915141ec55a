//! The node's C library, and its release.
//!
//! The runner is static and has no C library to ask, so the node's is read from its file: every glibc
//! says its release in a sentence that it prints when it is run as a program.

use std::fs;
use std::path::{Path, PathBuf};

use crate::archive::manifest::Manifest;

/// Every glibc holds this before its release, `stable` or `development` before it.
const BANNER: &[u8] = b" release version ";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CLibrary {
    Glibc(String, PathBuf),
    Musl(PathBuf),
    None,
    /// There is one, which does not say what it is: better tried than refused.
    Unknown,
}

/// What of this node decides what it can run, found out once: a C library is read to its banner.
#[derive(Debug)]
pub struct Node {
    pub(super) c_library: CLibrary,
}

impl Node {
    /// As the programs of an archive will find it.
    pub fn new(manifest: &Manifest) -> Self {
        let loader = manifest.audit.loader.as_deref();
        Self {
            c_library: c_library(Path::new("/"), loader),
        }
    }
}

/// That of a root directory, for programs that name this loader.
pub(super) fn c_library(root: &Path, loader: Option<&str>) -> CLibrary {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let loader = loader.map(below);
    // Beside the loader first: that is the one that will be loaded.
    let beside = loader
        .as_deref()
        .and_then(|loader| Some(loader.canonicalize().ok()?.parent()?.to_path_buf()));
    let places = [
        format!("/lib/{triplet}"),
        format!("/usr/lib/{triplet}"),
        "/lib64".to_owned(),
        "/usr/lib64".to_owned(),
        "/lib".to_owned(),
        "/usr/lib".to_owned(),
    ];
    let directories: Vec<PathBuf> = beside
        .into_iter()
        .chain(places.iter().map(|place| below(place)))
        .collect();
    for directory in &directories {
        let path = directory.join("libc.so.6");
        if let Ok(bytes) = fs::read(&path) {
            return release(&bytes)
                .map_or(CLibrary::Unknown, |version| CLibrary::Glibc(version, path));
        }
    }
    let musl = directories
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("ld-musl-"));
    match musl {
        Some(entry) => CLibrary::Musl(entry.path()),
        None if loader.is_some_and(|loader| loader.exists()) => CLibrary::Unknown,
        None => CLibrary::None,
    }
}

impl CLibrary {
    /// Of a glibc that says so.
    pub(super) fn release(&self) -> Option<&str> {
        match self {
            Self::Glibc(release, _) => Some(release),
            _ => None,
        }
    }
}

pub(super) fn release(library: &[u8]) -> Option<String> {
    let at = library
        .windows(BANNER.len())
        .position(|window| window == BANNER)?;
    let rest = &library[at + BANNER.len()..];
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
    let version = std::str::from_utf8(&rest[..end]).ok()?;
    Some(version.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_release_of_a_c_library() {
        let text = b"x\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nCopy";
        assert_eq!(release(text).as_deref(), Some("2.36"));
        assert_eq!(release(b"GNU C Library"), None);
    }

    #[test]
    fn every_kind_of_node_is_told_from_the_others() {
        assert!(
            matches!(c_library(Path::new("/"), None), CLibrary::Glibc(version, _) if version.starts_with("2."))
        );
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let loader = Some("/lib64/ld-linux-x86-64.so.2");
        assert_eq!(c_library(root, loader), CLibrary::None);
        fs::create_dir(root.join("lib")).unwrap();
        let musl = root.join("lib/ld-musl-x86_64.so.1");
        fs::write(&musl, "").unwrap();
        assert_eq!(c_library(root, loader), CLibrary::Musl(musl));
        // A loader and nothing that could be read beside it.
        fs::create_dir(root.join("lib64")).unwrap();
        fs::remove_file(root.join("lib/ld-musl-x86_64.so.1")).unwrap();
        fs::write(root.join("lib64/ld-linux-x86-64.so.2"), "").unwrap();
        assert_eq!(c_library(root, loader), CLibrary::Unknown);
        let old = root.join("lib64/libc.so.6");
        fs::write(&old, "GNU C Library stable release version 2.17, by").unwrap();
        let found = c_library(root, loader);
        assert!(
            matches!(&found, CLibrary::Glibc(version, _) if version == "2.17"),
            "{found:?}"
        );
    }
}
