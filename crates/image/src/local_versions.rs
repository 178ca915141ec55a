//! Where versions with a local part come from, such as `2.1.0+cu118`: PyPI takes none.

/// Packages that PyTorch's own index has.
const TORCH: [&str; 17] = [
    "fbgemm-gpu",
    "functorch",
    "pytorch-triton",
    "pytorch-triton-rocm",
    "pytorch-triton-xpu",
    "torch",
    "torch-tensorrt",
    "torchao",
    "torchaudio",
    "torchcodec",
    "torchcsprng",
    "torchdata",
    "torchrec",
    "torchtext",
    "torchtune",
    "torchvision",
    "xformers",
];

/// The local part of a version.
pub(crate) fn local_part(version: &str) -> Option<&str> {
    version.split_once('+').map(|(_, local)| local)
}

/// The index that has this version besides the usual one. <https://pytorch.org/get-started/previous-versions/>
pub(crate) fn index(name: &str, version: &str) -> Option<String> {
    let flavour = flavour(local_part(version)?)?;
    if !TORCH.contains(&name) {
        return None;
    }
    let nightly = if version.contains(".dev") {
        "nightly/"
    } else {
        ""
    };
    Some(format!(
        "https://download.pytorch.org/whl/{nightly}{flavour}"
    ))
}

/// The directory of an index: `cpu`, `cu118`, `rocm5.4.2`, `xpu`; `cpu.cxx11.abi` has one of its own.
fn flavour(local: &str) -> Option<String> {
    let is_number = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    let first = local.split('.').next()?;
    if local == "cpu.cxx11.abi" {
        return Some("cpu-cxx11-abi".to_owned());
    }
    if matches!(first, "cpu" | "xpu") || first.strip_prefix("cu").is_some_and(is_number) {
        return Some(first.to_owned());
    }
    local
        .strip_prefix("rocm")
        .is_some_and(is_number)
        .then(|| local.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_version() {
        let whl = "https://download.pytorch.org/whl/";
        for (name, version, directory) in [
            ("torch", "2.1.0+cu118", "cu118"),
            ("torchvision", "0.16.0+cpu", "cpu"),
            ("torch", "2.0.1+cpu.cxx11.abi", "cpu-cxx11-abi"),
            ("torch", "2.0.0+cu117.with.pypi.cudnn", "cu117"),
            ("torchaudio", "2.1.0+rocm5.6", "rocm5.6"),
            ("torch", "2.5.0.dev20240801+cu124", "nightly/cu124"),
        ] {
            assert_eq!(index(name, version), Some(format!("{whl}{directory}")));
        }
        for (name, version) in [
            ("torch", "2.1.0"),
            ("torch", "2.1.0a0+git1234"),
            ("torch", "2.1.0+cu/../x"),
            ("jaxlib", "0.4.20+cuda12.cudnn89"),
        ] {
            assert_eq!(index(name, version), None);
        }
    }
}
