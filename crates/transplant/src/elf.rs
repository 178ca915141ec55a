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

/// What a program or library says of the libraries that it uses.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// The bytes to replace in its search paths, and where.
    pub(crate) patches: Vec<(u64, Vec<u8>)>,
    /// The names of the libraries.
    pub(crate) needed: Vec<String>,
    /// Where it looks for them first, as it was.
    pub(crate) search: Vec<PathBuf>,
}

/// `path` is where the file will lie below the new root, and `inside` says where a directory will.
pub(crate) fn read(
    file: &Path,
    path: &Path,
    inside: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Result<Linked, Error> {
    let bytes = fs::read(file).map_err(Error::io("read", file))?;
    let mut linked = Linked::default();
    // What cannot be parsed is somebody's data, and goes along as it is.
    let Ok(elf) = Elf::parse(&bytes) else {
        return Ok(linked);
    };
    let Some(dynamic) = &elf.dynamic else {
        return Ok(linked);
    };
    linked.needed = elf.libraries.iter().map(|&name| name.to_owned()).collect();
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
        let origin = file.parent().unwrap_or(file);
        linked.search.extend(old.split(':').map(|directory| {
            PathBuf::from(
                directory
                    .replace("${ORIGIN}", "$ORIGIN")
                    .replace("$ORIGIN", &origin.to_string_lossy()),
            )
        }));
        let new: Vec<String> = old
            .split(':')
            .map(|directory| {
                inside(Path::new(directory))
                    .map_or_else(|| directory.to_owned(), |below| relative(&below, path))
            })
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
        linked.patches.push((place, replacement));
    }
    Ok(linked)
}

/// Where in the file the dynamic strings are.
fn string_table(elf: &Elf<'_>) -> Option<u64> {
    let address = u64::try_from(elf.dynamic.as_ref()?.info.strtab).ok()?;
    elf.program_headers.iter().find_map(|header| {
        let within = address.checked_sub(header.p_vaddr)?;
        let is_there =
            header.p_type == goblin::elf::program_header::PT_LOAD && within < header.p_filesz;
        if is_there {
            header.p_offset.checked_add(within)
        } else {
            None
        }
    })
}

fn relative(below: &Path, path: &Path) -> String {
    let up = "/..".repeat(path.components().count() - 1);
    let below = String::from_utf8_lossy(below.as_os_str().as_bytes()).into_owned();
    format!("$ORIGIN{up}/{below}")
        .trim_end_matches('/')
        .to_owned()
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

/// Whether it fits the node's devices and their drivers, and so must be the node's own.
pub(crate) fn is_of_node(library: &str) -> bool {
    const PARTS: [&str; 7] = [
        "libcuda.so",
        "libnvidia-",
        "libGL",
        "libEGL",
        "libOpenCL.so",
        "libvulkan.so",
        "libdrm",
    ];
    PARTS.iter().any(|part| library.starts_with(part))
}

/// Where the loader finds a library: in the directories that the file names, or the machine's own.
pub(crate) fn find(library: &str, search: &[PathBuf]) -> Option<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let own = ["/lib", "/usr/lib"].iter().flat_map(|root| {
        [
            Path::new(root).join(&triplet),
            PathBuf::from(format!("{root}64")),
            PathBuf::from(root),
        ]
    });
    search
        .iter()
        .cloned()
        .chain(own)
        .map(|directory| directory.join(library))
        .find(|path| path.is_file())
}
