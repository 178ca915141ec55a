"""What came of a run: exit status, output files, the decoded `N.out`, who was left running.

The binary's own records are loaded with an unpickler that knows the standard library only and refuses code, because
that is what makes them load everywhere; the control's are loaded by the Python that made them, which is kinder than
what HTMap's submit side could do.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io
import json
import pickle
import subprocess
import sys
import types
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .environment import Python, htmap_directory

DECODE = Path(__file__).with_name("decode.py")

OK, ERR, NONE, TRUNCATED = "OK", "ERR", "NONE", "TRUNCATED"

# Compressed. Decoding the control's larger ones takes minutes, and they have failed by their size already.
LARGEST_RECORD = 1_000_000


class RecordUnpickler(pickle.Unpickler):
    """Loads what only needs the standard library. Anything else would tie a record to what the submit machine has."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in sys.stdlib_module_names or name == "CodeType":
            raise pickle.UnpicklingError(f"a record may not refer to `{module}.{name}`")
        return super().find_class(module, name)


@functools.cache
def component_error() -> Any:
    """HTMap's own `ComponentError`, loaded straight from its file."""
    path = htmap_directory() / "htmap" / "errors.py"
    spec = importlib.util.spec_from_file_location("htmap_errors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ComponentError


@dataclass
class Outcome:
    """Everything a test may look at after a run."""

    command: list[str]
    exit: int | None
    wall: float
    timed_out: bool
    stdout: str
    stderr: str
    stdout_size: int
    out_path: Path
    python: str
    out_size: int = 0
    status: str = NONE
    value: Any = None
    record: Any = None
    report: str = ""
    trouble: str = ""
    left_over: list[str] = field(default_factory=list)
    tree: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """A few words for the table."""
        if self.timed_out:
            return "hangs"
        if self.status == TRUNCATED:
            what = "truncated N.out"
        elif self.status == NONE:
            what = "no N.out"
        elif self.status == OK:
            what = f"OK {_short(self.value)}"
        elif self.trouble:
            what = "unreadable record"
        else:
            what = "ERR"
        if self.exit is not None and self.exit != 0:
            what += f", signal {-self.exit}" if self.exit < 0 else f", exit {self.exit}"
        if self.left_over:
            what += f", left {len(self.left_over)} running"
        return what

    def dump(self) -> str:
        """The whole story, for a failed assertion."""
        parts = [
            f"command: {' '.join(self.command)}",
            f"exit {self.exit}, {self.wall:.2f} s{', TIMED OUT' if self.timed_out else ''}",
            f"N.out: {self.status}, {self.out_size} bytes {self.trouble}",
        ]
        if self.status == OK:
            parts.append(f"value: {_short(self.value, 300)}")
        if self.left_over:
            parts.append("left running:\n  " + "\n  ".join(self.left_over))
        for title, text in (("report", self.report), ("stderr", self.stderr), ("stdout", self.stdout)):
            parts.append(f"---- {title} ({len(text)} characters)\n{_middle_out(text)}")
        parts.append("---- scratch directory\n" + "\n".join(self.tree[:60]))
        return "\n".join(parts)


def _short(value: object, limit: int = 30) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(error).__name__} in repr>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _middle_out(text: str, limit: int = 6000) -> str:
    if len(text) <= limit:
        return text
    return text[: limit // 2] + f"\n[... {len(text) - limit} characters ...]\n" + text[-limit // 2 :]


def decode_ours(outcome: Outcome) -> None:
    """Fill in status, value, record and report from the binary's `N.out`."""
    raw = _read(outcome)
    if raw is None:
        return
    stream = io.BytesIO(raw)
    try:
        status = RecordUnpickler(stream).load()
    except Exception as error:
        outcome.status, outcome.trouble = TRUNCATED, repr(error)
        return
    try:
        # A result is the user's and may hold anything; a record may not.
        value = pickle.load(stream) if status == OK else RecordUnpickler(stream).load()
    except (EOFError, pickle.UnpicklingError, AttributeError, ImportError, TypeError, ValueError) as error:
        outcome.status, outcome.trouble = TRUNCATED, repr(error)
        return
    outcome.status = status
    if rest := stream.read(1):
        outcome.trouble = f"something follows the second pickle: {rest!r}"
    if status == OK:
        outcome.value = value
        return
    outcome.record = value
    try:
        raw = component_error()._from_raw_error(types.SimpleNamespace(tag="the-map"), value)
        outcome.report = raw.report()
    except Exception as error:
        outcome.trouble = f"HTMap's report() fails: {error!r}"


def decode_control(outcome: Outcome, python: Python, python_path: str = "") -> None:
    """The same for the control; `python_path` is where its Python found cloudpickle."""
    raw = _read(outcome)
    if raw is None:
        return
    stream = io.BytesIO(raw)
    try:
        status = pickle.load(stream)
    except Exception as error:
        outcome.status, outcome.trouble = TRUNCATED, repr(error)
        return
    if status == OK:
        try:
            outcome.value = pickle.load(stream)
        except Exception as error:
            outcome.status, outcome.trouble = TRUNCATED, repr(error)
            return
        outcome.status = OK
        return
    if outcome.out_size > LARGEST_RECORD:
        outcome.status, outcome.trouble = ERR, f"a record of {outcome.out_size} bytes"
        return
    errors_py = htmap_directory() / "htmap" / "errors.py"
    done = subprocess.run(
        [python.path, DECODE, outcome.out_path, errors_py],
        capture_output=True,
        env={"PYTHONPATH": python_path},
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        outcome.status, outcome.trouble = TRUNCATED, done.stderr.decode(errors="replace")[-2000:]
        return
    outcome.status = ERR
    answer = json.loads(done.stdout)
    outcome.record = types.SimpleNamespace(**answer)
    outcome.report = answer["report"]


def _read(outcome: Outcome) -> bytes | None:
    try:
        compressed = outcome.out_path.read_bytes()
    except OSError as error:
        outcome.status = NONE
        outcome.trouble = "" if isinstance(error, FileNotFoundError) else repr(error)
        return None
    outcome.out_size = len(compressed)
    try:
        with gzip.open(io.BytesIO(compressed)) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        outcome.status, outcome.trouble = TRUNCATED, repr(error)
        return None
