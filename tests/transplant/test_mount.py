"""Transplants that are mounted instead of unpacked: what Python sees, who refuses, and what is left behind."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cases import dispose
from support.environment import binary, can_unshare, is_root, pythons
from support.outcome import Outcome
from support.running import Running, run_ours
from support.scratch import Scratch, make_pickles, new_base
from support.trees import DIGEST_OF, digest_of

MAIN = pythons().get("3.11") or list(pythons().values())[-1]
# Somebody without a passwd entry.
UID = 64_123
DEVICE = Path("/dev/fuse")
# A device of our own: that of the machine may be for root alone.
OWN_DEVICE = (
    "mount -t tmpfs none /mnt && mknod /mnt/fuse c 10 229 && chmod 666 /mnt/fuse && mount --bind /mnt/fuse /dev/fuse"
)

pytestmark = [
    pytest.mark.skipif(not DEVICE.exists(), reason="this machine has no /dev/fuse"),
    pytest.mark.skipif(
        not can_unshare("--mount" if is_root() else "--user"), reason="namespaces are not permitted here"
    ),
]
needs_root = pytest.mark.skipif(not is_root(), reason="only root can take a device away, or become somebody else")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mount")
    excluded = ["test", "idlelib", "lib2to3", "ensurepip", "config-*", "tkinter", "site-packages/pip"]
    options = [word for name in excluded for word in ("--exclude", f"lib/python*/{name}/*")]
    done = subprocess.run(
        [binary(), "transplant", "build", "--python", MAIN.path, "--dir", root, *options],
        env={"PATH": os.defpath, "XDG_CACHE_HOME": str(root / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


Run = Callable[..., Outcome]


@pytest.fixture
def component(archive: Path) -> Iterator[Run]:
    """Runs a function by the archive: as root, as another user (who needs a user namespace), or after a preparation."""
    made: list[Scratch] = []

    def run(
        source: str,
        *options: str,
        user: bool = False,
        before: str = "",
        during: Callable[[Running], object] | None = None,
        prepare: Callable[[Path], object] = lambda archive: None,
        **env: str,
    ) -> Outcome:
        scratch = Scratch(base=new_base(), python=MAIN, name_python=False)
        made.append(scratch)
        scratch.fill(make_pickles(source, MAIN, 0))
        shutil.copy(archive, scratch.dir / archive.name)
        prepare(scratch.dir / archive.name)
        scratch.options = ["--transplant", archive.name, *options]
        scratch.env.update(env, HTMAP_EXEC_LOG="info")
        program = scratch.base / "program"
        shutil.copy(binary(), program)
        scratch.program = program
        become = f"setpriv --reuid={UID} --regid={UID} --clear-groups" if user and is_root() else ""
        if become:
            scratch.give_to(UID)
            scratch.uid = None
            before = before or OWN_DEVICE
        if before:
            last = become if before.startswith(CHROOT) else f"&& exec {become}"
            scratch.wrapper = ["unshare", "--mount", "--", "sh", "-c", f'{before} {last} "$@"', "sh"]
        return run_ours(scratch, 60, during)

    yield run
    for scratch in made:
        dispose(scratch)


SEEN = """
    def f():
        import os, subprocess, sys
        [mount] = [line.split() for line in open("/proc/self/mountinfo") if "_htmap_python" in line]
        open("made", "w").write("x")
        child = subprocess.check_output([sys.executable, "-c", "import sys; print(sys.prefix)"], text=True)
        try:
            open(sys.prefix + "/new", "w")
            refused = None
        except OSError as error:
            refused = error.errno
        return dict(
            type=mount[mount.index("-") + 1],
            read_only="ro" in mount[5].split(","),
            prefix=sys.prefix,
            child=child.strip(),
            here=os.getcwd(),
            refused=refused,
            user=(os.getuid(), os.geteuid(), os.getgid()),
            owner=os.stat(sys.executable).st_uid,
            root=os.stat("/").st_uid,
            mount_namespace=os.readlink("/proc/self/ns/mnt"),
            user_namespace=os.readlink("/proc/self/ns/user"),
        )
