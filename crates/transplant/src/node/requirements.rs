//! Whether this node can run what an archive holds: found out before anything is unpacked, and said in
//! the terms of the archive's audit instead of the loader's.
//!
//! The runner is static and has no C library to ask, so the node's is read from its file: every glibc
//! says its release in a sentence that it prints when it is run as a program.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::archive::entry::Kind;
use crate::archive::index::Archive;
use crate::archive::manifest::Manifest;
use crate::audit::is_older;

/// Every glibc holds this before its release, `stable` or `development` before it.
const BANNER: &[u8] = b" release version ";

/// Why this node cannot run it, each in a sentence with what to do about it; empty if it can.
pub fn unmet(manifest: &Manifest) -> Vec<Unmet> {
    let machine = std::env::consts::ARCH;
    if manifest.machine != machine {
        // Nothing else can be told from here.
        return vec![Unmet {
            reason: format!("it is for {}, and this node is {machine}", manifest.machine),
            hint: "send it to nodes of its own kind only: requirements",
        }];
    }
    let audit = &manifest.audit;
    let mut unmet = Vec::new();
    if let Some(need) = &audit.glibc {
        let found = c_library(Path::new("/"), audit.loader.as_deref());
        let missing = match &found {
            CLibrary::Glibc(version, path) if is_older(version, &need.needs) => {
                Some(format!("this node has {version} (`{}`)", path.display()))
            }
            CLibrary::Glibc(..) | CLibrary::Unknown => None,
            CLibrary::Musl(path) => Some(format!("this node has musl (`{}`)", path.display())),
            CLibrary::None => Some("this node has none".to_owned()),
        };
        if let Some(found) = missing {
            unmet.push(Unmet {
                reason: format!("`{}` needs glibc {}, and {found}", need.file, need.needs),
                hint: "send it to nodes with a newer system only (requirements), use a container image, or \
                       build it from a Python that was made for older systems; what no node needs can be \
                       left out by `htmap-exec transplant build --exclude`",
            });
        }
    }
    if let Some(need) = &audit.x86_64_level
        && x86_64_level() < need.needs
    {
        let level = x86_64_level();
        unmet.push(Unmet {
            reason: format!(
                "`{}` needs a processor of x86-64-v{}, and this node's is x86-64-v{level}",
                need.file, need.needs
            ),
            hint: "send it to nodes with newer processors only: requirements, such as \
                   TARGET.Microarch >= \"x86_64-v3\"",
        });
    }
    unmet
}

/// Something that an archive needs and this node has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// What it is.
    pub reason: String,
    /// What can be done.
    pub hint: &'static str,
}

/// A file system that is too small for an archive.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoRoom(String);

/// Why an archive does not fit into a directory's file system, before it is half full of it.
pub fn no_room(archive: &Archive, directory: &Path) -> Option<NoRoom> {
    let found = statvfs(directory).ok()?;
    let block = found.fragment_size().max(512);
    // Types differ between C libraries.
    #[allow(clippy::useless_conversion)]
    let (free, inodes, all) = (
        u64::from(found.blocks_available()).saturating_mul(block),
        u64::from(found.files_available()),
        u64::from(found.files()),
    );
    let needed = room(archive, block);
    let entries = archive.entries.len() as u64;
    if needed > free {
        return Some(NoRoom(format!(
            "it needs {} MB, and `{}` has {} MB left",
            needed.div_ceil(1_000_000),
            directory.display(),
            free / 1_000_000
        )));
    }
    // Some file systems make them as they go, and say that there are none.
    (all > 0 && entries > inodes).then(|| {
        NoRoom(format!(
            "it has {entries} files and directories, and `{}` has room for {inodes}",
            directory.display()
        ))
    })
}

/// Bytes that it takes up on a disk whose files are made of blocks of this size.
pub(crate) fn room(archive: &Archive, block: u64) -> u64 {
    archive
        .entries
        .iter()
        .map(|entry| match entry.kind {
            Kind::File(size) => size.next_multiple_of(block),
            Kind::Directory => block,
            Kind::Symlink(_) => 0,
        })
        .sum()
}

#[derive(Debug, PartialEq, Eq)]
enum CLibrary {
    Glibc(String, PathBuf),
    Musl(PathBuf),
    None,
    /// There is one, which does not say what it is: better tried than refused.
    Unknown,
}

fn c_library(root: &Path, loader: Option<&str>) -> CLibrary {
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

fn release(library: &[u8]) -> Option<String> {
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

/// Levels as the psABI defines them: <https://gitlab.com/x86-psABIs/x86-64-ABI>
#[cfg(target_arch = "x86_64")]
fn x86_64_level() -> u8 {
    macro_rules! all {
        ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let v2 = all!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3");
    let v3 = v2 && all!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe");
    let v4 = v3 && all!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    1 + u8::from(v2) + u8::from(v3) + u8::from(v4)
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_level() -> u8 {
    u8::MAX
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
