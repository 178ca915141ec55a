//! Whether pip compiles something while the image is built, and with which of Debian's packages.

use std::path::{Path, PathBuf};

use crate::libraries;
use crate::project;

/// For whatever is compiled.
const BASIC: [&str; 2] = ["build-essential", "pkg-config"];

/// In the files of a project: what only those name that compile something, with `-` for `_`.
const WORDS: [&str; 16] = [
    "cffi-modules",
    "cython",
    "cythonize",
    "ext-modules",
    "maturin",
    "meson-python",
    "mesonpy",
    "mypycify",
    "nanobind",
    "pybind11",
    "rust-extensions",
    "scikit-build",
    "scikit-build-core",
    "setuptools-rust",
    "skbuild",
    "tool.setuptools.ext-modules",
];

/// What is compiled from a copy of its sources.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// For apt.
    pub(crate) tools: Vec<&'static str>,
    /// What came of it here: extension modules in the project.
    pub(crate) modules: Vec<PathBuf>,
}

/// What pip needs to install a package whose wheel had these tags, from sources.
pub(crate) fn by_tags(tags: &[String]) -> Compiled {
    let is_compiled = tags.iter().any(|tag| !tag.ends_with("-any"));
    Compiled {
        tools: if is_compiled {
            BASIC.to_vec()
        } else {
            Vec::new()
        },
        modules: Vec::new(),
    }
}

/// Whether such a wheel was built on this machine: those of indexes name what they run on.
pub(crate) fn is_built_here(tags: &[String]) -> bool {
    tags.iter().any(|tag| {
        tag.rsplit('-')
            .next()
            .is_some_and(|platform| platform.starts_with("linux_"))
    })
}

/// The same for a project's directory.
pub(crate) fn by_project(project: &Path, tags: &[String]) -> Compiled {
    let mut compiled = by_tags(tags);
    let words = project::words(project);
    let mut is_compiled =
        !compiled.tools.is_empty() || words.iter().any(|word| WORDS.contains(&word.as_str()));
    let (mut fortran, mut rust) = (false, false);
    for file in project::files(project) {
        if libraries::is_library(&file) {
            is_compiled = true;
            compiled.modules.push(file);
            continue;
        }
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        fortran |= matches!(
            extension.as_ref(),
            "f" | "f77" | "f90" | "f95" | "F" | "F90"
        );
        rust |= file.ends_with("Cargo.toml");
    }
    if is_compiled {
        compiled.tools = BASIC.to_vec();
        compiled.tools.extend(fortran.then_some("gfortran"));
        compiled.tools.extend(rust.then_some("cargo"));
    }
    compiled
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tools(files: &[(&str, &str)], tag: &str) -> Vec<&'static str> {
        let project = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(project.path().join(name), text).unwrap();
        }
        by_project(project.path(), &[tag.to_owned()]).tools
    }

    #[test]
    fn what_is_compiled() {
        let (any, linux) = ("py3-none-any", "cp311-cp311-linux_x86_64");
        let setup = ("setup.py", "setup(ext_modules=[Extension('x', ['x.c'])])");
        assert!(tools(&[("setup.py", "setup()"), ("x.c", "")], any).is_empty());
        assert_eq!(tools(&[("setup.py", "setup()")], linux), BASIC);
        assert_eq!(tools(&[setup], any), BASIC);
        assert_eq!(
            tools(&[("x.cpython-311-x86_64-linux-gnu.so", "")], any),
            BASIC
        );
        assert_eq!(
            tools(&[setup, ("x.f90", ""), ("Cargo.toml", "")], any),
            ["build-essential", "pkg-config", "gfortran", "cargo"]
        );
        assert!(is_built_here(&[linux.to_owned()]));
        assert!(!is_built_here(&[
            "cp311-cp311-manylinux_2_17_x86_64".to_owned()
        ]));
    }
}
