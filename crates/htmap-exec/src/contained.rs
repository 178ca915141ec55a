//! The runner outside, an image inside: for pools whose HTCondor starts no containers itself.
//!
//! The runner starts itself once more, in the image, and is replaced by Apptainer, which passes signals and exit
//! statuses on. So whatever could go wrong with the image is tried first, while a report can still be written.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use htmap_exec_image::{Runtime, on_path, output};
use htmap_exec_interpreter::{Origin, Rejection};

use crate::exit::readable;
use crate::foreign::FOREIGN;

/// What Apptainer tells of the container that this one is in.
const OUTER: [&str; 4] = [
    "APPTAINER_CONTAINER",
    "SINGULARITY_CONTAINER",
    "APPTAINER_NAME",
    "SINGULARITY_NAME",
];

/// What the one around was given, of the machine's files: Apptainer hands it on, and takes it for this one's.
const BOUND: [&str; 2] = ["APPTAINER_BIND", "SINGULARITY_BIND"];

/// Where else OSG's sites have it.
const ELSEWHERE: &str = "/cvmfs/oasis.opensciencegrid.org/mis/apptainer/bin/apptainer";

/// The copy of this program in the scratch directory, the one directory that an image certainly shares.
const COPY: &str = ".htmap-exec";

/// Comes back only with the reason why not.
pub(crate) fn replace(image: &str, scratch: &Path) -> Rejection {
    let reason = match start(image, scratch) {
        Ok(never) => match never {},
        Err(error) => format!("{error:#}"),
    };
    Rejection {
        path: PathBuf::from(image),
        origin: Origin::Image,
        reason,
    }
}

fn start(image: &str, scratch: &Path) -> anyhow::Result<std::convert::Infallible> {
    if let Some(reason) = forbidden(scratch) {
        bail!(
            "{reason}: name the image by HTCondor's `container_image` (delivery by `container`) instead"
        );
    }
    let program = [Runtime::Apptainer, Runtime::Singularity]
        .iter()
        .find_map(|runtime| on_path(runtime.name()))
        .or_else(|| Some(PathBuf::from(ELSEWHERE)).filter(|path| path.is_file()));
    let Some(program) = program else {
        bail!(
            "this node has neither apptainer nor singularity on PATH: require HasSingularity of nodes"
        );
    };
    let binary = scratch.join(COPY);
    let here = std::env::current_exe().context("cannot find the htmap-exec binary")?;
    fs::copy(&here, &binary).with_context(|| format!("cannot copy `{}`", here.display()))?;
    let image = if image.contains("://") {
        image.to_owned()
    } else {
        // Sent along, it lies there.
        let path = scratch.join(image);
        if !path.exists() {
            bail!("there is no such image on this node");
        }
        path.to_string_lossy().into_owned()
    };
    let mut trial = command(&program, &image, scratch);
    let tried = output(trial.arg(&binary).arg("--version"))?;
    if !tried.status.success() {
        let said = String::from_utf8_lossy(&tried.stderr);
        let nested = around().map_or_else(String::new, |mark| {
            format!(
                "\nThis component is in a container already ({mark}), where another one needs nested user namespaces: \
                 name the image by HTCondor's `container_image` (delivery by `container`) instead"
            )
        });
        bail!(
            "`{}` does not start it ({}): {}{nested}",
            program.display(),
            tried.status,
            readable(said.trim())
        );
    }
    let error = command(&program, &image, scratch)
        .arg(&binary)
        .args(without_image(std::env::args_os().skip(1)))
        .exec();
    Err(error).with_context(|| format!("cannot start `{}`", program.display()))
}

/// As HTCondor's starter calls it, but with all variables: they are the job's.
fn command(program: &Path, image: &str, scratch: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-s", "exec", "--contain", "--ipc"]);
    for option in ["-W", "--pwd", "-B", "--home"] {
        command.arg(option).arg(scratch);
    }
    if has_gpu() {
        for (device, flag) in [("/dev/nvidiactl", "--nv"), ("/dev/kfd", "--rocm")] {
            if Path::new(device).exists() {
                command.arg(flag);
            }
        }
    }
    for name in FOREIGN {
        command.env_remove(name);
    }
    if outer().is_some() {
        for name in BOUND {
            command.env_remove(name);
        }
    }
    // What it pulls goes away with the job, and counts as the job's disk.
    for name in ["APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"] {
        if std::env::var_os(name).is_none() {
            command.env(name, scratch.join(".image-cache"));
        }
    }
    command.arg(image);
    command
}

/// HTCondor names those that the job was given; none is an empty text, or there is no such variable.
fn has_gpu() -> bool {
    std::env::var_os("_CONDOR_AssignedGPUs").is_some_and(|gpus| !gpus.is_empty())
}

/// The variable by which Apptainer says that it started this.
fn outer() -> Option<&'static str> {
    OUTER
        .into_iter()
        .find(|name| std::env::var_os(name).is_some())
}

/// The mark of a container around this one. Many start another one all the same.
fn around() -> Option<String> {
    if let Some(name) = outer() {
        return Some(format!("{name} is set"));
    }
    let mut marks = ["/.dockerenv", "/run/.containerenv"].into_iter();
    let mark = marks.find(|mark| Path::new(mark).exists())?;
    Some(format!("`{mark}` is there"))
}

/// Why no container may be started here.
fn forbidden(scratch: &Path) -> Option<String> {
    // OSG's own rule: job executables start no containers.
    // https://portal.osg-htc.org/documentation/htc_workloads/using_software/containers/
    let ad = fs::read_to_string(scratch.join(".machine.ad")).unwrap_or_default();
    let is_glidein = ad.lines().any(|line| {
        line.split_once('=')
            .is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("GLIDEIN_Site"))
    });
    is_glidein.then(|| {
        "this node is a glidein (GLIDEIN_Site), where jobs must not start containers".to_owned()
    })
}

/// The rest of the command line, for the run inside.
fn without_image(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut rest = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        if is_value {
            is_value = false;
        } else if argument == OsStr::new("--image") {
            is_value = true;
        } else if !argument.as_encoded_bytes().starts_with(b"--image=") {
            rest.push(argument);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_inside_has_no_image() {
        let rest = |words: &[&str]| without_image(words.iter().map(OsString::from));
        assert_eq!(rest(&["run", "--image", "a.sif", "7"]), ["run", "7"]);
        assert_eq!(
            rest(&["run", "--image=a.sif", "--log", "info", "7"]),
            ["run", "--log", "info", "7"]
        );
    }

    #[test]
    fn glideins_start_no_containers() {
        let scratch = tempfile::tempdir().unwrap();
        let ad = scratch.path().join(".machine.ad");
        fs::write(&ad, "Machine = \"node\"\nGLIDEIN_Site = \"here\"\n").unwrap();
        assert!(forbidden(scratch.path()).is_some());
    }
}
