//! What of an installed package goes into a recipe: what pip is asked for instead, or why it stays behind.

use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Distribution, PythonVersion, Source};

use crate::environment::Environment;
use crate::local_versions;

/// Only the submit side needs them, and pip is there already.
const NOT_NEEDED: [&str; 4] = ["htcondor", "htmap", "htmap-exec", "pip"];

/// What images of Pythons before 3.12 have, too, and later ones have not: their `venv` installs it no more either.
/// <https://github.com/docker-library/python/pull/954>
const ONCE_BUNDLED: [&str; 3] = ["setuptools", "wheel", "distribute"];
const NO_LONGER_BUNDLED: PythonVersion = PythonVersion {
    major: 3,
    minor: 12,
};

/// Something for pip to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Package {
    /// A line for a requirements file.
    Requirement(String),
    /// A project directory, or an archive: it is copied.
    Local {
        /// Its name on an index, if it were there.
        name: String,
        /// What is installed of it.
        version: String,
        /// Where it lies now.
        path: PathBuf,
    },
}

impl Environment {
    /// Whether it goes along.
    pub(crate) fn add(&mut self, found: &Distribution) -> bool {
        let name = found.canonical_name();
        let is_bundled = self.python.version < NO_LONGER_BUNDLED;
        if NOT_NEEDED.contains(&name.as_str())
            || is_bundled && ONCE_BUNDLED.contains(&name.as_str())
        {
            return false;
        }
        if is_debians(found) {
            self.notes.push(format!(
                "{} {} is left out: the operating system's own package, in `{}`",
                found.name,
                found.version,
                found.directory.display()
            ));
            return false;
        }
        let local = |path: &Path| Package::Local {
            name: name.clone(),
            version: found.version.clone(),
            path: path.to_path_buf(),
        };
        let package = match &found.source {
            None => self.pinned(found),
            Some(Source::Editable(path)) if is_project(path) => local(path),
            Some(Source::Editable(path)) => {
                self.left_out.push(format!(
                    "{}: its project directory `{}` has neither pyproject.toml nor setup.py",
                    found.name,
                    path.display()
                ));
                return false;
            }
            Some(source @ Source::Url(url)) => match source.local_path() {
                Some(path) if path.exists() => local(&path),
                Some(path) => {
                    self.left_out.push(format!(
                        "{} {}: `{}`, from which it was installed, is not there any more",
                        found.name,
                        found.version,
                        path.display()
                    ));
                    return false;
                }
                None if url.contains("+file://") => {
                    self.left_out.push(format!(
                        "{} {}: its repository `{url}` is on this machine alone",
                        found.name, found.version
                    ));
                    return false;
                }
                None => {
                    if url.starts_with("git+") {
                        self.system.insert("git".to_owned());
                    }
                    if url.starts_with("git+ssh:") {
                        self.notes.push(format!(
                            "{} comes from `{url}`: building the image needs ssh and a key for it",
                            found.name
                        ));
                    }
                    Package::Requirement(format!("{} @ {url}", found.name))
                }
            },
        };
        self.packages.push(package);
        true
    }

    fn pinned(&mut self, found: &Distribution) -> Package {
        let (name, version) = (&found.name, &found.version);
        match local_versions::index(&found.canonical_name(), version) {
            Some(index) => {
                self.indexes.insert(index);
            }
            None if local_versions::local_part(version).is_some() => self.notes.push(format!(
                "{name} {version} is a version that PyPI cannot have (+): add `--extra-index-url` or `--find-links` with \
                 the place that it came from to `requirements.txt`, or take the part from the + on away there"
            )),
            None => {}
        }
        Package::Requirement(format!("{name}=={version}"))
    }
}

/// Debian's packages of Python modules are not on PyPI by their versions, and the image has no use for its tools.
pub(crate) fn is_debians(found: &Distribution) -> bool {
    found.directory.ends_with("dist-packages")
        && !found.directory.starts_with("/usr/local")
        && found.installer.as_deref() != Some("pip")
}

fn is_project(path: &Path) -> bool {
    ["pyproject.toml", "setup.py", "setup.cfg"]
        .iter()
        .any(|name| path.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use htmap_exec_interpreter::Interpreter;

    use super::*;

    fn python(site: &Path) -> Interpreter {
        Interpreter {
            executable: "/usr/bin/python3".into(),
            version: PythonVersion {
                major: 3,
                minor: 11,
            },
            full_version: "3.11.7".into(),
            implementation: "CPython".into(),
            prefix: site.to_path_buf(),
            base_prefix: site.to_path_buf(),
            sys_path: vec![site.to_path_buf()],
            extension_suffix: String::new(),
            cloudpickle: None,
        }
    }

    fn install(site: &Path, name: &str, url: Option<&str>) {
        let directory = site.join(format!("{name}-1.0.dist-info"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join("METADATA"),
            format!("Name: {name}\nVersion: 1.0\n"),
        )
        .unwrap();
        if let Some(url) = url {
            fs::write(directory.join("direct_url.json"), url).unwrap();
        }
    }

    #[test]
    fn what_goes_along_and_what_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (site, project) = (
            directory.path().join("site"),
            directory.path().join("my project"),
        );
        fs::create_dir_all(&project).unwrap();
        fs::write(project.join("setup.py"), "").unwrap();
        install(&site, "numpy", None);
        install(&site, "htmap", None);
        let url = format!(
            r#"{{"url": "file://{}", "dir_info": {{"editable": true}}}}"#,
            project.display().to_string().replace(' ', "%20")
        );
        install(&site, "mine", Some(&url));
        install(
            &site,
            "gone",
            Some(r#"{"url": "file:///no/such", "dir_info": {}}"#),
        );
        install(
            &site,
            "cloned",
            Some(
                r#"{"url": "https://e.org/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}"#,
            ),
        );
        let found = Environment::read(&python(&site), false).unwrap();
        assert_eq!(
            found.packages,
            [
                Package::Requirement("cloned @ git+https://e.org/r.git@abc".into()),
                Package::Local {
                    name: "mine".into(),
                    version: "1.0".into(),
                    path: project
                },
                Package::Requirement("numpy==1.0".into()),
            ]
        );
        assert!(found.system.contains("git"));
        assert_eq!(found.left_out.len(), 1);
        assert!(found.left_out[0].starts_with("gone 1.0: `/no/such`"));
    }
}
