"""What one Python's component leaves behind, loaded by every other Python: error records always, results where Python can.

Loaded with nothing but `pickle`, by interpreters without cloudpickle on their path as far as they are concerned: a
record refers to the standard library only. Printed by HTMap's own `ComponentError.report()`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import table
from support.cases import Case, Err, Ok, dispose
from support.environment import htmap_directory, pythons
from support.outcome import DECODE

MINORS = ["3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]

# (kind, source, options, what the report says)
RECORDS = {
    "an exception": (
        "def deeper(x):\n    return 1 / x\ndef f(x):\n    name = 'text'\n    return deeper(x)\nargs = (0,)",
        ["ZeroDivisionError: division by zero", "in deeper", "x = 0", "name = 'text'", "Python executable is"],
    ),
    "an exception of the user's own": (
        "class Mine(Exception):\n    pass\ndef f():\n    mine = Mine()\n    raise Mine('żółw \\udcff')",
        ["Mine: żółw"],
    ),
    "a chain": (
        "def f():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        raise KeyError('k') from e",
        ["KeyError: 'k'", "ZeroDivisionError"],
    ),
    "recursion": ("def f():\n    return f()", ["RecursionError", "more time"]),
    "a signal": ("import os\ndef f():\n    os.kill(os.getpid(), 9)", ["SIGKILL"]),
    "a segmentation fault": ("import ctypes\ndef f():\n    ctypes.string_at(0)", ["SIGSEGV", "in f"]),
    "sys.exit": ("import sys\ndef f():\n    sys.exit('why')", ["SystemExit: why"]),
    "a missing module": ("def f():\n    import no_such_module", ["No module named 'no_such_module'"]),
    "an unpicklable result": ("import threading\ndef f():\n    return threading.Lock()", ["lock"]),
}

RESULT = (
    "def f():\n    return {'list': [1, 2.5, None, True], 'text': 'żółw', b'bytes': (b'x' * 300, {3}), 'big': 2**100}"
)

# Reads the status alone first, as HTMap's submit side does to learn a component's state.
READ_STATUS = "import gzip, pickle, sys; sys.stdout.write(pickle.load(gzip.open(sys.argv[1])))"
READ_RESULT = """
import gzip, pickle, sys
with gzip.open(sys.argv[1]) as file:
    pickle.load(file)
    value = pickle.load(file)
assert value["text"] == u"\\u017c\\xf3\\u0142w" and value["big"] == 2**100 and value["list"] == [1, 2.5, None, True]
assert value[b"bytes"] == (b"x" * 300, {3})
"""


def needs(*minors: str) -> None:
    for minor in minors:
        if minor not in pythons():
            pytest.skip(f"this machine has no Python {minor} with cloudpickle")


def made_on(minor: str, source: str, expect: Ok | Err, directory: Path, *, pickled_by: str = "") -> Path:
    """The `N.out` of a component that ran on this Python."""
    case = Case("compat", source, expect, python=lambda: pythons()[minor],
                pickled_by=(lambda: pythons()[pickled_by]) if pickled_by else None)  # fmt: skip
    scratch = case.scratch()
    try:
        outcome, unmet = case.run_ours(scratch)
        assert not unmet, f"{unmet}\n{outcome.dump()}"
        kept = directory / f"{abs(hash((minor, pickled_by, source)))}.out"
        kept.write_bytes(scratch.out.read_bytes())
    finally:
        dispose(scratch)
    return kept


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The record of one kind made on one Python; each is made once."""
    made: dict[tuple[str, str], Path] = {}

    def get(minor: str, kind: str) -> Path:
        if (minor, kind) not in made:
            source, said = RECORDS[kind]
            made[minor, kind] = made_on(minor, source, Err(*said[:1]), tmp_path_factory.mktemp("records"))
        return made[minor, kind]

    return get


def read(minor: str, code: str, out: Path) -> subprocess.CompletedProcess[str]:
    # -I: no PYTHONPATH and no user's site directory. -S: no site-packages, so no cloudpickle either.
    command: list[str | Path] = [pythons()[minor].path, "-I", "-S", "-c", code, out]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"})


@pytest.mark.parametrize("loaded", MINORS)
@pytest.mark.parametrize("made", ["3.8", "3.11", "3.13"])
def test_error_record(
    made: str, loaded: str, records: Callable[[str, str], Path], record_property: Callable[[str, Any], None]
) -> None:
    """Every kind of record made on one Python loads on the other and prints."""
    needs(made, loaded)
    good = 0
    try:
        for kind, (_, said) in RECORDS.items():
            out = records(made, kind)
            assert read(loaded, READ_STATUS, out).stdout == "ERR"
            errors_py = htmap_directory() / "htmap" / "errors.py"
            command: list[str | Path] = [pythons()[loaded].path, "-I", "-S", DECODE, out, errors_py]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{kind}: {done.stderr}"
            answer = json.loads(done.stdout)
            for text in said:
                assert text in answer["report"], f"{kind}: the report lacks {text!r}\n{answer['report']}"
            assert answer["component"] == 0
            assert len(answer["node_info"]) == 4
            assert answer["python_info"][0] == str(pythons()[made].path)
            assert answer["python_info"][1].startswith(made + ".")
            assert all(isinstance(path, str) for path in answer["scratch_dir_contents"])
            for frame in answer["frames"]:
                assert isinstance(frame["lineno"], int) and frame["filename"] and frame["name"]
            good += 1
    finally:
        record_property(table.VERSION, ["error records", made, loaded, f"{good}/{len(RECORDS)}"])


@pytest.mark.parametrize("loaded", MINORS)
@pytest.mark.parametrize("made", MINORS)
def test_result(made: str, loaded: str, tmp_path: Path, record_property: Callable[[str, Any], None]) -> None:
    """A result loads wherever its pickle protocol is known; its status loads everywhere."""
    needs(made, loaded)
    out = made_on(made, RESULT, Ok(where=lambda value: value["big"] == 2**100), tmp_path)
    assert read(loaded, READ_STATUS, out).stdout == "OK"
    done = read(loaded, READ_RESULT, out)
    # Protocol 5 came with Python 3.8; cloudpickle uses the newest.
    possible = loaded not in ("3.6", "3.7") or made in ("3.6", "3.7")
    record_property(table.VERSION, ["results", made, loaded, "yes" if done.returncode == 0 else "no"])
    if possible:
        assert done.returncode == 0, done.stderr
    else:
        assert "protocol" in done.stderr


@pytest.mark.parametrize("run", ["3.8", "3.11", "3.13"])
@pytest.mark.parametrize("submit", ["3.6", "3.7"])
def test_a_result_comes_back_in_the_protocol_that_the_function_came_in(submit: str, run: str, tmp_path: Path) -> None:
    """Python 3.6 submits a function without code to a newer Python, and can load what comes back."""
    needs(submit, run)
    out = made_on(run, "from fractions import Fraction as f\nargs = (3, 4)",
                  Ok(where=lambda value: value == 0.75), tmp_path, pickled_by=submit)  # fmt: skip
    done = read(
        submit, "import gzip, pickle, sys; f = gzip.open(sys.argv[1]); pickle.load(f); print(pickle.load(f))", out
    )
    assert done.stdout.strip() == "3/4", done.stderr
