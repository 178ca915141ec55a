"""What tests on the pool look at and wait for.

The pool is one machine, so a test sees a running component's scratch directory: it can wait for what the component has
done instead of for time to pass.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

if "HTMAP_EXEC_POOL" not in os.environ:
    pytest.skip("these tests run inside the pool: scripts/pool test", allow_module_level=True)

import htcondor
import htmap
from htmap import names

BINARY = os.environ["HTMAP_EXEC_BIN"]
# Which of the pools, and which of its two submit sides.
SUITE = os.environ["HTMAP_EXEC_POOL"]
BINDINGS = Path(sys.prefix).name.partition("-")[2]
EXECUTE = Path("/var/lib/condor/execute")
TIMEOUT = 90


def until(condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
    """Waits for something that HTCondor or a component brings about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.1)


def finished(m: htmap.Map) -> htmap.Map:
    """The map, once all of its components have ended, failed ones included."""
    m.wait(timeout=TIMEOUT, errors_ok=True)
    return m


def ended(m: htmap.Map) -> None:
    """Waits for the end of all components without HTMap: by the event log, of which HTMap has seen nothing then."""
    until(lambda: len(events(m, htcondor.JobEventType.JOB_TERMINATED)) == len(m), "all components end")


def results(m: htmap.Map) -> list[object]:
    """All results; a report in place of an endless wait where a component failed or is held."""
    until(lambda: m.is_done or m.holds or any_error(m), "all components end")
    assert not m.holds, m.hold_report()
    assert not any_error(m), "\n".join(m.error_reports())
    return list(m)


def any_error(m: htmap.Map) -> bool:
    return htmap.ComponentStatus.ERRORED in m.component_statuses


def scratch(m: htmap.Map, attempt: int, component: int = 0) -> Path | None:
    """The scratch directory of one attempt (the first one is 1), while that runs."""
    # HTCondor 25 has a directory of its own around it.
    for ad in (*EXECUTE.glob("dir_*/.job.ad"), *EXECUTE.glob("dir_*/scratch/.job.ad")):
        try:
            text = ad.read_text()
        except OSError:
            # Not written yet, or gone already.
            continue
        attributes = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
        wanted = {"JobBatchName": f'"{m.tag}"', "component": str(component), "NumShadowStarts": str(attempt)}
        if wanted.items() <= attributes.items():
            return ad.parent
    return None


def made(m: htmap.Map, attempt: int, path: str) -> Callable[[], bool]:
    """Whether an attempt has made a file below its scratch directory."""

    def look() -> bool:
        directory = scratch(m, attempt)
        return directory is not None and (directory / path).exists()

    return look


def printed(m: htmap.Map, text: str) -> Callable[[], bool]:
    """Whether the first attempt has printed this so far. (HTCondor gives later ones the stdout of the first to begin
    with, and truncates it only when they start.)
    """

    def look() -> bool:
        directory = scratch(m, attempt=1)
        try:
            return directory is not None and text in (directory / "_condor_stdout").read_text()
        except OSError:
            return False

    return look


def vacate_fast(m: htmap.Map) -> None:
    """An eviction without a warning: SIGKILL, and nothing is brought back. The death of a node looks the same."""
    htcondor.Schedd().act(htcondor.JobAction.VacateFast, f'JobBatchName == "{m.tag}"')


def events(m: htmap.Map, kind: htcondor.JobEventType) -> list[htcondor.JobEvent]:
    return [event for event in htcondor.JobEventLog(str(m._map_dir / names.EVENT_LOG)).events(0) if event.type is kind]


def unasked_holds(maps: Iterable[htmap.Map]) -> list[tuple[str, str]]:
    """Every time that HTCondor put a component on hold by itself; from the event logs, so that none escapes."""
    by_request = 1
    return [
        (m.tag, event.get("HoldReason", ""))
        for m in maps
        for event in events(m, htcondor.JobEventType.JOB_HELD)
        if event.get("HoldReasonCode") != by_request
    ]
