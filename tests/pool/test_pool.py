"""The pool itself, by HTMap's own delivery: if these fail, the tests beside them say nothing about htmap-exec."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import htcondor
import htmap
import pytest
from on_pool import results


def test_stock_htmap_runs_a_map(stock: Callable[[str], None]) -> None:
    stock("assume")
    assert results(htmap.map(lambda x: 2 * x, range(10))) == [2 * x for x in range(10)]


def test_htcondor_and_htmap_are_the_ones_that_people_have() -> None:
    schedd = htcondor.Collector().locate(htcondor.DaemonTypes.Schedd)
    theirs = subprocess.run(["condor_version"], capture_output=True, text=True, check=True).stdout
    assert {"trixie": " 23.9.", "forky": " 25.14."}[os.environ["HTMAP_EXEC_POOL"]] in theirs
    assert schedd["MyAddress"]
    assert htmap.version() == "HTMap version 0.6.1"


@pytest.mark.parametrize(
    ("python", "module", "there"),
    [
        ("/usr/bin/python3", "cloudpickle", True),
        ("/usr/bin/python3", "htmap", False),
        ("/opt/bare/bin/python", "cloudpickle", False),
    ],
)
def test_what_the_pythons_of_the_nodes_have(python: str, module: str, there: bool) -> None:
    done = subprocess.run(
        [python, "-I", "-c", f"import {module}"], cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is there, done.stderr
