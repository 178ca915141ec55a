"""Jobs that clean up after themselves, by the binary and by the control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.cases import Case, dispose
from support.eviction import Job, MakeJob, Mended
from support.outcome import Outcome


@pytest.fixture
def job() -> Iterator[MakeJob]:
    """Makes jobs: `job(source)` for the binary, `job(source, control=True)` for the control."""
    made: list[Job] = []

    def make(source: str, **fields: Any) -> Job:
        made.append(Job(source, **fields))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def mended() -> Mended:
    """Asserts that a case is as it must be with the binary, and that HTMap's script has the bug."""

    def check(case: Case) -> None:
        if case.skip is not None and (reason := case.skip()):
            pytest.skip(reason)
        ours, unmet = _run(case, control=False)
        assert not unmet, f"{unmet}\n{ours.dump()}"
        theirs, unmet = _run(case, control=True)
        assert unmet, f"the control does not show the bug\n{theirs.dump()}"

    return check


def _run(case: Case, *, control: bool) -> tuple[Outcome, str]:
    scratch = case.scratch(is_control=control)
    try:
        return case.run_control(scratch) if control else case.run_ours(scratch)
    finally:
        dispose(scratch)
