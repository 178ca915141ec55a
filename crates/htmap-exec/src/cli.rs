//! The command line: clap's derive, where doc comments are the help.

mod transplant;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use htmap_exec_interpreter::PythonVersion;

use crate::logging::Level;
pub(crate) use transplant::{
    TransplantBuild, TransplantCommand, TransplantFormat, TransplantPrune,
};

/// Runs HTMap components on HTCondor execute nodes.
#[derive(Debug, Parser)]
#[command(
    name = "htmap-exec",
    version,
    long_version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HTMAP_EXEC_BUILD"), ")"),
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What to say on stderr about the runner's own doings [default: HTMAP_EXEC_LOG, else warn]
    // No variable is read by clap: what a node's environment holds must not hold a component.
    #[arg(long, global = true, value_name = "LEVEL", ignore_case = true)]
    pub(crate) log: Option<Level>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one component: the HTCondor executable (`htmap-exec N` means the same)
    Run(Run),
    /// Run the components of a map directory on this machine
    Local(Local),
    /// Show which Python a component would run with, and why no other
    Python {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Pack Pythons, to bring them to nodes that have none
    #[command(subcommand)]
    Transplant(TransplantCommand),
    /// Write recipes of container images, build them, and check images
    #[command(subcommand)]
    Image(ImageCommand),
    /// List the distributions that a Python has, as `pip freeze` does, from their metadata
    Packages {
        /// The interpreter [default: the one that `htmap-exec python` picks]
        #[arg(long, alias = "from", value_name = "PATH")]
        python: Option<PathBuf>,
    },
    /// Run a command of HTMap's: `htmap-exec htmap --help` lists them
    #[command(disable_help_flag = true)]
    Htmap {
        /// The command, with its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// What `run` starts to have a mount namespace made
    #[command(hide = true)]
    MountHolder {
        /// Where to mount
        target: PathBuf,
    },
    /// Print what a map would be submitted with, and why
    Explain {
        /// The delivery method [default: HTMap's setting DELIVERY_METHOD]
        #[arg(long, value_name = "NAME")]
        delivery: Option<OsString>,
    },
}

/// What both `run` and `local` take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Running {
    /// The interpreter to run with [default: VIRTUAL_ENV, CONDA_PREFIX, PATH, well-known places; `local` first looks
    /// beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,

    /// The Python that pickled the map: another one on the node is an error if the map holds bytecode
    #[arg(long, value_name = "X.Y")]
    pub(crate) submit_python: Option<PythonVersion>,

    /// Run bytecode of another Python version all the same: answers may be silently wrong
    #[arg(long)]
    pub(crate) allow_python_mismatch: bool,

    /// How long Python may take to exit once its result stands
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) exit_grace: std::time::Duration,

    /// How long Python may take to start
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub(crate) start_limit: std::time::Duration,

    /// End the component after this time, with an error record
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The component's number
    #[arg(value_name = "N")]
    pub(crate) component: u64,

    #[command(flatten)]
    pub(crate) running: Running,

    /// The scratch directory [default: _CONDOR_SCRATCH_DIR, else the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,

    /// Run with the Python of this archive, which `htmap-exec transplant build` made
    #[arg(long, value_name = "FILE", conflicts_with = "python")]
    pub(crate) transplant: Option<PathBuf>,

    /// Unpack the archive, even where it could be mounted; HTMAP_EXEC_MOUNT=0 means the same
    #[arg(long)]
    pub(crate) no_mount: bool,

    /// Keep unpacked archives in this directory of the node, for later jobs [default: HTMAP_EXEC_CACHE_DIR, else the
    /// machine ad's HtmapExecCacheDir]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// How much they may take up [default: HTMAP_EXEC_CACHE_SIZE, else the machine ad's HtmapExecCacheSize, else 20GB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_size: Option<String>,

    /// Let this variable through to an archive's Python, such as PYTHONPATH
    #[arg(long, value_name = "NAME")]
    pub(crate) keep_variable: Vec<OsString>,

    /// Run in this image, by the node's apptainer or singularity: a file, a tree, or an address
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,

    /// A zip archive of cloudpickle for nodes without it [default: _htmap_cloudpickle.zip if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) cloudpickle: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: htmap-exec local --jobs 4 --input data.csv my-map\n\n\
    What is finished stays: the same command again runs what is not. docs/local.md tells the rest."
)]
pub(crate) struct Local {
    /// The map directory, as HTMap or htmap_exec.write_map makes it
    #[arg(value_name = "MAP_DIR")]
    pub(crate) map: PathBuf,

