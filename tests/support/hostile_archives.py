"""Archives of format 2 that say what a test wants: any entries, frames and layout, with digests that are right where
they have to be (docs/archive.md).
"""

from __future__ import annotations

import functools
import json
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from .node_archives import encoded, number

CHUNK = 256 << 10

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
START, END, PARENT, ROOT = 1, 2, 4, 8


def turned(value: int, bits: int) -> int:
    return (value >> bits | value << 32 - bits) & 0xFFFFFFFF


def compressed(chain: Sequence[int], block: bytes, count: int, flags: int) -> list[int]:
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    state = [*chain, *IV[:4], count & 0xFFFFFFFF, count >> 32, len(block), flags]
    for _ in range(7):
        for at, (a, b, c, d) in enumerate(QUARTERS):
            for word, (one, other) in zip(words[2 * at : 2 * at + 2], ((16, 12), (8, 7)), strict=True):
                state[a] = state[a] + state[b] + word & 0xFFFFFFFF
                state[d] = turned(state[d] ^ state[a], one)
                state[c] = state[c] + state[d] & 0xFFFFFFFF
                state[b] = turned(state[b] ^ state[c], other)
        words = [words[at] for at in PERMUTATION]
    return [state[at] ^ state[at + 8] for at in range(8)]


def tree(data: bytes, first: int, flags: int) -> list[int]:
    if len(data) <= 1024:
        chain: Sequence[int] = IV
        blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
        for at, block in enumerate(blocks):
            marks = (START if at == 0 else 0) | (END | flags if at == len(blocks) - 1 else 0)
            chain = compressed(chain, block, first, marks)
        return list(chain)
    left = 1 << (((len(data) - 1) // 1024).bit_length() - 1)
    both = [*tree(data[: left * 1024], first, 0), *tree(data[left * 1024 :], first + left, 0)]
    return compressed(IV, struct.pack("<16I", *both), 0, PARENT | flags)


@functools.cache
def blake3(data: bytes) -> bytes:
    """https://github.com/BLAKE3-team/BLAKE3-specs: slow, and without anything to install."""
    return struct.pack("<8I", *tree(data, 0, ROOT))


def summed(data: bytes) -> list[bytes]:
    return [blake3(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]


@dataclass(frozen=True)
class Frame:
    """Bytes of content as they are said to be, and what stands in the file."""

    length: int
    packed: bytes

    @classmethod
    def of(cls, content: bytes) -> Frame:
        return cls(len(content), zstd(content))


@dataclass(frozen=True)
class File:
    path: str
    size: int
    frame: int = 0
    offset: int = 0
    digest: bytes = bytes(32)
    # Of each chunk, if there are several.
    chunks: Sequence[bytes] = ()


@dataclass(frozen=True)
class Link:
    path: str
    target: str


@dataclass(frozen=True)
class Directory:
    path: str


Entry = Union[File, Link, Directory]


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc3", "--no-check"], input=data, capture_output=True, check=True).stdout


def manifest_of(archive: Path) -> bytes:
    _, _, listing, _ = parts(archive)
    size, at = number(listing, 1)
    return listing[at : at + size]


def parts(archive: Path) -> tuple[bytes, int, bytes, bytes]:
    """All of it, where its index begins, the listing and the layout."""
    data = archive.read_bytes()
    begin: int = struct.unpack("<Q", data[-16:-8])[0]
    plain = subprocess.run(["zstd", "-dqc"], input=data[begin + 16 : -24], capture_output=True, check=True).stdout
    length, at = number(plain, 0)
    return data, begin, plain[at : at + length], plain[at + length :]


def write(at: Path, frames: bytes, plain: bytes) -> Path:
    """Behind these frames an index that is this when it is decompressed."""
    index = struct.pack("<Q", len(plain)) + zstd(plain)
    trailer = struct.pack("<IIQ", 0x184D2A5B, 16, len(frames)) + b"HTMAPEXE"
    at.write_bytes(frames + struct.pack("<II", 0x184D2A5A, len(index)) + index + trailer)
    return at


def order(path: str) -> str:
    return path.replace("/", "\0")


def hostile(
    at: Path, manifest: bytes | dict[str, object], entries: Iterable[Entry], frames: Sequence[Frame], hot: int = 0
) -> Path:
    """An archive of format 2, whose paths are written out."""
    if isinstance(manifest, dict):
        manifest = json.dumps(manifest).encode()
    ordered = sorted(entries, key=lambda entry: order(entry.path))
    listing = bytearray(b"\x02" + encoded(len(manifest)) + manifest + encoded(len(ordered)))
    layout = bytearray(encoded(len(frames)))
    for frame in frames:
        layout += encoded(frame.length) + encoded(len(frame.packed))
    layout += encoded(hot)
    chunks = bytearray()
    last = ""
    for entry in ordered:
        shared = 0
        while shared < min(len(last), len(entry.path)) and last[shared] == entry.path[shared]:
            shared += 1
        rest = entry.path[shared:].encode()
        last = entry.path
        listing += encoded(shared) + encoded(len(rest)) + rest + encoded(0o755)
        if isinstance(entry, Directory):
            listing += b"d"
        elif isinstance(entry, Link):
            listing += b"l" + encoded(len(entry.target.encode())) + entry.target.encode()
        else:
            listing += b"f" + encoded(entry.size) + entry.digest
            layout += encoded(entry.frame) + encoded(entry.offset)
            chunks += b"".join(entry.chunks)
    plain = encoded(len(listing)) + listing + layout + chunks
    return write(at, b"".join(frame.packed for frame in frames), bytes(plain))
