"""Options, the binary and the tables for every end-to-end test below this directory.

Looks nothing up until a test asks for it: the suites below need different things.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import home, table
from support.cases import dispose
from support.scratch import Scratch, new_base


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--control",
        choices=("run", "skip", "only"),
        default=os.environ.get("HTMAP_EXEC_TEST_CONTROL", "run"),
        help="run HTMap's own script beside the binary on each case, or not, or alone",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before any test is imported, which may look at its home. In a pool it is the tests' own already.
    if "HTMAP_EXEC_TEST_IMAGES" not in os.environ:
        config.add_cleanup(home.move().cleanup)


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """An empty scratch directory for component 0."""
    made = Scratch(base=new_base())
    yield made
    dispose(made)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table.print_tables(terminalreporter)
