# Given to Python with -c, so that nothing of ours lies in the user's scratch directory.
# Must run on every Python there is, 2.7 too: a Python that is too old says so itself.
# What is said, and by which letters: session/protocol.rs.
import sys

# -c puts the current directory first: a stray `os.py` there must not be ours.
if sys.path[:1] == [""]:
    del sys.path[0]
import os

import _socket

channel, token = os.environ.pop("HTMAP_EXEC_CHANNEL").split(":")


def connect():
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    # Whatever default the function has set.
    connection.settimeout(None)
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
    # A `sitecustomize` may put a pathlib.Path into sys.path, or anything else.
    text = getattr(os, "fspath", str)(text)
    if isinstance(text, bytes):
        return text
    return text.encode(sys.getfilesystemencoding() or "utf-8", "surrogateescape")


def encoded(entries):
    for entry in entries:
        try:
            yield encode(entry)
        except Exception:
            pass


control = connect()
hello = ["%d.%d" % sys.version_info[:2], sys.version.split()[0], sys.executable or ""]
send(control, b"H", b"\0".join(encoded(hello + sys.path)))
sources = {}
while True:
    kind, length = frame(control)
    if kind == b"B":
        break
    payload = receive(control, length)
    if kind == b"P":
        name, payload = payload.split(b"\0", 1)
        kind = name.decode("ascii")
    # The options, by their letter: O.
    sources[kind] = payload
exec(
    compile(sources["driver"], "<htmap-exec driver>", "exec"),
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
