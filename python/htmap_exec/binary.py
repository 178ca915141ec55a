"""Finds the htmap-exec binary that runs components, and sees that it is one for the nodes' processors."""

import os
import platform
import shutil
import sys
import sysconfig
from typing import Iterator, Optional

from .failures import BinaryNotFound, BinaryUnusable

BINARY = "htmap-exec"
BINARY_VARIABLE = "HTMAP_EXEC_BIN"

# `e_machine` of an ELF header, by what `uname -m` says: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
_MACHINES = {3: "i686", 21: "ppc64le", 22: "s390x", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def find_binary(named: Optional[str] = None) -> str:
    """The absolute path of the htmap-exec binary.

    The one that is named (the setting EXEC.BINARY), else what the environment variable HTMAP_EXEC_BIN names, else the
    one installed beside this Python, else the first on PATH. Raises BinaryNotFound if there is none.
    """
    if named:
        return _executable(named, "named by the setting EXEC.BINARY")
    variable = os.environ.get(BINARY_VARIABLE)
    if variable:
        return _executable(variable, f"named by the environment variable {BINARY_VARIABLE}")
    for path in _beside_python():
        if os.path.exists(path):
            return _executable(path, "installed beside this Python")
    on_path = shutil.which(BINARY)
    if on_path is not None:
        return os.path.abspath(on_path)
    raise BinaryNotFound(
        f"no `{BINARY}` beside `{sys.executable}` nor on PATH: install the wheel, or name a binary by "
        f"htmap_exec.enable(binary=...), the setting EXEC.BINARY or the environment variable {BINARY_VARIABLE}"
    )


def check_machine(path: str, machine: str) -> None:
    """Raise BinaryUnusable if the binary is not for this kind of machine, as `uname -m` names it."""
    found = _machine(path)
    if found not in (None, machine):
        raise BinaryUnusable(
            f"`{path}` is built for {found}, and the execute nodes are taken to be {machine}: name a binary for "
            f"{machine} by EXEC.BINARY, or set EXEC.ARCH to {found} to run on such nodes only"
        )


def for_this_machine(path: str) -> str:
    """The binary itself, or another one if it is for nodes of another kind. Raises BinaryUnusable if there is none."""
    here = platform.machine()
    found = _machine(path)
    if found in (None, here):
        return path
    try:
        other = find_binary()
    except BinaryNotFound:
        other = path
    if _machine(other) in (None, here):
        return other
    raise BinaryUnusable(
        f"`{path}` (EXEC.BINARY) is built for {found}, and archives are built and looked into on this machine, which "
        f"is {here}: install the wheel here, or name a binary for {here} by the environment variable {BINARY_VARIABLE}"
    )


def _machine(path: str) -> Optional[str]:
    """As `uname -m` names it; None for a wrapper, of which somebody knows why."""
    with open(path, "rb") as file:
        header = file.read(20)
    if header.startswith(b"#!"):
        return None
    if not header.startswith(b"\x7fELF") or len(header) < 20:
        raise BinaryUnusable(f"`{path}` is no program for Linux: EXEC.BINARY has to be the `{BINARY}` binary")
    number = int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")
    return _MACHINES.get(number, f"ELF machine {number}")


def _beside_python() -> Iterator[str]:
    if sys.executable:
        yield os.path.join(os.path.dirname(os.path.abspath(sys.executable)), BINARY)
    yield os.path.join(sysconfig.get_path("scripts"), BINARY)


def _executable(path: str, origin: str) -> str:
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(path):
        why = "is no file" if os.path.exists(path) else "does not exist"
        raise BinaryNotFound(f"`{path}`, {origin}, {why}: it has to be the `{BINARY}` binary")
    if not os.access(path, os.X_OK):
        raise BinaryNotFound(f"`{path}`, {origin}, is not executable: chmod +x it")
    return path
