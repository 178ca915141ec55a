//! Where Pythons may be: looks at the file system only, starts nothing.
//!
//! A virtual environment's `python` is a link to its base's: links are never resolved, because the
//! environment is found through the path by which Python is started (PEP 405).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where a candidate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The user named it.
    Explicit,
    /// It was brought along.
    Transplant,
    /// It was to come from an image.
    Image,
    /// The active virtual environment.
    VirtualEnv,
    /// The active conda environment.
    CondaPrefix,
    /// A directory of `PATH`.
    Path,
    /// A place where systems and images have one.
    WellKnown,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "--python",
            Self::Transplant => "--transplant",
            Self::Image => "--image",
            Self::VirtualEnv => "VIRTUAL_ENV",
            Self::CondaPrefix => "CONDA_PREFIX",
            Self::Path => "PATH",
            Self::WellKnown => "a well-known place",
        })
    }
}

/// An interpreter to be tried.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// How to start it.
    pub path: PathBuf,
    /// Why it is one.
    pub origin: Origin,
}

/// An interpreter that is none.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// How it would have been started.
    pub path: PathBuf,
    /// Why it was considered.
    pub origin: Origin,
    /// Why it was passed over.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ({}): {}",
            self.path.display(),
            self.origin,
            self.reason
        )
    }
}

/// The variables that the search looks at.
#[derive(Debug, Clone, Default)]
pub struct SearchEnvironment {
    /// `VIRTUAL_ENV`
    pub virtual_env: Option<OsString>,
    /// `CONDA_PREFIX`
    pub conda_prefix: Option<OsString>,
    /// `PATH`
    pub path: Option<OsString>,
    /// Directories to look in at last.
    pub well_known: Vec<PathBuf>,
}

const WELL_KNOWN: [&str; 8] = [
    "/usr/bin",
    "/usr/local/bin",
    "/opt/conda/bin",
    "/opt/miniconda3/bin",
    "/opt/miniforge3/bin",
    "/opt/venv/bin",
    "/usr/libexec/platform-python",
    "/bin",
];

impl SearchEnvironment {
    /// Of this process.
    pub fn from_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self {
            virtual_env: variable("VIRTUAL_ENV"),
            conda_prefix: variable("CONDA_PREFIX"),
            path: variable("PATH"),
            well_known: WELL_KNOWN.map(PathBuf::from).to_vec(),
        }
    }
}

/// What was found, in the order in which to try it.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// What can be started, as far as the file system tells.
    pub candidates: Vec<Candidate>,
    /// What was expected to be there and is not, or cannot be started.
    pub rejections: Vec<Rejection>,
    /// What can be done if none of them starts, where that is known beforehand.
    pub hints: Vec<String>,
    seen: HashSet<PathBuf>,
}

impl Search {
    /// Only this one.
    pub fn only(path: PathBuf, origin: Origin) -> Self {
        Self {
            candidates: vec![Candidate { path, origin }],
            ..Self::default()
        }
    }

    /// None, because this one is none.
    pub fn none(rejection: Rejection) -> Self {
        Self {
            rejections: vec![rejection],
            ..Self::default()
        }
    }

    /// With what can be done about it.
    #[must_use]
    pub fn with_hints(self, hints: Vec<String>) -> Self {
        Self { hints, ..self }
    }

    /// Considers a path; one that is missing counts only where it was promised.
    fn consider(&mut self, path: PathBuf, origin: Origin, promised: bool) -> bool {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let directory = directory
            .canonicalize()
            .unwrap_or_else(|_| directory.to_path_buf());
        let identity = directory.join(path.file_name().unwrap_or_default());
        let problem = problem(&path);
        if problem.is_none() || path.symlink_metadata().is_ok() {
            if !self.seen.insert(identity) {
                return false;
            }
        } else if !promised {
            return false;
        }
        match problem {
            None => self.candidates.push(Candidate { path, origin }),
            Some(reason) => {
                self.rejections.push(Rejection {
                    path,
                    origin,
                    reason,
                });
                return false;
            }
        }
        true
    }
}

