"""An archive of format 1, kept from before there was another: it is read for ever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cases import dispose
from support.environment import binary, can_unshare, pythons
from support.outcome import Outcome
from support.running import run_ours
from support.scratch import Scratch, make_pickles, new_base

# Its Python is a script that starts this one.
MAIN = pythons().get("3.11") or list(pythons().values())[-1]
[ARCHIVE] = (Path(__file__).parents[2] / "crates/transplant/tests/old").iterdir()
SOURCE = """
    def f():
        import os
        root = os.environ["CONDA_PREFIX"]
        def content(name):
            with open(f"{root}/{name}", "rb") as file:
                return file.read()
        place = content("etc/place.txt").decode()
        return place == f"in {root}\\n", len(content("lib64/large.so")), content("lib/once.dat") == content("lib/twice.dat")
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    made: list[Scratch] = []

    def start(*options: object, **env: str) -> Outcome:
        scratch = Scratch(base=new_base(), python=MAIN, name_python=False)
        made.append(scratch)
        scratch.fill(make_pickles(SOURCE, MAIN, 0))
        shutil.copy(ARCHIVE, scratch.dir / ARCHIVE.name)
        scratch.options = ["--transplant", ARCHIVE.name, *map(str, options)]
        scratch.env.update(env, HTMAP_EXEC_LOG="info", HTMAP_EXEC_TEST_PYTHON=str(MAIN.path))
        return run_ours(scratch, 60, None)

    yield start
    for scratch in made:
        dispose(scratch)


def told(*words: object) -> dict[str, object]:
    done = subprocess.run(
        [binary(), "transplant", *map(str, words), "--json"], capture_output=True, text=True, check=True
    )
    value: dict[str, object] = json.loads(done.stdout)
    return value


def test_what_it_is(tmp_path: Path) -> None:
    value = told("info", ARCHIVE)
    assert value["digest"] == ARCHIVE.name
    assert value["manifest"]["packages"] == ["example==1.0"]  # type: ignore[index]
    assert told("verify", ARCHIVE)["whole"] is True
    subprocess.run([binary(), "transplant", "unpack", ARCHIVE, tmp_path / "tree"], check=True)
    assert (tmp_path / "tree/lib/twice.dat").read_bytes() == (tmp_path / "tree/lib/once.dat").read_bytes()
    assert os.readlink(tmp_path / "tree/bin/python") == "python3.11"
    done = subprocess.run([binary(), "transplant", "diff", ARCHIVE, ARCHIVE, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_runs_unpacked_and_from_a_cache(run: Callable[..., Outcome], tmp_path: Path) -> None:
    unpacked = run("--no-mount")
    assert unpacked.value == (True, 4_505_600, True), unpacked.dump()
    for _ in range(2):
        cached = run("--cache-dir", tmp_path / "cache")
        assert cached.value == (True, 4_505_600, True), cached.dump()
        assert f"`{tmp_path}/cache/" in cached.stderr


@pytest.mark.skipif(not can_unshare(), reason="this user may not make namespaces")
def test_it_runs_mounted(run: Callable[..., Outcome]) -> None:
    mounted = run()
    assert mounted.value == (True, 4_505_600, True), mounted.dump()
    assert "mounted" in mounted.stderr, mounted.stderr
