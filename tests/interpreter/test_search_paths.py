"""What a Python's `sys.path` may hold: entries that are no text, eggs, and files that nobody expects."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.environment import Python, base_python_2, binary, main_python, pythons

METADATA = "Metadata-Version: 1.2\nName: {name}\nVersion: 1.5\n"

# Each entry leads to a distribution of its own where Python itself would look there.
SITE = """
import os, pathlib, sys
here = os.path.dirname(os.path.abspath(__file__))
class Broken(object):
    def __fspath__(self):
        raise RuntimeError("no")
class Odd(object):
    def __fspath__(self):
        return 5
sys.path.insert(0, pathlib.Path(here, "by-path"))
sys.path[1:1] = [os.fsencode(os.path.join(here, "by-bytes")), None, 7, Broken(), Odd(), ("a",)]
"""


def htmap_exec(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    return subprocess.run(
        [binary(), *arguments], env={**keep, **variables}, text=True, capture_output=True, check=False, timeout=60
    )


def install(directory: Path, name: str) -> Path:
    metadata = directory / f"{name}-1.5.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(METADATA.format(name=name))
    return metadata


@pytest.mark.parametrize("python", pythons().values(), ids=str)
def test_entries_that_are_no_text(python: Python, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    install(tmp_path / "by-path", "by-path")
    install(tmp_path / "by-bytes", "by-bytes")
    variables = {"PYTHONPATH": str(tmp_path)}
    done = htmap_exec("packages", "--python", python.path, **variables)
    assert done.returncode == 0, done.stderr
    assert {"by-path==1.5", "by-bytes==1.5"} <= set(done.stdout.splitlines()), done.stdout
    done = htmap_exec("python", "--json", PATH=str(python.path.parent), **variables)
    assert json.loads(done.stdout)["picked"]["path"].startswith(str(python.path.parent)), done.stdout


def test_a_stdout_that_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import io, sys\nprint('before')\nsys.stdout = io.StringIO()\n")
    install(tmp_path, "there")
    done = htmap_exec("packages", "--python", main_python().path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "there==1.5" in done.stdout.splitlines()


def test_python_2_still_says_what_it_is(tmp_path: Path) -> None:
    python = base_python_2()
    if python is None:
        pytest.skip("this machine has no Python 2")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.path[:0] = [u'cafe', None, 7]\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(python)
    done = htmap_exec("python", "--json", PATH=str(tmp_path / "bin"), PYTHONPATH=str(tmp_path))
    reasons = [each["reason"] for each in json.loads(done.stdout)["passed_over"]]
    assert any("it is Python 2.7" in reason for reason in reasons), reasons


def importable(python: Path) -> list[str]:
    code = (
        "from importlib.metadata import distributions as d;"
        "print(*sorted(x.metadata['Name'] + '==' + x.version for x in d()), sep='\\n')"
    )
    return subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


@pytest.mark.parametrize("python", [p for p in pythons().values() if p.version >= (3, 8)], ids=str)
def test_eggs_are_listed_as_importlib_lists_them(python: Python, tmp_path: Path) -> None:
    subprocess.run([python.path, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv/lib").glob("python3*")) / "site-packages"
    with zipfile.ZipFile(site / "zipped-1.5-py3.egg", "w", zipfile.ZIP_DEFLATED) as egg:
        egg.writestr("EGG-INFO/PKG-INFO", METADATA.format(name="zipped"))
        egg.writestr("zipped.py", "x = 1\n")
    directory = site / "Open_Egg-1.5-py3.egg/EGG-INFO"
    directory.mkdir(parents=True)
    (directory / "PKG-INFO").write_text(METADATA.format(name="Open-Egg"))
    # Installed as another version, and not on the path: no one's.
    unused = site / "unused-1.5-py3.egg/EGG-INFO"
    unused.mkdir(parents=True)
    (unused / "PKG-INFO").write_text(METADATA.format(name="unused"))
    with zipfile.ZipFile(tmp_path / "wheel-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("wheeled-1.5.dist-info/METADATA", METADATA.format(name="wheeled"))
    (site / "broken-1.5-py3.egg").write_bytes(b"PK\x03\x04 no archive")
    (site / "easy-install.pth").write_text(
        f"./zipped-1.5-py3.egg\n./Open_Egg-1.5-py3.egg\n./broken-1.5-py3.egg\n{wheel.filename}\n"
    )
    interpreter = tmp_path / "venv/bin/python"
    done = htmap_exec("packages", "--python", interpreter)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["Open-Egg==1.5", "wheeled==1.5", "zipped==1.5"]
    assert set(importable(interpreter)) == set(done.stdout.splitlines())


def test_metadata_that_is_no_file_is_nobodys(tmp_path: Path) -> None:
    install(tmp_path, "whole")
    for name, file in (("fifo", "METADATA"), ("other", "direct_url.json")):
        metadata = install(tmp_path, name).with_name(file)
        metadata.unlink(missing_ok=True)
        os.mkfifo(metadata)
    os.mkfifo(tmp_path / "queue.egg")
    os.mkfifo(tmp_path / "queue-1.5.egg-info")
    paths = f"{tmp_path}:{tmp_path}/queue.egg"
    done = htmap_exec("packages", "--python", main_python().path, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert {"whole==1.5", "other==1.5"} <= set(done.stdout.splitlines())
    assert "fifo" not in done.stdout and "queue" not in done.stdout
