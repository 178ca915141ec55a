"""Finds the htmap-exec binary that runs components."""

import os
import shutil
import sys
import sysconfig
from typing import Iterator, Optional, Union

from .errors import BinaryNotFound

_Path = Union[str, "os.PathLike[str]"]

BINARY = "htmap-exec"
BINARY_VARIABLE = "HTMAP_EXEC_BIN"


def find_binary(binary: Optional[_Path] = None) -> str:
    """The absolute path of the htmap-exec binary, as `enable` looks for it."""
    if binary is not None:
        return _usable(os.fspath(binary), "given to htmap_exec.enable()")
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        return _usable(named, f"named by {BINARY_VARIABLE}")
    for path in _beside_python():
        if os.path.exists(path):
            return _usable(path, "installed beside this Python")
    on_path = shutil.which(BINARY)
    if on_path is not None:
        return os.path.abspath(on_path)
    raise BinaryNotFound(
        f"no `{BINARY}` beside `{sys.executable}` nor on PATH: "
        f"name one by htmap_exec.enable(binary=...) or {BINARY_VARIABLE}"
    )


def _beside_python() -> Iterator[str]:
    if sys.executable:
        yield os.path.join(os.path.dirname(os.path.abspath(sys.executable)), BINARY)
    yield os.path.join(sysconfig.get_path("scripts"), BINARY)


def _usable(path: str, origin: str) -> str:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        why = "is no file" if os.path.exists(path) else "does not exist"
        raise BinaryNotFound(f"`{path}`, {origin}, {why}: it has to be the `{BINARY}` binary")
    if not os.access(path, os.X_OK):
        raise BinaryNotFound(f"`{path}`, {origin}, is not executable: chmod +x it")
    return path
