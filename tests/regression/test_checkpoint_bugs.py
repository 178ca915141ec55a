"""HTMap 0.6.1's checkpoint bugs, through as many evictions as they need."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from support.cases import Case, Err, Ok
from support.eviction import MakeJob, Mended, sigterm, stock_htmap
from support.outcome import OK
from support.scratch import Scratch

# Counts its attempts in a checkpoint; each attempt but the last is evicted before it makes a new one.
COUNTS = """
    import os, time
    def f():
        import htmap
        if os.path.exists("count.txt"):
            with open("count.txt") as file:
                seen = file.read()
            if os.path.exists("last"):
                return "from " + seen
        else:
            with open("count.txt", "w") as file:
                file.write("the first checkpoint")
            htmap.checkpoint("count.txt")
        open("started", "w").close()
        time.sleep(100)
"""


def last(scratch: Scratch) -> None:
    """Tells the function that it may end."""
    scratch.write("last")


@pytest.mark.parametrize("evictions", [2, 3])
@pytest.mark.parametrize("control", [False, True])
def test_r8_a_checkpoint_survives_evictions_that_come_before_the_next_one(
    job: MakeJob, evictions: int, control: bool
) -> None:
    """`load_checkpoint` moved the files out and handed an empty directory to the next eviction."""
    one = job(COUNTS, control=control)
    one.evict()
    if control:
        one.evict()
        # The third attempt finds no checkpoint.
        assert not (one.spool / "_htmap_current_checkpoint" / "count.txt").exists()
        return
    for _ in range(evictions - 1):
        one.evict()
    one.prepare = last
    _, outcome = one.attempt()
    assert outcome.value == "from the first checkpoint", outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_r9_an_empty_current_checkpoint_falls_back_to_the_old_one(job: MakeJob, control: bool) -> None:
    """Evicted between two steps of stock's `checkpoint`: current exists and is empty, old is whole."""
    one = job(COUNTS, control=control, prepare=last, earlier=1)
    (one.spool / "_htmap_current_checkpoint").mkdir()
    (one.spool / "_htmap_old_checkpoint").mkdir()
    (one.spool / "_htmap_old_checkpoint" / "count.txt").write_text("the old directory")
    _, outcome = one.attempt(sigterm("started", 0.2), timeout=20)
    assert (outcome.value == "from the old directory") is not control, outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_c1_files_of_the_same_name_stay_two(job: MakeJob, control: bool) -> None:
    """Checkpoints were flattened: `a/w.npy` and `b/w.npy` became one, in the scratch directory itself."""
    source = """
        import os, time
        def f():
            import htmap
            if os.path.exists("second"):
                return [open(path).read() if os.path.exists(path) else None for path in ("a/w.npy", "b/w.npy", "w.npy")]
            for name in ("a", "b"):
                os.mkdir(name)
                with open(name + "/w.npy", "w") as file:
                    file.write(name)
            open("second", "w").close()
            htmap.checkpoint("a/w.npy", "b/w.npy", "second")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source, control=control)
    one.evict()
    _, outcome = one.attempt()
    assert (outcome.value == ["a", "b", None]) is not control, outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_c2_a_directory_is_a_checkpoint(job: MakeJob, control: bool) -> None:
    """Directories raised IsADirectoryError."""
    source = """
        import os, time
        def f():
            import htmap
            if os.path.exists("run/step-9"):
                inside = sorted(os.path.join(root, name) for root, _, names in os.walk("run") for name in names)
                return inside, os.path.isdir("run/empty"), os.readlink("run/latest")
            os.makedirs("run/step-9/shards")
            os.mkdir("run/empty")
            for name in ("step-9/meta", "step-9/shards/0", "step-9/shards/1"):
                open("run/" + name, "w").close()
            os.symlink("step-9", "run/latest")
            htmap.checkpoint("run")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source, control=control)
    scratch, outcome = one.attempt(sigterm("started"))
    if control:
        assert outcome.status == "ERR" and "IsADirectoryError" in outcome.report, outcome.dump()
        return
    one.take(scratch)
    _, outcome = one.attempt()
    expected = ["run/step-9/meta", "run/step-9/shards/0", "run/step-9/shards/1"]
    assert outcome.value == (expected, True, "step-9"), outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_c3_a_failed_checkpoint_leaves_nothing_in_the_next_one(job: MakeJob, control: bool) -> None:
    """With one path missing, the half-filled directory became part of the next checkpoint."""
    source = """
        import os, time
        def f():
            import htmap
            if os.path.exists("new"):
                return os.path.exists("old")
            for name in ("old", "new"):
                open(name, "w").close()
            try:
                htmap.checkpoint("old", "missing")
            except OSError:
                pass
            htmap.checkpoint("new")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source, control=control)
    one.evict()
    _, outcome = one.attempt()
    assert outcome.value is control, outcome.dump()


def test_c3_a_damaged_checkpoint_is_not_restored(job: MakeJob) -> None:
    """Nothing was checked on restore: half a file passed for a checkpoint."""
    one = job(COUNTS)
    one.evict()
    kept = one.spool / "_htmap_current_checkpoint" / "count.txt"
    kept.write_text(kept.read_text()[:5])
    one.prepare = last
    _scratch, outcome = one.attempt(sigterm("started"))
    assert outcome.value != "from the f", outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_c4_checkpoints_lie_where_the_runner_looks(job: MakeJob, control: bool) -> None:
    """In a container `_CONDOR_SCRATCH_DIR` named the host's path, and `checkpoint` went there."""

    def in_container(scratch: Scratch) -> None:
        scratch.env["_CONDOR_SCRATCH_DIR"] = str(scratch.base / "host" / "path")
        scratch.options = ["--scratch", str(scratch.dir)]

    source = """
        import os, time
        def f():
            import htmap
            open("state", "w").close()
            os.mkdir("sub")
            os.chdir("sub")
            htmap.checkpoint("../state")
            open("../started", "w").close()
            time.sleep(100)
    """
    one = job(source, control=control, prepare=in_container)
    scratch, outcome = one.attempt(sigterm("started"))
    kept = scratch.transfer / "_htmap_current_checkpoint" / "state"
    assert kept.exists() is not control, outcome.dump()


