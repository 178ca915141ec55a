//! `htmap-exec image`: recipes of images, their building, and whether a map will run in one.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use htmap_exec_image::{
    Container, Environment, Format, Runtime, Wheels, check as look_into, needs_loader, on_path,
    write,
};
use htmap_exec_interpreter::probe;

use crate::cli::{ImageBuild, ImageCheck, ImageCommand, ImageFormat, ImageRecipe};
use crate::commands::{counted, python};
use crate::exit::{self, readable};

pub(crate) fn run(command: ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Recipe(options) => recipe(&options),
        ImageCommand::Build(options) => build(&options),
        ImageCommand::Check(options) => check(&options),
    }
}

fn recipe(options: &ImageRecipe) -> anyhow::Result<ExitCode> {
    let interpreter = match &options.python {
        Some(path) => probe(path).with_context(|| format!("cannot use `{}`", path.display()))?,
        None => python::discover()?,
    };
    let mut environment = Environment::read(&interpreter, options.conda)?;
    if let Some(file) = &options.requirements {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read `{}`", file.display()))?;
        environment.require(&text);
    }
    let binary = std::env::current_exe().context("cannot find the htmap-exec binary")?;
    if needs_loader(&binary) {
        environment.notes.push(
            "the htmap-exec that wrote this is not static: it needs this machine's C library, and an image with an older \
             one cannot start it"
                .to_owned(),
        );
    }
    let wheels = if options.wheels {
        Wheels::Beside
    } else {
        Wheels::FromIndex
    };
    let format = match options.format {
        ImageFormat::Dockerfile => Format::Dockerfile,
        ImageFormat::Apptainer => Format::Apptainer,
    };
    let path = write(
        &options.output,
        &mut environment,
        &binary,
        format,
        options.base.clone(),
        wheels,
        options.requirements.is_none(),
    )?;
    let mut err = io::stderr().lock();
    for sentence in &environment.notes {
        writeln!(err, "note: {sentence}")?;
    }
    for sentence in &environment.left_out {
        writeln!(err, "left out: {sentence}")?;
    }
    let count = environment.packages.len() + environment.conda.len();
    writeln!(
        err,
        "{} {}, {}",
        interpreter.implementation,
        interpreter.full_version,
        counted(count, "package"),
    )?;
    if !environment.left_out.is_empty() && !options.allow_missing {
        bail!(
            "`{}` lacks what is left out above, which maps may need\nhint: complete the recipe by hand, or accept it as it \
             is by --allow-missing",
            path.display()
        );
    }
    writeln!(
        err,
        "hint: htmap-exec image build {}",
        options.output.display()
    )?;
    writeln!(io::stdout(), "{}", path.display())?;
    Ok(ExitCode::from(exit::SUCCESS))
}

fn build(options: &ImageBuild) -> anyhow::Result<ExitCode> {
    let directory = &options.directory;
    let definition = directory.join(Format::Apptainer.file());
    let is_definition =
        !directory.join(Format::Dockerfile.file()).is_file() && definition.is_file();
    if !is_definition && !directory.join(Format::Dockerfile.file()).is_file() {
        bail!(
            "`{}` holds neither a Dockerfile nor an Apptainer.def\nhint: htmap-exec image recipe -o {0}",
            directory.display()
        );
    }
    let names: &[&str] = match (&options.builder, is_definition) {
        (Some(name), _) => &[name.as_str()],
        (None, false) => &["docker", "podman", "buildah"],
        (None, true) => &["apptainer", "singularity"],
    };
    let Some((name, program)) = names.iter().find_map(|name| Some((*name, on_path(name)?))) else {
        bail!(
            "there is none of {} on PATH\nhint: `htmap-exec image recipe --format {}` writes a recipe for the others",
            names.join(", "),
            if is_definition {
                "dockerfile"
            } else {
                "apptainer"
            }
        );
    };
    let mut command = Command::new(program);
    // What a recipe copies, it names by paths that begin in its directory.
    command.current_dir(directory).arg("build");
    if is_definition {
        let image = options
            .tag
            .clone()
            .unwrap_or_else(|| "htmap-exec-recipe.sif".to_owned());
        let image = std::path::absolute(&image)?;
        command
            .args(&options.options)
            .arg(image)
            .arg(Format::Apptainer.file());
    } else {
        let tag = options.tag.as_deref().unwrap_or("htmap-exec-recipe");
        command.args(["--tag", tag]).args(&options.options).arg(".");
    }
    // Its progress is the user's: both streams are inherited.
    let status = command
        .status()
        .with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        bail!(
            "{name} could not build `{}` ({status}): what it says stands above",
            directory.display()
        );
    }
    Ok(ExitCode::from(exit::SUCCESS))
}

fn check(options: &ImageCheck) -> anyhow::Result<ExitCode> {
    let image = &options.image;
    let runtimes: Vec<Runtime> = Runtime::fit(image)
        .iter()
        .copied()
        .filter(|runtime| {
            options
                .runtime
                .as_deref()
                .is_none_or(|name| name == runtime.name())
        })
        .collect();
    let Some((runtime, program)) = runtimes
        .iter()
        .find_map(|&runtime| Some((runtime, on_path(runtime.name())?)))
    else {
        let names: Vec<&str> = Runtime::fit(image)
            .iter()
            .map(|runtime| runtime.name())
            .collect();
        bail!(
            "nothing here starts `{image}`: none of {} is on PATH",
            names.join(", ")
        );
    };
    let submit = match options.submit_python {
        Some(version) => Some(version),
        // Without a Python here, there is nothing to compare with.
        None => python::discover()
            .ok()
            .map(|interpreter| interpreter.version),
    };
    // Nobody else comes past this one: the directory in it is open to whichever user the container has.
    let directory = tempfile::Builder::new()
        .prefix("htmap-exec-check-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("cannot make a scratch directory")?;
    let scratch = directory.path().join("scratch");
    std::fs::create_dir(&scratch).context("cannot make a scratch directory")?;
    let binary = std::env::current_exe().context("cannot find the htmap-exec binary")?;
    // HTCondor runs jobs as their user, whom the image does not know; and never as root.
    let user = user(&scratch)?;
    let container = Container {
        runtime,
        program,
        image,
        scratch: &scratch,
        user,
    };
    let found = look_into(&container, &binary, submit)?;
    let mut out = io::stdout().lock();
    for finding in &found.findings {
        // The words may be the runtime's or the image's own: only the first line begins in the first column.
        let text = readable(&finding.text).replace('\n', &format!("\n{:13}", ""));
        writeln!(out, "{:12} {text}", finding.what)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "{:12} hint: {remedy}", "")?;
        }
    }
    if found.is_good() {
        writeln!(out, "{image}: a map will run in it")?;
        return Ok(ExitCode::from(exit::SUCCESS));
    }
    writeln!(out, "{image}: a map will not run in it")?;
    Ok(ExitCode::from(exit::FAILURE))
}

/// `UID:GID` of the scratch directory's owner, or of nobody in particular if that is root.
fn user(scratch: &Path) -> anyhow::Result<String> {
    let owner = std::fs::metadata(scratch)?;
    Ok(if owner.uid() == 0 {
        "65532:65532".to_owned()
    } else {
        format!("{}:{}", owner.uid(), owner.gid())
    })
}
