"""What the runner meets on a node and must not stumble over: ads, variables, streams that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.environment import binary, main_python
from support.running import Running, run_ours
from support.scratch import Scratch, make_pickles

ANSWER = "def f():\n    return 42\n"
WAIT = "import time\ndef f():\n    open('waits', 'w').close()\n    time.sleep(1000)\n"


@pytest.fixture
def ready(scratch: Scratch) -> Scratch:
    scratch.fill(make_pickles(ANSWER, scratch.python, 0))
    return scratch


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


def deep(path: Path) -> None:
    path.write_text(f"JobMaxVacateTime = {'(' * 100_000}1{')' * 100_000}\nNumShadowStarts = {'-' * 1_000_000}1\n")


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def bytes_only(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 1000)


@pytest.mark.parametrize("name", [".job.ad", ".machine.ad"])
@pytest.mark.parametrize("spoil", [fifo, sparse, deep, device, bytes_only])
def test_an_ad_may_be_anything(ready: Scratch, name: str, spoil: object) -> None:
    assert callable(spoil)
    spoil(ready.dir / name)
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()


@pytest.mark.parametrize(
    "variables",
    [
        {"HTMAP_EXEC_LOG": "loud"},
        {"HTMAP_EXEC_LOG": "\udcff"},
        {"HTMAP_EXEC_LOG": ""},
        {"HTMAP_EXEC_LOG": "WARN"},
        {"HTMAP_EXEC_MOUNT": "perhaps"},
        {"HTMAP_EXEC_CACHE_SIZE": "much", "HTMAP_EXEC_CACHE_DIR": "/dev/null"},
        {"_CONDOR_SCRATCH_DIR": ""},
        {"_CONDOR_SCRATCH_DIR": "/gone"},
        {"COLUMNS": "none", "LINES": "-1", "RUST_BACKTRACE": "\udcff", "RUST_LOG": "[[["},
    ],
    ids=str,
)
def test_no_variable_of_a_node_holds_a_component(ready: Scratch, variables: dict[str, str]) -> None:
    ready.env.update(variables)
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()
    said = outcome.stderr.count("HTMAP_EXEC_LOG is `")
    assert said == (variables.get("HTMAP_EXEC_LOG") in ("loud", "\udcff")), outcome.stderr


def test_a_level_on_the_command_line_is_a_usage_error(ready: Scratch) -> None:
    ready.options = ["--log", "loud"]
    outcome = run_ours(ready)
    assert outcome.exit == 2 and "invalid value 'loud' for '--log <LEVEL>'" in outcome.stderr, outcome.dump()
    ready.options = ["--log", "error"]
    ready.env["HTMAP_EXEC_LOG"] = "loud"
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.stderr) == (0, ""), outcome.dump()


def full() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def unread() -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    os.dup2(write, 2)


def closed() -> None:
    os.close(1)
    os.close(2)


@pytest.mark.parametrize("streams", [full, unread, closed])
def test_streams_that_take_nothing(ready: Scratch, streams: object) -> None:
    assert callable(streams)
    ready.before_exec = streams
    ready.env["HTMAP_EXEC_LOG"] = "trace"
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()


@pytest.mark.parametrize("streams", [full, unread, closed])
def test_an_eviction_that_cannot_be_said(scratch: Scratch, streams: object) -> None:
    assert callable(streams)
    scratch.fill(make_pickles(WAIT, scratch.python, 0))
    scratch.before_exec = streams

    def evict(running: Running) -> None:
        assert running.wait_for("waits")
        running.signal(signal.SIGTERM)

    outcome = run_ours(scratch, during=evict)
    assert outcome.exit == 79, outcome.dump()


@pytest.mark.parametrize("arguments", [["--help"], ["python"], ["python", "--json"], ["packages"], ["nonsense"]])
@pytest.mark.parametrize("streams", [unread, full, closed])
def test_other_commands_end_quietly_when_nobody_reads(arguments: list[str], streams: object) -> None:
    assert callable(streams)
    environment = {"PATH": f"{main_python().path.parent}:/usr/bin:/bin"}
    done = subprocess.run(
        [binary(), *arguments], env=environment, preexec_fn=lambda: streams(), timeout=60, check=False
    )
    if arguments == ["nonsense"]:
        assert done.returncode == 2
    elif streams is full and arguments != ["--help"]:
        assert done.returncode == 1
    else:
        assert done.returncode == 0


def test_a_full_stdout_is_said() -> None:
    environment = {"PATH": f"{main_python().path.parent}:/usr/bin:/bin"}
    with open("/dev/full", "w") as stdout:
        done = subprocess.run(
            [binary(), "packages"], env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_names_in_the_scratch_directory_break_no_line(ready: Scratch) -> None:
    (ready.dir / "a\nLanded on execute node evil").touch()
    (ready.dir / "\x1b[2Jcleared").touch()
    (ready.dir / "link").symlink_to("to\rhere")
    os.mkfifo(ready.dir / "fifo")
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()
    assert outcome.stdout.count("|- a\\nLanded on execute node evil\n") == 2, outcome.stdout
    assert "\\u{1b}[2Jcleared\n" in outcome.stdout and "\x1b" not in outcome.stdout
    assert "link -> to\\rhere\n" in outcome.stdout


def test_what_is_said_of_a_node_breaks_no_line(ready: Scratch) -> None:
    metadata = ready.base / "evil-1.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: ev\x1b[2Jil\nVersion: 1\n")
    ready.env.update(PYTHONPATH=str(ready.base), USER="me\nPython executable is mine")
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()
    assert outcome.stdout.splitlines()[0].endswith(" as me\\nPython executable is mine")
    assert "  ev\\u{1b}[2Jil==1\n" in outcome.stdout and "\x1b" not in outcome.stdout


def test_a_scratch_directory_of_many_files(ready: Scratch) -> None:
    for number in range(50_000):
        (ready.dir / f"many{number:05}").touch()
    outcome = run_ours(ready)
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()
    assert outcome.stdout.count("\n") < 400
    assert " more not shown\n" in outcome.stdout
