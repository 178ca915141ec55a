# Given to Python with -c, so that nothing of ours lies in the user's scratch directory.
# Must run on every Python there is, 2.7 too: a Python that is too old says so itself.
import sys

# -c puts the current directory first: a stray `os.py` there must not be ours.
if sys.path[:1] == [""]:
    del sys.path[0]
import os

import _socket

channel, token = os.environ.pop("HTMAP_EXEC_CHANNEL").split(":")


def connect():
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(b"\0" + channel.encode("ascii"))
    connection.sendall(token.encode("ascii"))
    return connection


def header(kind, length):
    return kind + ("%016x" % length).encode("ascii")


def send(connection, kind, payload):
    connection.sendall(header(kind, len(payload)) + payload)


def receive(connection, length):
    parts = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("htmap-exec closed the channel")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def frame(connection):
    head = receive(connection, 17)
    return head[:1], int(head[1:], 16)


def encode(text):
    if isinstance(text, bytes):
        return text
    return text.encode(sys.getfilesystemencoding() or "utf-8", "surrogateescape")


control = connect()
send(
    control,
    b"H",
    b"\0".join(
        map(
            encode,
            [
                "%d.%d" % sys.version_info[:2],
                sys.version.split()[0],
                sys.executable or "",
            ]
            + sys.path,
        )
    ),
)
sources = {}
while True:
    kind, length = frame(control)
    if kind == b"G":
        break
    sources[kind] = receive(control, length)
exec(
    compile(sources[b"P"], "<htmap-exec driver>", "exec"),
    {
        "__name__": "_htmap_exec_driver",
        "connect": connect,
        "control": control,
        "frame": frame,
        "header": header,
        "receive": receive,
        "send": send,
        "sources": sources,
    },
)
