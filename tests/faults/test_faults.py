"""Every case of the fault table, through the binary and through HTMap's script."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from faults_catalogue import CATALOGUE
from support import table
from support.cases import Case, dispose
from support.outcome import Outcome


def cell(outcome: Outcome, unmet: str) -> str:
    if not unmet:
        return f"+ {outcome.summary}"
    return f"- {outcome.summary}" + (f" ({unmet})" if outcome.status in ("OK", "ERR") else "")


def one_side(case: Case, *, control: bool) -> tuple[str, str]:
    """The table's cell, and the failure to raise."""
    scratch = case.scratch(is_control=control)
    try:
        outcome, unmet = case.run_control(scratch) if control else case.run_ours(scratch)
    finally:
        dispose(scratch)
    return cell(outcome, unmet), f"{unmet}\n{outcome.dump()}" if unmet else ""


@pytest.mark.parametrize(
    ("theme", "place", "case"),
    [
        pytest.param(theme, place, case, id=f"{theme}/{case.name}".replace(" ", "-"))
        for theme, cases in CATALOGUE
        for place, case in enumerate(cases)
    ],
)
def test_fault(
    theme: str,
    place: int,
    case: Case,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, Any], None],
) -> None:
    order = [theme for theme, _ in CATALOGUE].index(theme)
    row = [f"{order:02} {theme}", place, case.name, case.expect.word]
    if case.skip is not None and (reason := case.skip()):
        record_property(table.FAULT, [*row, "skipped", reason])
        pytest.skip(reason)
    mode = request.config.getoption("--control")
    ours, failure, control = "-", "", "-"
    with ThreadPoolExecutor(max_workers=2) as pool:
        beside = pool.submit(one_side, case, control=True) if case.control and mode != "skip" else None
        if mode != "only":
            ours, failure = one_side(case, control=False)
        if beside is not None:
            control, _ = beside.result()
    record_property(table.FAULT, [*row, ours, control])
    if failure:
        pytest.fail(f"{case.name}: {failure}", pytrace=False)
