//! What of a live Python an image has to have, and what of it stays behind.
//!
//! Installed metadata is all that is read: a requirements file would say what was asked for, not what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use htmap_exec_interpreter::{Distribution, Distributions, Interpreter, Source};

use crate::compiled;
use crate::conda::{self, Owned, is_builders};
use crate::debian;
use crate::error::Error;
use crate::installed::Installed;
use crate::libraries;
use crate::local_versions;
use crate::package::{Package, is_debians};

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
