"""Checkpoints and what else earlier attempts left: large, many, hostile, damaged, evicted at any moment.

A case's first attempts are part of its preparation. What the next one finds is moved there, not copied: a file of
10 GB with nothing in it stays one.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import signal
import textwrap
from collections.abc import Callable
from pathlib import Path

from faults_disk import cannot_mount, small_disk
from faults_inputs import as_nobody, no_system_python, same_minor_as_system, the_system_python
from support.cases import Case, Expectation, Ok, Refused, Stopped
from support.environment import Python, pythons
from support.eviction import sigterm
from support.outcome import Outcome
from support.running import Running, run_ours
from support.scratch import JOB_AD, Scratch

Step = Callable[[Scratch], object]

KEPT = "_htmap_current_checkpoint"
MANIFEST = ".htmap-exec-manifest.json"
INPUTS = ("func", ".job.ad", ".machine.ad", "lib")


def oldest() -> Python:
    return next(iter(pythons().values()))


def newest() -> Python:
    return list(pythons().values())[-1]


def old_python_is_missing() -> str | None:
    return None if len(pythons()) > 1 else "there is one Python only"


def interrupted(scratch: Scratch, during: Callable[[Running], object], seconds: float = 240) -> Outcome:
    outcome = run_ours(scratch, seconds, during)
    assert not outcome.timed_out, outcome.dump()
    assert not scratch.out.exists(), outcome.dump()
    return outcome


def evict(scratch: Scratch) -> None:
    """An attempt that ends when its function has made `started`."""
    outcome = interrupted(scratch, sigterm("started"))
    assert (scratch.dir / "started").exists(), outcome.dump()


def elsewhere(scratch: Scratch) -> None:
    """The next attempt's sandbox: what HTCondor sends again, and what it brought back."""
    spool = scratch.base / "spool"
    spool.mkdir()
    for entry in scratch.transfer.iterdir():
        entry.rename(spool / entry.name)
    scratch.user_transfer.rename(spool / str(scratch.component))
    for entry in scratch.dir.iterdir():
        if entry.name not in (*INPUTS, f"{scratch.component}.in"):
            remove(entry)
    for entry in spool.iterdir():
        entry.rename(scratch.dir / entry.name)
    spool.rmdir()
    later(scratch)


def later(scratch: Scratch, more: str = "") -> None:
    ad = JOB_AD.format(component=scratch.component, attempt=2, earlier=1)
    (scratch.dir / ".job.ad").write_text(ad + more)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def last(scratch: Scratch) -> None:
    """Tells the function that it may end."""
    scratch.write("last")


def steps(*all_of_them: Step) -> Step:
    def run(scratch: Scratch) -> None:
        for step in all_of_them:
            step(scratch)

    return run


def stored(make: str, check: str) -> str:
    """A function that makes something and checkpoints it, and looks at it when it is told that it may end."""
    return f"""
import os, time, stat
def f():
    import htmap
    if os.path.exists("last"):
{textwrap.indent(textwrap.dedent(check).strip(), " " * 8)}
{textwrap.indent(textwrap.dedent(make).strip(), " " * 4)}
    open("started", "w").close()
    time.sleep(1000)
"""


def case(name: str, source: str, expect: Expectation, prepare: Step, **more: object) -> Case:
    return Case(name, source, expect, prepare=prepare, control=False, **more)  # type: ignore[arg-type]


def both(name: str, source: str, expect: Expectation, prepare: Step, **more: object) -> list[Case]:
    """On the oldest Python and on the newest."""
    return [
        case(name, source, expect, prepare, python=newest, **more),
        case(f"{name}, oldest Python", source, expect, prepare, python=oldest, skip=old_python_is_missing, **more),
    ]


MANY = stored(
    """
    for d in range(50):
        os.makedirs("many/%d" % d)
        for i in range(1000):
            with open("many/%d/%d" % (d, i), "w") as file:
                file.write(str(i))
    htmap.checkpoint("many")
    """,
    """
    found = sum(len(names) for _, _, names in os.walk("many"))
    return found, open("many/49/999").read()
    """,
)

