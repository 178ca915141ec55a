"""Outputs that htmap_exec reads: the binary's, those of HTMap's own script, and files that are none."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import htmap_exec
import pytest
from support.environment import binary, control_script

Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a map by the binary."""

    def run(function: Callable[[Any], Any], inputs: list[Any]) -> Path:
        directory = htmap_exec.write_map(tmp_path / "map", function, inputs)
        command = [str(binary()), "local", "--python", sys.executable, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return directory

    return run


def test_results(run: Run) -> None:
    directory = run(lambda x: {"twice": 2 * x}, [1, "a", [None]])
    outputs = [htmap_exec.load_output(directory, n) for n in range(3)]
    assert outputs == [{"twice": 2}, {"twice": "aa"}, {"twice": [None, None]}]
    assert htmap_exec.report(directory, 1) == "component 1 has a result: there is nothing to report"


def test_a_failure(run: Run) -> None:
    def inner(number: int) -> float:
        return 1 / number

    def outer(number: int) -> float:
        text = "x" * 5000
        return inner(number) + len(text)

    directory = run(outer, [0])
    with pytest.raises(htmap_exec.ComponentFailed) as caught:
        htmap_exec.load_output(directory, 0)
    report = htmap_exec.report(directory, 0)
    assert str(caught.value) == report
    assert caught.value.record.component == 0
    assert caught.value.record.exception_type == "ZeroDivisionError"
    # In this order.
    expected = [
        "Component 0 failed while running the function\n",
        "Node      ",
        "Landed    ",
        f"Python    {sys.version.split()[0]}, {sys.executable}\n",
        "cloudpickle==",
        "Scratch directory /",
        "0.in",
        "Stack, innermost last\n",
        "in outer\n",
        "number = 0\n",
        "text = 'xxx",
        "characters)\n",
        "in inner\n",
        "        return 1 / number\n",
        "            number = 0\n",
        "ZeroDivisionError: division by zero\n",
    ]
    place = 0
    for text in expected:
        place = report.index(text, place) + len(text)
    assert place == len(report)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.record.component) == (report, 0)


def test_death_without_a_word(run: Run) -> None:
    def die(status: int) -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(status)

    report = htmap_exec.report(run(die, [3]), 0)
    assert "Ended by  exit status 3\n" in report
    assert "End of stderr\n" in report
    assert "    last words\n" in report


def test_runaway_recursion_is_folded(run: Run) -> None:
    def down(n: int) -> int:
        return down(n + 1)

    report = htmap_exec.report(run(down, [0]), 0)
    assert report.count("in down\n") <= 8
    assert "... and again" in report


@pytest.mark.parametrize(("argument", "failed"), [(2, False), (0, True)])
def test_what_htmaps_own_script_leaves(tmp_path: Path, argument: int, failed: bool) -> None:
    directory = htmap_exec.write_map(tmp_path / "map", lambda x: 1 / x, [argument])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "func").write_bytes((directory / "func").read_bytes())
    (scratch / "0.in").write_bytes((directory / "inputs" / "0.in").read_bytes())
    command = [sys.executable, str(control_script()), "0"]
    environment = {**os.environ, "_CONDOR_SCRATCH_DIR": str(scratch)}
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if not (scratch / "_htmap_transfer" / "0.out").exists():
        pytest.skip(f"HTMap's own script does not run here: {done.stderr.splitlines()[-1]}")
    (scratch / "_htmap_transfer" / "0.out").rename(directory / "outputs" / "0.out")
    if not failed:
        assert htmap_exec.load_output(directory, 0) == 0.5
        return
    report = htmap_exec.report(directory, 0)
    assert report.startswith("Component 0 failed\n")
    assert "            x = 0\n" in report
    assert "division by zero" in report.splitlines()[-1]


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[bytes], Path]:
    """A map of one component with these bytes for its output."""

    def finished(output: bytes) -> Path:
        directory = htmap_exec.write_map(tmp_path / "map", abs, [1])
        (directory / "outputs" / "0.out").write_bytes(output)
        return directory

    return finished


Finished = Callable[[bytes], Path]
WHOLE = gzip.compress(pickle.dumps("OK") + pickle.dumps(list(range(100_000))), mtime=0)


@pytest.mark.parametrize("kept", [1, 12, 40, len(WHOLE) // 2, len(WHOLE) - 8, len(WHOLE) - 1])
def test_cut_off(finished: Finished, kept: int) -> None:
    directory = finished(WHOLE[:kept])
    with pytest.raises(htmap_exec.OutputDamaged, match=r"the output of component 0 in `.*0\.out` is damaged"):
        htmap_exec.load_output(directory, 0)


@pytest.mark.parametrize(
    "output",
    [
        b"not gzip",
        gzip.compress(b"no pickle"),
        gzip.compress(pickle.dumps("OK")),
        gzip.compress(pickle.dumps("MAYBE") + pickle.dumps(1)),
        gzip.compress(pickle.dumps([1]) + pickle.dumps(1)),
        WHOLE[:2000] + b"\0\0\0\0" + WHOLE[2004:],
    ],
    ids=["no gzip", "no pickle", "only a status", "unknown status", "odd status", "bytes changed"],
)
def test_garbage(finished: Finished, output: bytes) -> None:
    with pytest.raises(htmap_exec.OutputDamaged):
        htmap_exec.load_output(finished(output), 0)


def test_members_in_a_row_are_one_file(finished: Finished) -> None:
    pickled = pickle.dumps("OK") + pickle.dumps("result")
    assert htmap_exec.load_output(
        finished(b"".join(gzip.compress(pickled[n : n + 7]) for n in range(0, 40, 7))), 0
    ) == ("result")


def test_not_there_yet(finished: Finished) -> None:
    directory = finished(b"")
    with pytest.raises(htmap_exec.OutputMissing, match="is empty"):
        htmap_exec.load_output(directory, 0)
    (directory / "outputs" / "0.out").unlink()
    with pytest.raises(htmap_exec.OutputMissing, match="does not exist"):
        htmap_exec.report(directory, 0)


def test_what_is_no_component(finished: Finished, tmp_path: Path) -> None:
    directory = finished(WHOLE)
    for component in (-1, 1):
        with pytest.raises(htmap_exec.MapDirectoryError, match=f"no component {component} in .*, which has 1"):
            htmap_exec.load_output(directory, component)
    with pytest.raises(htmap_exec.MapDirectoryError, match="is no map directory"):
        htmap_exec.load_output(tmp_path, 0)


def test_a_module_that_is_missing_here_is_no_damage(finished: Finished) -> None:
    directory = finished(gzip.compress(pickle.dumps("OK") + b"cno_such_module\nname\n."))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        htmap_exec.load_output(directory, 0)