"""


@pytest.mark.parametrize("user", [pytest.param(False, marks=needs_root), True], ids=["root", "user"])
def test_python_runs_in_a_mounted_archive(component: Run, user: bool) -> None:
    import errno

    outcome = component(SEEN, user=user)
    assert outcome.status == "OK", outcome.dump()
    seen = outcome.value
    scratch = outcome.out_path.parents[1]
    assert "mounted the transplant in" in outcome.stderr
    assert seen["type"] == "fuse.htmap-exec"
    assert seen["read_only"]
    assert seen["prefix"] == seen["child"] == f"{scratch}/_htmap_python"
    assert seen["here"] == str(scratch)
    assert seen["refused"] == errno.EROFS
    uid = UID if user and is_root() else os.getuid()
    assert seen["user"] == (uid, uid, uid if user and is_root() else os.getgid())
    assert seen["owner"] == uid
    assert seen["mount_namespace"] != os.readlink("/proc/self/ns/mnt")
    # Root keeps what makes it root; the files of others are nobody's for a user.
    assert (seen["user_namespace"] == os.readlink("/proc/self/ns/user")) is not user
    assert seen["root"] == (65534 if user else 0)
    # Nobody else sees it, and nothing of it is left.
    assert list((scratch / "_htmap_python").iterdir()) == []
    assert (scratch / "made").read_text() == "x"
    assert (scratch / "made").stat().st_uid == uid
    assert outcome.left_over == []
    assert "_htmap_python" not in Path("/proc/self/mountinfo").read_text()
    # What is installed there is known without a look at it.
    assert "\n  cloudpickle==" in outcome.stdout


def test_the_index_is_read_once(component: Run) -> None:
    """Reading it takes long where there are many files."""
    libc = ctypes.CDLL(None)
    in_open, in_close = 0x20, 0x10
    watch = libc.inotify_init1(os.O_NONBLOCK)

    def prepare(archive: Path) -> None:
        assert libc.inotify_add_watch(watch, os.fsencode(archive), in_open | in_close) >= 0

    try:
        outcome = component(WHERE, prepare=prepare)
        assert outcome.status == "OK", outcome.dump()
        assert outcome.value[0], "it is not mounted"
        event = struct.Struct("iIII")
        masks = [mask for _, mask, _, _ in event.iter_unpack(os.read(watch, 4096))]
        assert masks == [in_open, in_close]
    finally:
        os.close(watch)


TREE = f"""
{DIGEST_OF}
def f():
    import sys
    return digest_of(sys.prefix, times=True)
"""


def test_it_is_the_tree_that_would_be_unpacked(component: Run, archive: Path) -> None:
    outcome = component(TREE, user=True)
    assert outcome.status == "OK", outcome.dump()
    assert "mounted the transplant in" in outcome.stderr
    # At the same place, which some files name.
    place = outcome.out_path.parents[1] / "_htmap_python"
    subprocess.run([binary(), "transplant", "unpack", archive, place], check=True, stdout=subprocess.DEVNULL)
    digest, files = outcome.value
    assert files > 1000
    assert digest == digest_of(place, times=True)[0]


WHERE = """
    def f():
        import sys
        return any("_htmap_python" in line for line in open("/proc/self/mountinfo")), sys.prefix