def test_c5_htmap_is_there_without_htmap(mended: Mended) -> None:
    """`import htmap` needed HTMap and HTCondor's bindings on the node."""
    source = """
        def f():
            import htmap
            open("s", "w").close()
            htmap.checkpoint("s")
            htmap.transfer_output_files()
            return htmap.TransferPath("a/b").name
    """
    mended(Case("c5", source, Ok("b")))


@pytest.mark.parametrize(
    "head", ["import htmap", "from htmap import checkpoint", "from htmap.checkpointing import checkpoint"]
)
def test_c5_htmap_imported_by_the_users_module(job: MakeJob, head: str, tmp_path: Path) -> None:
    """The same, where the pickle refers to stock HTMap's modules."""
    call = "htmap.checkpoint" if head == "import htmap" else "checkpoint"
    source = f"{head}\ndef f():\n    open('s', 'w').close()\n    {call}('s')\n    return 42"
    one = job(source, pickle_environment={"PYTHONPATH": str(stock_htmap(tmp_path))})
    _, outcome = one.attempt()
    assert outcome.value == 42, outcome.dump()


def test_c5_what_is_not_there_is_said(job: MakeJob) -> None:
    """Anything else of HTMap fails with a reason."""
    _, outcome = job("def f():\n    import htmap\n    htmap.map(len, [])").attempt()
    assert Err("map", "(?i)execute").unmet(outcome) == "", outcome.dump()


def test_htmaps_own_checkpoint_layout_is_restored(job: MakeJob) -> None:
    """A component that started under stock HTMap goes on under htmap-exec."""
    stock = job(COUNTS, control=True)
    stock.evict()
    one = job(COUNTS, spool=stock.spool, earlier=1)
    one.evict()
    one.evict()
    one.prepare = last
    _, outcome = one.attempt()
    assert outcome.value == "from the first checkpoint", outcome.dump()


def test_a_newer_checkpoint_wins_over_what_spool_still_holds(job: MakeJob) -> None:
    """SPOOL is never pruned: directories of earlier generations lie beside the current one."""
    source = """
        import os, time
        def f():
            import htmap
            step = int(open("step").read()) if os.path.exists("step") else 0
            if step == 3:
                return step
            with open("step", "w") as file:
                file.write(str(step + 1))
            htmap.checkpoint("step")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source)
    one.evict()
    stale = one.spool / "_htmap_current_checkpoint"
    kept = {path.name: path.read_bytes() for path in stale.iterdir() if path.is_file()}
    one.evict()
    for name in ("_htmap_old_checkpoint", "_htmap_prep_checkpoint"):
        (one.spool / name).mkdir(exist_ok=True)
        for file, content in kept.items():
            (one.spool / name / file).write_bytes(content)
    one.evict()
    _, outcome = one.attempt()
    assert outcome.value == 3, outcome.dump()


def test_a_checkpoint_is_whole_after_sigkill_at_any_moment(job: MakeJob) -> None:
    """Of two files that always change together, the next attempt sees the same generation."""
    source = """
        import os, time
        def f():
            import htmap
            def read(name):
                with open(name) as file:
                    return file.read()
            if os.path.exists("last"):
                seen = {read(d + "/state") for d in "abcd"} if os.path.exists("a") else {"none"}
                return sorted(seen)
            for d in "abcd":
                os.makedirs(d, exist_ok=True)
            n = 0
            while True:
                n += 1
                for d in "abcd":
                    with open(d + "/state", "w") as file:
                        file.write(str(n) * 200)
                if n == 2:
                    open("started", "w").close()
                htmap.checkpoint("a", "b", "c", "d")
    """
    chance = random.Random(7)
    for _ in range(6):
        one = job(source)
        one.evict(delay=chance.uniform(0, 0.05), number=signal.SIGKILL)
        one.prepare = last
        _, outcome = one.attempt()
        assert outcome.status == OK and len(outcome.value) == 1 and outcome.value != ["none"], outcome.dump()


def test_a_function_that_goes_on_writing_does_not_change_its_checkpoint(job: MakeJob) -> None:
    """A hard link would have."""
    source = """
        import os, time
        def f():
            import htmap
            if os.path.exists("last"):
                return open("log").read()
            with open("log", "w") as file:
                file.write("checkpointed")
                file.flush()
                htmap.checkpoint("log")
                file.write(", and half a line more")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source)
    one.evict()
    one.prepare = last
    _, outcome = one.attempt()
    assert outcome.value == "checkpointed", outcome.dump()


