"""A map directory that the main Python has written, and `htmap-exec local` on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from support.environment import CHECKOUT, Python, binary, main_python

WRITE = """
import sys
sys.path.insert(0, {package!r})
import htmap_exec
names = {{"__name__": "__main__"}}
exec({source!r}, names)
htmap_exec.write_map({directory!r}, names["f"], {inputs!r})
"""


class LocalMap:
    def __init__(self, base: Path, python: Python | None = None) -> None:
        self.base = base
        self.python = python or main_python()
        self.directory = base / "map"
        # Where the functions of a test say things.
        self.said = base / "said"
        self.said.mkdir()
        self.scratches = base / "scratches"
        self.scratches.mkdir()
        keep = ("LANG", "LC_ALL", "LD_LIBRARY_PATH")
        self.env = {name: os.environ[name] for name in keep if name in os.environ}
        self.env.update(PATH="/usr/bin:/bin", HOME=str(base), TMPDIR=str(self.scratches), SAID=str(self.said))
        self.started: list[subprocess.Popen[str]] = []
        # Where it is started.
        self.cwd = base

    def write(self, source: str, inputs: list[Any]) -> None:
        """A map of the function `f` of this source."""
        program = WRITE.format(
            package=str(CHECKOUT / "python"), source=dedent(source), directory=str(self.directory), inputs=inputs
        )
        subprocess.run([self.python.path, "-c", program], check=True)

    def command(self, *options: str | Path, program: Path | None = None, name_python: bool = True) -> list[str]:
        python = ["--python", str(self.python.path)] if name_python else []
        return [str(program or binary()), "local", *python, *map(str, options), str(self.directory)]

    def run(
        self, *options: str | Path, program: Path | None = None, name_python: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options, program=program, name_python=name_python),
            env=self.env,
            cwd=self.cwd,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
        )

    def start(self, *options: str | Path, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        """In a session of its own, so that a signal reaches it alone."""
        process = subprocess.Popen(
            self.command(*options),
            env=self.env,
            cwd=self.cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=before,
        )
        self.started.append(process)
        return process

    def pids(self, count: int) -> list[int]:
        """Of the Pythons and their parents, once so many functions have said theirs, as `said/N.pid`."""
        wait_until(lambda: len(list(self.said.glob("*.pid"))) >= count, "functions that run")
        return [int(word) for path in self.said.glob("*.pid") for word in path.read_text().split()]

    def record(self, component: int) -> Any:
        return json.loads((self.directory / "records" / f"{component}.json").read_text())

    def output(self, component: int) -> bytes:
        return (self.directory / "outputs" / f"{component}.out").read_bytes()

    def value(self, component: int) -> Any:
        import htmap_exec

        return htmap_exec.load_output(self.directory, component)

    def end_all(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for path in self.said.glob("*.pid"):
            for pid in path.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.01)
