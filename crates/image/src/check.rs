//! Starts an image as HTCondor would, and runs a component in it: the only test that leaves nothing out.
//!
//! The component's function is Python's own and needs no bytecode, so it runs on every version: it copies the
//! environment that it finds into the scratch directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use flate2::{Compression, write::GzEncoder};
use htmap_exec_interpreter::{PythonVersion, regular};
use serde_json::Value;

use crate::error::Error;
use crate::runtime::{self, Container};

/// `shutil.copyfile`, as protocol 2 pickles it.
const FUNCTION: &[u8] = b"\x80\x02cshutil\ncopyfile\nq\x00.";
/// `(("/proc/self/environ", "environ"), {})`
const INPUT: &[u8] =
    b"\x80\x02X\x12\x00\x00\x00/proc/self/environX\x07\x00\x00\x00environ\x86}\x86.";

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, in a word or two.
    pub what: &'static str,
    /// How it is.
    pub text: String,
    /// What to do about it; nothing is wrong without one.
    pub remedy: Option<String>,
}

/// What an image is like.
#[derive(Debug, Default)]
pub struct Check {
    /// In the order in which they were found.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Whether maps run in it.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.remedy.is_none())
    }

    fn fine(&mut self, what: &'static str, text: impl Into<String>) {
        self.findings.push(Finding {
            what,
            text: text.into(),
            remedy: None,
        });
    }

    fn wrong(&mut self, what: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding {
            what,
            text: text.into(),
            remedy: Some(remedy.into()),
        });
    }
}

/// `container.scratch` is an empty directory in one that is the caller's alone; `binary` is copied there, as HTCondor
/// does.
pub fn check(
    container: &Container<'_>,
    binary: &Path,
    submit: Option<PythonVersion>,
) -> Result<Check, Error> {
    let scratch = container.scratch;
    prepare(scratch, binary)?;
    let mut check = Check::default();
    let variables = [
        ("_CONDOR_SCRATCH_DIR", scratch.as_os_str().to_owned()),
        ("_CONDOR_SLOT", OsString::from("slot1_1")),
    ];
    let run = |words: &[&str]| {
        let mut all = vec![OsStr::new("./condor_exec.exe")];
        all.extend(words.iter().map(OsStr::new));
        runtime::output(&mut container.command(&variables, &all))
    };
    let asked = run(&["python", "--json"])?;
    let Ok(answer) = serde_json::from_slice::<Value>(&asked.stdout) else {
        explain(&mut check, container, &asked);
        return Ok(check);
    };
    check.fine(
        "Container",
        format!("{} starts it", container.runtime.name()),
    );
    python(&mut check, &answer, submit);
    if answer["picked"].is_null() {
        return Ok(check);
    }
    let ran = run(&["run", "0"])?;
    component(&mut check, scratch, &ran);
    Ok(check)
}

fn prepare(scratch: &Path, binary: &Path) -> Result<(), Error> {
    for (name, pickle) in [("func", FUNCTION), ("0.in", INPUT)] {
        let path = scratch.join(name);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let bytes = encoder.write_all(pickle).and_then(|()| encoder.finish());
        bytes
            .and_then(|bytes| fs::write(&path, bytes))
            .map_err(Error::io("write", &path))?;
        change_mode(&path, 0o644)?;
    }
    let target = scratch.join("condor_exec.exe");
    fs::copy(binary, &target).map_err(Error::io("copy", binary))?;
    change_mode(&target, 0o755)?;
    // The user inside may be another one than here: root has none of its own there, and under a daemon without root
    // all numbers are others. It writes its own files, and those of the caller stay as they are, as in `/tmp`. Of this
    // machine's users none gets here: only this directory is shared with the container, the closed one above is not.
    change_mode(scratch, 0o1777)
}

/// Whatever the umask was.
fn change_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("change", path))
}