"""


NO_DEVICE = "mount -t tmpfs none /mnt && cp -a /dev/null /dev/zero /dev/urandom /mnt && mount --bind /mnt /dev"
FOR_ROOT = "mount -t tmpfs none /mnt && mknod -m 600 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse"
CHROOT = "mount --rbind / /mnt && exec /usr/sbin/chroot /mnt"


@needs_root
@pytest.mark.parametrize(
    ("before", "user", "reason"),
    [
        ("mount --bind /dev/null /dev/fuse", True, "cannot mount by FUSE: "),
        (NO_DEVICE, True, "cannot open `/dev/fuse`: No such file"),
        (FOR_ROOT, True, "cannot open `/dev/fuse`: Permission denied"),
        ("umount -l /proc", False, "cannot start another process of this program: "),
        (CHROOT, True, "cannot make a user namespace: "),
        (CHROOT, False, "this is a chroot"),
    ],
    ids=["not-the-device", "no-device", "not-for-users", "no-proc", "chroot", "chroot-as-root"],
)
def test_who_refuses_has_it_unpacked(component: Run, before: str, user: bool, reason: str) -> None:
    outcome = component(WHERE, user=user, before=before)
    assert f"the transplant cannot be mounted here, so it is unpacked: {reason}" in outcome.stderr, outcome.dump()
    scratch = outcome.out_path.parents[1]
    assert (scratch / "_htmap_python" / "bin").is_dir()
    if "proc" not in before:  # where the function would look
        assert outcome.value == (False, f"{scratch}/_htmap_python"), outcome.dump()


@pytest.mark.parametrize("options", [["--no-mount"], []], ids=["option", "variable"])
def test_it_can_be_switched_off(component: Run, options: list[str]) -> None:
    env = {} if options else {"HTMAP_EXEC_MOUNT": "0"}
    outcome = component(WHERE, *options, **env)
    assert outcome.status == "OK", outcome.dump()
    assert outcome.value[0] is False
    assert "as is wished" in outcome.stderr


READ_LATE = """
    def f():
        import os, sys, time
        open("ready", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        try:
            # What no import reads, so nobody has read it ahead.
            open(os.path.dirname(os.__file__) + "/turtle.py", "rb").read()
        except OSError as error:
            open("error", "w").write(str(error.errno))
        return "a result"
"""


def test_damage_that_python_gets_over_is_an_error_all_the_same(component: Run, archive: Path) -> None:
    def damage(running: Running) -> None:
        assert running.wait_for("ready")
        with open(running.scratch.dir / archive.name, "r+b") as file:
            # All frames.
            file.write(bytes(int.from_bytes(archive.read_bytes()[-16:-8], "little")))
        (running.scratch.dir / "go").touch()

    outcome = component(READ_LATE, user=True, during=damage)
    assert outcome.status == "ERR", outcome.dump()
    scratch = outcome.out_path.parents[1]
    assert "the Python that was brought along could not be read" in outcome.report
    assert f"`{scratch}/{archive.name}` is no whole transplant: frame" in outcome.report
    assert outcome.exit == 0


READ_ALL = """
    def f():
        import hashlib, os, sys
        digest = hashlib.sha256()
        for directory, names, others in os.walk(sys.prefix):
            names.sort()
            for name in sorted(others):
                path = os.path.join(directory, name)
                if not os.path.islink(path):
                    # Some files name the place, which is another one in each run.
                    digest.update(open(path, "rb").read().replace(os.fsencode(sys.prefix), b"PREFIX"))
        return digest.hexdigest()
"""


def test_no_damage_gives_other_bytes(component: Run, archive: Path) -> None:
    """A byte anywhere: of the index, of what Python starts with, of what only the function reads."""
    whole = component(READ_ALL)
    assert whole.status == "OK", whole.dump()
    size = archive.stat().st_size
    begin = struct.unpack("<Q", archive.read_bytes()[-16:-8])[0]
    frames = [begin * number // 12 + 50 for number in range(12)]
    for place in [
        10,
        *frames,
        begin,
        begin + 9,
        begin + 20,
        (begin + size) // 2,
        size - 30,
        size - 20,
        size - 12,
        size - 1,
    ]:

        def damage(copy: Path, place: int = place) -> None:
            with copy.open("r+b") as file:
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 0x10]))

        outcome = component(READ_ALL, prepare=damage)
        assert outcome.exit == 0, outcome.dump()
        if outcome.status == "OK":
            # Some bits of zstd's own headers say nothing of the content.
            assert outcome.value == whole.value, place
        else:
            assert archive.name in outcome.report, (place, outcome.report)
            assert "is no whole transplant: " in outcome.report or "its digest is " in outcome.report, outcome.dump()


def test_an_archive_that_is_cut_off_while_it_is_used(component: Run, archive: Path) -> None:
    def cut(running: Running) -> None:
        assert running.wait_for("ready")
        os.truncate(running.scratch.dir / archive.name, 1 << 20)
        (running.scratch.dir / "go").touch()

    outcome = component(READ_LATE, during=cut)
    assert outcome.status == "ERR", outcome.dump()
    assert f"cannot read `{outcome.out_path.parents[1]}/{archive.name}`" in outcome.report


def test_a_runner_that_is_killed_leaves_no_mount(component: Run) -> None:
    source = """
        def f():
            import os, time
            open("pids", "w").write(str(os.getpid()))
            open("ready", "w").close()
            time.sleep(60)
    """
    held: list[int] = []

    def kill(running: Running) -> None:
        assert running.wait_for("ready")
        held.append(int((running.scratch.dir / "pids").read_text()))
        os.kill(running.runner_pid(), signal.SIGKILL)

    outcome = component(source, user=True, during=kill)
    assert outcome.exit == -signal.SIGKILL, outcome.dump()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{held[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{held[0]}").exists()
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            assert f"{outcome.out_path.parents[1]}/_htmap_python" not in mounts.read_text()
        except OSError:  # it has ended
            continue
    (outcome.out_path.parents[1] / "_htmap_python").rmdir()


def test_an_eviction_ends_a_mounted_python(component: Run) -> None:
    source = """
        def f():
            import htmap, time
            open("state", "w").write("17")
            htmap.checkpoint("state")
            open("ready", "w").close()
            time.sleep(60)
    """

    def evict(running: Running) -> None:
        assert running.wait_for("ready")
        running.signal(signal.SIGTERM)

    outcome = component(source, user=True, during=evict)
    assert outcome.wall < 20, outcome.dump()
    assert outcome.left_over == []
    current = outcome.out_path.parent / "_htmap_current_checkpoint"
    assert [path.read_text() for path in current.rglob("state")] == ["17"], outcome.dump()


def frames_read(outcome: Outcome) -> list[int]:
    """In their order, but for those that were read on a guess."""
    assert outcome.status == "OK", outcome.dump()
    return [int(number) for number in re.findall(r"reading frame (\d+)$", outcome.stderr, re.MULTILINE)]


# What every start reads, whatever `.pth` files import besides. Modules that some Python has frozen are not among it.
STARTS_WITH = [
    f"bin/python{MAIN.minor}",
    "encodings/__init__",
    "encodings/aliases",
    "encodings/utf_8",
    "collections/__init__",
    "functools",
    "inspect",
    "pickle",
    "struct",
    "threading",
    "typing",
    "weakref",
    "site-packages/cloudpickle/__init__",
    "site-packages/cloudpickle/cloudpickle",
]


def path_of(module: str) -> str:
    directory, _, name = f"lib/python{MAIN.minor}/{module}".rpartition("/")
    return f"{directory}/__pycache__/{name}.cpython-{MAIN.minor.replace('.', '')}.pyc"


def test_what_every_start_needs_is_read_ahead_on_a_busy_node(component: Run) -> None:
    source = """
        def f():
            # Long enough for whoever reads ahead, whatever else the node does.
            import time, wave
            open("ready", "w").close()
            time.sleep(3)
    """
    policies: dict[str, int] = {}

    def look(running: Running) -> None:
        assert running.wait_for("ready")
        deadline = time.monotonic() + 2
        # The thread for guesses begins when all of that is read, and gives up its priority then.
        while policies.get("guesses") != os.SCHED_IDLE and time.monotonic() < deadline:
            for task in Path(f"/proc/{running.runner_pid()}/task").iterdir():
                policies[(task / "comm").read_text().strip()] = os.sched_getscheduler(int(task.name))
            time.sleep(0.01)

    processors = len(os.sched_getaffinity(0))
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin) for _ in range(2 * processors)]
    try:
        outcome = component(source, "--log", "trace", during=look)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    # Guesses alone are left to processors that nobody else wants.
    assert policies["read-ahead"] != os.SCHED_IDLE, policies
    assert policies["guesses"] == os.SCHED_IDLE, policies
    read = frames_read(outcome)
    [many] = re.findall(r"what every start needs lies in (\d+) frames$", outcome.stderr, re.MULTILINE)
    hot = range(int(many))
    assert set(hot) <= set(read), (hot, read)
    # By file, where the first of it lies that was asked for.
    asked = {path: int(frame) for path, frame in re.findall(r"first of `(.+)`, in frame (\d+)$", outcome.stderr, re.M)}
    for name in STARTS_WITH:
        path = name if name.startswith("bin/") else path_of(name)
        assert path in asked, (path, asked)
        assert asked[path] in hot, (path, asked[path], hot)
    # Not all that is asked for is hot.
    assert asked[path_of("wave")] not in hot
    # Some of it before anybody asks: who reads a frame that was asked for says so behind that.
    lines = outcome.stderr.splitlines()
    when: dict[str, int] = {}
    for number, line in enumerate(lines):
        for kind, frame in re.findall(r"(reading|in) frame (\d+)$", line):
            when.setdefault(f"{kind} {frame}", number)
    wanted = [frame for frame in hot if f"in {frame}" in when]
    ahead = [frame for frame in wanted if when[f"reading {frame}"] < when[f"in {frame}"]]
    assert ahead, outcome.dump()


def test_no_frame_is_read_twice(component: Run) -> None:
    """In time, that is: whoever asks for one that is being read waits for it."""
    source = """
        def f():
            import concurrent.futures, os
            library = os.path.dirname(os.__file__)
            paths = [os.path.join(at, name) for at, _, names in os.walk(library) for name in names]
            read = lambda path: len(open(path, "rb").read())
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                return sum(pool.map(read, paths)) > 0
    """
    read = frames_read(component(source, "--log", "trace", user=True))
    assert len(read) > 5
    assert sorted(read) == sorted(set(read))


def test_many_readers_at_once(component: Run) -> None:
    source = """
        def f():
            import concurrent.futures, subprocess, sys
            program = "import xml.dom.minidom, email, asyncio, unittest.mock, http.server; print(len(sys.modules))"
            def start(number):
                return subprocess.check_output([sys.executable, "-c", "import sys; " + program], text=True)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                return len(set(pool.map(start, range(16))))
    """
    outcome = component(source, user=True)
    assert outcome.value == 1, outcome.dump()


@pytest.mark.parametrize("user", [pytest.param(False, marks=needs_root), True], ids=["root", "user"])
def test_a_package_that_writes_beside_itself_is_told_of_no_mount(component: Run, user: bool) -> None:
    source = """
        def f():
            import json, os
            os.mkdir(os.path.dirname(json.__file__) + "/cache")
    """
    outcome = component(source, user=user)
    assert outcome.status == "ERR", outcome.dump()
    assert "[Errno 30]" in outcome.report, outcome.dump()
    assert "have it unpacked with `--no-mount`" in outcome.report, outcome.dump()
    assert component(source, "--no-mount", user=user).status == "OK"


def test_an_exception_that_only_quotes_it_is_told_of_no_mount(component: Run) -> None:
    source = """
        def f():
            import json, os
            place = os.path.dirname(json.__file__) + "/cache"
            try:
                os.mkdir(place)
            except OSError as error:
                raise RuntimeError(f"cannot cache: {error}") from None
    """
    outcome = component(source)
    assert "RuntimeError: cannot cache: [Errno 30]" in outcome.report, outcome.dump()
    assert "have it unpacked with `--no-mount`" in outcome.report, outcome.dump()


def test_other_places_are_not_blamed_on_the_mount(component: Run) -> None:
    source = "def f():\n    open('/mnt/file', 'w')"
    before = "mount -t tmpfs none /mnt && mount -o remount,ro none /mnt"
    if not is_root():
        pytest.skip("only root may mount a read-only file system")
    outcome = component(source, before=f"{before} && true")
    assert "[Errno 30]" in outcome.report, outcome.dump()
    assert "write to the scratch directory" in outcome.report, outcome.dump()
    assert "--no-mount" not in outcome.report
