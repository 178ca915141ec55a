"""HTMap's commands in processes of their own, beside several versions of click, without a scheduler."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import event_log
from support.environment import CHECKOUT, clicks

CLICKS = clicks()
# The last one that HTMap's own command line runs beside.
LAST_OF_HTMAP = "8.0.4"
NEWEST = list(CLICKS)[-1]


class CommandLine:
    """A person with a home and maps, and the Python that holds one version of click."""

    def __init__(self, click: str, home: Path) -> None:
        self.click = click
        self.python = CLICKS[click]
        self.home = home
        self.htmap_dir = home / ".htmap"
        # HTMap warns where HTCondor's own commands are not.
        version = home / "bin/condor_version"
        version.parent.mkdir()
        version.write_text("#!/bin/sh\necho '$CondorVersion: 24.12.24 2026-09-24 $'\n")
        version.chmod(0o755)
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HTMAP", "_HTMAP", "PYTHON"))}
        self.environment = {
            **keep,
            "HOME": str(home),
            "PATH": f"{home}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT / "python"),
            "PYTHONDONTWRITEBYTECODE": "1",
            # HTCondor's bindings warn that no HTCondor is configured.
            "PYTHONWARNINGS": "ignore::UserWarning",
            "CONDOR_CONFIG": "/dev/null",
            "TERM": "xterm",
            "COLUMNS": "100",
        }

    def __call__(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return self.run([self.python, "-m", "htmap_exec", *arguments], **options)

    def stock(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """The control: HTMap's own command line."""
        return self.run([self.python, "-m", "htmap", *arguments], **options)

    def run(
        self, command: Sequence[object], *, stdin: str = "", timeout: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            env={**self.environment, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.home,
        )

    def on_terminal(self, *arguments: str, until: str = "", module: str = "htmap_exec") -> tuple[int, str]:
        """Status and screen, after Ctrl-C once `until` has been on the screen."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(self.python), "-m", module, *arguments],
            env=self.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.home,
        )
        os.close(theirs)
        screen = b""
        interrupted = False
        deadline = time.monotonic() + 60
        try:
            while True:
                assert time.monotonic() < deadline, screen
                if not select.select([ours], [], [], 0.1)[0]:
                    continue
                try:
                    read = os.read(ours, 1 << 16)
                except OSError:
                    # Nobody has the other end any more: https://man7.org/linux/man-pages/man4/pts.4.html
                    break
                screen += read
                if until and until.encode() in screen and not interrupted:
                    interrupted = True
                    process.send_signal(signal.SIGINT)
            return process.wait(timeout=60), screen.decode()
        finally:
            os.close(ours)
            process.kill()
            process.wait()

    def map(self, tag: str, *statuses: str, transient: bool = False) -> Path:
        return event_log.write(self.htmap_dir, tag, statuses, transient=transient)


def printed(done: subprocess.CompletedProcess[str], status: int = 0) -> str:
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout
