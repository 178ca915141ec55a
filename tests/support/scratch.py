"""A scratch directory as HTCondor makes it, and everything around it that a test may bend.

`Scratch` is the whole situation one component starts in: directory, environment, user, limits, descriptors. Two of
them are made from one `Case`, one for the binary and one for the control, from the same pickles.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from .environment import Python, cloudpickle_package, main_python

MAKE_PICKLES = Path(__file__).with_name("make_pickles.py")

# Names its run in every process of it, so that what is left behind can be found.
MARKER = "HTMAP_EXEC_TEST_RUN"

JOB_AD = """\
ClusterId = 7
ProcId = {component}
IsHTMapJob = true
JobMaxVacateTime = 8
NumShadowStarts = {attempt}
NumJobStarts = {earlier}
RequestMemory = 128
Component = "{component}"
"""

MACHINE_AD = """\
Cpus = 1
Machine = "node.example"
MachineMaxVacateTime = 10 * 60
Memory = 1024
"""


def make_pickles(source: str, python: Python, component: int, environment: dict[str, str] | None = None) -> Path:
    """A directory with `func` and `N.in` made from `source`; the same source is pickled once."""
    text = dedent(source)
    key = hashlib.sha256(f"{python.path}\0{component}\0{text}".encode()).hexdigest()[:24]
    store = _pickle_store()
    directory = store / key
    if directory.exists():
        return directory
    making = Path(tempfile.mkdtemp(dir=store))
    file = making / "functions.py"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [python.path, MAKE_PICKLES, file, making, str(component)],
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **(environment or {})},
        cwd=making,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"cannot pickle on {python}: {done.stderr}\n{text}")
    try:
        making.rename(directory)
    except OSError:  # another worker was first
        shutil.rmtree(making)
    return directory


def _pickle_store() -> Path:
    # Per process: the sources are small, and a store that outlives the run would outlive a change of cloudpickle.
    global _store
    with _lock:
        if _store is None:
            _store = tempfile.TemporaryDirectory(prefix="htmap-exec-pickles-")
        return Path(_store.name)


_store: tempfile.TemporaryDirectory[str] | None = None
# A case's two sides run in two threads.
_lock = threading.Lock()


@dataclass
class Scratch:
    """Where and how one component runs. Change any field before the run."""

    base: Path
    component: int = 0
    python: Python = field(default_factory=main_python)
    name: str | bytes = "scratch"
    env: dict[str, str] = field(default_factory=dict)
    # Goes before the command, as in `unshare --uts`.
    wrapper: list[str] = field(default_factory=list)
    uid: int | None = None
    # Runs in the child between fork and exec.
    before_exec: Callable[[], None] | None = None
    stdin: str = os.devnull
    stdout: Path | None = None
    # Goes into the binary's command line only; the control has no options.
    options: list[str] = field(default_factory=list)
    # In place of `run [options] N`.
    arguments: list[str] | None = None
    # Where the binary is called by another name.
    program: Path | None = None
    # Pass `--python`; without it the runner has to find one.
    name_python: bool = True
    working_directory: Path | None = None
    is_control: bool = False
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    undo: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dir.mkdir(exist_ok=True)
        self.set_environment()

    @property
    def dir(self) -> Path:
        return self.base / os.fsdecode(self.name)

    def set_environment(self) -> None:
        """The environment that HTCondor 23.9 gives a job, with a PATH as most pools' transforms do."""
        self.env = {
            "BATCH_SYSTEM": "HTCondor",
            "HOME": str(self.base),
            "LANG": "C.UTF-8",
            "MKL_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{self.python.path.parent}:/usr/local/bin:/usr/bin:/bin",
            "TMPDIR": str(self.dir),
            "_CONDOR_JOB_AD": str(self.dir / ".job.ad"),
            "_CONDOR_MACHINE_AD": str(self.dir / ".machine.ad"),
            "_CONDOR_SCRATCH_DIR": str(self.dir),
            "_CONDOR_SLOT": "slot1_1",
            MARKER: self.marker,
        }

    def rename(self, name: str | bytes) -> None:
        """Give the scratch directory another name, as a pool with odd EXECUTE directories does."""
        old = self.dir
        self.name = name
        old.rename(self.dir)
        for key in ("_CONDOR_JOB_AD", "_CONDOR_MACHINE_AD", "_CONDOR_SCRATCH_DIR", "TMPDIR"):
            self.env[key] = self.env[key].replace(str(old), str(self.dir))

    def fill(self, pickles: Path | None, attempt: int = 1) -> None:
        """Put there what HTCondor transfers, and the ads."""
        if pickles is not None:
            for file in ("func", f"{self.component}.in"):
                shutil.copyfile(pickles / file, self.dir / file)
        (self.dir / ".job.ad").write_text(JOB_AD.format(component=self.component, attempt=attempt, earlier=attempt - 1))
        (self.dir / ".machine.ad").write_text(MACHINE_AD)

    def write(self, name: str, content: str | bytes = b"") -> Path:
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def write_pickle(self, name: str, thing: object) -> None:
        """A pickle without any code in it, as any Python 3 writes it."""
        self.write(name, gzip.compress(pickle.dumps(thing, protocol=2)))

    def edit(self, name: str, change: Callable[[bytes], bytes]) -> None:
        path = self.dir / name
        path.write_bytes(change(path.read_bytes()))

    def ship_cloudpickle(self, where: str = ".") -> None:
        """Copy cloudpickle into the scratch directory, as an input file of the user's."""
        shutil.copytree(
            cloudpickle_package(), self.dir / where / "cloudpickle", ignore=shutil.ignore_patterns("__pycache__")
        )

    def give_to(self, uid: int) -> None:
        """Run as this user, who owns the scratch directory and has no passwd entry."""
        self.uid = uid
        for path in [self.base, self.dir, *self.dir.rglob("*")]:
            os.chown(path, uid, uid, follow_symlinks=False)

    @property
    def transfer(self) -> Path:
        return self.dir / "_htmap_transfer"

    @property
    def user_transfer(self) -> Path:
        return self.dir / "_htmap_user_transfer" / str(self.component)

    @property
    def out(self) -> Path:
        return self.transfer / f"{self.component}.out"

    def clean(self) -> None:
        for step in reversed(self.undo):
            step()
        self.undo.clear()


def new_base(place: Path | None = None) -> Path:
    """A directory that any user may pass through; pytest's own temporary directories are private to theirs."""
    base = Path(tempfile.mkdtemp(prefix="htmap-exec-test-", dir=place))
    base.chmod(0o755)
    return base
