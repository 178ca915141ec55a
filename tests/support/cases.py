"""One row of the fault table: what happens to a component, and what has to come of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .environment import Python, main_python
from .outcome import ERR, NONE, OK, TRUNCATED, Outcome
from .running import During, run_control, run_ours
from .scratch import Scratch, make_pickles, new_base

REPORT_LIMIT = 1_000_000


@dataclass(frozen=True)
class Ok:
    """The right result, exit 0."""

    value: Any = None
    where: Callable[[Any], bool] | None = None
    # Text the component's stdout must hold.
    stdout: str = ""
    # The header and footer around the output are bounded.
    stdout_limit: int = 10_000_000

    word = "OK"

    def unmet(self, outcome: Outcome) -> str:
        if outcome.status != OK:
            return f"expected OK, got {outcome.status}"
        if outcome.exit != 0:
            return f"expected exit 0, got {outcome.exit}"
        right = self.where(outcome.value) if self.where is not None else outcome.value == self.value
        if not right:
            return f"wrong result {str(outcome.value)[:200]!r}, expected {str(self.value)[:200]!r}"
        if not re.search(self.stdout, outcome.stdout):
            return f"stdout lacks {self.stdout!r}"
        if outcome.stdout_size > self.stdout_limit:
            return f"stdout has {outcome.stdout_size} bytes"
        return ""


class Err:
    """A record whose report matches every pattern, exit 0; `{python}` in one is the interpreter's path."""

    word = "ERR"

    def __init__(self, *patterns: str, stdout: str = "") -> None:
        self.patterns = patterns
        self.stdout = stdout

    def unmet(self, outcome: Outcome) -> str:
        if outcome.status != ERR:
            return f"expected an ERR record, got {outcome.status}"
        if outcome.exit != 0:
            return f"expected exit 0, got {outcome.exit}"
        if outcome.trouble:
            return outcome.trouble.strip().splitlines()[-1]
        for pattern in self.patterns:
            if not re.search(pattern.replace("{python}", re.escape(outcome.python)), outcome.report):
                return f"the report lacks {pattern!r}"
        if not re.search(self.stdout, outcome.stdout):
            return f"stdout lacks {self.stdout!r}"
        if len(outcome.report.encode(errors="replace")) > REPORT_LIMIT:
            return f"the report has {len(outcome.report)} characters"
        if outcome.out_size > REPORT_LIMIT:
            return f"N.out has {outcome.out_size} bytes"
        return ""


class Refused:
    """No output could be written: no truncated `N.out`, exit 1..127, one line of its own on stderr that matches."""

    word = "refused"

    def __init__(self, *patterns: str) -> None:
        self.patterns = patterns

    def unmet(self, outcome: Outcome) -> str:
        if outcome.status != NONE:
            return f"expected no N.out, got {outcome.status}"
        if outcome.exit is None or not 1 <= outcome.exit <= 127:
            return f"expected an exit status in 1..127, got {outcome.exit}"
        # The function's own stderr, its traceback too, comes before.
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("htmap-exec")]
        if len(lines) != 1:
            return f"expected one line of htmap-exec's on stderr, got {len(lines)}"
        for pattern in self.patterns:
            if not re.search(pattern, lines[0]):
                return f"stderr lacks {pattern!r}"
        return ""


@dataclass(frozen=True)
class Stopped:
    """Ended from outside: `N.out` is whole or absent, what HTCondor fetches exists, nothing is left."""

    seconds: float = 15
    # At the first instant not even the first system call has been made.
    transfer_exists: bool = True

    word = "stopped"

    def unmet(self, outcome: Outcome) -> str:
        if outcome.status == TRUNCATED:
            return "N.out is truncated"
        if outcome.wall > self.seconds:
            return f"took {outcome.wall:.1f} s to stop"
        scratch = outcome.out_path.parents[1]
        component = outcome.out_path.stem
        if self.transfer_exists:
            for name in ("_htmap_transfer", f"_htmap_user_transfer/{component}"):
                if not (scratch / name).is_dir():
                    return f"`{name}` does not exist"
        return ""


