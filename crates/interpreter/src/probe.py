# Prints what an interpreter is, as JSON. Runs on Python 2.7 as well, so that one that is too old
# says so; exits with 0 whenever it could say anything.
import sys

if sys.path[:1] == [""]:
    del sys.path[0]
import json

try:
    from _imp import extension_suffixes
except ImportError:
    extension_suffixes = list

implementation = getattr(sys, "implementation", None)
name = implementation.name if implementation else "cpython"
sys.stdout.write(
    json.dumps(
        {
            "version": [sys.version_info[0], sys.version_info[1]],
            "full_version": sys.version.split()[0],
            "implementation": {"cpython": "CPython", "pypy": "PyPy"}.get(name, name),
            "executable": sys.executable or "",
            "prefix": sys.prefix,
            "base_prefix": getattr(sys, "base_prefix", sys.prefix),
            "sys_path": sys.path,
            "extension_suffix": (extension_suffixes() + [""])[0],
        }
    )
)
