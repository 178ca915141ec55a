//! What of a live Python an image has to have, and what of it stays behind.
//!
//! Installed metadata is all that is read: a requirements file would say what was asked for, not what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Distribution, Distributions, Interpreter, PythonVersion, Source};

use crate::compiled;
use crate::conda::{self, Owned, is_builders};
use crate::debian;
use crate::error::Error;
use crate::installed::Installed;
use crate::libraries;
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

/// A live Python, as an image sees it.
#[derive(Debug)]
pub struct Environment {
    /// What it says of itself.
    pub python: Interpreter,
    /// For pip.
    pub packages: Vec<Package>,
    /// For conda: addresses of packages with their digests.
    pub conda: Vec<String>,
    /// For apt.
    pub system: BTreeSet<String>,
    /// For apt as well, while pip compiles these.
    pub compiled: BTreeSet<String>,
    /// With what it does.
    pub compilers: BTreeSet<String>,
    /// Indexes that pip has to ask besides the usual one.
    pub indexes: BTreeSet<String>,
    /// What is left out although maps may need it, each in words that follow "left out:".
    pub left_out: Vec<String>,
    /// What else is to be known, a sentence each.
    pub notes: Vec<String>,
}

impl Environment {
    /// Reads what is installed; with `conda`, conda's packages as conda's.
    pub fn read(python: &Interpreter, conda: bool) -> Result<Self, Error> {
        let mut environment = Self {
            python: python.clone(),
            packages: Vec::new(),
            conda: Vec::new(),
            system: BTreeSet::new(),
            compiled: BTreeSet::new(),
            compilers: BTreeSet::new(),
            indexes: BTreeSet::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        };
        if conda {
            environment.conda = conda::lock(&python.prefix)?;
        } else if python.base_prefix.join("conda-meta").is_dir() {
            environment.notes.push(
                "what conda installed that is no Python package is left out: `--conda` takes it along"
                    .to_owned(),
            );
        }
        let owned = Owned::read(&[&python.prefix, &python.base_prefix]);
        let mut installed = Installed::default();
        let mut directories = Vec::new();
        let mut modules = Vec::new();
        for mut found in Distributions::new().installed(&python.sys_path) {
            let is_conda = owned.is_conda(&found, installed.metadata(&found).as_deref());
            let is_others = is_conda || found.source.as_ref().is_some_and(is_builders);
            if is_others {
                // Its address is one of the machine that built it.
                found.source = None;
            }
            if !(is_conda && conda) && environment.add(&found) && !is_others {
                modules.extend(environment.compile(&found, &mut installed));
            }
            if !directories.contains(&found.directory) && !is_debians(&found) {
                directories.push(found.directory);
            }
        }
        environment.note_other_directories(&directories);
        if !conda {
            // What conda brought, pip brings as wheels, with what they need.
            let mut files: Vec<PathBuf> = directories
                .iter()
                .flat_map(|directory| libraries::below(directory))
                .filter(|file| !owned.has(file))
                .collect();
            files.extend(modules.iter().cloned());
            environment.require_libraries(&libraries::needed(&files));
        }
        environment.require_headers(&libraries::linked(&modules));
        Ok(environment)
    }

    /// Replaces what is installed by what a requirements file asks for.
    pub fn require(&mut self, requirements: &str) {
        self.packages = requirements
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| Package::Requirement(line.to_owned()))
            .collect();
        self.conda.clear();
        self.indexes.clear();
        self.compiled.clear();
        self.compilers.clear();
        // Of what is not taken along now.
        self.left_out.clear();
        self.notes.clear();
    }

    /// Takes note of what pip compiles for it; returns what came of that here.
    fn compile(&mut self, found: &Distribution, installed: &mut Installed) -> Vec<PathBuf> {
        let tags = installed.tags(found);
        let is_wheel = |url: &str| {
            let path = Path::new(url.split('#').next().unwrap_or(url));
            path.extension().is_some_and(|extension| extension == "whl")
        };
        let local = found.source.as_ref().and_then(Source::local_path);
        let compiled = match &found.source {
            Some(Source::Url(url)) if is_wheel(url) => return Vec::new(),
            // From an index, as sources: it has no wheel for this Python.
            None if !compiled::is_built_here(&tags) => return Vec::new(),
            // Other indexes do not follow the rules for wheels of PyPI's.
            None if local_versions::local_part(&found.version).is_some() => return Vec::new(),
            _ => match local {
                Some(project) if project.is_dir() => compiled::by_project(&project, &tags),
                _ => compiled::by_tags(&tags),
            },
        };
        if compiled.tools.is_empty() {
            return Vec::new();
        }
        self.compiled.insert(found.canonical_name());
        self.compilers
            .extend(compiled.tools.iter().map(|&tool| tool.to_owned()));
        let mut modules = compiled.modules;
        modules.extend(installed.libraries(found));
        modules
    }

    fn require_libraries(&mut self, needed: &BTreeMap<String, PathBuf>) {
        let mut packages = debian::packages(needed.keys());
        for (library, file) in needed {
            match packages.remove(library) {
                Some(package) => {
                    self.system.insert(package);
                }
                None => self.left_out.push(format!(
                    "the library `{library}`, which `{}` needs: no Debian package of it is known here",
                    file.display()
                )),
            }
        }
    }

    fn require_headers(&mut self, linked: &BTreeSet<String>) {
        let packages = debian::packages(linked.iter());
        for library in linked {
            match packages.get(library) {
                Some(package) => {
                    self.compilers.insert(package.clone());
                }
                None => self.notes.push(format!(
                    "what is compiled in the image is linked with `{library}`, and no Debian package for that is known \
                     here: add it to those that are there while pip compiles"
                )),
            }
        }
    }

    /// Whether it goes along.
    fn add(&mut self, found: &Distribution) -> bool {
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

    /// Modules from a PYTHONPATH or a `.pth` file belong to no distribution.
    fn note_other_directories(&mut self, directories: &[PathBuf]) {
        let copied: Vec<PathBuf> = self
            .packages
            .iter()
            .filter_map(|package| match package {
                Package::Local { path, .. } => Some(path.clone()),
                Package::Requirement(_) => None,
            })
            .collect();
        for directory in &self.python.sys_path {
            let known = directories.contains(directory)
                || directory.starts_with(&self.python.prefix)
                || directory.starts_with(&self.python.base_prefix)
                || directory.starts_with("/usr/lib/python3")
                || copied.iter().any(|path| directory.starts_with(path));
            if !known && directory.is_dir() {
                self.left_out.push(format!(
                    "modules in `{}`, which is on sys.path and belongs to no package",
                    directory.display()
                ));
            }
        }
    }
}

/// Debian's packages of Python modules are not on PyPI by their versions, and the image has no use for its tools.
fn is_debians(found: &Distribution) -> bool {
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