    /// How many components run at once [default: one for each processor]
    #[arg(long, short, value_name = "N", value_parser = jobs)]
    pub(crate) jobs: Option<NonZeroUsize>,

    /// What to run of a map that has run before
    #[arg(long, value_enum, value_name = "WHICH", default_value = "failed")]
    pub(crate) rerun: Rerun,

    /// Copy this file or directory into each component's scratch directory; may be given several times
    #[arg(long, value_name = "PATH")]
    pub(crate) input: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) running: Running,
}

/// Which components `local` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rerun {
    /// Only those without any output
    Missing,
    /// Those without a result: failed ones as well
    Failed,
    /// All of them: results are replaced
    All,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Write a recipe for an image that has what a Python here has
    Recipe(ImageRecipe),
    /// Build an image from a recipe, by docker, podman, buildah or apptainer
    Build(ImageBuild),
    /// Start an image as HTCondor would, and say whether a map will run in it
    Check(ImageCheck),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ImageFormat {
    Dockerfile,
    Apptainer,
}

#[derive(Debug, Args)]
pub(crate) struct ImageRecipe {
    /// The interpreter [default: the one that `htmap-exec python` picks]
    // As long as it was the only command with an option of this name, it was `--from`.
    #[arg(long, alias = "from", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,

    /// Who is to build it
    #[arg(long, value_enum, default_value = "dockerfile")]
    pub(crate) format: ImageFormat,

    /// The image to begin with [default: python:X.Y-slim; with --conda condaforge/miniforge3]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<String>,

    /// Take conda's packages as conda's, of the environment that the interpreter is in
    #[arg(long)]
    pub(crate) conda: bool,

    /// Install what this file asks for in place of what is installed here
    #[arg(long, value_name = "FILE", conflicts_with = "conda")]
    pub(crate) requirements: Option<PathBuf>,

    /// Put wheels of everything beside the recipe, so that building it needs no index
    #[arg(long)]
    pub(crate) wheels: bool,

    /// End with 0 also where something is left out that maps may need
    #[arg(long)]
    pub(crate) allow_missing: bool,

    /// A new directory, or that of an earlier recipe
    #[arg(long, short, value_name = "DIR", default_value = "htmap-exec-image")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuild {
    /// The recipe's directory
    #[arg(value_name = "DIR", default_value = "htmap-exec-image")]
    pub(crate) directory: PathBuf,

    /// The image's name, or the image file for apptainer [default: htmap-exec-recipe]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) tag: Option<String>,

    /// The program that builds it [default: the first on PATH]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) builder: Option<String>,

    /// Options of the builder's own, after `--`
    #[arg(last = true)]
    pub(crate) options: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageCheck {
    /// An image's name, an image file, or an unpacked tree
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,

    /// What starts it: docker, podman, apptainer or singularity [default: the first on PATH that can]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) runtime: Option<String>,

    /// The Python that will make maps [default: the one that `htmap-exec python` picks]
    #[arg(long, value_name = "X.Y")]
    pub(crate) submit_python: Option<PythonVersion>,
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    std::time::Duration::try_from_secs_f64(seconds).map_err(|_| "not a time".to_owned())
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "it says how many components run at once: 1 or more".to_owned())
}

/// `htmap-exec N`, which HTMap's own submit descriptors come down to, becomes `htmap-exec run N`; and
/// `htmap-exec htmap ...` becomes `htmap-exec htmap -- ...`, so that no option of HTMap's is taken for ours.
pub(crate) fn normalize(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let number = arguments.get(1).and_then(|argument| argument.to_str());
    if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    {
        arguments.insert(1, "run".into());
    } else if arguments.get(1).is_some_and(|argument| argument == "htmap") {
        arguments.insert(2, "--".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_valid_command_line() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_bare_number_means_run() {
        let normal = |arguments: &[&str]| normalize(arguments.iter().map(OsString::from));
        assert_eq!(normal(&["x", "7"]), ["x", "run", "7"]);
        assert_eq!(normal(&["x", "run", "7"]), ["x", "run", "7"]);
        assert_eq!(normal(&["x", "local", "7"]), ["x", "local", "7"]);
        assert_eq!(normal(&["x"]), ["x"]);
    }

    #[test]
    fn htmap_gets_its_arguments_as_they_are() {
        let arguments = ["x", "htmap", "--log", "-h", "--", "hold", "--version"];
        let cli = Cli::try_parse_from(normalize(arguments.iter().map(OsString::from)))
            .expect("whatever HTMap's arguments are");
        match cli.command {
            Command::Htmap { arguments: passed } => assert_eq!(passed, arguments[2..]),
            other => panic!("{other:?}"),
        }
    }
}