fn problem(path: &Path) -> Option<String> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(_) if path.is_symlink() => {
            let target = path.read_link().unwrap_or_default();
            return Some(format!(
                "it is a link to `{}`, which is not there",
                target.display()
            ));
        }
        Err(error) => return Some(format!("there is none: {error}")),
    };
    if metadata.is_dir() {
        return Some("it is a directory".to_owned());
    }
    let executable = metadata.permissions().mode() & 0o111 != 0;
    (!executable).then(|| "it is not executable".to_owned())
}

/// `VIRTUAL_ENV`, `CONDA_PREFIX`, `PATH`, well-known places.
pub fn search(environment: &SearchEnvironment) -> Search {
    let mut search = Search::default();
    let prefixes = [
        (&environment.virtual_env, Origin::VirtualEnv),
        (&environment.conda_prefix, Origin::CondaPrefix),
    ];
    for (prefix, origin) in prefixes {
        if let Some(prefix) = prefix {
            let bin = Path::new(prefix).join("bin");
            let other = bin.join("python");
            if !search.consider(bin.join("python3"), origin, !other.exists()) {
                search.consider(other, origin, false);
            }
        }
    }
    let path: Vec<PathBuf> = environment
        .path
        .iter()
        .flat_map(|path| std::env::split_paths(path))
        .collect();
    // An empty entry means the current directory, which holds the user's input files.
    let path: Vec<PathBuf> = path
        .into_iter()
        .filter(|entry| entry.is_absolute())
        .collect();
    for (directories, origin) in [
        (&path, Origin::Path),
        (&environment.well_known, Origin::WellKnown),
    ] {
        for name in ["python3", "python"] {
            for directory in directories {
                // Red Hat's platform-python is a file in itself.
                let path = if directory.ends_with("platform-python") {
                    directory.clone()
                } else {
                    directory.join(name)
                };
                search.consider(path, origin, false);
            }
        }
        for path in versioned(directories) {
            search.consider(path, origin, false);
        }
    }
    search
}

/// `python3.13`, `python3.12`, ...: newest first.
fn versioned(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<(u8, PathBuf)> = directories
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let minor = entry
                .file_name()
                .to_str()?
                .strip_prefix("python3.")?
                .parse()
                .ok()?;
            Some((minor, entry.path()))
        })
        .collect();
    found.sort_by_key(|(minor, _)| std::cmp::Reverse(*minor));
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn executable(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn keeps_the_order_and_gives_reasons() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        executable(&root.join("usr/bin/python3.9"));
        executable(&root.join("usr/bin/python3.12"));
        symlink("python3.12", root.join("usr/bin/python3")).unwrap();
        executable(&root.join("conda/bin/python"));
        fs::create_dir_all(root.join("venv/bin")).unwrap();
        symlink("/gone/python3", root.join("venv/bin/python3")).unwrap();
        fs::create_dir_all(root.join("first")).unwrap();
        fs::write(root.join("first/python3"), "").unwrap();
        let path = std::env::join_paths([root.join("first"), "".into(), root.join("usr/bin")]);
        let found = search(&SearchEnvironment {
            virtual_env: Some(root.join("venv").into()),
            conda_prefix: Some(root.join("conda").into()),
            path: Some(path.unwrap()),
            well_known: vec![root.join("usr/bin")],
        });
        let names: Vec<String> = found
            .candidates
            .iter()
            .map(|found| found.path.strip_prefix(root).unwrap().display().to_string())
            .collect();
        assert_eq!(
            names,
            [
                "conda/bin/python",
                "usr/bin/python3",
                "usr/bin/python3.12",
                "usr/bin/python3.9"
            ]
        );
        let reasons: Vec<&str> = found
            .rejections
            .iter()
            .map(|rejection| rejection.reason.as_str())
            .collect();
        assert_eq!(
            reasons,
            [
                "it is a link to `/gone/python3`, which is not there",
                "it is not executable"
            ]
        );
    }

    #[test]
    fn an_empty_environment_is_no_error() {
        assert!(search(&SearchEnvironment::default()).candidates.is_empty());
    }
}
