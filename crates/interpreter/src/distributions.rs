//! What a Python has installed, as `pip freeze` lists it, read from metadata alone.
//!
//! pip takes a second to import; the metadata takes a millisecond. The order of `sys.path` decides:
//! of two distributions of one name, the first is the installed one.
//! <https://packaging.python.org/en/latest/specifications/recording-installed-packages/>

mod direct_url;
mod head;
mod metadata;
mod zipped;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::version::PythonVersion;
pub use direct_url::Source;
use metadata::Found;

/// What is installed under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// As its metadata spells it.
    pub name: String,
    /// As its metadata has it.
    pub version: String,
    /// Where it came from, if not from an index.
    pub source: Option<Source>,
    /// What put it there, such as `pip`, as it says itself.
    pub installer: Option<String>,
    /// The directory of `sys.path` that it lies in.
    pub directory: PathBuf,
}

impl Distribution {
    /// The name as indexes compare it.
    pub fn canonical_name(&self) -> String {
        canonical_name(&self.name)
    }
}

/// A reader that remembers the directories it has read.
#[derive(Debug, Default)]
pub struct Distributions {
    directories: HashMap<PathBuf, Vec<Found>>,
}

impl Distributions {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads directories that will probably be asked for.
    pub fn preload(&mut self, directories: &[PathBuf]) {
        for directory in directories {
            self.read(directory);
        }
    }

    /// The lines of `pip freeze` for a Python with this `sys.path`.
    pub fn freeze(&mut self, sys_path: &[PathBuf], version: PythonVersion) -> Vec<String> {
        self.freeze_of(sys_path, version, &|_| true)
    }

    /// The same of those alone whose metadata is `wanted`, by where it lies.
    pub fn freeze_of(
        &mut self,
        sys_path: &[PathBuf],
        version: PythonVersion,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Vec<String> {
        // pip leaves out itself, and what used to come with it before Python 3.12.
        let skipped: &[&str] = if version
            >= (PythonVersion {
                major: 3,
                minor: 12,
            }) {
            &["pip"]
        } else {
            &["pip", "setuptools", "distribute", "wheel"]
        };
        let mut seen = HashSet::new();
        let mut lines: Vec<(String, String)> = Vec::new();
        for directory in sys_path {
            self.read(directory);
            for found in &self.directories[directory] {
                let canonical = canonical_name(&found.name);
                if !skipped.contains(&canonical.as_str())
                    && wanted(&found.path)
                    && seen.insert(canonical)
                {
                    lines.push((found.name.to_lowercase(), found.line.clone()));
                }
            }
        }
        lines.sort_by(|(one, _), (other, _)| one.cmp(other));
        lines
            .into_iter()
            .flat_map(|(_, line)| line.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// All that a Python with this `sys.path` has installed, by name.
    pub fn installed(&mut self, sys_path: &[PathBuf]) -> Vec<Distribution> {
        let mut seen = HashSet::new();
        let mut installed = Vec::new();
        for directory in sys_path {
            self.read(directory);
            for found in &self.directories[directory] {
                if seen.insert(canonical_name(&found.name)) {
                    installed.push(Distribution {
                        name: found.name.clone(),
                        version: found.version.clone(),
                        source: found.source.clone(),
                        installer: found.installer.clone(),
                        directory: directory.clone(),
                    });
                }
            }
        }
        installed.sort_by_key(Distribution::canonical_name);
        installed
    }

    /// The installed version of one distribution.
    pub fn version_of(&mut self, name: &str, sys_path: &[PathBuf]) -> Option<String> {
        let wanted = canonical_name(name);
        sys_path.iter().find_map(|directory| {
            self.read(directory);
            let found = &self.directories[directory];
            let found = found
                .iter()
                .find(|found| canonical_name(&found.name) == wanted)?;
            Some(found.version.clone())
        })
    }

    fn read(&mut self, directory: &Path) {
        if !self.directories.contains_key(directory) {
            self.directories
                .insert(directory.to_path_buf(), metadata::read_directory(directory));
        }
    }
}

/// PEP 503: runs of `-`, `_` and `.` are one `-`, case does not count.
pub fn canonical_name(name: &str) -> String {
    let mut canonical = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, '-' | '_' | '.') {
            if !canonical.ends_with('-') {
                canonical.push('-');
            }
        } else {
            canonical.extend(character.to_lowercase());
        }
    }
    canonical
}

/// Where a Python's distributions probably are, by the layout of its directories: right or wrong,
/// the answer of Python itself decides later.
pub fn likely_site_directories(python: &Path) -> Vec<PathBuf> {
    let Some(prefix) = python.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    let mut prefixes = vec![prefix.to_path_buf()];
    // Outside of a virtual environment, PATH may lead to links into the real prefix.
    if !prefix.join("pyvenv.cfg").is_file()
        && let Ok(real) = python.canonicalize()
        && let Some(real) = real.parent().and_then(Path::parent)
        && real != prefix
    {
        prefixes.push(real.to_path_buf());
    }
    let mut likely = Vec::new();
    for prefix in prefixes {
        for library in ["lib", "lib64", "local/lib"] {
            let Ok(entries) = fs::read_dir(prefix.join(library)) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name();
                if name
                    .to_str()
                    .is_some_and(|name| name.starts_with("python3"))
                {
                    likely.push(entry.path().join("site-packages"));
                    likely.push(entry.path().join("dist-packages"));
                }
            }
        }
    }
    likely.retain(|directory| directory.is_dir());
    likely
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: PythonVersion = PythonVersion {
        major: 3,
        minor: 11,
    };
    const NEW: PythonVersion = PythonVersion {
        major: 3,
        minor: 13,
    };

