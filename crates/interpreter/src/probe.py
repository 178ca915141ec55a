# Prints what an interpreter is, as JSON. Runs on Python 2.7 as well, so that one that is too old
# says so; exits with 0 whenever it could say anything.
import sys

if sys.path[:1] == [""]:
    del sys.path[0]
import json
import platform

cloudpickle = None
try:
    try:
        from importlib.metadata import version
    except ImportError:
        from pkg_resources import get_distribution

        def version(name):
            return get_distribution(name).version

    cloudpickle = version("cloudpickle")
except Exception:
    pass
sys.stdout.write(
    json.dumps(
        {
            "version": [sys.version_info[0], sys.version_info[1]],
            "full_version": sys.version.split()[0],
            "implementation": platform.python_implementation(),
            "executable": sys.executable or "",
            "prefix": sys.prefix,
            "base_prefix": getattr(sys, "base_prefix", sys.prefix),
            "sys_path": sys.path,
            "cloudpickle": cloudpickle,
        }
    )
)
