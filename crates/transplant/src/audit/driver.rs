//! The branch of NVIDIA's driver that packages need, where they say which CUDA they are of.
//!
//! The libraries of a major release of CUDA work with every driver since that release's first branch
//! ("minor version compatibility"), with the newest features alone left out:
//! <https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html>

use serde::Deserialize;

use crate::archive::manifest::Need;
use crate::environment::Source;
use crate::relocate::content::Content;
use crate::versions::is_older;

/// By the major release of CUDA.
const BRANCHES: [(u32, &str); 3] = [(11, "450"), (12, "525"), (13, "580")];

/// Of wheels (`nvidia-cuda-runtime-cu12`, without a suffix since CUDA 13) and of conda's packages.
const RUNTIMES: [&str; 5] = [
    "nvidia_cuda_runtime",
    "nvidia_cuda_runtime_cu11",
    "nvidia_cuda_runtime_cu12",
    "cuda-cudart",
    "cudatoolkit",
];

/// Of a file that conda installed.
#[derive(Deserialize)]
struct CondaPackage {
    name: String,
    version: String,
    #[serde(default)]
    depends: Vec<String>,
    #[serde(default)]
    constrains: Vec<String>,
}

/// The newest that any package needs. `text` reads a file.
pub(super) fn branch(source: &Source, text: &dyn Fn(Option<&Content>) -> String) -> Option<Need> {
    let mut found: Option<Need> = None;
    let mut need = |release: &str, file: &str| {
        if let Some(branch) = branch_of(release)
            && found
                .as_ref()
                .is_none_or(|known| is_older(&known.needs, branch))
        {
            found = Some(Need {
                needs: branch.to_owned(),
                file: file.to_owned(),
            });
        }
    };
    for (entry, content) in source.entries.iter().zip(&source.contents) {
        let Ok(path) = std::str::from_utf8(&entry.path) else {
            continue;
        };
        if let Some(directory) = path.strip_suffix("/METADATA") {
            let name = directory.rsplit('/').next().unwrap_or(directory);
            let name = name.strip_suffix(".dist-info").unwrap_or_default();
            if let Some((name, version)) = name.split_once('-')
                && is_runtime(name)
            {
                need(version, directory);
            }
        } else if entry.path.starts_with(b"conda-meta/") && entry.path.ends_with(b".json") {
            let Ok(package) = serde_json::from_str::<CondaPackage>(&text(content.as_ref())) else {
                continue;
            };
            if is_runtime(&package.name) {
                need(&package.version, path);
            }
            for line in package.depends.iter().chain(&package.constrains) {
                if let Some(release) = cuda_of(line) {
                    need(release, path);
                }
            }
        }
    }
    found
}

fn is_runtime(name: &str) -> bool {
    let name = name.to_lowercase();
    RUNTIMES.contains(&name.as_str()) || RUNTIMES[..3].contains(&name.replace('-', "_").as_str())
}

/// The least release in a condition on the virtual package that stands for the driver's CUDA.
/// <https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-virtual.html>
fn cuda_of(line: &str) -> Option<&str> {
    let condition = line.strip_prefix("__cuda")?.trim();
    let least = condition
        .split([',', '|'])
        .find_map(|part| part.trim().strip_prefix(">="));
    least.map(|release| release.split_whitespace().next().unwrap_or_default())
}

fn branch_of(release: &str) -> Option<&'static str> {
    let major: u32 = release.split('.').next()?.parse().ok()?;
    let mut branches = BRANCHES.iter();
    branches
        .find(|(of, _)| *of == major)
        .map(|(_, branch)| *branch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_cuda_have_branches() {
        assert_eq!(branch_of("12.4.127"), Some("525"));
        assert_eq!(branch_of("11.8"), Some("450"));
        assert_eq!(branch_of("13.0.48"), Some("580"));
        assert_eq!(branch_of("10.2"), None);
        assert_eq!(branch_of("x"), None);
    }

    #[test]
    fn packages_say_which_cuda_they_are_of() {
        assert!(is_runtime("nvidia_cuda_runtime_cu12"));
        assert!(is_runtime("nvidia-cuda-runtime"));
        assert!(!is_runtime("nvidia_cuda_nvrtc_cu12"));
        assert_eq!(cuda_of("__cuda >=12.0"), Some("12.0"));
        assert_eq!(cuda_of("__cuda  >=11.2,<13"), Some("11.2"));
        assert_eq!(cuda_of("__cuda"), None);
        assert_eq!(cuda_of("cuda-version >=12"), None);
    }
}
