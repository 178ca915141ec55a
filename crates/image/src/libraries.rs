//! Shared libraries that installed packages need and do not bring: Debian's packages of them.
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

/// Names of Debian 12; Debian 13 knows them, too.
const PACKAGES: [(&str, &str); 45] = [
    ("libGL.so.1", "libgl1"),
    ("libEGL.so.1", "libegl1"),
    ("libGLU.so.1", "libglu1-mesa"),
    ("libOpenGL.so.0", "libopengl0"),
    ("libOSMesa.so.8", "libosmesa6"),
    ("libglib-2.0.so.0", "libglib2.0-0"),
    ("libgthread-2.0.so.0", "libglib2.0-0"),
    ("libgobject-2.0.so.0", "libglib2.0-0"),
    ("libgomp.so.1", "libgomp1"),
    ("libgfortran.so.5", "libgfortran5"),
    ("libquadmath.so.0", "libquadmath0"),
    ("libatomic.so.1", "libatomic1"),
    ("libX11.so.6", "libx11-6"),
    ("libXext.so.6", "libxext6"),
    ("libXrender.so.1", "libxrender1"),
    ("libXi.so.6", "libxi6"),
    ("libXt.so.6", "libxt6"),
    ("libXcursor.so.1", "libxcursor1"),
    ("libXft.so.2", "libxft2"),
    ("libSM.so.6", "libsm6"),
    ("libICE.so.6", "libice6"),
    ("libxcb.so.1", "libxcb1"),
    ("libxkbcommon.so.0", "libxkbcommon0"),
    ("libdbus-1.so.3", "libdbus-1-3"),
    ("libfontconfig.so.1", "libfontconfig1"),
    ("libfreetype.so.6", "libfreetype6"),
    ("libcairo.so.2", "libcairo2"),
    ("libpango-1.0.so.0", "libpango-1.0-0"),
    ("libpq.so.5", "libpq5"),
    ("libmariadb.so.3", "libmariadb3"),
    ("libodbc.so.2", "libodbc2"),
    ("libcurl.so.4", "libcurl4"),
    ("libxml2.so.2", "libxml2"),
    ("libxslt.so.1", "libxslt1.1"),
    ("libsndfile.so.1", "libsndfile1"),
    ("libusb-1.0.so.0", "libusb-1.0-0"),
    ("libopenblas.so.0", "libopenblas0"),
    ("libblas.so.3", "libblas3"),
    ("liblapack.so.3", "liblapack3"),
    ("libfftw3.so.3", "libfftw3-double3"),
    ("libgsl.so.27", "libgsl27"),
    ("libmpi.so.40", "libopenmpi3"),
    ("libnuma.so.1", "libnuma1"),
    ("libtbb.so.12", "libtbb12"),
    ("libgmp.so.10", "libgmp10"),
];

/// What to install, and what nobody knows a package for: the library, and a file that needs it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) packages: BTreeSet<String>,
    pub(crate) unknown: BTreeMap<String, PathBuf>,
}

/// Reads every extension module and library below these directories, but for those that the image has not.
pub(crate) fn missing(directories: &[PathBuf], is_left_out: impl Fn(&Path) -> bool) -> Missing {
    let mut brought = BTreeSet::new();
    let mut needed: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in directories {
        for entry in walkdir::WalkDir::new(directory)
            .into_iter()
            .filter_map(Result::ok)
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type().is_file() || !is_library(&name) || is_left_out(entry.path()) {
                continue;
            }
            for library in needs(entry.path()) {
                needed
                    .entry(library)
                    .or_insert_with(|| entry.path().to_path_buf());
            }
            brought.insert(name);
        }
    }
    let mut missing = Missing::default();
    for (library, file) in needed {
        if brought.contains(&library) || PRESENT.iter().any(|known| library.starts_with(known)) {
            continue;
        }
        match PACKAGES.iter().find(|(name, _)| *name == library) {
            Some((_, package)) => {
                missing.packages.insert((*package).to_owned());
            }
            None => {
                missing.unknown.insert(library, file);
            }
        }
    }
    missing
}

fn is_library(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "so")
        || name.contains(".so.")
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
