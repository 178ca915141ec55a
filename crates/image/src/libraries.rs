//! Shared libraries that installed packages need and do not bring.
//!
//! Wheels bring what is not on every Linux, by rule; some leave out what "every desktop has", which no
//! slim image has. <https://peps.python.org/pep-0600/>

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use goblin::elf::Elf;

/// What Debian's slim images and the C library have. A driver's library comes from the node.
const PRESENT: [&str; 27] = [
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "libutil.so",
    "libresolv.so",
    "libnsl.so.1",
    "libcrypt.so",
    "libgcc_s.so",
    "libstdc++.so",
    "libz.so.1",
    "libbz2.so",
    "liblzma.so",
    "libssl.so.3",
    "libcrypto.so.3",
    "libuuid.so",
    "libsqlite3.so",
    "libffi.so.8",
    "libtinfo.so.6",
    "libncursesw.so.6",
    "libreadline.so.8",
    "libexpat.so.1",
    "libpython3",
    "libcuda.so",
    "libnvidia-",
];

/// What comes with a compiler or with Python itself.
const COMPILERS: [&str; 10] = [
    "ld-linux",
    "libc.so",
    "libdl.so",
    "libgcc_s.so",
    "libgfortran.so",
    "libgomp.so",
    "libm.so",
    "libpthread.so",
    "libpython3",
    "libstdc++.so",
];

/// What files of an environment need of the operating system: each library, and the first file that needs it. Those that
/// come along, and those that every image has, are left out.
pub(crate) fn needed(files: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut brought = BTreeSet::new();
    let mut needed: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        for library in needs(file) {
            needed.entry(library).or_insert_with(|| file.clone());
        }
        if let Some(name) = file.file_name() {
            brought.insert(name.to_string_lossy().into_owned());
        }
    }
    needed.retain(|library, _| {
        !brought.contains(library) && !PRESENT.iter().any(|known| library.starts_with(known))
    });
    needed
}

/// The libraries that something was linked with, as linkers name them: `libssl.so`. The compilers have their own.
pub(crate) fn linked(files: &[PathBuf]) -> BTreeSet<String> {
    files
        .iter()
        .flat_map(|file| needs(file))
        .filter_map(|library| Some(format!("{}.so", library.split_once(".so")?.0)))
        .filter(|library| !COMPILERS.iter().any(|known| library.starts_with(known)))
        .collect()
}

/// Every extension module and library below a directory.
pub(crate) fn below(directory: &Path) -> impl Iterator<Item = PathBuf> {
    walkdir::WalkDir::new(directory)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file() && is_library(entry.path()))
        .map(walkdir::DirEntry::into_path)
}

/// By its name.
pub(crate) fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.extension().is_some_and(|extension| extension == "so") || name.contains(".so.")
}

fn needs(file: &Path) -> Vec<String> {
    let Ok(bytes) = std::fs::read(file) else {
        return Vec::new();
    };
    Elf::parse(&bytes).map_or_else(
        |_| Vec::new(),
        |elf| elf.libraries.iter().map(|&name| name.to_owned()).collect(),
    )
}

/// Whether a program is started by a loader, which an image need not have.
pub fn needs_loader(program: &Path) -> bool {
    let Ok(bytes) = std::fs::read(program) else {
        return false;
    };
    Elf::parse(&bytes).is_ok_and(|elf| elf.interpreter.is_some())
}
