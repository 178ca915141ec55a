"""The disk is full or read-only: never a truncated `N.out`, and one line on stderr that says why.

Each scratch directory is a small tmpfs of its own, which only root can mount.
"""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable

from support.cases import Case, Either, Err, Ok, Refused
from support.environment import is_root
from support.scratch import Scratch

SIMPLE = "def f(x):\n    return 2 * x\nargs = (21,)"
FULL = r"(?i)no space|disk|full"
READ_ONLY = r"(?i)read-only"

FILL = """
import os
def fill():
    size = 2**20
    with open("filler", "wb", buffering=0) as file:
        while size:
            try:
                file.write(os.urandom(size))
            except OSError:
                size //= 2
"""


def cannot_mount() -> str | None:
    if not is_root():
        return "only root may mount a tmpfs"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else "mounting a tmpfs is not permitted here"


def small_disk(options: str, *more: Callable[[Scratch], object]) -> Callable[[Scratch], object]:
    """Mount a tmpfs over the scratch directory, keeping what HTCondor put there."""

    def mount(scratch: Scratch) -> None:
        content = {path.name: path.read_bytes() for path in scratch.dir.iterdir()}
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "htmap-exec-test", scratch.dir], check=True)
        scratch.undo.append(lambda: subprocess.run(["umount", "--lazy", scratch.dir], check=True))
        for name, data in content.items():
            scratch.write(name, data)
        for step in more:
            step(scratch)

    return mount


def filled(scratch: Scratch) -> None:
    size = 2**20
    with open(scratch.dir / "filler", "wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def no_more_files(scratch: Scratch) -> None:
    try:
        for i in range(10_000):
            (scratch.dir / f"filler{i}").touch()
    except OSError:
        return


def read_only(scratch: Scratch) -> None:
    subprocess.run(["mount", "-o", "remount,ro", scratch.dir], check=True)


def mounted_twice(scratch: Scratch) -> None:
    """What the function mounts goes as well."""
    scratch.undo.append(lambda: subprocess.run(["umount", "--lazy", scratch.dir], check=False, capture_output=True))


def small_file_size(scratch: Scratch) -> None:
    scratch.before_exec = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))


def on_small(name: str, source: str, expect: Refused | Either | Err | Ok, *more: Callable[[Scratch], object],
             options: str = "size=4m") -> Case:  # fmt: skip
    return Case(name, source, expect, prepare=small_disk(options, *more), skip=cannot_mount)


CASES = [
    on_small("room enough", SIMPLE, Ok(42)),
    on_small("full before the start", SIMPLE, Refused(FULL), filled),
    on_small("no inode left before the start", SIMPLE, Refused(FULL), no_more_files, options="size=4m,nr_inodes=40"),
    on_small("read-only before the start", SIMPLE, Refused(READ_ONLY), read_only),
    on_small("the function fills it, a small result", FILL + "def f():\n    fill()\n    return 42", Ok(42)),
    on_small("the function fills it, then raises", FILL + "def f():\n    fill()\n    raise ValueError('x')", Err("ValueError: x")),
    on_small("the function fills it, then Python dies", FILL + "def f():\n    fill()\n    os.kill(os.getpid(), 9)", Err("SIGKILL")),
    on_small("the function fails for want of space", "def f():\n    open('filler', 'wb').write(bytes(10 * 2**20))",
             Err("OSError: .*No space left on device")),
    on_small("the function fails for want of space and tidies up", """
        import os
        def f():
            try:
                with open("filler", "wb") as file:
                    file.write(bytes(10 * 2**20))
            finally:
                os.remove("filler")
        """, Err("OSError: .*No space left on device")),
    on_small("a result larger than the disk", "import os\ndef f():\n    return os.urandom(20 * 2**20)", Err(FULL, "the function returned", "request_disk")),
    on_small("a result larger than the disk, not enough for half", "import os\ndef f():\n    return os.urandom(200 * 2**20)", Err(FULL, "the function returned")),
    on_small("a result that fits, but not twice", "import os\ndef f():\n    return len(os.urandom(1)), os.urandom(2_500_000)",
             Ok(where=lambda v: len(v[1]) == 2_500_000)),
    on_small("the function makes it read-only", """
        import os, subprocess
        def f():
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "htmap-exec-test", os.getcwd()], check=True)
            return 42
        """, Refused(READ_ONLY), mounted_twice),
    on_small("the function makes it read-only, then raises", """
        import os, subprocess
        def f():
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "htmap-exec-test", os.getcwd()], check=True)
            raise ValueError("x")
        """, Refused(READ_ONLY), mounted_twice),
    Case("a result above the file size limit", "import os\ndef f():\n    return os.urandom(5 * 2**20)",
         Err(r"(?i)file too large", "limit of file size"), prepare=small_file_size),
    Case("a small result under a file size limit", SIMPLE, Ok(42), prepare=small_file_size),
]  # fmt: skip
