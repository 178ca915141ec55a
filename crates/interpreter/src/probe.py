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
fields.extend(entry for entry in sys.path if isinstance(entry, str))
encode = getattr(os, "fsencode", lambda text: text)
out = getattr(sys.stdout, "buffer", sys.stdout)
out.write(b"".join(encode(field) + b"\0" for field in fields))
out.flush()
