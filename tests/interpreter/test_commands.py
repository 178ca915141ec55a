"""`htmap-exec python` and `htmap-exec packages`, against the interpreters and the pip that are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.environment import Python, binary, main_python, pythons

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.2.3"
"""


def htmap_exec(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    return subprocess.run(
        [binary(), *arguments], env={**keep, **variables}, text=True, capture_output=True, check=False
    )


def freeze(python: Path) -> list[str]:
    command = [python, "-m", "pip", "freeze", "--disable-pip-version-check"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


@pytest.mark.parametrize("python", pythons().values(), ids=list(pythons()))
def test_packages_are_those_of_pip_freeze(python: Python) -> None:
    done = htmap_exec("packages", "--python", python.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == freeze(python.path)


def test_packages_from_directories_and_editable_ones(tmp_path: Path) -> None:
    base = main_python()
    subprocess.run([base.path, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    for name in ("edited", "Local.Thing", "in-git"):
        project = tmp_path / name
        project.mkdir()
        (project / "pyproject.toml").write_text(PROJECT.format(name=name))
        (project / (name.replace("-", "_").replace(".", "_") + ".py")).write_text("")
    git = ["git", "-C", tmp_path / "in-git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://example.org/in-git.git"], check=True)
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*install, "-e", tmp_path / "edited", tmp_path / "Local.Thing", "-e", tmp_path / "in-git"], check=True
    )
    lines = freeze(python)
    assert len(lines) == 4, lines
    assert htmap_exec("packages", "--python", python).stdout.splitlines() == lines


def test_python_says_what_it_picks_and_why_no_other(tmp_path: Path) -> None:
    main = main_python().path
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken/python3"
    broken.write_text("#!/bin/sh\necho 'it is broken' >&2\nexit 3\n")
    broken.chmod(0o755)
    (tmp_path / "good").mkdir()
    (tmp_path / "good/python3").symlink_to(main)
    path = f"{tmp_path}/broken:{tmp_path}/good:/usr/bin:/bin"
    done = htmap_exec("python", "--json", PATH=path, VIRTUAL_ENV=str(tmp_path / "gone"))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["picked"]["path"] == f"{tmp_path}/good/python3"
    assert answer["picked"]["origin"] == "PATH"
    reasons = {entry["path"]: entry["reason"] for entry in answer["passed_over"]}
    assert "it is broken" in reasons[str(broken)]
    assert "there is none" in reasons[f"{tmp_path}/gone/bin/python3"]
    text = htmap_exec("python", PATH=path).stdout
    assert text.splitlines()[0] == f"{tmp_path}/good/python3"
    assert "passed over:" in text


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    site = Path(directory, "lib/python{}.{}/site-packages".format(*main_python().version))
    # Python's venv cannot make it there.
    subprocess.run([main_python().path, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (tmp_path / "venv").rename(directory)
    (site / "there-1.0.dist-info").mkdir()
    (site / "there-1.0.dist-info/METADATA").write_text("Name: there\nVersion: 1.0\n")
    # What a site prints must not be taken for the answer.
    (site / "sitecustomize.py").write_text("print('hello')")
    python = Path(directory, "bin/python")
    done = htmap_exec("packages", "--python", python)
    assert (done.returncode, done.stdout) == (0, "there==1.0\n"), done.stderr
    assert json.loads(htmap_exec("python", "--json", VIRTUAL_ENV=directory).stdout)["picked"]["origin"] == "VIRTUAL_ENV"


def test_a_python_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    done = htmap_exec("packages", "--python", tmp_path / "nothing")
    assert done.returncode == 1
    assert f"cannot use `{tmp_path}/nothing`" in done.stderr
    assert shutil.which("cat")
    done = htmap_exec("packages", "--python", "/bin/cat")
    assert done.returncode == 1
    assert "cannot use `/bin/cat`" in done.stderr
