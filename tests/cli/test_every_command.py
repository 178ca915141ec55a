"""Every command that needs no scheduler, and the errors of those that do, beside every click."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from person import CommandLine, printed


def test_stock_htmap_runs_beside_old_clicks_only(htmap: CommandLine) -> None:
    done = htmap.stock("tags")
    if tuple(map(int, htmap.click.split("."))) < (8, 1):
        assert done.returncode == 0, done.stderr
    else:
        assert "unexpected keyword argument 'autocompletion'" in done.stderr


def test_help_and_versions(htmap: CommandLine) -> None:
    for option in ("-h", "--help"):
        assert printed(htmap(option)).startswith("Usage: htmap [OPTIONS] COMMAND [ARGS]...")
    assert printed(htmap("--version")) == "HTMap version 0.6.1\n"
    assert printed(htmap("version")).startswith("HTMap version 0.6.1\n$CondorVersion: ")
    commands = (
        "autocompletion clean components edit errors explain hold logs path pause reasons release remove rerun resume "
        "retag set settings status stderr stdout tags transplants vacate version wait"
    )
    listed = {line.split()[0] for line in printed(htmap("--help")).partition("Commands:")[2].splitlines() if line}
    assert set(commands.split()) <= listed
    each = f"from htmap_exec.command_line import main\nfor command in {commands.split()}: main([command, '--help'])"
    helps = printed(htmap.run([htmap.python, "-c", each]))
    for command in commands.split():
        assert f"Usage: htmap {command}" in helps
    assert "[UNKNOWN|UNMATERIALIZED|IDLE|" in printed(htmap("components", "--help")).upper()


def test_wrong_usage(htmap: CommandLine) -> None:
    done = htmap("statsu")
    assert done.returncode == 2
    assert "Did you mean one of these?\n    status" in done.stderr
    assert htmap("status", "--nope").returncode == 2
    assert htmap("status", "--format", "xml").returncode == 2
    assert htmap("components", "foo", "--status", "fish").returncode == 2
    assert "cannot produce non-text live data" in htmap("status", "--live", "--format", "json").stderr


def test_status(htmap: CommandLine) -> None:
    htmap.map("foo", "COMPLETED", "ERRORED", "HELD", "RUNNING", "IDLE")
    htmap.map("bar", "COMPLETED", "COMPLETED", transient=True)
    header, foo, bar = printed(htmap("status")).splitlines()
    assert header.split() == (
        [
            "Tag",
            "HELD",
            "ERRORED",
            "IDLE",
            "RUNNING",
            "COMPLETED",
            "Local",
            "Data",
            "Max",
            "Memory",
            "Max",
            "Runtime",
            "Total",
            "Runtime",
        ]
    )
    assert foo.split()[:6] == ["foo", "1", "1", "1", "1", "1"]
    assert bar.split()[:7] == ["*", "bar", "0", "0", "0", "0", "2"]
    assert bar.split()[-3:] == ["MB", "0:00:06", "0:00:12"]
    assert printed(htmap("status", "--no-meta", "--no-color")).split()[:6] == header.split()[:6]
    assert printed(htmap("status", "--no-state", "--no-meta")).split() == ["Tag", "foo", "*", "bar"]
    assert "HELD" not in printed(htmap("status", "--no-state"))

    whole = json.loads(printed(htmap("status", "--format", "json")))
    assert whole["bar"]["component_status_counts"]["completed"] == 2
    assert whole["bar"]["max_memory_usage"] == 12 * 1024 * 1024
    assert whole["bar"]["local_disk_usage"] > 0
    assert whole["bar"]["total_runtime"] == 12.0
    compact = printed(htmap("status", "--format", "json_compact", "--no-meta"))
    assert len(compact.splitlines()) == 1
    assert json.loads(compact)["foo"]["component_status_counts"]["held"] == 1
    rows = list(csv.DictReader(printed(htmap("status", "--format", "csv")).splitlines()))
    assert [row["tag"] for row in rows] == ["bar", "foo"]
    assert rows[1]["errored"] == "1"


def test_status_without_maps(htmap: CommandLine) -> None:
    assert printed(htmap("status")).startswith("Tag")
    assert json.loads(printed(htmap("status", "--format", "json"))) == {}
    assert printed(htmap("status", "--format", "csv")).strip() == ""
    assert printed(htmap("tags")).strip() == ""


def test_what_a_map_left_behind(htmap: CommandLine) -> None:
    directory = htmap.map("foo", "COMPLETED", "ERRORED", "HELD", "ERRORED", "IDLE")
    assert printed(htmap("tags")) == "foo\n"
    assert printed(htmap("tags", "-p", "f*", "--pattern", "g*")).split() == ["foo"]
    assert printed(htmap("components", "foo")).splitlines() == [
        "0 COMPLETED",
        "1 ERRORED",
        "2 HELD",
        "3 ERRORED",
        "4 IDLE",
    ]
    assert printed(htmap("components", "--status", "errored", "--no-color", "foo")) == "1 3\n"
    assert printed(htmap("components", "foo", "--status", "SUSPENDED")) == "\n"
    reports = printed(htmap("errors", "foo"))
    assert "ValueError: 1 is too odd" in reports
    assert "ValueError: 3 is too odd" in reports
    limited = printed(htmap("errors", "--limit", "1", "--all"))
    assert "1 is too odd" in limited
    assert "3 is too odd" not in limited
    assert printed(htmap("stdout", "foo", "0")) == "the stdout of 0\n\n"
    assert printed(htmap("stderr", "foo", "1", "--timeout", "1")) == "the stderr of 1\n\n"
    assert "The node had no fish" in printed(htmap("reasons", "--pattern", "f*"))
    paths = {"": directory, ":map": directory, ":events": directory / "events", ":logs": directory / "logs"}
    paths |= {":inputs": directory / "inputs", ":outputs": directory / "outputs", ":tag": htmap.htmap_dir / "tags/foo"}
    for target, path in paths.items():
        assert printed(htmap("path", f"foo{target}")) == f"{path}\n"


def test_tags_come_from_stdin(htmap: CommandLine) -> None:
    htmap.map("foo", "HELD")
    htmap.map("bar", "HELD")
    reasons = printed(htmap("reasons", stdin="foo\nbar\n"))
    assert "Map foo" in reasons
    assert "Map bar" in reasons
    assert "no tags were found" in htmap("reasons").stderr


def test_changing_maps(htmap: CommandLine) -> None:
    done = htmap.map("done", "COMPLETED", "ERRORED")
    passing = htmap.map("passing", "COMPLETED", transient=True)
    assert printed(htmap("retag", "passing", "staying")) == ""
    assert sorted(printed(htmap("tags")).split()) == ["done", "staying"]
    taken = htmap("retag", "staying", "done")
    assert printed(taken, status=1) == ""
    assert "htmap-exec: error: Cannot retag map" in taken.stderr
    htmap.map("leaving", "COMPLETED", transient=True)
    assert "Cleaned maps leaving" in htmap("clean").stderr
    assert passing.exists()
    # What has ended is in no queue: no scheduler is asked.
    for command in ("hold", "release", "pause", "resume", "vacate"):
        printed(htmap(command, "done"))
    printed(htmap("edit", "memory", "done", "2", "--unit", "gb"))
    printed(htmap("edit", "disk", "done", "2"))
    printed(htmap("wait", "staying"))
    assert "Removed map done" in htmap("remove", "done", "--force").stderr
    assert not done.exists()
    assert "Cleaned maps staying" in htmap("clean", "--all").stderr
    assert printed(htmap("tags")).strip() == ""


def test_settings(htmap: CommandLine) -> None:
    assert 'request_memory = "128MB"' in printed(htmap("settings"))
    assert "you do not have a ~/.htmaprc file" in htmap("settings", "--user").stderr
    printed(htmap("set", "MAP_OPTIONS.request_memory", "2GB"))
    printed(htmap("set", "WAIT_TIME", "0.5"))
    printed(htmap("set", "CLI.SPINNERS_ON", "False"))
    assert (htmap.home / ".htmaprc").read_text().split("\n") == [
        "WAIT_TIME = 0.5",
        "",
        "[MAP_OPTIONS]",
        'request_memory = "2GB"',
        "",
        "[CLI]",
        "SPINNERS_ON = false",
        "",
    ]
    assert "WAIT_TIME = 0.5" in printed(htmap("settings", "--user"))
    assert 'request_memory = "2GB"' in printed(htmap("settings"))


def test_transplants(htmap: CommandLine) -> None:
    assert printed(htmap("transplants", "info")).strip() == ""
    assert "could not find a transplant install with index 0" in htmap("transplants", "remove", "0").stderr
    directory = htmap.htmap_dir / "transplants"
    (directory / "abc").write_bytes(b"an archive")
    (directory / "abc.pip").write_text("cloudpickle==3.1.2\n")
    assert "Hash: abc" in printed(htmap("transplants", "info"))
    assert htmap("transplants", "remove", "x").returncode == 1
    printed(htmap("transplants", "remove", "0"))
    assert list(directory.iterdir()) == []


def test_logs(htmap: CommandLine) -> None:
    path = Path(printed(htmap("logs")).strip())
    assert path == htmap.htmap_dir / "logs/htmap.log"
    assert "CLI called with arguments" in printed(htmap("logs", "--view"))
    assert "htmap.settings" in htmap("--verbose", "tags").stderr


@pytest.mark.parametrize(
    "arguments",
    ["hold foo", "release foo", "pause --all", "resume -p f*", "vacate foo", "edit memory foo 1", "edit disk foo 1"],
)
def test_no_scheduler(htmap: CommandLine, arguments: str) -> None:
    htmap.map("foo", "IDLE")
    done = htmap(*arguments.split())
    assert printed(done, status=1) == ""
    assert "htmap-exec: error: HTCondor: " in done.stderr
    assert "\nhint: ask the scheduler by `condor_q`" in done.stderr


def test_unknown_tags(htmap: CommandLine) -> None:
    htmap.map("foo", "IDLE")
    for command in ("components", "hold", "remove", "path", "wait", "errors"):
        done = htmap(command, "nope")
        assert printed(done, status=1) == ""
        assert "ERROR: could not find a map with tag nope\nYour map tags are:\nfoo\n" in done.stderr