SPARSE = stored(
    """
    with open("sparse", "wb") as file:
        for at in (0, 3 * 2**30 + 7, 10 * 10**9 - 1):
            file.seek(at)
            file.write(b"x")
    open("hole", "wb").truncate(10 * 10**9)
    htmap.checkpoint("sparse", "hole")
    """,
    """
    kept = [os.stat(name) for name in ("sparse", "hole")]
    with open("sparse", "rb") as file:
        read = []
        for at in (0, 3 * 2**30 + 6, 3 * 2**30 + 7, 10 * 10**9 - 1):
            file.seek(at)
            read.append(file.read(1))
    return [s.st_size for s in kept], max(s.st_blocks for s in kept) < 10000, b"".join(read)
    """,
)

# Names are bytes: the newest Python takes them as they are, 3.6 needs them so in its source.
NAMES = r"""
names = [b"caf\xe9", b"new\nline", b"-rf", b"*", b"back\\slash", b"100%25", b"\xff\xfe", b" ", b"'\"`$(x)", b"\x01",
         b"..." , b"n" * 255, "\u00e9\U0001f600".encode("utf-8")]
"""
HOSTILE_NAMES = stored(
    NAMES
    + r"""
os.mkdir("odd")
for name in names:
    with open(b"odd/" + name, "wb") as file:
        file.write(name)
os.mkdir(b"odd/d\xe9")
open(b"odd/d\xe9/f\n", "w").close()
os.symlink(b"caf\xe9", b"odd/link")
os.symlink(b"/nowhere/\xff\n", b"odd/li\xe9nk")
htmap.checkpoint("odd", os.fsdecode(b"odd/d\xe9"))
""",
    NAMES
    + r"""
wrong = [name for name in names if open(b"odd/" + name, "rb").read() != name]
links = os.readlink(b"odd/link"), os.readlink(b"odd/li\xe9nk")
return wrong, links, os.listdir(b"odd/d\xe9"), len(os.listdir("odd"))
""",
)
HOSTILE = Ok(([], (b"caf\xe9", b"/nowhere/\xff\n"), [b"f\n"], 16))

ATTRIBUTES = stored(
    """
    os.makedirs("closed/inside")
    os.mkdir("plain")
    for name, mode in (("closed/inside/file", 0o444), ("closed/script", 0o755), ("plain/secret", 0o600)):
        with open(name, "w") as file:
            file.write(name)
        os.utime(name, (10**9, 10**9))
        os.chmod(name, mode)
    for name in ("closed/inside", "closed", "plain"):
        os.utime(name, (2 * 10**9, 2 * 10**9))
    os.chmod("closed/inside", 0o555)
    os.chmod("closed", 0o555)
    htmap.checkpoint("closed", "plain")
    """,
    """
    def seen(name):
        status = os.stat(name)
        return oct(stat.S_IMODE(status.st_mode)), status.st_mtime
    return [seen(n) for n in ("closed/inside/file", "closed/script", "plain/secret", "closed/inside", "closed", "plain")]
    """,
)
ATTRIBUTES_KEPT = Ok(
    [
        ("0o444", 10.0**9),
        ("0o755", 10.0**9),
        ("0o600", 10.0**9),
        ("0o555", 2 * 10.0**9),
        ("0o555", 2 * 10.0**9),
        ("0o755", 2 * 10.0**9),
    ]
)

LARGE = stored(
    """
    with open("large", "wb") as file:
        for i in range(1024):
            file.write(bytes([i % 255 + 1]) * 2**20)
    htmap.checkpoint("large")
    """,
    """return os.path.getsize("large"), open("large", "rb").read(1)""",
)
LARGE_KEPT = Ok((2**30, b"\x01"))

COUNTS = stored(
    """
    with open("count.txt", "w") as file:
        file.write("kept")
    htmap.checkpoint("count.txt")
    """,
    """return open("count.txt").read() if os.path.exists("count.txt") else "nothing" """,
)


