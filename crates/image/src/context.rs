//! The directory that an image is built from: the recipe, and all that it copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{Environment, Package};
use crate::error::Error;
use crate::recipe::{self, Format, Recipe};
use crate::runtime;

/// What lies in `/.singularity.d`: the files of the checkout, in the binary.
const SINGULARITY: [(&str, &str, bool); 9] = [
    (
        "actions/exec",
        include_str!("../../../singularity.d/actions/exec"),
        true,
    ),
    (
        "actions/run",
        include_str!("../../../singularity.d/actions/run"),
        true,
    ),
    (
        "actions/shell",
        include_str!("../../../singularity.d/actions/shell"),
        true,
    ),
    (
        "actions/test",
        include_str!("../../../singularity.d/actions/test"),
        true,
    ),
    (
        "env/90-environment.sh",
        include_str!("../../../singularity.d/env/90-environment.sh"),
        false,
    ),
    (
        "env/99-base.sh",
        include_str!("../../../singularity.d/env/99-base.sh"),
        false,
    ),
    (
        "libs/README",
        include_str!("../../../singularity.d/libs/README"),
        false,
    ),
    (
        "runscript",
        include_str!("../../../singularity.d/runscript"),
        true,
    ),
    ("test", include_str!("../../../singularity.d/test"), true),
];

/// What lies in a project's directory and is no part of it.
const SKIPPED: [&str; 14] = [
    ".git",
    ".hg",
    ".svn",
    ".tox",
    ".nox",
    ".venv",
    "venv",
    "node_modules",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
    ".eggs",
    "build",
];

/// Whether all that pip installs is put beside the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wheels {
    /// The image asks an index for it.
    FromIndex,
    /// This machine does, now, by the environment's own pip.
    Beside,
}

/// Writes recipe and files into a directory, which may hold an earlier recipe; returns the recipe's path.
pub fn write(
    directory: &Path,
    environment: &Environment,
    binary: &Path,
    format: Format,
    base: Option<String>,
    wheels: Wheels,
    complete: bool,
) -> Result<PathBuf, Error> {
    let path = directory.join(format.file());
    make_room(directory)?;
    copy(binary, &directory.join("htmap-exec"))?;
    for (name, text, executable) in SINGULARITY {
        put(
            &directory.join("singularity.d").join(name),
            text,
            executable,
        )?;
    }
    let mut requirements = String::new();
    let mut sources = Vec::new();
    for package in &environment.packages {
        match package {
            Package::Requirement(line) => requirements.push_str(&format!("{line}\n")),
            Package::Local { name, path } => {
                let inside = copy_source(name, path, &directory.join("sources"))?;
                sources.push(inside);
            }
        }
    }
    put(&directory.join("requirements.txt"), &requirements, false)?;
    if !environment.conda.is_empty() {
        let lock = format!("@EXPLICIT\n{}\n", environment.conda.join("\n"));
        put(&directory.join("conda.lock"), &lock, false)?;
    }
    if wheels == Wheels::Beside {
        collect_wheels(directory, environment, &sources, complete)?;
        // The image installs sources by their names, from wheels as all else.
        for package in &environment.packages {
            if let Package::Local { name, .. } = package {
                requirements.push_str(&format!("{name}\n"));
            }
        }
        put(&directory.join("requirements.txt"), &requirements, false)?;
    }
    let recipe = Recipe {
        format,
        base: base.unwrap_or_else(|| recipe::default_base(environment)),
        environment,
        sources: &sources,
        wheels: wheels == Wheels::Beside,
        complete,
    };
    put(&path, &recipe.text(), false)?;
    Ok(path)
}

/// Removes an earlier recipe; anything else is somebody's.
fn make_room(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    let is_ours = [Format::Dockerfile, Format::Apptainer]
        .iter()
        .any(|format| {
            fs::read_to_string(directory.join(format.file()))
                .is_ok_and(|text| text.starts_with("# Written by `htmap-exec image recipe`"))
        });
    let mut entries = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    if entries.next().is_some() && !is_ours {
        return Err(Error::Occupied {
            path: directory.to_path_buf(),
        });
    }
    for name in ["sources", "wheels", "singularity.d"] {
        let path = directory.join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

fn put(path: &Path, text: &str, executable: bool) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
    }
    fs::write(path, text).map_err(Error::io("write", path))?;
    // The image has the modes of the context, whatever the umask here is.
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("change", path))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map_err(Error::io("copy", from))?;
    Ok(())
}

/// A project directory, or one file; returns its place below `sources`.
fn copy_source(name: &str, path: &Path, sources: &Path) -> Result<String, Error> {
    if path.is_file() {
        // The name of a wheel says what it is for.
        let file = path.file_name().unwrap_or_default();
        let target = sources.join(name).join(file);
        fs::create_dir_all(sources.join(name)).map_err(Error::io("make", sources))?;
        copy(path, &target)?;
        return Ok(format!("{name}/{}", file.to_string_lossy()));
    }
    let target = sources.join(name);
    let walk = walkdir::WalkDir::new(path)
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            entry.depth() == 0
                || !SKIPPED.contains(&name.as_ref()) && !entry.path().join("pyvenv.cfg").is_file()
        });
    for entry in walk {
        let entry = entry.map_err(|error| Error::Io {
            action: "read",
            path: path.to_path_buf(),
            source: error.into(),
        })?;
        let below = entry.path().strip_prefix(path).unwrap_or(entry.path());
        let to = target.join(below);
        if entry.file_type().is_dir() {
            fs::create_dir_all(&to).map_err(Error::io("make", &to))?;
        } else if entry.path().is_file() {
            copy(entry.path(), &to)?;
        }
    }
    Ok(name.to_owned())
}

/// `pip wheel` by the environment's own Python: what fits it fits the image.
fn collect_wheels(
    directory: &Path,
    environment: &Environment,
    sources: &[String],
    complete: bool,
) -> Result<(), Error> {
    let python = &environment.python.executable;
    let mut command = Command::new(python);
    command.args(["-m", "pip", "wheel", "--quiet", "--wheel-dir"]);
    command.arg(directory.join("wheels"));
    if complete {
        command.arg("--no-deps");
    }
    command.arg("-r").arg(directory.join("requirements.txt"));
    command.args(
        sources
            .iter()
            .map(|source| directory.join("sources").join(source)),
    );
    runtime::finish(&mut command, "`pip wheel`")?;
    Ok(())
}
