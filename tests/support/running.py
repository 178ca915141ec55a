"""Runs one component, by the binary or by HTMap's script, and watches what it leaves behind.

Processes that outlive the run are found in /proc by a marker in their environment, by a working directory inside the
scratch directory, and by the process ids that a function wrote into `pids` there: a daemon may have shed the first
two.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .environment import binary, control_script
from .outcome import Outcome, decode_control, decode_ours
from .scratch import MARKER, Scratch

KEEP = 400_000


@dataclass
class Running:
    """A run under way, for tests that act on it."""

    process: subprocess.Popen[bytes]
    scratch: Scratch
    ends: float
    """When the run's time is over, by the monotonic clock."""

    def signal(self, number: int) -> None:
        """To the runner only, as HTCondor does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.runner_pid(), number)

    def runner_pid(self) -> int:
        """The runner's process id here; below `unshare --fork` that is the child's."""
        if "--fork" not in self.scratch.wrapper:
            return self.process.pid
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if children:
                return int(children[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise ProcessLookupError("unshare has no child")

    def wait_for(self, name: str) -> bool:
        """Until the function has made this file; false if the run, or its time, ended first.

        It has no limit of its own: a busy disk needs a minute for 50,000 files, and a signal sent into that minute
        tells of the disk only.
        """
        path = self.scratch.dir / name
        while time.monotonic() < self.ends:
            if path.exists():
                return True
            if self.process.poll() is not None:
                return path.exists()
            time.sleep(0.005)
        return False


During = Callable[[Running], object]


def run_ours(scratch: Scratch, timeout: float = 60, during: During | None = None) -> Outcome:
    """Run the component through the binary under test."""
    program = scratch.program or binary()
    if scratch.uid is not None and scratch.program is None:
        # The build directory may lie where this user may not look.
        program = scratch.base / "htmap-exec"
        # By another process: a fork in another thread would inherit a copy's descriptor (ETXTBSY).
        subprocess.run(["cp", str(binary()), str(program)], check=True)
        program.chmod(0o755)
    if scratch.arguments is not None:
        arguments = scratch.arguments
    else:
        python = ["--python", str(scratch.python.path)] if scratch.name_python else []
        arguments = ["run", *python, *scratch.options, str(scratch.component)]
    outcome = _run([str(program), *arguments], scratch, timeout, during)
    decode_ours(outcome)
    return outcome


def run_control(scratch: Scratch, timeout: float = 20, during: During | None = None) -> Outcome:
    """Run the component through HTMap's script, from inside the scratch directory as HTCondor does."""
    script = scratch.dir / "condor_exec.exe"
    if not script.exists():
        try:
            shutil.copyfile(control_script(), script)
        except OSError:  # the disk is full or read-only: let it have the script all the same
            script = scratch.base / "condor_exec.exe"
            shutil.copyfile(control_script(), script)
    command = [str(scratch.python.path), str(script), str(scratch.component)]
    outcome = _run(command, scratch, timeout, during)
    decode_control(outcome, scratch.python, scratch.env.get("PYTHONPATH", ""))
    return outcome


def _run(command: Sequence[str], scratch: Scratch, timeout: float, during: During | None) -> Outcome:
    stdout_path = scratch.stdout or scratch.base / "stdout"
    stderr_path = scratch.base / "stderr"
    whole = [*scratch.wrapper, *command]
    start = time.monotonic()
    timed_out = False
    with open(scratch.stdin, "rb") as stdin, open(stdout_path, "wb") as stdout, open(stderr_path, "wb") as stderr:
        process = subprocess.Popen(
            whole,
            cwd=scratch.working_directory or scratch.dir,
            env=scratch.env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=scratch.before_exec,
            user=scratch.uid,
            group=scratch.uid,
            extra_groups=None if scratch.uid is None else [],
        )
    try:
        if during is not None:
            during(Running(process, scratch, start + timeout))
        process.wait(max(0.0, timeout - (time.monotonic() - start)))
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        wall = time.monotonic() - start
        if process.poll() is None:
            end(process.pid)
            process.wait()
    # What dies by the runner's own last signal needs a moment to be gone.
    deadline = time.monotonic() + (0.0 if timed_out else 1.0)
    while (left := processes_of(scratch)) and time.monotonic() < deadline:
        time.sleep(0.02)
    named = [describe(pid) for pid in left]
    while left := processes_of(scratch):
        for pid in left:
            end(pid)
        time.sleep(0.01)
    return Outcome(
        command=list(whole),
        exit=process.returncode,
        wall=wall,
        timed_out=timed_out,
        stdout=_head_and_tail(stdout_path),
        stderr=_head_and_tail(stderr_path),
        stdout_size=stdout_path.stat().st_size,
        out_path=scratch.out,
        python=str(scratch.python.path),
        left_over=[] if timed_out else named,
        tree=_tree(scratch.dir),
    )


def _head_and_tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size <= 2 * KEEP:
            data = file.read()
        else:
            data = file.read(KEEP)
            file.seek(-KEEP, os.SEEK_END)
            data += b"\n[...]\n" + file.read()
    return data.decode(errors="backslashreplace")


def _tree(directory: Path, limit: int = 200) -> list[str]:
    lines = []
    for root, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            path = Path(root) / name
            try:
                size = path.lstat().st_size
            except OSError:
                continue
            lines.append(f"{str(path.relative_to(directory))!a} {size}")
            if len(lines) >= limit:
                return [*lines, "..."]
    return lines


def processes_of(scratch: Scratch) -> list[int]:
    """Who of this run is still alive (zombies are not)."""
    marker = f"{MARKER}={scratch.marker}".encode()
    inside = os.fsencode(scratch.dir)
    written: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        written = {int(word) for word in (scratch.dir / "pids").read_text().split()}
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        try:
            if _is_dead(pid):
                continue
            if pid in written:
                found.append(pid)
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                if marker in file.read().split(b"\0"):
                    found.append(pid)
                    continue
            where = os.readlink(f"/proc/{pid}/cwd").encode(errors="surrogateescape")
            if where == inside or where.startswith(inside + b"/"):
                found.append(pid)
        except OSError:  # gone, or not ours to look at
            continue
    return found


def _is_dead(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")


def describe(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        line = "?"
    return f"{pid}: {line[:200]}"


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
