//! Whether this node can run what an archive holds: found out before anything is unpacked, and said in
//! the terms of the archive's audit instead of the loader's.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::archive::entry::Kind;
use crate::archive::index::Archive;
use crate::archive::manifest::Manifest;
use crate::node::c_library::{CLibrary, Node};
use crate::node::{gpu, libraries};
use crate::versions::is_older;

/// Why this node cannot run it, each in a sentence with what to do about it; empty if it can.
pub fn unmet(node: &Node, manifest: &Manifest) -> Vec<Unmet> {
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
    let found = &node.c_library;
    if let Some(need) = &audit.glibc {
        let missing = match found {
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
    for reason in libraries::lacking(audit, found.release()) {
        let hint = "send it to nodes with a newer system only (requirements), use a container image, or \
                    install the library into the environment, as conda's libstdcxx-ng does";
        unmet.push(Unmet { reason, hint });
    }
    if let Some(need) = &audit.gpu_driver
        && let Some(driver) = gpu::driver(Path::new("/"))
        && is_older(&driver, &need.needs)
    {
        unmet.push(Unmet {
            reason: format!(
                "`{}` needs NVIDIA's driver {} or later, and this node has {driver}",
                need.file, need.needs
            ),
            hint: "send it to nodes with newer drivers only: requirements, such as \
                   `require_gpus = DriverVersion >= 12.0`; or install packages for an older CUDA",
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
