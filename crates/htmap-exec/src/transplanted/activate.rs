//! The variables of an activated environment: what `activate` of a virtual environment or of conda
//! would set, and nothing of another Python's.
//!
//! What there is to activate is in the manifest. The tree is not looked at: it may be a mount that
//! only Python sees.
//!
//! conda packages bring shell scripts for this (`etc/conda/activate.d`). They are sourced by a shell
//! of the node, which enters the mount where there is one, and what they changed is read from a Python
//! that the same shell becomes.
//! <https://docs.conda.io/projects/conda-build/en/stable/resources/activate-scripts.html>

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use htmap_exec_transplant::{self as transplant, Manifest, Node, Places};

use super::Tree;
use crate::foreign::FOREIGN;

/// For scripts that other people wrote.
const LIMIT: Duration = Duration::from_secs(30);
/// More than any environment is.
const LARGEST: u64 = 16 << 20;

/// Where systems keep the certificates that they trust: Debian, Red Hat, SUSE, Alpine and others.
const CERTIFICATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cacert.pem",
];

/// What the tree's Pythons read, and no other program: libraries to load at their start.
const PRELOAD: &str = "HTMAP_EXEC_PRELOAD";

type Variables = Vec<(OsString, Option<OsString>)>;

/// What to set and to unset.
pub(super) fn environment(
    tree: &Tree,
    manifest: &Manifest,
    node: &Node,
    keep: &[OsString],
) -> Variables {
    let root = tree.root.as_path();
    let outer = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut variables: BTreeMap<OsString, Option<OsString>> = FOREIGN
        .iter()
        .chain([&PRELOAD])
        .filter(|name| !keep.iter().any(|kept| kept == *name))
        .map(|&name| (name.into(), None))
        .collect();
    let mut set = |name: &str, value: OsString| {
        variables.insert(name.into(), Some(value));
    };
    set("PATH", join(&[root.join("bin")], outer("PATH")));
    if !keep.iter().any(|kept| kept == "PYTHONNOUSERSITE") {
        // What lies in somebody's ~/.local would go before what was packed.
        set("PYTHONNOUSERSITE", "1".into());
    }
    if tree.shared {
        set("PYTHONDONTWRITEBYTECODE", "1".into());
    }
    if manifest.virtual_env {
        set("VIRTUAL_ENV", root.into());
    }
    let places = &manifest.places;
    if places.conda {
        set("CONDA_PREFIX", root.into());
        set("CONDA_DEFAULT_ENV", root.into());
        set("CONDA_SHLVL", "1".into());
    }
    let of_conda: BTreeMap<&str, OsString> = places
        .variables_at(root)
        .filter(|(name, _)| !keep.iter().any(|kept| kept == *name))
        .collect();
    for (name, value) in &of_conda {
        set(name, value.clone());
    }
    let outer = |name: &str| of_conda.get(name).cloned().or_else(|| outer(name));
    let outer_path = outer("LD_LIBRARY_PATH");
    let mut libraries = transplant::libraries(root, manifest, node, outer_path.as_deref());
    for remark in &libraries.remarks {
        tracing::info!("{remark}");
    }
    if is_shadowed(places, outer_path.as_deref()) {
        libraries.search.push(root.join("lib"));
    }
    if !libraries.search.is_empty() {
        set("LD_LIBRARY_PATH", join(&libraries.search, outer_path));
    }
    if !libraries.preload.is_empty() {
        set(PRELOAD, join(&libraries.preload, None));
    }
    // OpenSSL looks where it was built to be, and this one has moved.
    if outer("SSL_CERT_FILE").is_none()
        && outer("SSL_CERT_DIR").is_none()
        && let Some(file) = certificates(root, places)
    {
        set("SSL_CERT_FILE", file.into());
    }
    if outer("TERMINFO").is_none() && places.terminals {
        set("TERMINFO", root.join("share/terminfo").into());
    }
    let mut variables: Variables = variables.into_iter().collect();
    if !places.scripts.is_empty() {
        let python = root.join(&manifest.python);
        match sourced(tree, &places.scripts, &python, &variables) {
            Ok(changed) => variables.extend(changed),
            Err(reason) => tracing::warn!(
                "the scripts in `{}` are left out: {reason}",
                root.join("etc/conda/activate.d").display()
            ),
        }
    }
    variables
}

