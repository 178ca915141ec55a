//! Libraries by their names: which are the node's own, and where this machine's loader finds the others.

use std::path::{Path, PathBuf};

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
