"""Evictions without a pool: what HTCondor takes from a scratch directory into SPOOL, and gives to the next attempt.

The subtlety is in how SPOOL is merged, measured on a real pool: a file or directory at the top level replaces its
namesake whole, and what an earlier attempt left under another name stays for ever.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .cases import Case, dispose
from .environment import Python, htmap_directory, main_python
from .outcome import Outcome
from .running import Running, run_control, run_ours
from .scratch import Scratch, make_pickles, new_base

# What stock HTMap's two execute-side functions need; the rest of it cannot be imported without HTCondor's bindings.
STOCK_MODULES = ("checkpointing.py", "transfer.py", "names.py", "exceptions.py")
STOCK_INIT = "from .checkpointing import checkpoint\nfrom .transfer import TransferPath, transfer_output_files\n"


def stock_htmap(directory: Path) -> Path:
    """A directory from which the control imports stock HTMap's `checkpoint` and `transfer_output_files`."""
    package = directory / "stock" / "htmap"
    package.mkdir(parents=True, exist_ok=True)
    for name in STOCK_MODULES:
        shutil.copyfile(htmap_directory() / "htmap" / name, package / name)
    (package / "__init__.py").write_text(STOCK_INIT)
    (package / "utils.py").write_text("CAN_USE_URL_OUTPUT_TRANSFER = False\n")
    return package.parent


def sigterm(after: str, delay: float = 0.0, number: int = signal.SIGTERM) -> Callable[[Running], None]:
    """To the runner, once the function has made the file `after`."""

    def send(running: Running) -> None:
        running.wait_for(after)
        time.sleep(delay)
        running.signal(number)

    return send


def merge(source: Path, target: Path) -> None:
    """Put one top-level entry in the place of its namesake."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif target.is_symlink() or target.exists():
        target.unlink()
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


@dataclass
class Job:
    """One component through any number of attempts, by the binary or by the control."""

    source: str
    control: bool = False
    python: Python = field(default_factory=main_python)
    pickled_by: Python | None = None
    prepare: Callable[[Scratch], object] | None = None
    pickle_environment: dict[str, str] = field(default_factory=dict)
    component: int = 0
    # Attempts before the first of these: more than none for a job whose SPOOL something else has filled.
    earlier: int = 0
    spool: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="htmap-exec-spool-")))
    scratches: list[Scratch] = field(default_factory=list)

    def attempt(self, during: Callable[[Running], None] | None = None, timeout: float = 30) -> tuple[Scratch, Outcome]:
        """Start it once more, in a new scratch directory with what SPOOL holds."""
        scratch = Scratch(base=new_base(), component=self.component, python=self.python, is_control=self.control)
        self.scratches.append(scratch)
        pickled_by = self.pickled_by or self.python
        pickles = make_pickles(self.source, pickled_by, self.component, self.pickle_environment)
        scratch.fill(pickles, attempt=self.earlier + len(self.scratches))
        for entry in self.spool.iterdir():
            merge(entry, scratch.dir / entry.name)
        if self.control:
            scratch.env["PYTHONPATH"] = str(stock_htmap(scratch.base))
        if self.prepare is not None:
            self.prepare(scratch)
        run = run_control if self.control else run_ours
        return scratch, run(scratch, timeout, during)

    def evict(
        self, after: str = "started", delay: float = 0.0, number: int = signal.SIGTERM
    ) -> tuple[Scratch, Outcome]:
        """Start it, send SIGTERM once the function has made `after`, and take its files into SPOOL."""
        scratch, outcome = self.attempt(sigterm(after, delay, number))
        assert (scratch.dir / after).exists(), f"the function never made `{after}`\n{outcome.dump()}"
        assert not outcome.timed_out, outcome.dump()
        self.take(scratch)
        return scratch, outcome

    def take(self, scratch: Scratch) -> None:
        """What `transfer_output_files = _htmap_transfer/, _htmap_user_transfer/N` brings back on an eviction."""
        for entry in scratch.transfer.iterdir():
            merge(entry, self.spool / entry.name)
        merge(scratch.user_transfer, self.spool / str(self.component))

    def delivered(self, scratch: Scratch) -> dict[str, bytes]:
        """The component's output files after the last attempt, by path."""
        root = scratch.user_transfer
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def close(self) -> None:
        for scratch in self.scratches:
            dispose(scratch)
        shutil.rmtree(self.spool, ignore_errors=True)


# The fixtures of the regression tests: fields of Job to a job, and a case to its two assertions.
MakeJob = Callable[..., Job]
Mended = Callable[[Case], None]
