"""Moments of a process, told by what it has made so far: for tests that stop it there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def comes_to(process: subprocess.Popen[Any], made: Callable[[], object], seconds: float = 60) -> bool:
    """Until it has made this; false if it ended first."""
    deadline = time.monotonic() + seconds
    while not made():
        if process.poll() is not None:
            return bool(made())
        assert time.monotonic() < deadline, "it neither goes on nor ends"
        time.sleep(0.0005)
    return True