def test_a_restored_file_may_be_changed_without_changing_the_checkpoint(job: MakeJob) -> None:
    """The first thing a second attempt does may be to append to what it found."""
    source = """
        import os, time
        def f():
            import htmap
            if os.path.exists("last"):
                return open("log").read()
            fresh = not os.path.exists("log")
            with open("log", "a") as file:
                file.write("line\\n")
            if fresh:
                htmap.checkpoint("log")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source)
    for _ in range(3):
        one.evict()
    one.prepare = last
    _, outcome = one.attempt()
    assert outcome.value == "line\n", outcome.dump()


def test_a_file_that_changes_faster_than_its_times_is_stored_anew(job: MakeJob) -> None:
    """Times move on by some milliseconds at once: the same ones do not mean the same content."""
    source = """
        import time
        def f():
            import htmap, os
            if os.path.exists("last"):
                return open("state").read()
            for step in range(100, 300):
                with open("state", "w") as file:
                    file.write(str(step))
                htmap.checkpoint("state")
                with open("_htmap_transfer/_htmap_current_checkpoint/state") as file:
                    assert file.read() == str(step)
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source)
    one.evict()
    one.prepare = last
    _, outcome = one.attempt()
    assert outcome.value == "299", outcome.dump()


def test_a_file_that_has_not_changed_is_stored_once(job: MakeJob) -> None:
    """A large file beside a small one that changes costs its space once."""
    source = """
        import os, time
        def f():
            import htmap
            with open("large", "w") as file:
                file.write("large")
            os.utime("large", (1, 1))
            kept = "_htmap_transfer/_htmap_current_checkpoint/large"
            deadline = time.time() + 20
            inodes = []
            # Not before the file has been left alone for a while.
            while inodes[-2:] != inodes[-1:] * 2 and time.time() < deadline or len(inodes) < 2:
                htmap.checkpoint("large")
                inodes.append(os.stat(kept).st_ino)
                time.sleep(0.2)
            return inodes[-1] == inodes[-2]
    """
    _, outcome = job(source).attempt()
    assert outcome.value is True, outcome.dump()


def test_a_checkpoint_made_on_sigterm_is_kept(job: MakeJob) -> None:
    """R16: the function has the time to make a last one."""
    source = """
        import os, signal, time
        def f():
            import htmap
            if os.path.exists("state"):
                return open("state").read()
            def stop(number, frame):
                with open("state", "w") as file:
                    file.write("made on SIGTERM")
                htmap.checkpoint("state")
                raise SystemExit(0)
            signal.signal(signal.SIGTERM, stop)
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source)
    scratch, first = one.evict()
    assert not scratch.out.exists(), f"an eviction is no failure of the function\n{first.dump()}"
    _, outcome = one.attempt()
    assert outcome.value == "made on SIGTERM", outcome.dump()


def test_nothing_of_a_checkpoint_is_delivered_with_the_result(job: MakeJob) -> None:
    """Checkpoint directories of finished components would land in the map's output directory."""
    one = job("def f():\n    import htmap\n    open('s', 'w').close()\n    htmap.checkpoint('s')\n    return 42")
    scratch, outcome = one.attempt()
    assert outcome.value == 42
    left = [path.name for path in scratch.transfer.iterdir() if path.name not in ("0.out", "0.json")]
    assert left == []


def test_the_run_record_counts_the_restore(job: MakeJob) -> None:
    """The record is for tools: it parses, and is the last attempt's."""
    one = job(COUNTS)
    one.evict()
    one.prepare = last
    scratch, _ = one.attempt()
    record = json.loads((scratch.transfer / "0.json").read_text())
    assert record["component"] == 0