/// Why nothing came of it: the runtimes say so in many ways.
fn explain(check: &mut Check, container: &Container<'_>, output: &Output) {
    const REASONS: [(&[&str], &str); 6] = [
        (
            &["exec format error", "architecture", "no matching manifest"],
            "it is made for other processors: build it for this machine's, or with `docker buildx build --platform`",
        ),
        (
            &[
                "unable to find image",
                "pull access denied",
                "manifest unknown",
                "no such host",
                "lstat",
                "no such file",
                "could not open image",
                "not found",
                "dial tcp",
                "repository does not exist",
            ],
            "there is no such image here, and none could be pulled: check its name, or build it",
        ),
        (
            &[
                "cannot connect to the docker daemon",
                "permission denied while trying to connect",
            ],
            "Docker does not run, or you may not use it: start it, or join the group `docker`",
        ),
        (
            &["user namespace", "unprivileged", "operation not permitted"],
            "containers need user namespaces here: sysctl user.max_user_namespaces, or Apptainer installed with setuid",
        ),
        (
            &["squashfuse", "/dev/fuse"],
            "image files cannot be mounted by users here: unpack it by `apptainer build --sandbox DIR IMAGE`",
        ),
        (&["no space left"], "the disk is full"),
    ];
    let said = runtime::tail(output);
    let lower = String::from_utf8_lossy(&output.stderr).to_lowercase();
    let remedy = REASONS
        .iter()
        .find(|(words, _)| words.iter().any(|word| lower.contains(word)))
        .map_or("the message is the runtime's own", |(_, remedy)| remedy);
    check.wrong(
        "Container",
        format!("{} does not start it: {said}", container.runtime.name()),
        remedy,
    );
}

fn python(check: &mut Check, answer: &Value, submit: Option<PythonVersion>) {
    let picked = &answer["picked"];
    let (Some(path), Some(version)) = (picked["path"].as_str(), picked["version"].as_str()) else {
        let reasons: Vec<&str> = answer["passed_over"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|each| each["reason"].as_str())
            .collect();
        let text = if reasons.is_empty() {
            "none".to_owned()
        } else {
            format!("none: {}", reasons.join("; "))
        };
        check.wrong(
            "Python",
            text,
            "add one: images/bring-your-own shows how; or `htmap-exec image recipe` makes an image of yours",
        );
        return;
    };
    let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
    match submit {
        Some(submit) if submit.to_string() != minor => check.wrong(
            "Python",
            format!("{version}, {path}; yours is {submit}"),
            format!("maps of Python {submit} need an image with Python {submit}"),
        ),
        _ => check.fine("Python", format!("{version}, {path}")),
    }
    match picked["cloudpickle"].as_str() {
        Some(version) => check.fine("cloudpickle", version),
        None => check.fine(
            "cloudpickle",
            "none: maps of stock HTMap fail, htmap-exec's bring their own",
        ),
    }
}

/// A file that the image wrote, which nobody has to trust: no FIFO that waits for ever, no more than there ever is, and
/// none of this machine's by a link.
fn left_behind(scratch: &Path, name: &str) -> Option<Vec<u8>> {
    let real = scratch.join(name).canonicalize().ok()?;
    if !real.starts_with(scratch.canonicalize().ok()?) {
        return None;
    }
    regular::read(&real, 1 << 24).ok()
}

