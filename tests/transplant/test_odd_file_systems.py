"""File systems that keep times in whole seconds, have clocks of their own, or take two names for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.environment import binary, is_root
from support.folding import Folding
from support.hostile_archives import Directory, Entry, File, Frame, Link, blake3, hostile, manifest_of
from support.node_archives import MAIN, Node, pack

needs_root = pytest.mark.skipif(not is_root(), reason="only root can mount")
Done = subprocess.CompletedProcess[str]


class Disk:
    """A file system in a file."""

    def __init__(self, image: Path, place: Path, *options: str) -> None:
        self.image, self.place = image, place
        with image.open("wb") as file:
            file.truncate(200 << 20)
        subprocess.run(["mkfs.ext4", "-q", *options, image], check=True, capture_output=True)
        place.mkdir()
        try:
            self.mount()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine mounts no file system from a file: {error.stderr.strip()}")

    def mount(self) -> None:
        words = ["mount", "-o", "loop", self.image, self.place]
        subprocess.run(words, check=True, capture_output=True, text=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)

    def change(self, *commands: str) -> None:
        """What no program can do to a file system that is mounted."""
        self.unmount()
        for command in commands:
            subprocess.run(["debugfs", "-w", "-R", command, self.image], check=True, capture_output=True)
        self.mount()


@pytest.fixture
def coarse(tmp_path: Path) -> Iterator[Disk]:
    """Inodes of 128 bytes have room for whole seconds alone."""
    disk = Disk(tmp_path / "image", tmp_path / "coarse", "-I", "128")
    yield disk
    disk.unmount()


@pytest.fixture
def module(coarse: Disk) -> Path:
    venv = coarse.place / "venv"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", venv], check=True)
    return venv / f"lib/python{MAIN.minor}/site-packages/mymod.py"


def build(module: Path, tmp_path: Path, *options: object) -> Done:
    # Little else, so that it takes less than a second.
    python = module.parents[3] / "bin/python"
    words = ["--level", "1", "--no-check", "--exclude", f"lib/python{MAIN.minor}/[a-rt-z]*", *options]
    return pack(python, tmp_path / "store", *words, XDG_CACHE_HOME=str(tmp_path / "cache"))


def is_new(done: Done) -> bool:
    return "nothing to do" not in done.stderr


def content(done: Done, module: Path, tmp_path: Path) -> str:
    """Of the module, in an archive."""
    tree = tmp_path / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run([binary(), "transplant", "unpack", done.stdout.strip(), tree], check=True, capture_output=True)
    return (tree / module.relative_to(module.parents[3])).read_text()


@needs_root
def test_a_second_change_within_the_same_second(module: Path, tmp_path: Path) -> None:
    for number in range(10, 14):
        time.sleep(1 - time.time() % 1)
        module.write_text(f"x = {number}\n")
        assert content(build(module, tmp_path), module, tmp_path) == f"x = {number}\n"
        with module.open("r+") as file:
            file.write(f"x = {number + 50}\n")
        assert content(build(module, tmp_path), module, tmp_path) == f"x = {number + 50}\n"
    # What has not changed for a while is known.
    assert not is_new(build(module, tmp_path))


@needs_root
def test_a_change_in_the_future(coarse: Disk, module: Path, tmp_path: Path) -> None:
    """A server's clock may be ahead: nothing is known of such a file, and nobody waits for that time."""
    module.write_text("x = 1\n")
    inside = module.relative_to(coarse.place)
    coarse.change(f"set_inode_field /{inside} ctime 20370101", f"set_inode_field /{inside} mtime 20370101")
    assert module.stat().st_ctime > time.time() + 3600
    begun = time.monotonic()
    for _ in range(2):
        done = build(module, tmp_path)
        assert is_new(done)
        assert content(done, module, tmp_path) == "x = 1\n"
    assert time.monotonic() - begun < 30
    with module.open("r+") as file:
        file.write("x = 2\n")
    assert content(build(module, tmp_path), module, tmp_path) == "x = 2\n"
    assert not is_new(build(module, tmp_path))


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which has the kernel refuse locks, is not installed")
@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_builds_where_nothing_can_be_locked(venv: Path, tmp_path: Path, error: str) -> None:
    """Network file systems without a lock daemon: builds do without, and forget nothing."""
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject=flock:error={error}"]
    options = ["--level", "1", "--no-check", "--exclude", f"lib/python{MAIN.minor}/[a-rt-z]*"]
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first, second = (pack(venv / "bin/python", tmp_path / "store", *options, before=words, **env) for _ in range(2))
    assert is_new(first) and not is_new(second)
    assert first.stdout == second.stdout
    subprocess.run([binary(), "transplant", "verify", first.stdout.strip()], check=True, capture_output=True)
    pruned = [*words, binary(), "transplant", "prune", "--keep", "0", "--dir", tmp_path / "store"]
    subprocess.run(pruned, check=True, capture_output=True, env={"PATH": os.defpath, **env})
    assert list((tmp_path / "store").iterdir()) == []


