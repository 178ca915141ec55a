"""HTMap's commands that need a scheduler, each in a process of its own: `python -m htmap_exec`."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import htmap
import pytest
from on_pool import BINARY, TIMEOUT, finished, results, scratch, until

SUSPENDED, RUNNING, HELD = "7", "2", "5"


class Commands:
    """HTMap's commands on the maps of one test."""

    def __init__(self, htmap_dir: Path) -> None:
        self.environment = {**os.environ, "HTMAP_DIR": str(htmap_dir), "TERM": "xterm"}

    def run(self, *arguments: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "htmap_exec", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def __call__(self, *arguments: str, **options: object) -> str:
        return self.run(*arguments, **options).stdout

    def counts(self, tag: str) -> dict[str, int]:
        counted = json.loads(self("status", "--format", "json"))[tag]["component_status_counts"]
        return {status: count for status, count in counted.items() if count}

    def on_terminal(self, *arguments: str) -> tuple[int, str]:
        """Status and screen of a command that ends by itself."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "htmap_exec", *arguments],
            env=self.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        screen = b""
        deadline = time.monotonic() + TIMEOUT
        try:
            while True:
                assert time.monotonic() < deadline, screen
                if select.select([ours], [], [], 0.1)[0]:
                    try:
                        screen += os.read(ours, 1 << 16)
                    except OSError:
                        # Nobody has the other end any more.
                        return process.wait(timeout=TIMEOUT), screen.decode()
        finally:
            os.close(ours)
            process.kill()
            process.wait()


@pytest.fixture
def command(tmp_path: Path) -> Commands:
    # HTMap keeps maps by their tags, those that another process has removed as well.
    htmap.maps.MAPS.clear()
    return Commands(tmp_path / "htmap")


def queued(m: htmap.Map, attribute: str) -> list[str]:
    """An attribute of the map's jobs, as HTCondor's own command prints it."""
    jobs = " || ".join(f"ClusterId == {cluster}" for cluster in m._cluster_ids)
    return subprocess.check_output(["condor_q", "-constraint", jobs, "-af", attribute], text=True).split()


def sleeping(tag: str, components: int = 1) -> htmap.Map:
    """A map whose components run, and do not end."""

    def sleep(_: object) -> None:
        import time

        time.sleep(600)

    m = htmap.map(sleep, range(components), tag=tag)
    # By the event log: to the queue a job runs as soon as its files are on the way, when suspending it leads nowhere.
    until(lambda: m.component_statuses == [htmap.ComponentStatus.RUNNING] * components, "all components run")
    return m


def inverse(tag: str) -> htmap.Map:
    """A map of one failure and two results."""

    def divide(x: int) -> float:
        import sys

        print("dividing by", x)
        print("as told", file=sys.stderr)
        return 1 / x

    return finished(htmap.map(divide, [0, 1, 2], tag=tag))


def test_hold_and_release(assume: None, command: Commands) -> None:
    m = sleeping("foo", 2)
    assert "Held map foo" in command.run("hold", "foo").stderr
    until(lambda: command.counts("foo") == {"held": 2}, "the components are held")
    assert queued(m, "JobStatus") == [HELD] * 2
    reasons = command("reasons", "foo")
    assert "Map foo (2 holds)" in reasons
    assert "htcondor" in reasons.lower() or "submitter" in reasons
    assert command("components", "foo", "--status", "held") == "0 1\n"
    assert "Released map foo" in command.run("release", stdin="foo\n").stderr
    until(lambda: queued(m, "JobStatus") == [RUNNING] * 2, "the components run again")
    until(lambda: command.counts("foo") == {"running": 2}, "HTMap has seen it")
    assert command("reasons", "--all") == "\n"


def test_pause_and_resume(assume: None, command: Commands) -> None:
    m = sleeping("foo")
    assert "Paused map foo" in command.run("pause", "--pattern", "f*").stderr
    until(lambda: queued(m, "JobStatus") == [SUSPENDED], "the component is suspended")
    until(lambda: command("components", "foo") == "0 SUSPENDED\n", "HTMap has seen it")
    assert "Resumed map foo" in command.run("resume", "foo").stderr
    until(lambda: queued(m, "JobStatus") == [RUNNING], "the component runs again")


def test_vacate(assume: None, command: Commands) -> None:
    m = sleeping("foo")
    until(lambda: scratch(m, attempt=1), "the first attempt is there")
    assert "Vacated map foo" in command.run("vacate", "foo").stderr
    until(lambda: scratch(m, attempt=2), "a second attempt starts")


def test_edit(assume: None, command: Commands) -> None:
    m = sleeping("foo", 2)
    command("hold", "foo")
    until(lambda: queued(m, "JobStatus") == [HELD] * 2, "the components are held")
    for arguments, attribute, value in (
        (["memory", "foo", "300"], "RequestMemory", "300"),
        (["memory", "foo", "2", "--unit", "GB"], "RequestMemory", "2048"),
        (["disk", "foo", "3"], "RequestDisk", str(3 * 1024**2)),
        (["disk", "foo", "5000", "--unit", "kb"], "RequestDisk", "5000"),
    ):
        assert f"Set {arguments[0]} request for map foo" in command.run("edit", *arguments).stderr
        assert queued(m, attribute) == [value] * 2


def test_what_a_map_left_behind(assume: None, command: Commands) -> None:
    m = inverse("foo")
    assert command("components", "foo").splitlines() == ["0 ERRORED", "1 COMPLETED", "2 COMPLETED"]
    assert command.counts("foo") == {"errored": 1, "completed": 2}
    assert "ZeroDivisionError: division by zero" in command("errors", "foo")
    assert "dividing by 2" in command("stdout", "foo", "2")
    assert "as told" in command("stderr", "foo", "1", "--timeout", "5")
    for arguments in ([], ["--no-meta"], ["--no-state"], ["--no-color"], ["--format", "csv"]):
        assert "foo" in command("status", *arguments)
    assert command("path", "foo:events") == f"{m._map_dir}/events\n"


def test_wait(assume: None, command: Commands) -> None:
    def rest(x: int) -> int:
        import time

        time.sleep(2)
        return 2 * x

    m = htmap.map(rest, [1, 2], tag="foo")
    assert command("wait", "foo") == ""
    assert m.is_done
    m = htmap.map(rest, [1, 2], tag="bar")
    status, screen = command.on_terminal("wait", "--all")
    assert status == 0
    assert "bar" in screen
    assert "█" in screen
    assert m.is_done


def test_wait_for_a_map_that_fails(assume: None, command: Commands) -> None:
    inverse("foo")
    assert (
        "ERROR: map foo has ended without all of its results: 1 ERRORED" in command.run("wait", "foo", status=1).stderr
    )


def test_rerun(delivery: str, command: Commands) -> None:
    m = htmap.map(lambda x: 2 * x, [1, 2, 3], tag="foo")
    assert results(m) == [2, 4, 6]
    assert "Reran components 0 2 of map foo" in command.run("rerun", "components", "foo", "0", "2").stderr
    command("wait", "foo")
    assert "Reran map foo" in command.run("rerun", "map", "foo").stderr
    command("wait", "foo")
    assert len(m._cluster_ids) == 3
    assert results(m) == [2, 4, 6]


def test_rerun_of_what_runs(assume: None, command: Commands) -> None:
    m = sleeping("foo")
    done = command.run("rerun", "components", "foo", "0", status=1)
    assert "htmap-exec: error: Cannot rerun components [0] of map foo" in done.stderr
    assert len(m._cluster_ids) == 1


def test_retag(assume: None, command: Commands) -> None:
    m = htmap.map(lambda x: x, [1])
    command("wait", m.tag)
    command("retag", m.tag, "foo")
    assert command("tags") == "foo\n"
    command("rerun", "map", "foo")
    command("wait", "foo")
    assert command("components", "foo") == "0 COMPLETED\n"


@pytest.mark.parametrize("options", [[], ["--force"]])
def test_remove(assume: None, command: Commands, options: list[str]) -> None:
    m = sleeping("foo", 2)
    clusters, directory = m._cluster_ids, m._map_dir
    assert "Removed map foo" in command.run("remove", "foo", *options).stderr
    assert command("tags") == "\n"
    jobs = " || ".join(f"ClusterId == {cluster}" for cluster in clusters)
    until(
        lambda: subprocess.check_output(["condor_q", "-constraint", jobs, "-af", "ClusterId"], text=True) == "",
        "the jobs leave the queue",
    )
    # HTCondor 25.14 makes the directory of the event log anew, if HTMap did not wait for the last event.
    left = [path.name for path in directory.iterdir()] if directory.exists() else []
    assert left in ([], ["events"] if options else [])


def test_clean(assume: None, command: Commands) -> None:
    transient = finished(htmap.map(lambda x: x, [1]))
    finished(htmap.map(lambda x: x, [1], tag="foo"))
    assert f"Cleaned maps {transient.tag}" in command.run("clean").stderr
    assert command("tags") == "foo\n"
    sleeping("bar")
    cleaned = command.run("clean", "--all").stderr
    assert "foo" in cleaned
    assert "bar" in cleaned
    assert command("tags") == "\n"


def test_by_the_binary(assume: None, command: Commands) -> None:
    sleeping("foo")
    environment = {**command.environment, "HTMAP_EXEC_PYTHON": sys.executable}
    for arguments in (["hold", "foo"], ["status"], ["version"]):
        done = subprocess.run(
            [BINARY, "htmap", *arguments], env=environment, capture_output=True, text=True, check=True
        )
        assert "Traceback" not in done.stderr
    until(lambda: command.counts("foo") == {"held": 1}, "the component is held")


def test_a_scheduler_that_is_not_there(assume: None, command: Commands) -> None:
    sleeping("foo")
    command.environment["_CONDOR_SCHEDD_HOST"] = "nowhere@nohost"
    done = command.run("hold", "foo", status=1)
    assert "htmap-exec: error: " in done.stderr
    assert "\nhint: " in done.stderr
