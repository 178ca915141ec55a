"""The node's cache of unpacked archives: what is found in it, what is not believed, and that no trouble with it ends a
component.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.environment import binary, is_root
from support.moments import comes_to
from support.node_archives import MAIN, MEMORY, Node, build, with_manifest
from support.outcome import NONE, Outcome
from support.running import Running
from support.scratch import Scratch, new_base

LIBC = ctypes.CDLL(None)

PREFIX = "def f():\n    import sys\n    return sys.prefix"

needs_root = pytest.mark.skipif(not is_root(), reason="only root may mount file systems and become another user")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build(MAIN.path, tmp_path_factory.mktemp("store"))
    # Whoever runs a component has to read it.
    place = new_base() / made.name
    shutil.copy(made, place)
    place.chmod(0o644)
    return place


@pytest.fixture
def base() -> Iterator[Path]:
    """Every user may look into it, and all above it belongs to root. In memory, where that is possible."""
    base = new_base(MEMORY)
    yield base
    subprocess.run(["chmod", "-R", "u+w", base], check=True)
    shutil.rmtree(base)


@pytest.fixture
def mount(base: Path) -> Iterator[Callable[..., Path]]:
    mounted = []

    def make(options: str, name: str = "cache") -> Path:
        directory = base / name
        directory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], check=True)
        mounted.append(directory)
        return directory

    yield make
    for directory in mounted:
        subprocess.run(["umount", "--lazy", directory], check=True)


def entry(cache: Path) -> Path:
    [found] = [path for path in cache.glob(f"{os.geteuid()}/*/*") if path.is_dir()]
    return found


def from_scratch(outcome: Outcome, reason: str) -> None:
    """It ran all the same, and says why the cache was no help."""
    assert outcome.status == "OK", outcome.dump()
    assert outcome.value.endswith("/scratch/_htmap_python"), outcome.dump()
    [line] = [line for line in outcome.stderr.splitlines() if "the cache is passed over" in line]
    assert reason in line, line


def test_the_second_job_finds_it(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    source = """
        def f():
            import os, subprocess, sys
            # A program of another environment, which knows nothing of this: it would write .pyc files.
            subprocess.run([sys.executable, "-c", "import turtle, tabnanny"], env={}, stderr=subprocess.DEVNULL)
            return sys.prefix, os.environ["PYTHONDONTWRITEBYTECODE"], os.path.exists("_htmap_python")
    """
    first = node.run(archive, source, "--cache-dir", cache)
    assert first.value == (str(entry(cache) / "tree"), "1", False), first.dump()
    assert "unpacked `" in first.stderr
    for _ in range(2):
        again = node.run(archive, PREFIX, HTMAP_EXEC_CACHE_DIR=str(cache))
        assert again.value == first.value[0]
        assert "found `" in again.stderr


def test_the_site_names_it(node: Node, archive: Path, base: Path) -> None:
    def advertise(scratch: Scratch) -> None:
        with (scratch.dir / ".machine.ad").open("a") as ad:
            ad.write(f'HtmapExecCacheDir = "{base}/cache"\nHtmapExecCacheSize = "1GB"\n')

    assert node.run(archive, PREFIX, prepare=advertise).value == str(entry(base / "cache") / "tree")
    # A job may do without.
    outcome = node.run(archive, PREFIX, prepare=advertise, HTMAP_EXEC_CACHE_DIR="")
    assert outcome.value.endswith("/_htmap_python")


@pytest.mark.parametrize("jobs", [2, 10])
def test_jobs_that_start_together(node: Node, archive: Path, base: Path, jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(lambda _: node.run(archive, PREFIX, "--cache-dir", base / "cache"), range(jobs)))
    assert {outcome.value for outcome in outcomes} == {str(entry(base / "cache") / "tree")}
    assert sum("unpacked `" in outcome.stderr for outcome in outcomes) == 1


def test_a_kill_while_it_is_made(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    whole = base / "whole"
    subprocess.run([binary(), "transplant", "unpack", archive, whole], check=True, stdout=subprocess.DEVNULL)
    entries = len(list(whole.rglob("*")))

    def unpacked(number: float, since: int) -> bool:
        """Whether so many entries stand there that the last kill did not leave."""
        partials = list(cache.glob("*/*/*/partial"))
        with contextlib.suppress(FileNotFoundError):  # it is cleared, or has its name now
            made = (path.lstat().st_ctime_ns > since for partial in partials for path in partial.rglob("*"))
            return bool(partials) and sum(made) >= number
        return False

    killed = 0
    for tenth in range(10):
        scratch = node.scratch(PREFIX)
        words = ["run", "--transplant", archive, "--cache-dir", cache, "0"]
        (base / "now").touch()
        since = (base / "now").stat().st_ctime_ns
        running = subprocess.Popen([binary(), *words], cwd=scratch.dir, env=scratch.env, stdout=subprocess.DEVNULL)
        killed += comes_to(running, functools.partial(unpacked, entries * tenth / 10, since))
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert killed > 4
    outcome = node.run(archive, PREFIX, "--cache-dir", cache)
    tree = entry(cache) / "tree"
    assert outcome.value == str(tree), outcome.dump()
    assert not (entry(cache) / "partial").exists()
    # `python3-config` says where it lies.
    options = ["-r", "--no-dereference", "-x", "python3*-config"]
    done = subprocess.run(["diff", *options, tree, whole], capture_output=True)
    assert done.returncode == 0, done.stdout


CHANGES = [
    "removed",
    "added",
    "replaced",
    "cut",
    "emptied",
    "before-boot",
    "never-complete",
    "a-byte-of-a-library",
    "sitecustomize",
    "mode",
]


@pytest.mark.parametrize("how", CHANGES)
def test_what_has_changed_is_made_again(node: Node, archive: Path, base: Path, how: str) -> None:
    cache = base / "cache"
    node.run(archive, PREFIX, "--cache-dir", cache)
    place = entry(cache)
    json_package = place / "tree" / "lib" / f"python{MAIN.minor}" / "json"
    program = place / "tree" / "bin" / f"python{MAIN.minor}"
    site = place / "tree" / "lib" / f"python{MAIN.minor}" / "site-packages"
    library = next((place / "tree" / "lib").glob("python3*/lib-dynload/_json.*.so"))
    whole = library.read_bytes()
    if how not in ("cut", "a-byte-of-a-library", "sitecustomize", "mode"):
        json_package.chmod(0o755)
        # That alone is a change: put back what the kernel does not remember.
    if how == "removed":
        (json_package / "scanner.py").unlink()
    elif how == "added":
        (json_package / "more.py").touch()
    elif how == "replaced":
        (json_package / "other").write_text("nonsense (\n")
        (json_package / "other").rename(json_package / "scanner.py")
    elif how == "cut":
        os.truncate(program, 100)
    elif how == "emptied":
        shutil.rmtree(json_package)
    elif how == "a-byte-of-a-library":
        before = library.stat()
        library.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(library, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "sitecustomize":
        site.chmod(0o755)
        (site / "sitecustomize.py").write_text("raise SystemExit(3)\n")
        site.chmod(0o555)
    elif how == "mode":
        site.chmod(0o777)
        site.chmod(0o555)
    elif how == "before-boot":
        ready = json.loads((place / "ready").read_text())
        ready["boot"] = "another"
        (place / "ready").write_text(json.dumps(ready))
    else:
        (place / "ready").unlink()
    if how in ("removed", "added", "replaced"):
        json_package.chmod(0o555)
    outcome = node.run(archive, PREFIX, "--cache-dir", cache)
    assert outcome.value == str(place / "tree"), outcome.dump()
    assert "unpacked `" in outcome.stderr
    assert (json_package / "scanner.py").stat().st_size > 100
    assert not (json_package / "more.py").exists()
    assert not (site / "sitecustomize.py").exists()
    assert library.read_bytes() == whole
    assert program.stat().st_size > 100


def test_what_is_damaged_and_in_use_is_left_alone(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    wait = "def f():\n    import pathlib, sys, time\n    pathlib.Path('here').touch()\n    time.sleep(60)"

    def meanwhile(running: Running) -> None:
        assert running.wait_for("here")
        package = entry(cache) / "tree" / "lib" / f"python{MAIN.minor}" / "json"
        package.chmod(0o755)
        (package / "scanner.py").unlink()
        from_scratch(node.run(archive, PREFIX, "--cache-dir", cache), "another job uses")
        running.signal(signal.SIGTERM)

    node.run(archive, wait, "--cache-dir", cache, during=meanwhile)


def test_the_one_not_used_longest_goes(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    one, two, three = (
        with_manifest(archive, lambda manifest, n=number: manifest.update(packages=[f"n=={n}"]), f"{number}")  # type: ignore[misc]
        for number in (1, 2, 3)
    )
    taken = node.run(one, PREFIX, "--cache-dir", cache)
    size = int((entry(cache) / "lock").read_text())
    limit = f"{size * 2 + size // 2}"
    places = {one: Path(taken.value)}
    for each in (two, one, three, two):
        outcome = node.run(each, PREFIX, "--cache-dir", cache, "--cache-size", limit)
        places[each] = Path(outcome.value)
        if each == three:
            # It made room, and what was used last stayed.
            assert places[one].is_dir() and places[three].is_dir() and not places[two].exists()
    assert places[two].is_dir() and places[three].is_dir() and not places[one].exists()
    small = node.run(one, PREFIX, "--cache-dir", cache, "--cache-size", f"{size // 2}")
    from_scratch(small, "and the cache may take")


def test_nothing_in_use_goes(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    other = with_manifest(archive, lambda manifest: manifest.update(packages=["other==1"]), "other")
    source = """
        def f():
            import os, pathlib, time
            pathlib.Path("here").touch()
            while not os.path.exists("go"):
                time.sleep(0.01)
            import wave
    """

    def meanwhile(running: Running) -> None:
        assert running.wait_for("here")
        size = int((entry(cache) / "lock").read_text())
        outcome = node.run(other, PREFIX, "--cache-dir", cache, "--cache-size", f"{size + size // 2}")
        from_scratch(outcome, "MB are taken")
        (running.scratch.dir / "go").touch()

    assert node.run(archive, source, "--cache-dir", cache, during=meanwhile).status == "OK"


def watch_opening(path: Path) -> int:
    watch = LIBC.inotify_init()
    in_open = 0x20
    assert watch >= 0 and LIBC.inotify_add_watch(watch, os.fsencode(path), in_open) >= 0
    return int(watch)


def await_opening(watch: int) -> None:
    """Whoever waits for the lock opens its file again and again."""
    try:
        assert select.select([watch], [], [], 30)[0], "nobody asked for the lock"
    finally:
        os.close(watch)


def test_a_job_that_has_to_end_waits_for_nobody(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    node.run(archive, PREFIX, "--cache-dir", cache)

    def meanwhile(running: Running) -> None:
        await_opening(watch)
        running.signal(signal.SIGTERM)

    with (entry(cache) / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        watch = watch_opening(entry(cache) / "lock")
        outcome = node.run(archive, PREFIX, "--cache-dir", cache, during=meanwhile)
    assert outcome.wall < 10
    assert outcome.status == NONE, outcome.dump()
    assert "the job is to end" in outcome.stderr


@needs_root
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("size=9m,mode=755", "MB left"),
        ("size=400m,mode=755,nr_inodes=300", "has room for"),
        ("ro,mode=755", "Read-only file system"),
        ("noexec,mode=755", "noexec"),
        ("mode=777", "others may write"),
        ("mode=755,uid=4711", "belongs to another user (4711)"),
    ],
    ids=["full", "few-inodes", "read-only", "noexec", "open-to-all", "another-users"],
)
def test_a_cache_that_is_no_good(
    node: Node, archive: Path, mount: Callable[..., Path], options: str, reason: str
) -> None:
    from_scratch(node.run(archive, PREFIX, "--cache-dir", mount(options)), reason)


@needs_root
def test_one_that_fills_up_meanwhile(node: Node, archive: Path, mount: Callable[..., Path]) -> None:
    """By somebody who is faster: what was made so far goes again."""
    whole = mount("size=400m,mode=755", "whole")
    node.run(archive, PREFIX, "--cache-dir", whole)
    taken = sum(path.lstat().st_blocks for path in (entry(whole) / "tree").rglob("*")) * 512
    cache = mount(f"size={taken + 8_000_000},mode=755")

    def meanwhile(running: Running) -> None:
        while running.process.poll() is None and not list(cache.glob("*/*/*/partial/bin")):
            time.sleep(0.0005)
        with (cache / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, 30_000_000)

    outcome = node.run(archive, PREFIX, "--cache-dir", cache, during=meanwhile)
    from_scratch(outcome, "No space left on device")
    assert sorted(path.name for path in entry(cache).iterdir()) == ["lock"]
    assert (entry(cache) / "lock").read_text() == ""


@needs_root
def test_a_read_only_cache_with_the_tree_in_it(node: Node, archive: Path, mount: Callable[..., Path]) -> None:
    cache = mount("mode=755")
    node.run(archive, PREFIX, "--cache-dir", cache)
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    assert node.run(archive, PREFIX, "--cache-dir", cache).value == str(entry(cache) / "tree")


@needs_root
@pytest.mark.parametrize("differ", ["machine", "host"])
def test_nodes_that_share_a_directory_leave_each_others_trees_alone(
    node: Node, archive: Path, base: Path, differ: str
) -> None:
    """Where locks are a node's own, nothing else tells one that another uses a tree. Nodes without disks of their own
    start from one image, and have the same machine id."""
    cache = base / "cache"

    def on(machine: str) -> Callable[[Scratch], None]:
        name = base / machine
        name.write_text((machine if differ == "machine" else "c") * 32 + "\n")
        host = machine if differ == "host" else "node"

        def prepare(scratch: Scratch) -> None:
            script = f'mount --bind {name} /etc/machine-id && hostname {host} && exec "$@"'
            scratch.wrapper = ["unshare", "--mount", "--uts", "--", "sh", "-c", script, "sh"]

        return prepare

    one = node.run(archive, PREFIX, "--cache-dir", cache, prepare=on("a"))
    place = Path(one.value).parent
    size = int((place / "lock").read_text())
    # As another machine wrote it, in a boot of its own.
    ready = json.loads((place / "ready").read_text())
    ready["boot"] = "another"
    (place / "ready").write_text(json.dumps(ready))
    before = (place / "ready").stat(), (place / "tree").stat()
    other = node.run(archive, PREFIX, "--cache-dir", cache, "--cache-size", f"{size}", prepare=on("b"))
    assert other.status == "OK", other.dump()
    assert Path(other.value).parent not in (place, Path(f"{other.out_path.parents[1]}"))
    assert before == ((place / "ready").stat(), (place / "tree").stat())
    assert "found `" in node.run(archive, PREFIX, "--cache-dir", cache, prepare=on("b")).stderr


@needs_root
@pytest.mark.parametrize("name", [None, "", "uninitialized\n"], ids=["none", "empty", "uninitialized"])
def test_a_node_without_a_machine_id_has_a_cache_all_the_same(
    node: Node, archive: Path, base: Path, name: str | None
) -> None:
    (base / "id").write_text(name or "")

    def prepare(scratch: Scratch) -> None:
        places = [path for path in ("/etc/machine-id", "/var/lib/dbus/machine-id") if os.path.exists(path)]
        hide = "/dev/null" if name is None else base / "id"
        script = " && ".join(f"mount --bind {hide} {path}" for path in places) or "true"
        scratch.wrapper = ["unshare", "--mount", "--", "sh", "-c", f'{script} && exec "$@"', "sh"]

    for word in ("unpacked `", "found `"):
        outcome = node.run(archive, PREFIX, "--cache-dir", base / "cache", prepare=prepare)
        assert outcome.value == str(entry(base / "cache") / "tree"), outcome.dump()
        assert word in outcome.stderr


@needs_root
def test_a_file_system_with_coarse_times(node: Node, archive: Path, base: Path) -> None:
    image, cache = base / "image", base / "cache"
    with image.open("wb") as file:
        file.truncate(600 << 20)
    # Inodes of 128 bytes have no room for more.
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, capture_output=True)
    cache.mkdir()
    subprocess.run(["mount", "-o", "loop", image, cache], check=True)
    try:
        from_scratch(node.run(archive, PREFIX, "--cache-dir", cache), "keeps times in whole seconds only")
    finally:
        subprocess.run(["umount", "--lazy", cache], check=True)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which has the kernel refuse locks, is not installed")
def test_a_file_system_without_locks(node: Node, archive: Path, base: Path) -> None:
    def prepare(scratch: Scratch) -> None:
        scratch.wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=flock:error=ENOLCK"]

    from_scratch(node.run(archive, PREFIX, "--cache-dir", base / "cache", prepare=prepare), "cannot lock")


@needs_root
def test_every_user_has_a_part_of_it(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    cache.mkdir()
    cache.chmod(0o1777)
    for uid in (4711, 4712):
        outcome = node.run(archive, PREFIX, "--cache-dir", cache, prepare=lambda scratch, uid=uid: scratch.give_to(uid))  # type: ignore[misc]
        assert outcome.value.startswith(f"{cache}/{uid}/"), outcome.dump()
        assert (cache / str(uid)).stat().st_mode & 0o777 == 0o700
    # Nobody's Python adds .pyc files to it: a change would have it made again.
    source = """
        def f():
            import subprocess, sys
            subprocess.run([sys.executable, "-c", "import turtle, tabnanny"], env={}, stderr=subprocess.DEVNULL)
    """
    node.run(archive, source, "--cache-dir", cache, prepare=lambda scratch: scratch.give_to(4711))
    outcome = node.run(archive, PREFIX, "--cache-dir", cache, prepare=lambda scratch: scratch.give_to(4711))
    assert "found `" in outcome.stderr, outcome.dump()


@needs_root
def test_a_package_that_writes_beside_itself_is_told_of_the_cache(node: Node, archive: Path, base: Path) -> None:
    cache = base / "cache"
    cache.mkdir()
    cache.chmod(0o1777)
    source = """
        def f():
            import json, os
            os.mkdir(os.path.dirname(json.__file__) + "/cache")
    """
    give = lambda scratch: scratch.give_to(4711)  # noqa: E731
    outcome = node.run(archive, source, "--cache-dir", cache, prepare=give)
    assert "[Errno 13]" in outcome.report, outcome.dump()
    assert "is in the node's cache" in outcome.report, outcome.dump()
    # What is refused elsewhere has nothing to do with it.
    elsewhere = "def f():\n    open('/etc/shadow')"
    assert "node's cache" not in node.run(archive, elsewhere, "--cache-dir", cache, prepare=give).report


@needs_root
@pytest.mark.parametrize("how", ["directory", "link", "open", "file"])
def test_what_another_user_prepared_is_not_used(node: Node, archive: Path, base: Path, how: str) -> None:
    cache = base / "cache"
    cache.mkdir()
    cache.chmod(0o1777)
    trap = base / "trap"
    trap.mkdir()
    place = cache / "4711"
    if how == "directory":
        place.mkdir(0o777)
        os.chown(place, 4712, 4712)
    elif how == "link":
        place.symlink_to(trap)
        os.chown(trap, 4711, 4711)
        os.chown(place, 4712, 4712, follow_symlinks=False)
    elif how == "open":
        place.mkdir()
        os.chown(place, 4711, 4711)
        place.chmod(0o777)
    else:
        place.touch()
    outcome = node.run(archive, PREFIX, "--cache-dir", cache, prepare=lambda scratch: scratch.give_to(4711))
    from_scratch(outcome, "make" if how == "file" else "is not a directory of this user's alone")
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize("what", ["entry", "tree", "lock"])
def test_a_link_in_the_place_of_an_entry(node: Node, archive: Path, base: Path, what: str) -> None:
    """However it came there: nothing is taken from where it leads, or written or removed there."""
    cache = base / "cache"
    node.run(archive, PREFIX, "--cache-dir", cache)
    place = entry(cache) if what == "entry" else entry(cache) / what
    away = base / "away"
    if what == "lock":
        away.write_text("mine")
        place.unlink()
    else:
        place.rename(away)
    place.symlink_to(away)
    outcome = node.run(archive, PREFIX, "--cache-dir", cache)
    if what == "tree":
        # It is a change, so it is made again.
        assert outcome.value == str(place), outcome.dump()
        assert not place.is_symlink()
        assert (away / "bin").is_dir()
    else:
        from_scratch(outcome, "is not a directory" if what == "entry" else "cannot open")
        assert (away / "tree" / "bin").is_dir() if what == "entry" else away.read_text() == "mine"


def test_what_makes_no_sense(node: Node, archive: Path, base: Path) -> None:
    (base / "file").write_text("mine")
    from_scratch(node.run(archive, PREFIX, "--cache-dir", base / "file"), "cannot make")
    assert (base / "file").read_text() == "mine"
    from_scratch(node.run(archive, PREFIX, "--cache-dir", "relative"), "no absolute path")
    from_scratch(node.run(archive, PREFIX, "--cache-dir", base / "no" / "such"), "cannot make")
    from_scratch(node.run(archive, PREFIX, "--cache-dir", base / "c", HTMAP_EXEC_CACHE_SIZE="lots"), "its size `lots`")


def test_a_damaged_archive_is_in_no_cache(node: Node, archive: Path, base: Path) -> None:
    damaged = base / "damaged"
    data = bytearray(archive.read_bytes())
    # In a frame that every Python reads, also where it is mounted instead.
    data[100_000] ^= 1
    damaged.write_bytes(data)
    outcome = node.run(damaged, PREFIX, "--cache-dir", base / "cache")
    assert outcome.status == "ERR", outcome.dump()
    assert "frame" in outcome.report
    assert not any((base / "cache").glob("*/*/*/tree"))
    # The whole one has the same digest.
    assert node.run(archive, PREFIX, "--cache-dir", base / "cache").value == str(entry(base / "cache") / "tree")
