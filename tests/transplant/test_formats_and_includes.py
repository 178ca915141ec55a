"""What other tools read of a transplant, and what is taken along beside an environment."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environment import binary
from support.node_archives import MAIN, PRUNED, excluding

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    venv = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    # Longer than a frame; twice the same; a program; a link.
    (site / "big.bin").write_bytes(os.urandom(5_000_000))
    (site / "own").mkdir()
    shutil.copy(site / "big.bin", site / "own/again.bin")
    (venv / "bin/program").write_text("#!/bin/sh\necho it runs\n")
    (venv / "bin/program").chmod(0o755)
    (site / "link.bin").symlink_to("own/again.bin")
    return venv


@pytest.fixture
def run(venv: Path, tmp_path: Path) -> Run:
    def run(command: str, *words: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
        given = [*map(str, words)]
        if command == "build":
            left_out = excluding(PRUNED)
            given += ["--python", str(venv / "bin/python"), "--dir", str(tmp_path / "store"), "--no-check", *left_out]
        done = subprocess.run(
            [binary(), "transplant", command, *given],
            env={"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HTMAP_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 1) == fails, done.stdout + done.stderr
        assert "panicked" not in done.stderr
        return done

    return run


def tree(root: Path) -> dict[str, tuple[int, object]]:
    """Permissions and content of all that is in it."""
    found: dict[str, tuple[int, object]] = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(root))] = (0, os.readlink(path))
        elif path.is_file():
            found[str(path.relative_to(root))] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    return found


@pytest.mark.parametrize("end", ["tar.gz", "zip"])
def test_other_tools_read_it(end: str, run: Run, tmp_path: Path) -> None:
    archive = Path(run("build").stdout.strip())
    done = run("build", "--format", end)
    assert "nothing to do" in done.stderr
    exported = Path(done.stdout.strip())
    assert exported == archive.with_name(f"{archive.name}.{end}")
    theirs = tmp_path / "theirs"
    if end == "zip":
        if shutil.which("unzip") is None:
            pytest.skip("there is no unzip")
        subprocess.run(["unzip", "-q", exported, "-d", theirs], check=True)
        assert zipfile.ZipFile(exported).testzip() is None
    else:
        theirs.mkdir()
        subprocess.run(["tar", "-xzf", exported, "-C", theirs], check=True)
        with tarfile.open(exported) as tar:
            names = {member.name for member in tar}
        assert f"bin/python{MAIN.minor}" in names
    run("unpack", archive, tmp_path / "ours")
    exported_tree, unpacked_tree = tree(theirs), tree(tmp_path / "ours")
    # What names its place is edited by htmap-exec alone.
    for text in json.loads((theirs / "lib/htmap-exec-edits.json").read_text())["text"]:
        assert exported_tree.pop(text["path"]) != unpacked_tree.pop(text["path"])
    assert exported_tree == unpacked_tree
    assert subprocess.check_output([theirs / "bin/program"], text=True) == "it runs\n"
    # Made once, and the same each time.
    first = exported.stat()
    assert json.loads(run("build", "--format", end, "--json").stdout)["exported"] == str(exported)
    assert exported.stat().st_ino == first.st_ino
    content = exported.read_bytes()
    exported.unlink()
    run("build", "--format", end)
    assert exported.read_bytes() == content
    # HTMap's own `transplants` reads the packages of whatever lies there and is not called `.pip`.
    for path in (tmp_path / "store").iterdir():
        assert path.suffix == ".pip" or path.with_suffix(".pip").is_file()
    assert "it is for other tools" in run("verify", exported, fails=True).stderr
    run("remove", "--dir", tmp_path / "store", archive.name[:10])
    assert list((tmp_path / "store").iterdir()) == []


def test_includes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("value = 1\n")
    (tmp_path / "package/inner").mkdir(parents=True)
    (tmp_path / "package/__init__.py").touch()
    (tmp_path / "package/inner/data.txt").write_text("data")
    (tmp_path / "table.csv").write_text("1,2\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x.bin").write_bytes(b"x")
    names = ["module.py", "package", "table.csv", "more=share/my data"]
    words = [word for name in names for word in ("--include", tmp_path / name)]
    first = run("build", *words).stdout
    run("unpack", first.strip(), tmp_path / "tree")
    site = tmp_path / f"tree/lib/python{MAIN.minor}/site-packages"
    assert (site / "module.py").read_text() == "value = 1\n"
    assert (site / "package/inner/data.txt").read_text() == "data"
    assert (tmp_path / "tree/share/htmap-exec/include/table.csv").read_text() == "1,2\n"
    assert (tmp_path / "tree/share/my data/x.bin").read_bytes() == b"x"
    assert "nothing to do" in run("build", *words).stderr
    (tmp_path / "package/inner/data.txt").write_text("Data")
    again = run("build", *words)
    assert "nothing to do" not in again.stderr
    assert again.stdout not in (first, run("build").stdout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no/such", "cannot find `no/such`"),
        ("/etc/hostname=../x", "`../x` is no place in the environment"),
        ("/etc/hostname=/x", "`/x` is no place in the environment"),
        ("/etc/hostname=", "`` is no place in the environment"),
        (f"/etc/hostname=bin/python{MAIN.minor}", "the environment has `bin/python"),
        (f"/etc/hostname=bin/python{MAIN.minor}/x", "is no directory of the environment"),
    ],
)
def test_what_cannot_be_included(text: str, said: str, run: Run, tmp_path: Path) -> None:
    assert said in run("build", "--include", text, fails=True).stderr
    assert not (tmp_path / "store").exists()
