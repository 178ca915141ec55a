"""What is done with archives that are there: listed, compared, pruned, and told about as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environment import binary, cloudpickle_package
from support.node_archives import MAIN, PRUNED, encoded, excluding, with_manifest

DAY = 24 * 60 * 60
Archives = tuple[Path, Path]


def run(*words: object, fails: bool = False, **env: str) -> str:
    done = subprocess.run(
        [binary(), "transplant", *map(str, words)],
        env={"PATH": os.defpath, "HOME": "/no/such", **env},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 1) == fails, done.stdout + done.stderr
    assert "panicked" not in done.stderr
    if fails:
        assert done.stdout == ""
        assert done.stderr.startswith("htmap-exec: error: ")
    return done.stderr if fails else done.stdout


def told(*words: object, **env: str) -> Any:
    return json.loads(run(*words, "--json", **env))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """An environment before and after some changes; the first one is two days old."""
    root = tmp_path_factory.mktemp("commands")
    code = "import sys; print(sys.base_prefix)"
    base = Path(subprocess.check_output([MAIN.path, "-c", code], text=True).strip())
    subprocess.run([base / f"bin/python{MAIN.minor}", "-m", "venv", "--without-pip", root / "venv"], check=True)
    site = next((root / "venv/lib").glob("python3*")) / "site-packages"
    shutil.copytree(cloudpickle_package(), site / "cloudpickle")

    def package(name: str, version: str) -> None:
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info/METADATA").write_text(f"Name: {name}\nVersion: {version}\n")

    def build() -> Path:
        words = excluding((*PRUNED, "lib/python*/site-packages/[!cgolnmbw]*"))
        python = root / "venv/bin/python"
        out = run(
            "build", "--python", python, "--dir", root / "transplants", "--no-check", *words, XDG_CACHE_HOME=str(root)
        )
        return Path(out.strip())

    package("grown", "1.0")
    package("lost", "2")
    (site / "grown.py").write_text("x = 1\n")
    (site / "lost.py").touch()
    # Longer than a frame, and changed at its end alone.
    (site / "big.bin").write_bytes(bytes(range(256)) * 20_000)
    (site / "where").symlink_to("grown.py")
    (site / "mode.py").touch(0o644)
    (site / "word.py").write_text("same\n")
    first = build()
    shutil.rmtree(site / "grown-1.0.dist-info")
    shutil.rmtree(site / "lost-2.dist-info")
    package("grown", "1.1")
    package("new", "3")
    (site / "grown.py").write_text("x = 2\n")
    (site / "lost.py").unlink()
    (site / "new.py").touch()
    (site / "big.bin").write_bytes(bytes(range(256)) * 19_999 + bytes(256))
    (site / "where").unlink()
    (site / "where").symlink_to("word.py")
    (site / "mode.py").chmod(0o755)
    (site / "word.py").write_text("same\n")
    second = build()
    old = time.time() - 2 * DAY
    os.utime(first, (old, old))
    return first, second


@pytest.fixture
def store(built: Archives, tmp_path: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(built[0].parent, tmp_path / "transplants")
    return tmp_path / "transplants"


def test_list_has_the_newest_first(built: Archives) -> None:
    first, second = built
    old, new = reversed(run("list", "--dir", first.parent).splitlines())
    assert old.startswith(f"{first.name[:12]}  Python ")
    assert old.endswith(", 2 days ago")
    assert new.startswith(f"{second.name[:12]}  Python ")
    values = told("list", "--dir", first.parent)
    assert [value["digest"] for value in values] == [second.name, first.name]
    assert [value["size"] for value in values] == [second.stat().st_size, first.stat().st_size]
    assert values[1]["built"] == int(first.stat().st_mtime)


def test_an_archive_that_says_nothing_does_not_hide_the_others(store: Path, built: Archives) -> None:
    (store / ("0" * 64)).write_text("no archive")
    assert "is no whole transplant" in run("list", "--dir", store)
    assert sorted(["error" in value for value in told("list", "--dir", store)]) == [False, False, True]
    run("remove", "--dir", store, "0" * 64)
    assert len(told("list", "--dir", store)) == 2


@pytest.mark.parametrize("name", [lambda path: path, lambda path: path.name, lambda path: path.name[:4]])
def test_every_command_takes_every_name(built: Archives, tmp_path: Path, name: Callable[[Path], object]) -> None:
    words = (name(built[0]), "--dir", built[0].parent)
    digest = built[0].name
    assert told("info", *words)["digest"] == digest
    assert told("verify", *words) == {"digest": digest, "path": str(built[0]), "whole": True}
    assert told("diff", *words, name(built[0]))["same"] is True
    unpacked = told("unpack", *words, tmp_path / "tree")
    assert unpacked["digest"] == digest
    assert unpacked["target"] == str(tmp_path / "tree")
    assert Path(unpacked["python"]).is_file()


def test_what_is_no_python_is_said_once(tmp_path: Path) -> None:
    """And without all that it was asked, which programs repeat."""
    said = run("build", "--python", "/bin/ls", "--dir", tmp_path, fails=True)
    assert said == "htmap-exec: error: cannot use `/bin/ls`: it ended with exit status: 2: it does not run Python\n"
    for option in ("--python", "--from"):
        said = run("build", option, tmp_path / "nope", "--dir", tmp_path, fails=True)
        assert said.count("No such file or directory") == 1


def test_a_name_of_nothing_is_no_damaged_archive(tmp_path: Path) -> None:
    said = run("info", "nosuch", "--dir", tmp_path, fails=True)
    assert f"`nosuch` does not name an archive: there is neither such a file nor such a digest in `{tmp_path}`" in said
    assert "build it again" not in said and "`htmap-exec transplant list` shows which there are" in said


def test_an_ambiguous_name_lists_what_it_may_mean(store: Path) -> None:
    for name in ("abcd1" + "0" * 59, "abcd2" + "0" * 59):
        (store / name).touch()
    said = run("info", "--dir", store, "abcd", fails=True)
    assert "`abcd100000000000`, `abcd200000000000`: name more of the digest" in said


def test_remove_takes_archives_alone(store: Path, built: Archives, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    assert "is no whole transplant" in run("remove", "--dir", store, other, built[0].name, fails=True)
    assert other.exists()
    path = store / built[0].name
    assert path.exists()
    assert told("remove", "--dir", store, built[0].name[:6]) == {"removed": [str(path)]}
    assert sorted(path.name for path in store.iterdir()) == [built[1].name, f"{built[1].name}.pip"]


def test_diff(built: Archives) -> None:
    found = told("diff", *built)
    assert found["same"] is False
    assert found["packages"] == [
        {"name": "grown", "from": "1.0", "to": "1.1"},
        {"name": "lost", "from": "2", "to": None},
        {"name": "new", "from": None, "to": "3"},
    ]
    site = f"lib/python{MAIN.minor}/site-packages"
    files = found["files"]
    assert [path for path in files["added"] if path.endswith(".py")] == [f"{site}/new.py"]
    assert [path for path in files["removed"] if path.endswith(".py")] == [f"{site}/lost.py"]
    assert f"{site}/grown-1.1.dist-info/METADATA" in files["added"]
    # No others, such as what merely lies in other frames now.
    assert [change for change in files["changed"] if not change["path"].endswith(".pyc")] == [
        {"path": f"{site}/big.bin", "what": "content"},
        {"path": f"{site}/grown.py", "what": "content"},
        {"path": f"{site}/mode.py", "what": "mode", "from": "644", "to": "755"},
        {"path": f"{site}/where", "what": "target", "from": "grown.py", "to": "word.py"},
    ]
    lines = run("diff", *built).splitlines()
    assert "package ~ grown 1.0 -> 1.1" in lines
    assert f"file    + {site}/new.py" in lines
    assert f"file    ~ {site}/mode.py: mode 755, was 644" in lines
    assert lines[-1].startswith("3 packages differ; ")
    assert run("diff", built[0], built[0]) == "the same\n"


def test_diff_says_what_is_damaged(built: Archives, tmp_path: Path) -> None:
    # The index has the digests of all files, so nothing but the index is read.
    data = built[1].read_bytes()
    damaged = tmp_path / "damaged"
    begin = int.from_bytes(data[-16:-8], "little")
    damaged.write_bytes(data[: begin + 16] + bytes(len(data) - 24 - begin - 16) + data[-24:])
    assert f"`{damaged}` is no whole transplant" in run("diff", built[0], damaged, "--json", fails=True)


def test_diff_of_manifests(built: Archives) -> None:
    other = with_manifest(built[0], lambda manifest: manifest.update(python_version="9.9.9"))
    found = told("diff", built[0], other)
    other.unlink()
    assert found["python"]["to"].startswith("CPython 9.9.9 for ")
    assert found["same"] is False
    assert found["files"] == {"added": [], "removed": [], "changed": []}


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def test_prune_removes_what_is_left_behind(store: Path, tmp_path: Path) -> None:
    archives = {path.name for path in store.iterdir()}
    cache = tmp_path / "cache/htmap-exec/transplants"
    cache.mkdir(parents=True)
    digest = min(archives)
    for name, content in (("1" * 64, "f" * 64), ("2" * 64, digest), ("other", "f" * 64)):
        (cache / name).write_text(content)
        age(cache / name, 2)
    for name in (".making-old.pip", "3" * 64 + ".pip", "notes.pip"):
        (store / name).write_text("x" * 1000)
        age(store / name, 2)
    for name in (".making-new.pip", "4" * 64 + ".pip"):
        (store / name).write_text("a build that runs")
    words = ("prune", "--dir", store)
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    gone = {str(store / ".making-old.pip"), str(store / ("3" * 64 + ".pip")), str(cache / ("1" * 64))}
    planned = told(*words, "--dry-run", **env)
    assert {each["path"] for each in planned["removed"]} == gone
    assert all(Path(path).exists() for path in gone)
    done = told(*words, **env)
    assert (planned.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert done == planned
    assert done["size"] == 2064
    assert {path.name for path in store.iterdir()} == {*archives, "notes.pip", ".making-new.pip", "4" * 64 + ".pip"}
    assert {path.name for path in cache.iterdir()} == {"2" * 64, "other"}
    assert run(*words, **env) == "0 B freed\n"


def test_prune_forgets_builds_whose_archive_is_gone(built: Archives, store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache/htmap-exec/transplants"
    cache.mkdir(parents=True)
    remembered = {"gone": tmp_path / "gone", "kept": built[0]}
    for name, archive in remembered.items():
        path = os.fsencode(archive)
        (cache / f"{name}.build").write_bytes(b"htmap-exec build 1\n" + encoded(len(path)) + path + b"more")
    (cache / "other.build").write_text("of another program")
    for name in ("gone.lock", "kept.lock", "alone.lock", "held.lock", "young.lock", ".tmpAb12Cd"):
        (cache / name).touch()
    for path in cache.iterdir():
        if path.name != "young.lock":
            age(path, 2)
    gone = {"gone.build", "gone.lock", "alone.lock", ".tmpAb12Cd"}
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with (cache / "held.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = told("prune", "--dir", store, **env)
    assert {Path(each["path"]).name for each in done["removed"]} == gone
    assert {path.name for path in cache.iterdir()} == {
        "kept.build",
        "kept.lock",
        "other.build",
        "held.lock",
        "young.lock",
    }


def test_prune_forgets_what_was_seen_and_compiled_for_archives_that_are_gone(
    built: Archives, store: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache/htmap-exec/transplants"
    shutil.copytree(built[0].parents[1] / "htmap-exec/transplants", cache)
    [build], [ledger] = cache.glob("*.build"), cache.glob("*.ledger")
    build.with_suffix(".compiled").touch()
    # The same of an archive that was removed since.
    elsewhere = built[1].with_name("f" * 64)
    for remembers in (build, ledger):
        content = remembers.read_bytes()
        assert os.fsencode(built[1]) in content
        forgets = content.replace(os.fsencode(built[1]), os.fsencode(elsewhere))
        (cache / f"gone{remembers.suffix}").write_bytes(forgets)
    (cache / "damaged.ledger").write_bytes(ledger.read_bytes()[:-1])
    for name in ("gone.compiled", "alone.compiled", "young.ledger", "young.compiled"):
        (cache / name).touch()
    kept = {path.name for path in cache.iterdir()}
    for path in cache.iterdir():
        if path.stem != "young":
            age(path, 2)
    gone = {"gone.build", "gone.ledger", "gone.compiled", "alone.compiled", "damaged.ledger"}
    done = told("prune", "--dir", store, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert {Path(each["path"]).name for each in done["removed"]} == gone
    assert {path.name for path in cache.iterdir()} == kept - gone


def test_prune_by_age_and_number(store: Path, built: Archives) -> None:
    words = ("prune", "--dir", store)
    first, second = (store / path.name for path in built)
    age(first, 2)
    for options in ([], ["--keep", 2], ["--older-than", 3], ["--keep", 2, "--older-than", 1]):
        assert run(*words, *options) == "0 B freed\n"
    size = first.stat().st_size
    found = told(*words, "--keep", 1, "--dry-run")
    assert [(each["path"], each["size"], each["why"]) for each in found["removed"]] == [
        (str(first), size, "built 2 days ago")
    ]
    assert run(*words, "--older-than", 1).startswith(f"removed {first} (")
    assert sorted(path.name for path in store.iterdir()) == [second.name, f"{second.name}.pip"]


@pytest.mark.parametrize("where", ["beside the archives", "HTMAP_DIR", "--maps"])
def test_prune_keeps_what_a_map_needs(store: Path, built: Archives, tmp_path: Path, where: str) -> None:
    maps = tmp_path / ("maps" if where == "beside the archives" else "other/maps")
    for name, content in (("one", f"/elsewhere/{built[0].name}\n"), ("another", "http://server/x\n"), ("plain", "")):
        (maps / name).mkdir(parents=True)
        if content:
            (maps / name / "transplant").write_text(content)
    (maps / "stray").touch()
    words = ["prune", "--dir", store, "--keep", 0, *(["--maps", maps] if where == "--maps" else [])]
    env = {"HTMAP_DIR": str(maps.parent)} if where == "HTMAP_DIR" else {}
    first, second = (store / path.name for path in built)
    said = run(*words, **env)
    assert f"kept {first}: the map `{maps / 'one'}` needs it\n" in said
    assert f"removed {second} (" in said
    assert first.exists() and first.with_suffix(".pip").exists()
    assert not second.exists()
    shutil.rmtree(maps / "one")
    assert told(*words, **env)["kept"] == []
    assert list(store.iterdir()) == []


def test_prune_removes_nothing_if_maps_cannot_be_read(store: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("no directory")
    assert "cannot see which archives maps in" in run("prune", "--dir", store, "--keep", 0, fails=True)
    assert len(list(store.iterdir())) == 4
