"""What `local` does with a map that has run before: what is finished stays, unless it is asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from local_map import LocalMap, wait_until
from support.environment import binary, main_python, pythons

# Component 1 fails until somebody mends it; each says that it ran.
SOURCE = """
import os
def f(x):
    with open(os.path.join(os.environ["SAID"], "ran"), "a") as ran:
        ran.write("%d\\n" % x)
    if x == 1 and not os.path.exists(os.path.join(os.environ["SAID"], "mended")):
        raise ValueError("not yet")
    return 2 * x
"""


def ran(local: LocalMap) -> list[int]:
    """Who ran since this was asked."""
    path = local.said / "ran"
    numbers = sorted(map(int, path.read_text().split())) if path.exists() else []
    path.unlink(missing_ok=True)
    return numbers


def test_only_what_has_no_result_is_run(local: LocalMap) -> None:
    local.write(SOURCE, [0, 1, 2])
    first = local.run()
    assert first.returncode == 1, first.stderr
    assert "2 of 3 components have a result\n" in first.stdout
    assert "  component 1 failed: ValueError: not yet\n" in first.stdout
    assert ran(local) == [0, 1, 2]
    results = [local.output(0), local.output(2)]

    missing = local.run("--rerun", "missing")
    assert (missing.returncode, ran(local)) == (0, []), missing.stderr
    assert "3 had an output already" in missing.stdout

    again = local.run()
    assert (again.returncode, ran(local)) == (1, [1]), again.stderr

    (local.said / "mended").touch()
    mended = local.run()
    assert (mended.returncode, ran(local)) == (0, [1]), mended.stderr
    assert "3 of 3 components have a result: 2 had one already (--rerun all runs them again)" in mended.stdout
    assert [local.output(0), local.output(2)] == results
    assert [local.value(n) for n in range(3)] == [0, 2, 4]

    done = local.run()
    assert (done.returncode, ran(local)) == (0, []), done.stderr

    all_of_them = local.run("--rerun", "all")
    assert (all_of_them.returncode, ran(local)) == (0, [0, 1, 2]), all_of_them.stderr
    assert "3 of 3 components have a result\n" in all_of_them.stdout


def test_another_python_replaces_no_results(local: LocalMap) -> None:
    others = [python for python in pythons().values() if python.minor != main_python().minor]
    if not others:
        pytest.skip("this machine has one Python only")
    local.write(SOURCE, [0, 1, 2])
    local.run()
    results = [local.output(0), local.output(2)]
    local.python = others[-1]
    done = local.run()
    assert done.returncode == 1, done.stderr
    assert [local.output(0), local.output(2)] == results
    assert "2 of 3 components have a result" in done.stdout


def test_an_output_that_is_damaged_is_none(local: LocalMap) -> None:
    local.write(SOURCE, [0, 2])
    (local.directory / "outputs/0.out").write_bytes(b"")
    os.mkfifo(local.directory / "outputs/1.out")
    for kind in ("stdout", "stderr"):
        os.mkfifo(local.directory / f"logs/0.{kind}")
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [local.value(n) for n in range(2)] == [0, 4]


def test_a_large_map_costs_no_more_than_reading_it(local: LocalMap) -> None:
    local.write(SOURCE, [0])
    assert local.run().returncode == 0
    (local.directory / "num_components").write_text("10000")
    for number in range(1, 10000):
        if number != 5000:
            os.link(local.directory / "outputs/0.out", local.directory / f"outputs/{number}.out")
    os.link(local.directory / "inputs/0.in", local.directory / "inputs/5000.in")
    ran(local)
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10000 of 10000 components have a result: 9999 had one already" in done.stdout
    assert ran(local) == [0]
    assert local.value(5000) == 0


def test_one_at_a_time(local: LocalMap) -> None:
    local.write(
        """
        import os, time
        def f(x):
            here = os.environ["SAID"]
            open(os.path.join(here, "0.pid"), "w").write(str(os.getpid()))
            while not os.path.exists(os.path.join(here, "go")):
                time.sleep(0.01)
        """,
        [0],
    )
    first = local.start()
    wait_until((local.said / "0.pid").exists, "function that runs")
    second = local.run()
    assert second.returncode == 1
    assert f"another `htmap-exec local` runs this map: process {first.pid} on `" in second.stderr
    assert "hint: wait for it" in second.stderr
    (local.said / "go").touch()
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, out + err
    assert local.run().returncode == 0


def test_what_went_wrong_with_one_is_its_own(local: LocalMap) -> None:
    local.write(
        f"""
        import shutil
        def f(x):
            if x == 1:
                shutil.rmtree({str(local.directory / "records")!r})
            return x
        """,
        [0, 1, 2],
    )
    done = local.run("--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  component 1 cannot bring back its run record" in done.stdout
    assert "3 of 3 components have a result" in done.stdout
    assert [local.value(n) for n in range(3)] == [0, 1, 2]


def test_output_files_that_cannot_come_back_cost_the_result_of_their_component_only(local: LocalMap) -> None:
    local.write(
        f"""
        import os, shutil
        def f(x):
            if x == 1:
                shutil.rmtree({str(local.directory / "output_files")!r})
            if x == 2:
                os.mkdir({str(local.directory / "output_files")!r})
            return x
        """,
        [0, 1, 2],
    )
    done = local.run("--jobs", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "  component 1 has no output: cannot bring back its output files" in done.stdout
    assert local.value(2) == 2
    assert not (local.directory / "outputs/1.out").exists()


def test_equal_failures_are_said_once(local: LocalMap) -> None:
    local.write("def f(x):\n    if x != 3:\n        raise ValueError('bad' if x < 6 else 'worse')\n", list(range(8)))
    done = local.run()
    assert done.returncode == 1
    assert "  components 0-2, 4, 5 failed: ValueError: bad\n" in done.stdout
    assert "  components 6, 7 failed: ValueError: worse\n" in done.stdout


def test_nobody_reads_what_it_says(local: LocalMap) -> None:
    local.write(SOURCE, [0, 1])
    with open("/dev/full", "w") as full:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(local.command(), env=local.env, stdout=write, stderr=full, timeout=60, check=False)
        os.close(write)
    assert done.returncode == 1
    assert local.value(0) == 0


def test_where_there_is_no_map(tmp_path: Path) -> None:
    for content in (None, "", "many", "99999999999"):
        if content is not None:
            (tmp_path / "num_components").write_text(content)
        done = subprocess.run([binary(), "local", tmp_path], text=True, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1 and "num_components" in done.stderr, done.stderr
