//! Libraries by their names: which are the node's own.

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

/// Whether it is a part of NVIDIA's driver: it works with the kernel module of the same release alone.
/// <https://docs.nvidia.com/deploy/cuda-compatibility/>
pub(crate) fn is_of_driver(library: &str) -> bool {
    const PARTS: [&str; 8] = [
        "libcuda.so",
        "libcudadebugger.so",
        "libnvidia-",
        "libnvcuvid.so",
        "libnvoptix.so",
        "libGLX_nvidia.so",
        "libEGL_nvidia.so",
        "libvdpau_nvidia.so",
    ];
    PARTS.iter().any(|part| library.starts_with(part)) && library.contains(".so")
}

/// Whether it fits the node's devices and their drivers, and so must be the node's own.
pub(crate) fn is_of_node(library: &str) -> bool {
    const PARTS: [&str; 5] = ["libGL", "libEGL", "libOpenCL.so", "libvulkan.so", "libdrm"];
    is_of_driver(library) || PARTS.iter().any(|part| library.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_driver_are_told_from_what_wheels_bring() {
        for name in [
            "libcuda.so",
            "libcuda.so.1",
            "libcuda.so.535.104.05",
            "libcudadebugger.so.1",
            "libnvidia-ml.so.1",
            "libnvidia-ptxjitcompiler.so.1",
        ] {
            assert!(is_of_driver(name), "{name}");
        }
        for name in [
            "libcudart.so.12",
            "libcublas.so.12",
            "libnvJitLink.so.12",
            "libnvrtc.so.12",
            "libcudnn.so.9",
            "libnvidia-notes.txt",
        ] {
            assert!(!is_of_driver(name), "{name}");
        }
    }
}
