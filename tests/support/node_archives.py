"""Small archives for tests of nodes: one real Python without what no test runs, and the same with other manifests."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import dispose
from .environment import Python, binary, cloudpickle_package, pythons
from .outcome import Outcome
from .running import During, run_ours
from .scratch import Scratch, make_pickles, new_base

MAIN = pythons().get("3.11") or list(pythons().values())[-1]

PRUNED = (
    "bin/[!p]*",
    "lib/lib*.a",
    "lib/python*/config-*",
    "lib/python*/ensurepip",
    "lib/python*/idlelib",
    "lib/python*/lib2to3",
    "lib/python*/test",
    "lib/python*/tkinter",
    "lib/python*/unittest",
    "lib/python*/pydoc_data",
    "lib/python*/xml*",
    "lib/python*/distutils",
    "lib/pkgconfig",
    "lib/python*/turtledemo",
    "lib/python*/site-packages/pip*",
    "**/*.opt-*.pyc",
    "include",
    "share",
)


def excluding(patterns: Iterable[str]) -> list[str]:
    """As options of `transplant build`."""
    return [word for pattern in patterns for word in ("--exclude", pattern)]


def pack(
    python: Path, directory: Path, *options: object, before: Sequence[str] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """A build of a Python, pruned, that has to succeed and remembers others of this directory alone."""
    words = [*before, binary(), "transplant", "build", "--python", python, "--dir", directory, *excluding(PRUNED)]
    done = subprocess.run(
        [*map(str, words), *map(str, options)],
        env={"PATH": os.defpath, "XDG_CACHE_HOME": str(directory / "cache"), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def build(python: Path, directory: Path, *options: str) -> Path:
    """The archive of a Python, pruned."""
    return Path(pack(python, directory, *options).stdout.strip())


def with_manifest(archive: Path, change: Callable[[dict[str, Any]], object], name: str = "patched") -> Path:
    """A copy beside it whose manifest says something else; its digest is another one, too. (docs/archive.md)"""
    data = archive.read_bytes()
    begin = struct.unpack("<Q", data[-16:-8])[0]
    packed = data[begin + 16 : -24]
    plain = subprocess.run(["zstd", "-dqc"], input=packed, capture_output=True, check=True).stdout
    length, at = number(plain, 0)
    listing, table = plain[at : at + length], plain[at + length :]
    size, at = number(listing, 1)
    manifest = json.loads(listing[at : at + size])
    change(manifest)
    made = json.dumps(manifest).encode()
    listing = listing[:1] + encoded(len(made)) + made + listing[at + size :]
    plain = encoded(len(listing)) + listing + table
    packed = subprocess.run(["zstd", "-qc"], input=plain, capture_output=True, check=True).stdout
    index = struct.pack("<Q", len(plain)) + packed
    patched = archive.with_name(name)
    patched.write_bytes(data[:begin] + data[begin : begin + 4] + struct.pack("<I", len(index)) + index + data[-24:])
    return patched


@dataclass(frozen=True)
class Frame:
    """What an index says of one: bytes of content, those it takes in the file, and the content's digest."""

    length: int
    compressed: int
    digest: bytes = bytes(32)


def hostile(like: Path, at: Path, frames: Sequence[Frame], files: Sequence[tuple[str, int, int, int]]) -> Path:
    """An archive with the manifest of another one, zeros for frames, and these files: path, size, frame and offset."""
    data = like.read_bytes()
    begin = struct.unpack("<Q", data[-16:-8])[0]
    plain = subprocess.run(["zstd", "-dqc"], input=data[begin + 16 : -24], capture_output=True, check=True).stdout
    _, start = number(plain, 0)
    size, start_of_manifest = number(plain, start + 1)
    manifest = plain[start_of_manifest : start_of_manifest + size]
    listing = bytearray(b"\x01" + encoded(len(manifest)) + manifest + encoded(len(frames)))
    for frame in frames:
        listing += encoded(frame.length) + frame.digest
    directories = {path.rpartition("/")[0] for path, *_ in files} - {""}
    listing += encoded(len(files) + len(directories))
    for directory in sorted(directories):
        assert "/" not in directory
    entries = [(path, b"f" + b"".join(map(encoded, place))) for path, *place in files]
    entries += [(directory, b"d") for directory in directories]
    for path, rest in sorted(entries, key=lambda entry: entry[0].replace("/", "\0")):
        listing += encoded(0) + encoded(len(path)) + path.encode() + encoded(0o755) + rest
    table = b"".join(encoded(frame.compressed) for frame in frames)
    plain = encoded(len(listing)) + bytes(listing) + table
    packed = subprocess.run(["zstd", "-qc"], input=plain, capture_output=True, check=True).stdout
    index = struct.pack("<Q", len(plain)) + packed
    begin = sum(frame.compressed for frame in frames)
    with at.open("wb") as file:
        file.truncate(begin)
        file.seek(begin)
        file.write(struct.pack("<II", 0x184D2A5A, len(index)) + index)
        file.write(struct.pack("<IIQ", 0x184D2A5B, 16, begin) + b"HTMAPEXE")
    return at


def number(data: bytes, at: int) -> tuple[int, int]:
    """A LEB128 number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# Where that is possible: trees are made and removed all the time.
MEMORY = (
    Path("/dev/shm") if os.access("/dev/shm", os.W_OK) and not os.statvfs("/dev/shm").f_flag & os.ST_NOEXEC else None
)


class Node:
    """Runs components by archives, each in a scratch directory of its own."""

    def __init__(self) -> None:
        self.made: list[Scratch] = []

    def scratch(self, source: str, python: Python = MAIN) -> Scratch:
        scratch = Scratch(base=new_base(MEMORY), python=python, name_python=False)
        self.made.append(scratch)
        scratch.fill(make_pickles(source, python, 0))
        scratch.env["PATH"] = "/usr/bin:/bin"
        return scratch

    def run(
        self,
        archive: Path,
        source: str,
        *options: object,
        prepare: Callable[[Scratch], object] = lambda scratch: None,
        during: During | None = None,
        **env: str,
    ) -> Outcome:
        scratch = self.scratch(source)
        scratch.options = ["--log", "info", "--transplant", str(archive), *map(str, options)]
        scratch.env.update(env)
        prepare(scratch)
        return run_ours(scratch, 60, during)

    def clean(self) -> None:
        for scratch in self.made:
            dispose(scratch)
        self.made.clear()


def copy_of_prefix(python: Python, target: Path) -> Path:
    """A Python's base prefix without what no test runs, to be changed; its interpreter."""
    code = "import sys; print(sys.base_prefix)"
    base = Path(subprocess.check_output([python.path, "-c", code], text=True).strip())
    ignored = shutil.ignore_patterns(
        "test", "idlelib", "config-*", "ensurepip", "lib2to3", "site-packages", "*.a", "*.opt-*.pyc", "include", "share"
    )
    shutil.copytree(base, target, symlinks=True, ignore=ignored)
    site = target / "lib" / f"python{python.minor}" / "site-packages"
    site.mkdir()
    shutil.copytree(cloudpickle_package(), site / "cloudpickle")
    return target / "bin" / f"python{python.minor}"
