//! Run-time search paths of programs and libraries, made to fit any place.
//!
//! A program built with `--enable-shared` names the directory of its libpython. Where that is not
//! there the loader takes the system's of the same name, and another Python runs: so the path becomes
//! relative to the program itself. It is replaced in place, which needs no other change to the file
//! as long as it does not get longer.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use goblin::elf::Elf;
use goblin::elf::dynamic::{DT_RPATH, DT_RUNPATH};

use crate::error::Error;

/// The bytes to replace, and where. `path` is where the file will lie below the new root.
pub(crate) fn relocate(
    file: &Path,
    path: &Path,
    roots: &[&PathBuf],
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let bytes = fs::read(file).map_err(Error::io("read", file))?;
    // What cannot be parsed is somebody's data, and goes along as it is.
    let Ok(elf) = Elf::parse(&bytes) else {
        return Ok(Vec::new());
    };
    let Some(dynamic) = &elf.dynamic else {
        return Ok(Vec::new());
    };
    let mut patches = Vec::new();
    for entry in &dynamic.dyns {
        if entry.d_tag != DT_RPATH && entry.d_tag != DT_RUNPATH {
            continue;
        }
        let Some(old) = usize::try_from(entry.d_val)
            .ok()
            .and_then(|at| elf.dynstrtab.get_at(at))
        else {
            continue;
        };
        let new: Vec<String> = old
            .split(':')
            .map(|directory| relative(directory, path, roots))
            .collect();
        let new = new.join(":");
        if new == old {
            continue;
        }
        let place = string_table(&elf).and_then(|table| table.checked_add(entry.d_val));
        let (Some(place), true) = (place, new.len() <= old.len()) else {
            return Err(Error::Unsupported {
                path: file.to_path_buf(),
                reason: format!(
                    "its library search path `{old}` cannot be made relative: there is no room for `{new}`"
                ),
            });
        };
        let mut replacement = new.into_bytes();
        replacement.resize(old.len(), 0);
        patches.push((place, replacement));
    }
    Ok(patches)
}

/// Where in the file the dynamic strings are.
fn string_table(elf: &Elf<'_>) -> Option<u64> {
    let address = u64::try_from(elf.dynamic.as_ref()?.info.strtab).ok()?;
    elf.program_headers.iter().find_map(|header| {
        let within = header.p_type == goblin::elf::program_header::PT_LOAD
            && (header.p_vaddr..header.p_vaddr + header.p_filesz).contains(&address);
        within.then(|| header.p_offset + (address - header.p_vaddr))
    })
}

fn relative(directory: &str, path: &Path, roots: &[&PathBuf]) -> String {
    for root in roots {
        if let Ok(below) = Path::new(directory).strip_prefix(root) {
            let up = "/..".repeat(path.components().count() - 1);
            let below = String::from_utf8_lossy(below.as_os_str().as_bytes()).into_owned();
            return format!("$ORIGIN{up}/{below}")
                .trim_end_matches('/')
                .to_owned();
        }
    }
    directory.to_owned()
}

/// The libraries that a program or library names.
pub(crate) fn needed(file: &Path) -> Result<Vec<String>, Error> {
    let bytes = fs::read(file).map_err(Error::io("read", file))?;
    Ok(Elf::parse(&bytes).map_or_else(
        |_| Vec::new(),
        |elf| elf.libraries.iter().map(|&name| name.to_owned()).collect(),
    ))
}

/// Whether it belongs to the C library, whose parts only work with each other and the node's loader.
pub(crate) fn is_of_libc(library: &str) -> bool {
    const PARTS: [&str; 11] = [
        "ld-linux",
        "libc.so",
        "libm.so",
        "libpthread.so",
        "libdl.so",
        "librt.so",
        "libutil.so",
        "libresolv.so",
        "libnsl.so",
        "libmvec.so",
        "libanl.so",
    ];
    PARTS.iter().any(|part| library.starts_with(part)) || library.starts_with("libnss_")
}

/// Where the loader of this machine finds it.
pub(crate) fn find(library: &str) -> Option<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    ["/lib", "/usr/lib"]
        .iter()
        .flat_map(|root| {
            [
                Path::new(root).join(&triplet),
                PathBuf::from(format!("{root}64")),
                PathBuf::from(root),
            ]
        })
        .map(|directory| directory.join(library))
        .find(|path| path.is_file())
}