class Either:
    """Whichever of these; for what no promise covers but a lie."""

    def __init__(self, *expectations: Ok | Err | Refused | Stopped) -> None:
        self.expectations = expectations
        self.word = " or ".join(expectation.word for expectation in expectations)

    def unmet(self, outcome: Outcome) -> str:
        reasons = [expectation.unmet(outcome) for expectation in self.expectations]
        return "" if "" in reasons else "; ".join(reasons)


Expectation = Ok | Err | Refused | Stopped | Either


@dataclass(frozen=True)
class Case:
    """What happens, told by source text for the function and by changes to the scratch directory."""

    name: str
    source: str
    expect: Expectation
    prepare: Callable[[Scratch], object] | None = None
    during: During | None = None
    options: tuple[str, ...] = ()
    # The Python that runs it and the one that pickled it; the main one if not told.
    python: Callable[[], Python] = main_python
    pickled_by: Callable[[], Python] | None = None
    pickle_environment: dict[str, str] = field(default_factory=dict)
    # A reason to skip, or nothing.
    skip: Callable[[], str | None] | None = None
    timeout: float = 60
    control: bool = True
    # Generous for what works; a third of the session goes into waiting for what does not.
    control_timeout: float = 8
    # Beyond the expectation: looks at the scratch directory after ours.
    after: Callable[[Scratch, Outcome], str] | None = None
    component: int = 0

    def scratch(self, *, is_control: bool = False) -> Scratch:
        """A scratch directory with this case's trouble in it."""
        pickled_by = (self.pickled_by or self.python)()
        scratch = Scratch(base=new_base(), component=self.component, python=self.python(), is_control=is_control)
        try:
            pickles = make_pickles(self.source, pickled_by, self.component, self.pickle_environment)
            scratch.fill(pickles)
            scratch.options = list(self.options)
            if self.prepare is not None:
                self.prepare(scratch)
        except BaseException:
            dispose(scratch)
            raise
        return scratch

    def run_ours(self, scratch: Scratch) -> tuple[Outcome, str]:
        outcome = run_ours(scratch, self.timeout, self.during)
        unmet = self.judge(outcome) or strictly(outcome, self)
        if not unmet and self.after is not None:
            unmet = self.after(scratch, outcome)
        return outcome, unmet

    def run_control(self, scratch: Scratch) -> tuple[Outcome, str]:
        outcome = run_control(scratch, max(self.control_timeout, self.timeout - 60), self.during)
        unmet = self.judge(outcome)
        if not unmet and self.after is not None:
            unmet = self.after(scratch, outcome)
        return outcome, unmet

    def judge(self, outcome: Outcome) -> str:
        """Why this outcome is not the expected one; empty if it is."""
        if outcome.timed_out:
            return "hangs"
        if unmet := self.expect.unmet(outcome):
            return unmet
        if outcome.left_over:
            return f"{len(outcome.left_over)} processes are left running"
        return ""


def strictly(outcome: Outcome, case: Case) -> str:
    """What holds for every outcome of ours, and was never promised by HTMap's script."""
    if outcome.trouble:
        return outcome.trouble
    may_die = isinstance(case.expect, Stopped | Either)
    if outcome.exit is not None and outcome.exit < 0 and not may_die:
        return f"the runner itself died by signal {-outcome.exit}"
    if outcome.status == ERR and (
        type(outcome.record.component) is not int or outcome.record.component != case.component
    ):
        return f"the record's component is {outcome.record.component!r}"
    if outcome.status in (OK, ERR) and outcome.exit == 0:
        transfer = outcome.out_path.parent
        names = set(os.listdir(transfer))
        strays = names - {outcome.out_path.name, f"{case.component}.json", "_htmap_current_checkpoint"}
        if strays:
            return f"strays in `_htmap_transfer`: {sorted(strays)}"
        record = transfer / f"{case.component}.json"
        if not record.is_file():
            return "there is no run record"
        try:
            json.loads(record.read_bytes())
        except ValueError as error:
            return f"the run record is no JSON: {error}"
    return ""


def dispose(scratch: Scratch) -> None:
    """Remove what a run has left on disk, unless someone wants to look at it."""
    scratch.clean()
    if os.environ.get("HTMAP_EXEC_TEST_KEEP"):
        return
    for root, directories, _ in os.walk(scratch.base):
        for name in directories:
            path = Path(root) / name
            with contextlib.suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o755)
    shutil.rmtree(scratch.base, ignore_errors=True)
