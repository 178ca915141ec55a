"""A file system that takes names for the same whatever their capital letters are, in this process's memory.

The kernels that tests run on have none of their own (vfat, ext4 with casefold): so this one speaks FUSE itself.
https://github.com/torvalds/linux/blob/master/include/uapi/linux/fuse.h
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MAX_WRITE = 128 << 10
FORGET, BATCH_FORGET, INTERRUPT = 2, 42, 36


@dataclass
class Node:
    number: int
    mode: int
    content: bytearray = field(default_factory=bytearray)
    modified: int = 0
    # By folded name: the name as it was made, and what has it.
    names: dict[bytes, tuple[bytes, Node]] = field(default_factory=dict)


class Folding:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = Node(1, stat.S_IFDIR | 0o755)
        self.nodes = {1: self.root}
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"folding", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "cannot mount")
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)
        self.thread.join(10)
        os.close(self.device)

    def _serve(self) -> None:
        answers: dict[int, Callable[[Node, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, _: struct.pack("<QII", 0, 0, 0) + attributes(node),
            4: self._set_attributes,
            5: lambda node, _: bytes(node.content),
            6: lambda node, body: self._make(node, body.split(b"\0")[0], stat.S_IFLNK | 0o777, body.split(b"\0")[1]),
            9: lambda node, body: self._make(node, body[8:-1], stat.S_IFDIR | struct.unpack_from("<I", body)[0]),
            10: self._remove,
            11: self._remove,
            12: lambda node, body: self._rename(node, body, 8),
            14: lambda *_: bytes(16),
            15: self._read,
            16: self._write,
            17: lambda *_: struct.pack("<5Q4I24x", *[1 << 20] * 5, 4096, 255, 4096, 0),
            18: lambda *_: b"",
            20: lambda *_: b"",
            25: lambda *_: b"",
            26: lambda *_: struct.pack("<4I2HI2I36x", 7, 31, 0, 0, 8, 8, MAX_WRITE, 1, 0)[:64],
            27: lambda *_: bytes(16),
            28: self._list,
            29: lambda *_: b"",
            30: lambda *_: b"",
            35: lambda node, body: (
                self._make(node, body[16:-1], stat.S_IFREG | struct.unpack_from("<4xI", body)[0]) + bytes(16)
            ),
            45: lambda node, body: self._rename(node, body, 16),
        }
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 8192)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return
            _, operation, unique, number = struct.unpack_from("<IIQQ", request)
            if operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            code, answer = 0, b""
            try:
                if operation not in answers:
                    raise OSError(errno.ENOSYS, "")
                answer = answers[operation](self.nodes.get(number, self.root), request[40:])
            except OSError as error:
                code = error.errno or errno.EIO
            try:
                os.write(self.device, struct.pack("<IiQ", 16 + len(answer), -code, unique) + answer)
            except OSError:
                if operation != 38:
                    continue

    def _lookup(self, node: Node, body: bytes) -> bytes:
        found = node.names.get(body[:-1].lower())
        if found is None:
            raise OSError(errno.ENOENT, "")
        return entry(found[1])

    def _make(self, node: Node, name: bytes, mode: int, content: bytes = b"") -> bytes:
        if name.lower() in node.names:
            raise OSError(errno.EEXIST, "")
        made = Node(len(self.nodes) + 1, mode, bytearray(content))
        self.nodes[made.number] = made
        node.names[name.lower()] = (name, made)
        return entry(made)

    def _remove(self, node: Node, body: bytes) -> bytes:
        if node.names[body[:-1].lower()][1].names:
            raise OSError(errno.ENOTEMPTY, "")
        del node.names[body[:-1].lower()]
        return b""

    def _rename(self, node: Node, body: bytes, begin: int) -> bytes:
        old, new, _ = body[begin:].split(b"\0")
        _, moved = node.names.pop(old.lower())
        self.nodes[struct.unpack_from("<Q", body)[0]].names[new.lower()] = (new, moved)
        return b""

    def _set_attributes(self, node: Node, body: bytes) -> bytes:
        valid, size, modified, mode = struct.unpack_from("<I12xQ16xQ8x12xI", body)
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & 8:
            node.content[size:] = bytes(max(0, size - len(node.content)))
        if valid & 32:
            node.modified = modified
        return struct.pack("<QII", 0, 0, 0) + attributes(node)

    def _read(self, node: Node, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        return bytes(node.content[offset : offset + size])

    def _write(self, node: Node, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        node.content[len(node.content) :] = bytes(max(0, offset - len(node.content)))
        node.content[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _list(self, node: Node, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        out = b""
        for at, (name, found) in enumerate(list(node.names.values())[offset:], offset + 1):
            head = struct.pack("<QQII", found.number, at, len(name), found.mode >> 12)
            one = head + name + bytes(-len(name) % 8)
            if len(out) + len(one) > size:
                break
            out += one
        return out


def attributes(node: Node) -> bytes:
    times = [node.modified] * 3
    size = len(node.content)
    return struct.pack("<6Q10I", node.number, size, -(-size // 512), *times, 0, 0, 0, node.mode, 1, 0, 0, 0, 4096, 0)


def entry(node: Node) -> bytes:
    return struct.pack("<QQQQII", node.number, 0, 0, 0, 0, 0) + attributes(node)
