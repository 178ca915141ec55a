"""Functions of scripts that say `import htmap_exec as htmap`: their pickles name htmap_exec, which no node has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.environment import CHECKOUT, Python, pythons
from support.eviction import Job
from support.outcome import Outcome

PACKAGE = {"PYTHONPATH": str(CHECKOUT / "python")}
SUPPORTED = [python for python in pythons().values() if python.version >= (3, 8)]


@pytest.fixture
def run() -> Iterator[Any]:
    made: list[Job] = []

    def attempt(source: str, **fields: Any) -> Outcome:
        made.append(Job(source, pickle_environment=PACKAGE, **fields))
        return made[-1].attempt()[1]

    yield attempt
    for one in made:
        one.close()


@pytest.mark.parametrize("python", SUPPORTED, ids=str)
def test_what_htmap_has_on_a_node(run: Any, python: Python) -> None:
    source = """
        import htmap_exec as htmap
        def f():
            open("s", "w").close()
            htmap.checkpoint("s")
            htmap.transfer_output_files("s")
            return htmap.TransferPath("a/b").name, htmap.__name__
    """
    outcome = run(source, python=python)
    assert outcome.value == ("b", "htmap_exec"), outcome.dump()


def test_what_only_the_submit_side_has(run: Any) -> None:
    outcome = run("import htmap_exec as htmap\ndef f():\n    return htmap.map(abs, [1])")
    assert "htmap.map is not available on this execute node" in outcome.dump()
    assert outcome.status == "ERR"


def test_the_package_itself_where_a_node_has_it(run: Any) -> None:
    """As with delivery by `shared`."""
    source = f"""
        import sys
        import htmap_exec as htmap
        def f():
            sys.path.append({PACKAGE["PYTHONPATH"]!r})
            open("s", "w").close()
            htmap.checkpoint("s")
            made = htmap.write_map("map", abs, [-1])
            from htmap_exec.layout import FUNC
            import htmap_exec
            return made.name, FUNC, htmap_exec.checkpoint is htmap.checkpoint, "htmap.maps" in sys.modules
    """
    outcome = run(source)
    assert outcome.value == ("map", "func", True, False), outcome.dump()
