"""What the machine offers to the tests: the binary, stock HTMap, the Pythons.

Everything is looked up once, on first use, and handed down to pytest-xdist's workers and to child processes through
the environment variables that a user may set by hand: `HTMAP_EXEC_BIN`, `HTMAP_EXEC_TEST_HTMAP` (the directory that
contains `htmap/`), `HTMAP_EXEC_TEST_PYTHONS` (`:`-separated interpreters, each with cloudpickle) and
`HTMAP_EXEC_TEST_CLICKS` (the same, each with HTMap, HTCondor's bindings and one version of click).
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

_EXPORT = re.compile(r"^export (HTMAP_EXEC_\w+)=(.*)$")


@dataclass(frozen=True)
class Python:
    """One interpreter that has cloudpickle."""

    path: Path
    version: tuple[int, int, int]

    @property
    def minor(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"

    def __str__(self) -> str:
        return self.minor


@functools.cache
def binary() -> Path:
    """The binary under test; built if nobody named one."""
    named = os.environ.get("HTMAP_EXEC_BIN")
    if named:
        path = Path(named).resolve()
    else:
        target = Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target"))
        path = target / "release" / "htmap-exec"
        subprocess.run(["cargo", "build", "--release", "--bin", "htmap-exec"], cwd=CHECKOUT, check=True)
        os.environ["HTMAP_EXEC_BIN"] = str(path)
    if not path.is_file():
        raise RuntimeError(f"`{path}` is no file: set HTMAP_EXEC_BIN or run `cargo build --release`")
    return path


@functools.cache
def set_up() -> None:
    """Set what `scripts/setup env` exports, unless it is set already."""
    wanted = ("HTMAP_EXEC_TEST_HTMAP", "HTMAP_EXEC_TEST_PYTHONS", "HTMAP_EXEC_TEST_CLICKS")
    if all(os.environ.get(name) for name in wanted):
        return
    script = CHECKOUT / "scripts" / "setup"
    if not script.exists():
        raise RuntimeError(f"set {' and '.join(wanted)}: there is no `{script}` that would tell")
    printed = subprocess.run([script, "env"], check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in printed.splitlines():
        if match := _EXPORT.match(line):
            os.environ.setdefault(match[1], "".join(shlex.split(match[2])))
    for name in wanted:
        if not os.environ.get(name):
            raise RuntimeError(f"`{script} env` does not export {name}")


@functools.cache
def htmap_directory() -> Path:
    """The directory that contains stock HTMap's `htmap/`."""
    set_up()
    directory = Path(os.environ["HTMAP_EXEC_TEST_HTMAP"])
    if not (directory / "htmap" / "run" / "_htmap_run.py").is_file():
        raise RuntimeError(f"`{directory}` holds no `htmap/run/_htmap_run.py`")
    return directory


def control_script() -> Path:
    return htmap_directory() / "htmap" / "run" / "_htmap_run.py"


def probe(path: Path) -> Python:
    code = "import sys; print(*sys.version_info[:3])"
    printed = subprocess.run([path, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    major, minor, micro = map(int, printed.split())
    return Python(path, (major, minor, micro))


@functools.cache
def pythons() -> dict[str, Python]:
    """The machine's Pythons with cloudpickle, by minor version, oldest first."""
    set_up()
    paths = [Path(p) for p in os.environ["HTMAP_EXEC_TEST_PYTHONS"].split(":") if p]
    found = sorted((probe(path) for path in paths), key=lambda python: python.version)
    return {python.minor: python for python in found}


@functools.cache
def clicks() -> dict[str, Path]:
    """Pythons with HTMap, by their version of click, oldest first."""
    set_up()
    code = "from importlib.metadata import version; print(version('click'))"
    paths = [Path(p) for p in os.environ["HTMAP_EXEC_TEST_CLICKS"].split(":") if p]
    return {subprocess.check_output([path, "-c", code], text=True).strip(): path for path in paths}


@functools.cache
def main_python() -> Python:
    """The one most cases run on: 3.11 where there is one, else the newest."""
    found = pythons()
    return found.get("3.11") or list(found.values())[-1]


@functools.cache
def system_python() -> Python | None:
    """A Python that every user of the machine can run (no venv in root's home)."""
    path = Path("/usr/bin/python3")
    return probe(path) if path.exists() else None


@functools.cache
def cloudpickle_package() -> Path:
    """The main Python's `cloudpickle/`, for interpreters that have none."""
    code = "import cloudpickle; print(cloudpickle.__path__[0])"
    printed = subprocess.run([main_python().path, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return Path(printed.stdout.strip())


def can_unshare(*options: str) -> bool:
    """Whether this user may make namespaces of these kinds."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    return subprocess.run([unshare, *options, "true"], capture_output=True, check=False).returncode == 0


def is_root() -> bool:
    return os.geteuid() == 0


def base_python_2() -> Path | None:
    """A Python 2, if the machine has one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [*root.glob("versions/2.7*/bin/python2.7"), Path("/usr/bin/python2.7")]
    return next((path for path in candidates if path.exists()), None)


if sys.version_info < (3, 11):
    raise RuntimeError("the end-to-end tests need Python 3.11 or later; the Pythons under test may be older")
