//! The directory that an image is built from: the recipe, and all that it copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::Environment;
use crate::error::Error;
use crate::package::Package;
use crate::project;
use crate::recipe::{self, Copied, Format, Recipe};
use crate::runtime;
use crate::versions;

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

/// Whether all that pip installs is put beside the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wheels {
    /// The image asks an index for it.
    FromIndex,
    /// This machine does, now, by the environment's own pip.
    Beside,
}

/// Writes recipe and files into a directory, which may hold an earlier recipe; returns the recipe's path. What turns out
/// to stay behind is added to what the environment leaves out.
pub fn write(
    directory: &Path,
    environment: &mut Environment,
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
    let mut left_behind = Vec::new();
    let mut deaf = Vec::new();
    for package in &environment.packages {
        match package {
            Package::Requirement(line) => requirements.push_str(&format!("{line}\n")),
            Package::Local {
                name,
                version,
                path,
            } => {
                let place = copy_source(name, path, directory, &mut left_behind)?;
                let told = versions::told(path, name, version);
                if let Some(text) = &told.metadata {
                    let file = directory.join("sources").join(&place).join("PKG-INFO");
                    if !file.exists() {
                        put(&file, text, false)?;
                    }
                }
                if let Some(tool) = told.deaf {
                    deaf.push(format!(
                        "the history of {name} is left out, from which {tool} takes its version: in the image it has \
                         another than {version}"
                    ));
                }
                sources.push(Copied {
                    place,
                    variables: told.variables,
                });
            }
        }
    }
    for link in left_behind {
        environment.notes.push(format!(
            "what the link `{}` leads to is left out: it is outside of the project, and no Python modules lie in it",
            link.display()
        ));
    }
    environment.notes.extend(deaf);
    let mut indexes = String::new();
    for index in &environment.indexes {
        indexes.push_str(&format!("--extra-index-url {index}\n"));
    }
    put(
        &directory.join("requirements.txt"),
        &format!("{indexes}{requirements}"),
        false,
    )?;
    if !environment.conda.is_empty() {
        let lock = format!("@EXPLICIT\n{}\n", environment.conda.join("\n"));
        put(&directory.join("conda.lock"), &lock, false)?;
    }
    if wheels == Wheels::Beside {
        collect_wheels(directory, environment, &sources, complete)?;
        // The image installs sources by their names, from wheels as all else, and asks no index.
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
    let is_ours = project::is_recipe(directory);
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
fn copy_source(
    name: &str,
    path: &Path,
    context: &Path,
    left_behind: &mut Vec<PathBuf>,
) -> Result<String, Error> {
    let sources = context.join("sources");
    if path.is_file() {
        // The name of a wheel says what it is for.
        let file = path.file_name().unwrap_or_default();
        let target = sources.join(name).join(file);
        fs::create_dir_all(sources.join(name)).map_err(Error::io("make", &sources))?;
        copy(path, &target)?;
        return Ok(format!("{name}/{}", file.to_string_lossy()));
    }
    left_behind.extend(project::copy(path, &sources.join(name), context)?);
    Ok(name.to_owned())
}

/// `pip wheel` by the environment's own Python: what fits it fits the image.
fn collect_wheels(
    directory: &Path,
    environment: &Environment,
    sources: &[Copied],
    complete: bool,
) -> Result<(), Error> {
    let wheel = || {
        let mut command = Command::new(&environment.python.executable);
        command.args(["-m", "pip", "wheel", "--quiet", "--wheel-dir"]);
        command.arg(directory.join("wheels"));
        if complete {
            command.arg("--no-deps");
        }
        command
    };
    let (alone, together): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.is_alone());
    let path = |source: &Copied| directory.join("sources").join(&source.place);
    let mut command = wheel();
    command.arg("-r").arg(directory.join("requirements.txt"));
    command.args(together.into_iter().map(path));
    runtime::finish(&mut command, "`pip wheel`")?;
    for source in alone {
        let mut command = wheel();
        command
            .envs(source.variables.iter().cloned())
            .arg(path(source));
        runtime::finish(&mut command, "`pip wheel`")?;
    }
    Ok(())
}
