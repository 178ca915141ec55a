"""The tables at the end of a test session.

Rows travel as test properties, because with pytest-xdist the tests run in other processes than the one that prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

FAULT = "fault_row"
VERSION = "version_row"


def print_tables(reporter: pytest.TerminalReporter) -> None:
    faults: list[list[str]] = []
    versions: list[list[str]] = []
    for key in ("passed", "failed", "skipped"):
        for report in reporter.stats.get(key, []):
            for name, value in getattr(report, "user_properties", []):
                if name == FAULT and report.when == "call":
                    faults.append(value)
                elif name == VERSION and report.when == "call":
                    versions.append(value)
    if faults:
        print_faults(faults, reporter)
    if versions:
        print_versions(versions, reporter)


def print_faults(rows: list[list[str]], reporter: Any) -> None:
    """One line a case, in the order of the modules; each cell says what came, and how it differs if it does."""
    write: Callable[[str], None] = reporter.write_line
    rows = sorted(rows)
    width = max(len(row[2]) for row in rows)
    reporter.section("what it must survive")
    write(f"{'case':{width}}  {'must be':14}  {'htmap-exec':32}  HTMap 0.6.1")
    theme = ""
    for row_theme, _, name, expected, ours, control in rows:
        if row_theme != theme:
            theme = row_theme
            write(f"-- {theme[3:]}")
        write(f"{name:{width}}  {expected:14.14}  {ours:32.32}  {control}")
    for title, column in (("htmap-exec", 4), ("HTMap 0.6.1", 5)):
        run = [row[column] for row in rows if row[4] != "skipped" and row[column] != "-"]
        good = sum(cell.startswith("+") for cell in run)
        if run:
            write(f"{title}: {good} of {len(run)} as they must be, {100 * good / len(run):.0f} %")


def print_versions(rows: list[list[str]], reporter: Any) -> None:
    """What was made on one Python (rows) against the Python that loads it (columns)."""
    write: Callable[[str], None] = reporter.write_line

    def order(minor: str) -> tuple[int, ...]:
        return tuple(int(part) for part in minor.split("."))

    for what in dict.fromkeys(row[0] for row in rows):
        cells = {(row[1], row[2]): row[3] for row in rows if row[0] == what}
        made = sorted({key[0] for key in cells}, key=order)
        loaded = sorted({key[1] for key in cells}, key=order)
        reporter.section(what)
        write("made on \\ loaded on  " + "  ".join(f"{minor:>6}" for minor in loaded))
        for one in made:
            write(f"{one:>19}  " + "  ".join(f"{cells.get((one, other), '-'):>6}" for other in loaded))