@pytest.fixture
def folding(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "folding").mkdir()
    made = Folding(tmp_path / "folding")
    yield tmp_path / "folding"
    made.unmount()


@pytest.fixture(scope="module")
def manifest(archive: Path) -> bytes:
    return manifest_of(archive)


ONE, TWO = blake3(b"x"), blake3(b"y")
PYTHON: list[Entry] = [Directory("bin"), File("bin/python3.11", 1, 0, 0, ONE)]
ALIKE: dict[str, tuple[list[Entry], tuple[str, str]]] = {
    "files": ([File("Makefile", 1, 0, 0, ONE), File("makefile", 1, 0, 1, TWO)], ("Makefile", "makefile")),
    # Nothing in them has the same name.
    "directories": (
        [Directory("Foo"), File("Foo/a", 1, 0, 0, ONE), Directory("foo"), File("foo/b", 1, 0, 1, TWO)],
        ("Foo", "foo"),
    ),
    "empty-directories": ([Directory("Foo"), Directory("foo")], ("Foo", "foo")),
    "file-and-directory": ([File("Foo", 1, 0, 0, ONE), Directory("foo")], ("Foo", "foo")),
    "link-and-file": ([Link("Foo", "bin"), File("foo", 1, 0, 0, ONE)], ("Foo", "foo")),
    "links": ([Link("Foo", "bin"), Link("foo", "bin/python3.11")], ("Foo", "foo")),
}


@needs_root
@pytest.mark.parametrize("kind", ALIKE)
def test_names_that_differ_by_capital_letters_alone(
    folding: Path, manifest: bytes, tmp_path: Path, node: Node, kind: str
) -> None:
    entries, names = ALIKE[kind]
    made = hostile(tmp_path / "made", manifest, [*PYTHON, *entries], [Frame.of(b"xy")])
    target = folding / "tree"
    done = subprocess.run([binary(), "transplant", "unpack", made, target], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    one, other = (str(target / name) for name in names)
    assert f"`{one}` and `{other}`" in done.stderr or f"`{other}` and `{one}`" in done.stderr, done.stderr
    assert "hint: " in done.stderr
    assert list(target.iterdir()) == []
    # Elsewhere they are two.
    subprocess.run([binary(), "transplant", "unpack", made, tmp_path / "tree"], check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {"bin", *names}


@needs_root
def test_a_python_where_capital_letters_do_not_matter(folding: Path, archive: Path, node: Node) -> None:
    """Most have no such names: it is unpacked there, and not into a cache, as others may have that file system."""
    words = [binary(), "transplant", "unpack", archive, folding / "tree"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    code = "import ssl, sys; print(sys.prefix)"
    said = subprocess.check_output([done.stdout.strip(), "-c", code], text=True, timeout=100)
    assert said.strip() == str(folding / "tree")
    (folding.parent).chmod(0o755)
    outcome = node.run(archive, "def f():\n    return 1", "--cache-dir", folding / "cache")
    assert outcome.value == 1, outcome.dump()
    assert "is on FUSE, and not this node's own" in outcome.stderr
