//! The tools that start containers, as HTCondor calls them.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::Error;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Docker, whose daemon has the images.
    Docker,
    /// Podman, with images of the user's.
    Podman,
    /// Apptainer, which has image files, trees, and images of registries.
    Apptainer,
    /// Its elder.
    Singularity,
}

impl Runtime {
    /// The command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Apptainer => "apptainer",
            Self::Singularity => "singularity",
        }
    }

    /// Those that can start this image, the likelier first.
    pub fn fit(image: &str) -> &'static [Self] {
        if is_file(image) {
            &[Self::Apptainer, Self::Singularity]
        } else {
            &[
                Self::Docker,
                Self::Podman,
                Self::Apptainer,
                Self::Singularity,
            ]
        }
    }

    /// Of Apptainer's kind.
    pub fn is_apptainer(self) -> bool {
        matches!(self, Self::Apptainer | Self::Singularity)
    }
}

/// An image file or a tree, or what only Apptainer knows by such an address.
pub(crate) fn is_file(image: &str) -> bool {
    image.starts_with('/')
        || image.starts_with("./")
        || ["oras://", "library://", "osdf://"]
            .iter()
            .any(|scheme| image.starts_with(scheme))
        || Path::new(image)
            .extension()
            .is_some_and(|extension| extension == "sif" || extension == "img")
        || !image.contains("://") && Path::new(image).exists()
}

/// Where a program is.
pub fn on_path(name: &str) -> Option<PathBuf> {
    // HTCondor gives jobs no PATH.
    let path =
        std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// A container to be: an image, and the one directory that it shares with this machine.
#[derive(Debug)]
pub struct Container<'a> {
    /// What starts it.
    pub runtime: Runtime,
    /// Its path.
    pub program: PathBuf,
    /// By whatever name the runtime knows it.
    pub image: &'a str,
    /// Has the same path inside.
    pub scratch: &'a Path,
    /// `UID:GID`; Apptainer has the user's own.
    pub user: String,
}

impl Container<'_> {
    /// As HTCondor's starter does it, with these variables and no others of ours.
    pub fn command(&self, variables: &[(&str, OsString)], words: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        let both = |separator: &str, one: &OsStr, other: &OsStr| {
            let mut word = one.to_os_string();
            word.push(separator);
            word.push(other);
            word
        };
        if self.runtime.is_apptainer() {
            command
                .arg("-s")
                .arg("exec")
                .arg("-W")
                .arg(self.scratch)
                .arg("--pwd")
                .arg(self.scratch);
            command
                .arg("-B")
                .arg(self.scratch)
                .arg("--home")
                .arg(self.scratch)
                .arg("-C");
            for (name, value) in variables {
                for prefix in ["APPTAINERENV_", "SINGULARITYENV_"] {
                    if (prefix == "APPTAINERENV_") == (self.runtime == Runtime::Apptainer) {
                        command.env(format!("{prefix}{name}"), value);
                    }
                }
            }
            let is_reference = !is_file(self.image) && !self.image.contains("://");
            command.arg(if is_reference {
                format!("docker://{}", self.image)
            } else {
                self.image.to_owned()
            });
        } else {
            command.args(["run", "--rm", "--network=none", "--cap-drop=all"]);
            command.args(["--security-opt", "no-new-privileges", "--entrypoint="]);
            command.arg("--user").arg(&self.user);
            if self.runtime == Runtime::Podman {
                command.arg("--userns=keep-id");
            }
            let scratch = self.scratch.as_os_str();
            command.arg("--volume").arg(both(":", scratch, scratch));
            command.arg("--workdir").arg(scratch);
            for (name, value) in variables {
                command.arg("--env").arg(both("=", OsStr::new(name), value));
            }
            command.arg(self.image.strip_prefix("docker://").unwrap_or(self.image));
        }
        command.args(words);
        command
    }
}

/// Of what an image says, no more is kept: nobody has to trust it.
const MOST_SAID: usize = 1 << 23;

/// Runs it to its end, and takes what it says; of too much, the end.
pub fn output(command: &mut Command) -> Result<Output, Error> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let program = PathBuf::from(command.get_program());
    let ran = command.spawn().and_then(|mut child| {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = std::thread::scope(|scope| {
            let stderr = scope.spawn(|| stderr.map_or(Ok(Vec::new()), end_of));
            (stdout.map_or(Ok(Vec::new()), end_of), stderr.join())
        });
        Ok(Output {
            status: child.wait()?,
            stdout: stdout?,
            stderr: stderr.unwrap_or_else(|_| Ok(Vec::new()))?,
        })
    });
    ran.map_err(|source| Error::Start { program, source })
}

fn end_of(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    loop {
        let room = MOST_SAID - said.len();
        if from.by_ref().take(room as u64).read_to_end(&mut said)? < room {
            return Ok(said);
        }
        said.drain(..MOST_SAID / 2);
    }
}

/// The same for what may not fail.
pub(crate) fn finish(command: &mut Command, what: &str) -> Result<Output, Error> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Tool {
        what: what.to_owned(),
        status: output.status,
        said: tail(&output),
    })
}

/// The last lines of what it said, on stderr if it said anything there.
pub(crate) fn tail(output: &Output) -> String {
    let said = if output.stderr.trim_ascii().is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_endless_output_the_end_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "yes | head -c 100000000; echo last; exit 3"]);
        let output = output(&mut command).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.len() <= MOST_SAID);
        assert!(output.stdout.ends_with(b"y\nlast\n"));
    }
}