def while_restoring(number: int) -> Step:
    """The next attempt gets this signal while it restores."""

    def stop(scratch: Scratch) -> None:
        interrupted(scratch, sigterm(".htmap-exec-restoring", number=number))
        assert (scratch.transfer / KEPT / MANIFEST).exists()

    return stop


def edit_manifest(scratch: Scratch, **fields: object) -> None:
    path = scratch.dir / KEPT / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def warned(*words: str) -> Callable[[Scratch, Outcome], str]:
    def check(_: Scratch, outcome: Outcome) -> str:
        missing = [word for word in words if word not in outcome.stderr]
        return f"stderr lacks {missing}" if missing else ""

    return check


def a_fifo(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def whole_output(value: object) -> bytes:
    return gzip.compress(pickle.dumps("OK", protocol=2) + pickle.dumps(value, protocol=2))


NEVER = "def f():\n    raise RuntimeError('the function ran again')"
FORTY_TWO = "def f():\n    return 42"


def left_in_transfer(out: bytes, *more: Step) -> Step:
    """What an attempt left in this very sandbox. The job ad is still that of the first one."""
    return steps(
        lambda s: s.write("_htmap_transfer/0.out", out),
        lambda s: s.write("_htmap_transfer/0.json", b"{}"),
        lambda s: s.write(f"_htmap_transfer/{KEPT}/old", b""),
        *more,
    )


def at_transfer(make: Callable[[Path], object], *names: str) -> Step:
    def put(scratch: Scratch) -> None:
        scratch.transfer.mkdir()
        for name in names:
            make(scratch.transfer / name)

    return put


def in_the_place_of_directories(make: Callable[[Path], object]) -> Step:
    def put(scratch: Scratch) -> None:
        for name in ("_htmap_transfer", "_htmap_user_transfer", "_htmap_transfer_plugin_cache"):
            make(scratch.dir / name)
        os.mkfifo(scratch.dir / "_htmap_do_output_transfer")

    return put


def untouched(scratch: Scratch, _: Outcome) -> str:
    outside = scratch.base / "outside"
    return "" if not outside.exists() or not any(outside.iterdir()) else "something was written through a link"


def link_outside(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.mkdir(exist_ok=True)
    path.symlink_to(outside)


INPUT_DIRECTORY = """
import os
def f():
    return sorted(os.listdir("0"))
"""


def own_directory(scratch: Scratch) -> None:
    scratch.write("0/input.txt", b"mine")


def nothing_delivered(scratch: Scratch, _: Outcome) -> str:
    found = sorted(path.name for path in scratch.user_transfer.iterdir())
    return f"delivered: {found}" if found else ""


def delivered(*names: str) -> Callable[[Scratch, Outcome], str]:
    def check(scratch: Scratch, _: Outcome) -> str:
        found = sorted(
            str(p.relative_to(scratch.user_transfer)) for p in scratch.user_transfer.rglob("*") if p.is_file()
        )
        return "" if found == sorted(names) else f"delivered: {found}"

    return check


BOTH_NAMES = """
import os, time
def f():
    import htmap
    step = "second" if os.path.exists("last") else "first"
    os.makedirs("parts", exist_ok=True)
    for name in ("parts/" + step, "input.txt"):
        with open(name, "w") as file:
            file.write("output")
    htmap.transfer_output_files("parts", "input.txt")
    if step == "second":
        return open("0/input.txt").read()
    open("started", "w").close()
    time.sleep(1000)
"""

WORKER = """
import os
import htmap
from htmap import transfer_output_files
import htmap_exec

def work(number):
    from htmap.checkpointing import checkpoint
    name = "from-worker-%d" % number
    with open(name, "w") as file:
        file.write(name)
    checkpoint(name)
    assert htmap_exec.checkpoint is not None and htmap.TransferPath("a/b").name == "b"
    transfer_output_files(name)
    # Of a module of ours it is None.
    return htmap.__spec__.origin
"""


def in_workers(how: str) -> str:
    return f"""
import json, multiprocessing
def f():
    import worker
    with multiprocessing.get_context("{how}").Pool(2) as pool:
        origins = pool.map(worker.work, range(4), 1)
    with open("_htmap_transfer/{KEPT}/{MANIFEST}") as file:
        return origins, json.load(file)["generation"]
"""


def with_worker(scratch: Scratch) -> None:
    scratch.write("worker.py", WORKER)
    # One that is installed must not win.
    scratch.write("site/htmap.py", "raise RuntimeError('the installed htmap')")
    scratch.env["PYTHONPATH"] = str(scratch.dir / "site")


def whole_in_spool(scratch: Scratch, _: Outcome) -> str:
    """Every byte of the checkpoint lies where HTCondor takes it back from."""
    kept = scratch.transfer / KEPT
    manifest = json.loads((kept / MANIFEST).read_text())
    for name, entry in manifest["files"].items():
        if "size" in entry and (kept / name).stat().st_size != entry["size"]:
            return f"{name} is not whole"
    return ""


def small_disk_with_checkpoint(scratch: Scratch) -> None:
    small_disk("size=12m")(scratch)
    kept = scratch.dir / "_htmap_current_checkpoint"
    kept.mkdir()
    (kept / "state").write_bytes(os.urandom(8 * 2**20))


def checkpoint_is_kept(scratch: Scratch, _: Outcome) -> str:
    kept = scratch.transfer / KEPT / "state"
    return "" if kept.exists() and kept.stat().st_size == 8 * 2**20 else "the checkpoint is gone"


# A directory that something is mounted on can be neither renamed nor removed.
CANNOT_BE_TIDIED = """
import os, subprocess, time
def f():
    place = "_htmap_transfer/_htmap_prep_checkpoint"
    os.makedirs(place)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    open(place + "/half", "w").close()
    open("started", "w").close()
    time.sleep(1000)
"""


def in_a_mount_namespace(scratch: Scratch) -> None:
    scratch.wrapper = ["unshare", "--mount", "--"]


CASES = [
    *both("a checkpoint of 50,000 files", MANY, Ok((50_000, "999")), steps(evict, elsewhere, last), timeout=240),
    *both("a checkpoint of 10 GB with holes", SPARSE, Ok(([10**10, 10**10], True, b"x\0xx")),
          steps(evict, elsewhere, last)),
    *both("names that are no UTF-8, with newlines, very long", HOSTILE_NAMES, HOSTILE, steps(evict, elsewhere, last)),
    case("such names in the C locale", HOSTILE_NAMES, HOSTILE,
         steps(lambda s: s.env.update(LC_ALL="C", LANG="C"), evict, elsewhere, last), python=oldest),
    *both("modes and times, read-only directories", ATTRIBUTES, ATTRIBUTES_KEPT, steps(evict, elsewhere, last)),
    case("modes and times, read-only directories, not root", ATTRIBUTES, ATTRIBUTES_KEPT,
         steps(as_nobody, evict, elsewhere, lambda s: s.give_to(s.uid or 0), last),
         skip=no_system_python, python=the_system_python, pickled_by=same_minor_as_system),
    case("a restore that takes longer than Python may to start", LARGE, LARGE_KEPT,
         steps(evict, elsewhere, last), options=("--start-limit", "2"), timeout=120),
    case("SIGTERM during the restore", LARGE, LARGE_KEPT,
         steps(evict, elsewhere, last, while_restoring(signal.SIGTERM), elsewhere, last), timeout=120),
    case("SIGKILL during the restore, and again in the same sandbox", LARGE, LARGE_KEPT,
         steps(evict, elsewhere, last, while_restoring(signal.SIGKILL), while_restoring(signal.SIGKILL)), timeout=120),
    case("evicted, what is unfinished cannot be taken away", CANNOT_BE_TIDIED, Stopped(), in_a_mount_namespace,
         during=sigterm("started"), skip=cannot_mount, after=warned("cannot tidy the checkpoint")),
    case("evicted while it restores: all of it is in its place", LARGE, Stopped(60),
         steps(evict, elsewhere, last), during=sigterm(".htmap-exec-restoring"), after=whole_in_spool, timeout=120),
    case("the same sandbox, a second time", COUNTS, Ok("kept"), steps(evict, last)),
    case("no room to restore", FORTY_TWO, Refused("(?i)no space", "checkpoint", "request_disk"),
         small_disk_with_checkpoint, skip=cannot_mount, after=checkpoint_is_kept),
    case("a manifest of a later version", COUNTS, Ok("nothing"),
         steps(evict, elsewhere, lambda s: edit_manifest(s, version=3), last),
         after=warned("format version 3", "begins anew")),
    case("a manifest that is no JSON", COUNTS, Ok("nothing"),
         steps(evict, elsewhere, lambda s: s.write(f"{KEPT}/{MANIFEST}", b"{"), last), after=warned("manifest", "EOF")),
    case("a manifest that is a FIFO", COUNTS, Ok("nothing"),
         steps(evict, elsewhere, lambda s: a_fifo(s.dir / KEPT / MANIFEST), last), after=warned("FIFO")),
    case("a checkpointed file that is a FIFO now", COUNTS, Ok("nothing"),
         steps(evict, elsewhere, lambda s: a_fifo(s.dir / KEPT / "count.txt"), last), after=warned("damaged")),
    # Outputs of earlier attempts.
    case("a whole output in the transfer directory", NEVER, Ok(7), left_in_transfer(whole_output(7))),
    case("half an output in the transfer directory", FORTY_TWO, Ok(42), left_in_transfer(whole_output(7)[:-9])),
    case("a FIFO for an output, and for a run record", FORTY_TWO, Ok(42), at_transfer(os.mkfifo, "0.out", "0.json")),
    case("a FIFO that came back as an output", FORTY_TWO, Ok(42),
         steps(later, lambda s: os.mkfifo(s.dir / "0.out"), lambda s: os.mkfifo(s.dir / "0.json"))),
    case("a link to a whole output", FORTY_TWO, Ok(42),
         steps(lambda s: s.write("elsewhere", whole_output(7)),
               at_transfer(lambda path: path.symlink_to("../elsewhere"), "0.out"))),
    case("a directory for an output", FORTY_TWO, Ok(42), at_transfer(os.makedirs, "0.out/full", "0.json/full")),
    case("links, files and FIFOs for directories: links", FORTY_TWO, Ok(42),
         in_the_place_of_directories(link_outside), after=untouched),
    case("links, files and FIFOs for directories: FIFOs", FORTY_TWO, Ok(42), in_the_place_of_directories(os.mkfifo)),
    case("links, files and FIFOs for directories: files", FORTY_TWO, Ok(42), in_the_place_of_directories(Path.touch)),
    # The user's own input directory has the component's number.
    case("an input directory `0`, first attempt, no job ad", INPUT_DIRECTORY, Ok(["input.txt"]),
         steps(own_directory, lambda s: remove(s.dir / ".job.ad")), after=nothing_delivered),
    case("an input directory `0`, second attempt", INPUT_DIRECTORY, Ok(["input.txt"]),
         steps(own_directory, lambda s: later(s, 'TransferInput = "func,0.in,/home/me/0"\n')), after=nothing_delivered),
    case("an input directory `0` beside output files", BOTH_NAMES, Ok("mine"),
         steps(evict, elsewhere, own_directory, last), after=delivered("parts/first", "parts/second", "input.txt")),
    # Workers.
    *[case(f"htmap in workers by {how}, {label}", in_workers(how), Ok(([None] * 4, 4)), with_worker, python=python,
           after=delivered(*(f"from-worker-{number}" for number in range(4))), skip=old_python_is_missing)
      for how in ("spawn", "forkserver", "fork") for label, python in (("newest", newest), ("oldest", oldest))],
]  # fmt: skip