    fn install(site: &Path, name: &str, version: &str) -> PathBuf {
        let directory = site.join(format!("{name}-{version}.dist-info"));
        fs::create_dir_all(&directory).unwrap();
        let text =
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not me\n");
        fs::write(directory.join("METADATA"), text).unwrap();
        directory
    }

    fn freeze(paths: &[&Path], version: PythonVersion) -> Vec<String> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        Distributions::new().freeze(&paths, version)
    }

    #[test]
    fn lists_what_pip_lists() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        install(&first, "Zope.Interface", "5.0");
        install(&first, "attrs", "23.1.0");
        install(&first, "pip", "24.0");
        install(&first, "setuptools", "68.0");
        install(&second, "zope_interface", "4.0");
        install(&second, "numpy", "2.0");
        // Half uninstalled, and half written.
        install(&first, "~ttrs", "1");
        fs::create_dir(first.join("empty-1.0.dist-info")).unwrap();
        fs::write(
            first.join("legacy-0.5.egg-info"),
            "Metadata-Version: 1.0\nName: legacy\nVersion: 0.5\n",
        )
        .unwrap();
        let lines = freeze(&[&first, &second, Path::new("/nonexistent")], OLD);
        assert_eq!(
            lines,
            [
                "attrs==23.1.0",
                "legacy==0.5",
                "numpy==2.0",
                "Zope.Interface==5.0"
            ]
        );
        let version = Distributions::new().version_of("zope-interface", &[first.clone(), second]);
        assert_eq!(version.as_deref(), Some("5.0"));
        let lines = freeze(&[&first], NEW);
        assert_eq!(
            lines,
            [
                "attrs==23.1.0",
                "legacy==0.5",
                "setuptools==68.0",
                "Zope.Interface==5.0"
            ]
        );
    }

    #[test]
    fn shows_where_distributions_came_from() {
        let directory = tempfile::tempdir().unwrap();
        let site = directory.path();
        for (name, url) in [
            (
                "archive",
                r#"{"url": "https://example.org/a.whl", "archive_info": {"hash": "sha256=12", "hashes": {"sha256": "12"}}}"#,
            ),
            (
                "cloned",
                r#"{"url": "https://example.org/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "sub"}"#,
            ),
            (
                "editable",
                r#"{"url": "file:///nonexistent/my%20project", "dir_info": {"editable": true}}"#,
            ),
            ("local", r#"{"url": "file:///srv/project", "dir_info": {}}"#),
        ] {
            fs::write(install(site, name, "1.0").join("direct_url.json"), url).unwrap();
        }
        let lines = freeze(&[site], NEW);
        assert_eq!(
            lines,
            [
                "archive @ https://example.org/a.whl#sha256=12",
                "cloned @ git+https://example.org/r.git@abc#subdirectory=sub",
                "# Editable install with no version control (editable==1.0)",
                "-e /nonexistent/my project",
                "local @ file:///srv/project",
            ]
        );
    }

    #[test]
    fn follows_develop_links() {
        let directory = tempfile::tempdir().unwrap();
        let (site, project) = (
            directory.path().join("site"),
            directory.path().join("project"),
        );
        fs::create_dir_all(&site).unwrap();
        fs::create_dir_all(project.join("thing.egg-info")).unwrap();
        fs::write(
            project.join("thing.egg-info/PKG-INFO"),
            "Name: thing\nVersion: 2\n",
        )
        .unwrap();
        fs::write(
            site.join("thing.egg-link"),
            format!("{}\n.", project.display()),
        )
        .unwrap();
        assert_eq!(
            freeze(&[&site, &project], NEW),
            [
                "# Editable install with no version control (thing==2)".to_owned(),
                format!("-e {}", project.display())
            ]
        );
    }
}
