"""The runner by hand, on a terminal. Python is a background process there, which has consequences."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import termios
import time

from support.environment import binary
from support.scratch import Scratch, make_pickles

PRINTS = "def f():\n    print('a line of the function')\n    return 42\n"


def test_a_terminal_that_stops_background_output_stops_no_python(scratch: Scratch) -> None:
    """`stty tostop`: a print would stop Python by SIGTTOU, and nobody would notice."""
    scratch.fill(make_pickles(PRINTS, scratch.python, 0))
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] |= termios.TOSTOP
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        [binary(), "run", "--python", scratch.python.path, "0"],
        cwd=scratch.dir,
        env=scratch.env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    said = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ready, _, _ = select.select([ours], [], [], 1)
        if ready:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # nobody holds the other end any more
                break
            if not piece:
                break
            said += piece
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(deadline - time.monotonic(), 1))
    stopped = process.poll() is None
    process.kill()
    process.wait()
    os.close(ours)
    assert not stopped, said.decode()
    assert b"a line of the function" in said
    assert scratch.out.is_file()
