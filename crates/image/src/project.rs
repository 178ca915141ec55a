//! A project's directory: copies all that its build may read into the context, and no more.
//!
//! A name alone says little, since a package may be called `build` or `venv`. So what is left behind is what cannot be
//! imported (`.git`, caches), what says itself that it is an environment or a recipe of ours, and at the top what tools
//! write there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use htmap_exec_interpreter::regular;
use walkdir::{DirEntry, WalkDir};

use crate::error::Error;
use crate::recipe::Format;

/// Of a file that says how a project is built.
const LARGEST: u64 = 1 << 20;

/// No names of packages: of version control, environments and caches.
const NEVER_IMPORTED: [&str; 12] = [
    ".git",
    ".hg",
    ".svn",
    ".tox",
    ".nox",
    ".venv",
    ".eggs",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    "__pycache__",
];

/// What tools write at the top of a project, where it is no package.
const WRITTEN_AT_THE_TOP: [&str; 3] = ["build", "dist", "node_modules"];

/// Copies it to `target`; `context` is the directory that is being written, which may lie inside the project. Returns
/// the links that lead to a directory elsewhere without a Python module in it: data, of any size.
pub(crate) fn copy(project: &Path, target: &Path, context: &Path) -> Result<Vec<PathBuf>, Error> {
    let canonical = |path: &Path| fs::canonicalize(path).map_err(Error::io("read", path));
    let root = canonical(project)?;
    let mut copier = Copier {
        context: canonical(context)?,
        inside: Vec::new(),
        left_behind: Vec::new(),
    };
    copier.copy(&root, target)?;
    Ok(copier.left_behind)
}

struct Copier {
    context: PathBuf,
    /// What is being copied: the project, and a directory for each link that was followed out of it.
    inside: Vec<PathBuf>,
    left_behind: Vec<PathBuf>,
}

impl Copier {
    fn copy(&mut self, directory: &Path, target: &Path) -> Result<(), Error> {
        let in_project = self.inside.is_empty();
        self.inside.push(directory.to_path_buf());
        let context = self.context.clone();
        let walk = WalkDir::new(directory)
            .into_iter()
            .filter_entry(|entry| entry.path() != context && is_wanted(entry, in_project));
        for entry in walk {
            let entry = entry.map_err(|error| Error::Io {
                action: "read",
                path: error.path().unwrap_or(directory).to_path_buf(),
                source: error.into(),
            })?;
            let path = entry.path();
            let to = target.join(path.strip_prefix(directory).unwrap_or(path));
            if entry.file_type().is_dir() {
                fs::create_dir_all(&to).map_err(Error::io("make", &to))?;
            } else if path.is_file() {
                fs::copy(path, &to).map_err(Error::io("copy", path))?;
            } else if path.is_dir() {
                self.follow(path, directory, &to)?;
            }
        }
        self.inside.pop();
        Ok(())
    }

    /// A link to a directory.
    fn follow(&mut self, path: &Path, directory: &Path, to: &Path) -> Result<(), Error> {
        let link = fs::read_link(path).map_err(Error::io("read", path))?;
        let real = fs::canonicalize(path).map_err(Error::io("read", path))?;
        if real.starts_with(directory) && stays_below(path, &link, directory) {
            return symlink(&link, to).map_err(Error::io("make", to));
        }
        let is_around = self.inside.iter().any(|inside| inside.starts_with(&real));
        if !is_around && has_modules(&real) {
            return self.copy(&real, to);
        }
        self.left_behind.push(path.to_path_buf());
        Ok(())
    }
}

fn is_wanted(entry: &DirEntry, in_project: bool) -> bool {
    let name = entry.file_name().to_string_lossy();
    if entry.depth() == 0 {
        return true;
    }
    if NEVER_IMPORTED.contains(&name.as_ref()) {
        return false;
    }
    let path = entry.path();
    if !entry.file_type().is_dir() {
        return true;
    }
    let is_written = in_project
        && entry.depth() == 1
        && WRITTEN_AT_THE_TOP.contains(&name.as_ref())
        && !is_package(path);
    !is_written && !is_environment(path) && !is_recipe(path)
}

/// The files that would be copied, but for those behind links.
pub(crate) fn files(project: &Path) -> impl Iterator<Item = PathBuf> {
    WalkDir::new(project)
        .into_iter()
        .filter_entry(|entry| is_wanted(entry, true))
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .map(DirEntry::into_path)
}

/// What looks like a name in the files that say how it is built, with `-` for `_`; one in a comment, too.
pub(crate) fn words(project: &Path) -> Vec<String> {
    let is_apart =
        |character: char| !character.is_alphanumeric() && !matches!(character, '.' | '-' | '_');
    ["pyproject.toml", "setup.py", "setup.cfg"]
        .iter()
        .filter_map(|file| regular::read_text(&project.join(file), LARGEST).ok())
        .flat_map(|text| {
            text.split(is_apart)
                .map(|word| word.replace('_', "-"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// One with `__init__.py`, or of a namespace: setuptools writes a directory between `build` and what it builds.
fn is_package(directory: &Path) -> bool {
    has_modules(directory)
        || fs::read_dir(directory).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.path().join("__init__.py").is_file()))
        })
}

fn has_modules(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry
                .is_ok_and(|entry| Path::new(&entry.file_name()).extension() == Some("py".as_ref()))
        })
    })
}

/// A virtual environment, also of a virtualenv that left no `pyvenv.cfg`, or one of conda's.
fn is_environment(directory: &Path) -> bool {
    let has = |name: &str| directory.join(name).exists();
    has("pyvenv.cfg") || has("conda-meta") || has("bin/activate") && has("bin/python")
}

/// An earlier one, somewhere in the project.
pub(crate) fn is_recipe(directory: &Path) -> bool {
    [Format::Dockerfile, Format::Apptainer]
        .iter()
        .any(|format| {
            fs::read_to_string(directory.join(format.file()))
                .is_ok_and(|text| text.starts_with(crate::recipe::FIRST_WORDS))
        })
}

/// Whether a relative link never climbs out of what is copied: its copy means the same then.
fn stays_below(path: &Path, link: &Path, directory: &Path) -> bool {
    let below = path.strip_prefix(directory).unwrap_or(path);
    let mut depth = below.components().count() - 1;
    for part in link.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[&str]) {
        for file in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
    }

    fn copied(root: &Path) -> (Vec<String>, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let left_behind = copy(root, &directory.path().join("it"), directory.path()).unwrap();
        let mut names: Vec<String> = WalkDir::new(directory.path().join("it"))
            .follow_links(true)
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| {
                entry
                    .path()
                    .strip_prefix(directory.path().join("it"))
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        names.sort();
        (names, left_behind)
    }

    #[test]
    fn packages_may_have_any_name() {
        let root = tempfile::tempdir().unwrap();
        let wanted = [
            "build/__init__.py",
            "dist/part/__init__.py",
            "src/build/data.json",
            "src/mine/venv/__init__.py",
            "venv/__init__.py",
        ];
        write(root.path(), &wanted);
        write(
            root.path(),
            &[
                ".git/config",
                "src/__pycache__/x.pyc",
                "src/env/pyvenv.cfg",
                "conda/conda-meta/history",
                "old/bin/python",
                "old/bin/activate",
                "node_modules/left-pad/index.js",
            ],
        );
        assert_eq!(copied(root.path()).0, wanted);
    }

    #[test]
    fn what_setuptools_builds_is_no_package() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                "setup.py",
                "build/lib/mine/__init__.py",
                "build/lib/one.py",
                "dist/mine-1.0.tar.gz",
            ],
        );
        assert_eq!(copied(root.path()).0, ["setup.py"]);
    }

    #[test]
    fn links_lead_to_the_same_files() {
        let outside = tempfile::tempdir().unwrap();
        write(outside.path(), &["common/__init__.py", "data/huge"]);
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &["mine/real/__init__.py"]);
        symlink("real", root.path().join("mine/inside")).unwrap();
        symlink(
            outside.path().join("common"),
            root.path().join("mine/common"),
        )
        .unwrap();
        symlink(outside.path().join("data"), root.path().join("data")).unwrap();
        symlink("..", root.path().join("mine/up")).unwrap();
        symlink(root.path().parent().unwrap(), root.path().join("above")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("it");
        let mut left_behind = copy(root.path(), &target, directory.path()).unwrap();
        left_behind.sort();
        let at = |name: &str| fs::canonicalize(root.path()).unwrap().join(name);
        assert_eq!(left_behind, [at("above"), at("data")]);
        assert!(target.join("mine/common/__init__.py").is_file());
        assert_eq!(
            fs::read_link(target.join("mine/inside")).unwrap(),
            Path::new("real")
        );
        assert_eq!(
            fs::read_link(target.join("mine/up")).unwrap(),
            Path::new("..")
        );
    }
}
