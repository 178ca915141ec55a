"""`htmap-exec htmap` and `htmap-exec explain`: which Python they become, and what they hand to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from person import CommandLine, printed
from support.environment import binary

# Says who it is, and what it was given.
PYTHON = f"""#!{sys.executable}
import os, sys
print(os.path.abspath(__file__), *sys.argv[3:], sep="|")
"""


def python_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON)
    path.chmod(0o755)
    return path


@pytest.fixture
def installed(newest: CommandLine) -> Path:
    """The binary in a virtual environment that nobody activated."""
    newest.environment.pop("VIRTUAL_ENV", None)
    path = newest.home / "venv/bin/htmap-exec"
    path.parent.mkdir(parents=True)
    path.symlink_to(binary())
    return path


def test_the_python_beside_it(newest: CommandLine, installed: Path) -> None:
    active = python_at(newest.home / "active/bin/python3")
    python_at(newest.home / "bin/python3")
    beside = python_at(installed.parent / "python")
    environment = {"VIRTUAL_ENV": str(newest.home / "active")}
    for called, path in ((installed, ""), ("htmap-exec", f"{installed.parent}:"), ("venv/bin/htmap-exec", "")):
        path += newest.environment["PATH"]
        done = newest.run([called, "htmap", "tags"], PATH=path, **environment)
        assert printed(done) == f"{beside}|tags\n"
    assert printed(newest.run([installed, "htmap"], HTMAP_EXEC_PYTHON=str(active), **environment)) == f"{active}\n"


def test_another_python(newest: CommandLine, installed: Path) -> None:
    on_path = python_at(newest.home / "bin/python3")
    assert printed(newest.run([installed, "htmap"])) == f"{on_path}\n"
    active = python_at(newest.home / "active/bin/python3")
    assert printed(newest.run([installed, "htmap"], VIRTUAL_ENV=str(newest.home / "active"))) == f"{active}\n"
    none = newest.run([installed, "htmap"], PATH="/no/such")
    assert printed(none, status=1) == ""
    assert "htmap-exec: error: no Python beside this binary, in VIRTUAL_ENV or on PATH\nhint: " in none.stderr
    gone = newest.run([installed, "htmap"], HTMAP_EXEC_PYTHON="/no/such/python")
    assert printed(gone, status=1) == ""
    assert "htmap-exec: error: cannot run `/no/such/python`" in gone.stderr


def test_a_link_to_a_virtual_environments_binary(newest: CommandLine, tmp_path: Path) -> None:
    """As pipx and uv install tools: the link's directory has no Python."""
    venv = tmp_path / "venv/bin"
    beside = python_at(venv / "python3")
    (venv / "htmap-exec").write_bytes(binary().read_bytes())
    (venv / "htmap-exec").chmod(0o755)
    (newest.home / "bin/htmap-exec").symlink_to(venv / "htmap-exec")
    assert printed(newest.run(["htmap-exec", "htmap"])) == f"{beside}\n"


def test_arguments_are_passed_on_as_they_are(newest: CommandLine, installed: Path) -> None:
    python = python_at(installed.parent / "python3")
    for arguments in (
        ["--help"],
        ["-h"],
        ["--version"],
        ["--log", "off"],
        ["hold", "--", "-x", "", "it's here"],
        ["--", "tags"],
    ):
        assert printed(newest.run([installed, "htmap", *arguments])) == "|".join([str(python), *arguments]) + "\n"
    assert printed(newest.run([installed, "explain"])) == f"{python}|explain\n"
    explained = newest.run([installed, "explain", "--delivery", "shared"])
    assert printed(explained) == f"{python}|explain|--delivery|shared\n"
    assert "Print what a map would be submitted with" in printed(newest.run([installed, "explain", "--help"]))


def test_htmaps_commands(htmap: CommandLine) -> None:
    htmap.environment["HTMAP_EXEC_PYTHON"] = str(htmap.python)
    htmap.map("foo", "COMPLETED")
    # HTMap imports random: not this one.
    (htmap.home / "random.py").write_text("raise SystemExit('the wrong one')\n")
    assert printed(htmap.run([binary(), "htmap", "tags"])) == "foo\n"
    assert printed(htmap.run([binary(), "htmap", "--version"])) == "HTMap version 0.6.1\n"
    assert htmap.run([binary(), "htmap", "hold", "nope"]).returncode == 1
    assert htmap.run([binary(), "htmap", "nope"]).returncode == 2


def test_a_python_without_the_package(newest: CommandLine) -> None:
    environment = {"HTMAP_EXEC_PYTHON": str(newest.python), "PYTHONPATH": ""}
    done = newest.run([binary(), "htmap", "tags"], **environment)
    assert printed(done, status=1) == ""
    assert done.stderr == (
        f"htmap-exec: error: `{newest.python}` has no htmap_exec\n"
        f'hint: `{newest.python} -m pip install "htmap-exec[htmap]"`, or name another Python by HTMAP_EXEC_PYTHON\n'
    )
