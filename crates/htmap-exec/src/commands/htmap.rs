//! `htmap-exec htmap` and `htmap-exec explain`: the Python package's commands, by the Python that has the package.
//!
//! The process becomes Python. Whether the package is there shows only then, so Python itself says so.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

const PYTHON_VARIABLE: &str = "HTMAP_EXEC_PYTHON";
/// Where the package looks for the binary.
const BINARY_VARIABLE: &str = "HTMAP_EXEC_BIN";

/// `-m htmap_exec`, but without the current directory on `sys.path`, where a `random.py` of the user's would be
/// imported by HTMap, and with an error for users. What `-c` puts there first is that directory, unless Python was told
/// not to: <https://docs.python.org/3/using/cmdline.html#cmdoption-P>
const PROGRAM: &str = "\
import sys
if not getattr(sys.flags, 'safe_path', False):
    del sys.path[0]
try:
    from htmap_exec.command_line import main
except ModuleNotFoundError as error:
    if error.name not in ('htmap_exec', 'htmap_exec.command_line'):
        raise
    sys.exit('htmap-exec: error: `%s` has no htmap_exec\\n'
             'hint: `%s -m pip install \"htmap-exec[htmap]\"`, or name another Python by HTMAP_EXEC_PYTHON'
             % (sys.executable, sys.executable))
sys.exit(main())
";

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let python = find()?;
    let mut command = Command::new(&python);
    command.arg("-c").arg(PROGRAM).args(arguments);
    if env::var_os(BINARY_VARIABLE).is_none_or(|named| named.is_empty()) {
        command.env(BINARY_VARIABLE, env::current_exe()?);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", python.display()))
}

pub(crate) fn explain(delivery: Option<OsString>) -> anyhow::Result<ExitCode> {
    let mut arguments = vec!["explain".into()];
    if let Some(name) = delivery {
        arguments.extend(["--delivery".into(), name]);
    }
    run(&arguments)
}

fn find() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os(PYTHON_VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let virtual_environment = env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty());
    if let Some(python) = directories_of_binary()
        .into_iter()
        .chain(virtual_environment.map(|path| PathBuf::from(path).join("bin")))
        .find_map(|directory| python_in(&directory))
        .or_else(|| on_path("python3"))
    {
        return Ok(python);
    }
    bail!(
        "no Python beside this binary, in VIRTUAL_ENV or on PATH\nhint: name the one that has htmap_exec by {PYTHON_VARIABLE}"
    )
}

/// Where the binary was called, and where it is: a virtual environment may hold a link to it, and `~/.local/bin` one
/// to the virtual environment.
fn directories_of_binary() -> Vec<PathBuf> {
    let real = env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_path_buf));
    where_called().into_iter().chain(real).collect()
}

pub(super) fn where_called() -> Option<PathBuf> {
    let name = PathBuf::from(env::args_os().next()?);
    let called = if name.components().count() > 1 {
        std::path::absolute(name).ok()?
    } else {
        on_path(name.to_str()?)?
    };
    called.parent().map(Path::to_path_buf)
}

pub(super) fn python_in(directory: &Path) -> Option<PathBuf> {
    ["python3", "python"]
        .iter()
        .map(|name| directory.join(name))
        .find(|path| path.is_file())
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}
