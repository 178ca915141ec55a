"""Prints what a `N.out` holds, as one line of JSON; run by the Python that plays the submit machine.

Usage: decode.py N.out ERRORS_PY, where ERRORS_PY is HTMap's `errors.py`, loaded from its file so that HTMap itself
need not be importable. Works on Python 3.6.
"""

import gzip
import importlib.util
import json
import pickle
import sys
import types
from typing import Any, Dict


def component_error(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("htmap_errors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ComponentError


def described(record: Any, errors_py: str) -> Dict[str, Any]:
    error = component_error(errors_py)._from_raw_error(types.SimpleNamespace(tag="the-map"), record)
    formatted = getattr(record.stack_summary, "format", None)
    return {
        "report": error.report(),
        "component": record.component if type(record.component) is int else repr(record.component),
        "exception_msg": record.exception_msg,
        "node_info": [str(part) for part in record.node_info],
        "python_info": list(record.python_info) if record.python_info is not None else None,
        "scratch_dir_contents": [str(path) for path in record.scratch_dir_contents],
        "formatted": "".join(formatted()) if formatted else None,
        "frames": [
            {
                "filename": frame.filename,
                "lineno": frame.lineno,
                "name": frame.name,
                "line": frame.line,
                "locals": {str(name): str(value) for name, value in (frame.locals or {}).items()},
            }
            for frame in record.stack_summary
        ],
        "extras": {name: repr(value)[:2000] for name, value in vars(record).items()},
    }


def main() -> None:
    path, errors_py = sys.argv[1:]
    with gzip.open(path, mode="rb") as file:
        status = pickle.load(file)
        value = pickle.load(file)
    answer = {"status": status}
    if status == "ERR":
        answer.update(described(value, errors_py))
    else:
        answer["repr"] = repr(value)[:10000]
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii") + b"\n")


main()