fn component(check: &mut Check, scratch: &Path, ran: &Output) {
    let record: Value = left_behind(scratch, "_htmap_transfer/0.json")
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    if !ran.status.success() || record.is_null() {
        check.wrong(
            "Component",
            format!("{}: {}", ran.status, runtime::tail(ran)),
            "the scratch directory has to be writable inside",
        );
        return;
    }
    if record["status"] != "OK" {
        let missing = record["error"].as_str().unwrap_or("no message");
        // What HTMap's delivery methods bring is not there.
        if missing.contains("cloudpickle") {
            check.fine(
                "Component",
                "Python starts; a component was not run, for want of cloudpickle",
            );
        } else {
            check.wrong("Component", missing, "the message is the component's own");
        }
        return;
    }
    let user = record["node"]["user"].as_str().unwrap_or("?").to_owned();
    check.fine("User", user);
    check.fine("Component", "runs, and writes to the scratch directory");
    let environ = left_behind(scratch, "environ").unwrap_or_default();
    if environ
        .split(|&byte| byte == 0)
        .any(|variable| variable == b"_CONDOR_SLOT=slot1_1")
    {
        check.fine("HTCondor", "its variables `_CONDOR_*` reach Python");
    } else {
        check.wrong(
            "HTCondor",
            "its variables `_CONDOR_*` do not reach Python",
            "the image has `/.singularity.d/env` without `99-base.sh`: COPY --from=htmap-exec/base / /",
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::runtime::Runtime;

    /// Of an image whose programs do this in the scratch directory instead of running the component.
    fn hostile(deeds: &str) -> Check {
        let directory = tempfile::tempdir().unwrap();
        let (program, scratch) = (
            directory.path().join("docker"),
            directory.path().join("scratch"),
        );
        fs::create_dir(&scratch).unwrap();
        fs::write(directory.path().join("outside"), "_CONDOR_SLOT=slot1_1\0").unwrap();
        let script = format!(
            "#!/bin/sh\ncd '{}'\nset -e\ncase \"$*\" in *python*)\n\
             echo '{{\"picked\": {{\"path\": \"/usr/bin/python3\", \"version\": \"3.11.2\"}}}}'; exit;; esac\n\
             mkdir _htmap_transfer\n\
             record='{{\"status\": \"OK\", \"node\": {{\"user\": \"uid 1\"}}}}'\n\
             {deeds}\n",
            scratch.display()
        );
        fs::write(&program, script).unwrap();
        change_mode(&program, 0o755).unwrap();
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let container = Container {
                runtime: Runtime::Docker,
                program,
                image: "hostile",
                scratch: &scratch,
                user: "1:1".to_owned(),
            };
            let found = check(&container, Path::new("/bin/true"), None);
            send.send(found.unwrap()).unwrap();
            drop(directory);
        });
        let ended = receive.recv_timeout(Duration::from_secs(20));
        ended.expect("it does not wait for what an image left behind")
    }

    fn is_wrong(check: &Check, what: &str) -> bool {
        let mut findings = check.findings.iter();
        findings.any(|finding| finding.what == what && finding.remedy.is_some())
    }

    #[test]
    fn an_image_leaves_what_a_component_leaves() {
        let found = hostile(
            "echo \"$record\" >_htmap_transfer/0.json; printf '_CONDOR_SLOT=slot1_1\\0' >environ",
        );
        assert!(found.is_good(), "{found:?}");
    }

    #[test]
    fn an_image_leaves_fifos() {
        assert!(is_wrong(
            &hostile("mkfifo _htmap_transfer/0.json"),
            "Component"
        ));
        let environ = hostile("echo \"$record\" >_htmap_transfer/0.json; mkfifo environ");
        assert!(is_wrong(&environ, "HTCondor"));
    }

    #[test]
    fn an_image_leaves_files_without_end() {
        let record = "printf %s \"$record\" >_htmap_transfer/0.json";
        let long = hostile(&format!(
            "{record}; yes '' | head -c 100000000 >>_htmap_transfer/0.json; printf '_CONDOR_SLOT=slot1_1\\0' >environ"
        ));
        assert!(is_wrong(&long, "Component"), "{long:?}");
        let long = hostile(&format!(
            "{record}; printf '_CONDOR_SLOT=slot1_1\\0' >environ; truncate -s 100M environ"
        ));
        assert!(is_wrong(&long, "HTCondor"), "{long:?}");
    }

    #[test]
    fn an_image_leaves_links_to_files_of_this_machine() {
        let found = hostile("echo \"$record\" >_htmap_transfer/0.json; ln -s ../outside environ");
        assert!(is_wrong(&found, "HTCondor"), "{found:?}");
    }
}
