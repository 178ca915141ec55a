"""A file tree with a C library, a shell and nothing else: no Python, no libpython, none of the paths of this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_PROGRAMS = ("sh", "dirname", "realpath", "env")
_MOUNT_AND_ENTER = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && root=$1 && shift && exec chroot "$root" "$@"
"""


class Bare:
    """The root of such a tree, and how to run something in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "proc", "dev", "tmp", "opt"):
            (root / name).mkdir(parents=True)
        libraries: set[str] = set()
        for name in _PROGRAMS:
            program = shutil.which(name, path="/bin:/usr/bin")
            if program is None:
                raise RuntimeError(f"this machine has no `{name}`")
            shutil.copy(program, root / "bin" / name)
            libraries |= _libraries(program)
        # The rest of the C library.
        beside = next(Path(path) for path in libraries if "/libc.so" in path).parent
        for part in ("libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2"):
            if (beside / part).exists():
                libraries.add(str(beside / part))
        for path in libraries:
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)

    def run(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--", "sh", "-c", _MOUNT_AND_ENTER, "sh"),
                *(str(self.root), *map(str, words)),
            ],
            env={"PATH": "/bin:/usr/bin:/sbin:/usr/sbin", "HOME": "/tmp", **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def _libraries(program: str) -> set[str]:
    said = subprocess.check_output(["ldd", program], text=True)
    return set(re.findall(r"(/\S+) \(0x", said))