/// Directories in front of a search path.
fn join(directories: &[PathBuf], rest: Option<OsString>) -> OsString {
    let mut path = OsString::new();
    let all = directories.iter().map(|each| each.as_os_str().to_owned());
    for part in all.chain(rest) {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(part);
    }
    path
}

/// Whether the loader would find another libpython before the tree's own.
fn is_shadowed(places: &Places, outer: Option<&OsStr>) -> bool {
    // RUNPATH comes after LD_LIBRARY_PATH: https://man7.org/linux/man-pages/man8/ld.so.8.html
    let mut path = std::env::split_paths(outer.unwrap_or_default());
    !places.has_search_path
        && path.any(|each| {
            let mut names = places.libpythons.iter();
            names.any(|name| each.join(name).exists())
        })
}

/// The node's first: a site may trust more than the world does.
fn certificates(root: &Path, places: &Places) -> Option<PathBuf> {
    let nodes = CERTIFICATES.iter().map(PathBuf::from);
    nodes
        .filter(|path| path.is_file())
        .chain(places.certificates.iter().map(|path| root.join(path)))
        .next()
}

/// What the scripts of conda packages change.
fn sourced(
    tree: &Tree,
    scripts: &[String],
    python: &Path,
    variables: &Variables,
) -> Result<Variables, String> {
    // Many are written for bash, though they should not be.
    let shell = ["/bin/bash", "/bin/sh"]
        .into_iter()
        .find(|shell| Path::new(shell).exists())
        .ok_or("this node has no shell")?;
    let mut command = Command::new(shell);
    command
        .arg("-c")
        .arg(
            r#"python=$1; shift; for script; do . "$script" >&2; done
exec "$python" -I -S -c 'import os, sys; sys.stdout.buffer.write(b"".join(k + b"=" + v + b"\0" for k, v in os.environb.items()))'"#,
        )
        .arg("activate")
        .arg(python)
        .args(scripts.iter().map(|script| tree.root.join(script)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    match &tree.served {
        Some(served) => served.house(&mut command, &tree.root),
        None => {
            command.current_dir(&tree.root);
        }
    }
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let before: BTreeMap<OsString, OsString> = std::env::vars_os()
        .filter(|(name, _)| !variables.iter().any(|(each, _)| each == name))
        .chain(
            variables
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value.clone()?))),
        )
        .collect();
    let after = output(command)?;
    let mut after: BTreeMap<OsString, OsString> = after
        .split(|&byte| byte == 0)
        .filter_map(|line| {
            let at = line.iter().position(|&byte| byte == b'=')?;
            let value = OsString::from_vec(line[at + 1..].to_vec());
            Some((OsStr::from_bytes(&line[..at]).to_owned(), value))
        })
        .collect();
    if after.is_empty() {
        return Err("they ended before they were done".to_owned());
    }
    // The shell's own, and what Python sets where there is no locale (PEP 538).
    let is_own = |name: &OsStr| {
        ["_", "PWD", "OLDPWD", "SHLVL", "LC_CTYPE"]
            .iter()
            .any(|own| name == *own)
    };
    after.retain(|name, _| !is_own(name));
    let gone = before
        .keys()
        .filter(|name| !after.contains_key(*name) && !is_own(name))
        .map(|name| (name.clone(), None));
    let changed = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), Some(value.clone())));
    Ok(gone.chain(changed).collect())
}

/// The stdout of a command that may take some time, but not for ever.
fn output(mut command: Command) -> Result<Vec<u8>, String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let group = i32::try_from(child.id()).expect("a pid is an i32");
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            let _ = stdout.take(LARGEST).read_to_end(&mut bytes);
        }
        bytes
    });
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if begun.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => break Err(format!("they did not end within {} s", LIMIT.as_secs())),
            Err(error) => break Err(error.to_string()),
        }
    };
    // Whatever they left running would hold the pipe, and the job.
    let _ = nix::sys::signal::killpg(
        nix::unistd::Pid::from_raw(group),
        nix::sys::signal::Signal::SIGKILL,
    );
    let _ = child.wait();
    let status = ended?;
    let bytes = reader.join().unwrap_or_default();
    if status.success() {
        Ok(bytes)
    } else {
        Err(format!("they ended with {status}"))
    }
}
