# Prints what an interpreter is, in fields that end with NUL: paths need not be text. Runs on Python 2.7
# as well, so that one that is too old says so; exits with 0 whenever it could say anything.
import sys

if sys.path[:1] == [""]:
    del sys.path[0]
import os

try:
    from _imp import extension_suffixes
except ImportError:
    extension_suffixes = list


def encode(text):
    # What os.fspath takes, before Python 3.6 only text and bytes; anything else is nothing.
    try:
        if isinstance(text, bytes):
            return text
        if hasattr(os, "fsencode"):
            return os.fsencode(text)
        return text.encode(sys.getfilesystemencoding() or "utf-8")
    except Exception:
        return b""


implementation = getattr(sys, "implementation", None)
name = implementation.name if implementation else "cpython"
fields = [
    "htmap-exec probe",
    "%d.%d" % sys.version_info[:2],
    sys.version.split()[0],
    {"cpython": "CPython", "pypy": "PyPy"}.get(name, name),
    sys.executable or "",
    sys.prefix,
    getattr(sys, "base_prefix", sys.prefix),
    (extension_suffixes() + [""])[0],
]
entries = [encode(entry) for entry in sys.path]
fields = [encode(field) for field in fields]
fields.extend(entry for entry in entries if entry and b"\0" not in entry)
answer = b"".join(field + b"\0" for field in fields)
# Not through sys.stdout: a site may have put anything in its place.
while answer:
    answer = answer[os.write(1, answer) :]
