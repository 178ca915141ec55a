//! Starts an interpreter once and asks it what it is.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::distributions::Distributions;
use crate::version::PythonVersion;

const PROGRAM: &str = include_str!("probe.py");
/// What its answer begins with.
const BEGIN: &[u8] = b"htmap-exec probe\0";
/// A line of it is told by so many bytes.
const LEAST: usize = 10;
const LIMIT: Duration = Duration::from_secs(30);
/// For what it said to be read, once it has ended.
const GRACE: Duration = Duration::from_secs(1);

/// What an interpreter says of itself.
#[derive(Debug, Clone)]
pub struct Interpreter {
    /// `sys.executable`
    pub executable: PathBuf,
    /// Minor version.
    pub version: PythonVersion,
    /// Such as `3.11.7`.
    pub full_version: String,
    /// Such as `CPython`.
    pub implementation: String,
    /// `sys.prefix`
    pub prefix: PathBuf,
    /// `sys.base_prefix`
    pub base_prefix: PathBuf,
    /// `sys.path` without the current directory.
    pub sys_path: Vec<PathBuf>,
    /// What the file names of extension modules made for it end in.
    pub extension_suffix: String,
    /// The version of cloudpickle it has.
    pub cloudpickle: Option<String>,
}

/// Why it says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The kernel did not start it.
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    /// It hangs.
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    /// It ended with an error.
    #[error("it ended with {status}{}", last_line(stderr))]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// What it said is not what a Python says.
    #[error("it does not answer as a Python does")]
    Unreadable,
}

/// What it said last; of a program that is no Python often what it was asked, in full.
fn last_line(stderr: &str) -> String {
    let mut lines = stderr.lines().rev().map(str::trim);
    match lines.find(|line| !line.is_empty()) {
        None => String::new(),
        Some(line) if repeats_us(line) => ": it does not run Python".to_owned(),
        Some(line) => format!(": {line}"),
    }
}

fn repeats_us(line: &str) -> bool {
    let mut ours = PROGRAM.lines().map(str::trim);
    ours.any(|each| each.len() >= LEAST && line.contains(each))
}

/// What it says; where something else has written to stdout before it, such as a `sitecustomize`, after that.
fn read(stdout: &[u8]) -> Option<Interpreter> {
    let begin = stdout
        .windows(BEGIN.len())
        .rposition(|window| window == BEGIN)?;
    let mut fields = stdout[begin + BEGIN.len()..].split(|&byte| byte == 0);
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let mut text = || Some(String::from_utf8_lossy(fields.next()?).into_owned());
    let version = text()?.parse().ok()?;
    let (full_version, implementation) = (text()?, text()?);
    let executable = path(fields.next()?);
    let (prefix, base_prefix) = (path(fields.next()?), path(fields.next()?));
    let extension_suffix = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut sys_path: Vec<PathBuf> = fields.map(path).collect();
    // Behind the NUL of the last one.
    sys_path.pop();
    // Its metadata says so in a millisecond; Python's own importlib.metadata takes twenty.
    let cloudpickle = Distributions::new().version_of("cloudpickle", &sys_path);
    Some(Interpreter {
        executable,
        version,
        full_version,
        implementation,
        prefix,
        base_prefix,
        sys_path,
        extension_suffix,
        cloudpickle,
    })
}

/// What comes out of a pipe, as it comes.
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Said {
    fn of(pipe: Option<impl io::Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = mpsc::channel();
        let shared = Arc::clone(&text);
        std::thread::spawn(move || {
            // Until this thread is done.
            let _end = end;
            // Nobody's answer is longer.
            let Some(mut pipe) = pipe.map(|pipe| pipe.take(1 << 20)) else {
                return;
            };
            let mut some = vec![0; 16 << 10];
            while let Ok(length @ 1..) = pipe.read(&mut some) {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&some[..length]);
            }
        });
        Self { text, ended }
    }

    /// All that it said before it ended. What it started may hold the pipe open for as long as it likes.
    fn text(self) -> Vec<u8> {
        let _ = self.ended.recv_timeout(GRACE);
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut text)
    }
}

/// Asks it.
pub fn probe(path: &Path) -> Result<Interpreter, ProbeError> {
    let mut child = Command::new(path)
        .args(["-c", PROGRAM])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ProbeError::Start)?;
    let stdout = Said::of(child.stdout.take());
    let stderr = Said::of(child.stderr.take());
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().map_err(ProbeError::Start)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                // The threads end with whoever holds the pipes; they are not waited for.
                let _ = child.kill();
                let _ = child.wait();
                return Err(ProbeError::TimedOut);
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr.text()).into_owned();
        return Err(ProbeError::Ended { status, stderr });
    }
    read(&stdout.text()).ok_or(ProbeError::Unreadable)
}
