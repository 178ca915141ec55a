//! The driver of NVIDIA's GPUs on this node, if a function can use one.

use std::fs;
use std::path::Path;

/// Says so, in a sentence: <https://download.nvidia.com/XFree86/Linux-x86_64/535.104.05/README/>
const VERSION: &str = "proc/driver/nvidia/version";

/// Its version; nothing where there is no GPU for this job, or where somebody leads to another driver
/// by `LD_LIBRARY_PATH`, as NVIDIA's `cuda-compat` wants it.
pub(super) fn driver(root: &Path) -> Option<String> {
    let hidden = std::env::var_os("CUDA_VISIBLE_DEVICES")
        .is_some_and(|devices| devices.is_empty() || devices == "-1" || devices == "NoDevFiles");
    let led = std::env::var_os("LD_LIBRARY_PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("libcuda.so.1").exists())
    });
    let devices = fs::read_dir(root.join("dev")).ok()?;
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let mut names = devices.flatten().map(|entry| entry.file_name());
    let has_gpu = names.any(|name| name.to_str().is_some_and(is_gpu));
    if hidden || led || !has_gpu {
        return None;
    }
    version(&fs::read_to_string(root.join(VERSION)).ok()?)
}

pub(super) fn version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM"))?;
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    line.split_whitespace().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_both_kinds_of_driver() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n\
                      GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n";
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n";
        assert_eq!(version(closed).as_deref(), Some("535.104.05"));
        assert_eq!(version(open).as_deref(), Some("580.65.06"));
        assert_eq!(version("GCC version: 12.2.0\n"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn a_driver_without_a_gpu_is_none() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("proc/driver/nvidia")).unwrap();
        fs::write(root.join(VERSION), "NVRM version: x  450.80.02  y\n").unwrap();
        fs::create_dir(root.join("dev")).unwrap();
        for device in ["nvidiactl", "nvidia-uvm", "null"] {
            fs::write(root.join("dev").join(device), "").unwrap();
        }
        assert_eq!(driver(root), None);
        fs::write(root.join("dev/nvidia0"), "").unwrap();
        assert_eq!(driver(root).as_deref(), Some("450.80.02"));
    }
}
