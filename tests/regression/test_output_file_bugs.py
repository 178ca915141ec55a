"""HTMap 0.6.1's bugs with output files: `htmap.transfer_output_files`."""

from __future__ import annotations

import pytest
from support.cases import Err
from support.eviction import MakeJob
from support.outcome import OK
from support.scratch import Scratch


@pytest.mark.parametrize("evictions", [1, 2])
@pytest.mark.parametrize("control", [False, True])
def test_r10_output_files_of_earlier_attempts_are_delivered(job: MakeJob, evictions: int, control: bool) -> None:
    """They came back as `scratch/N/`, and were never moved to where HTCondor fetches them."""
    source = """
        import os, time
        def f():
            import htmap
            step = int(open("step").read()) if os.path.exists("step") else 0
            os.makedirs("parts", exist_ok=True)
            with open("parts/%d" % step, "w") as file:
                file.write("part %d" % step)
            htmap.transfer_output_files("parts/%d" % step)
            if os.path.exists("last"):
                return step
            with open("step", "w") as file:
                file.write(str(step + 1))
            htmap.checkpoint("step")
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source, control=control, component=4)
    for _ in range(evictions):
        one.evict()
    one.prepare = lambda scratch: scratch.write("last")
    scratch, outcome = one.attempt()
    assert outcome.status == OK, outcome.dump()
    whole = {f"parts/{step}": f"part {step}".encode() for step in range(evictions + 1)}
    assert (one.delivered(scratch) == whole) is not control, (one.delivered(scratch), outcome.dump())


def test_output_files_of_htmaps_own_script_are_delivered(job: MakeJob) -> None:
    """A component that started under stock HTMap goes on under htmap-exec: there they are in `N/`."""
    source = """
        import os, time
        def f():
            import htmap
            step = "second" if os.path.exists("last") else "first"
            open(step, "w").close()
            htmap.transfer_output_files(step)
            if step == "second":
                return 42
            open("started", "w").close()
            time.sleep(100)
    """
    stock = job(source, control=True, component=4)
    stock.evict()
    one = job(source, component=4, spool=stock.spool, earlier=1, prepare=lambda scratch: scratch.write("last"))
    scratch, outcome = one.attempt()
    assert outcome.value == 42, outcome.dump()
    assert one.delivered(scratch) == {"first": b"", "second": b""}


@pytest.mark.parametrize("control", [False, True])
def test_t1_a_linked_execute_directory_is_no_obstacle(job: MakeJob, control: bool) -> None:
    """`path.relative_to(scratch_dir)` compared a resolved path with one that is not."""

    def linked(scratch: Scratch) -> None:
        link = scratch.base / "execute"
        link.symlink_to(scratch.dir)
        scratch.env["_CONDOR_SCRATCH_DIR"] = str(link)
        scratch.working_directory = scratch.dir

    source = """
        import os
        def f():
            import htmap
            with open("out.txt", "w") as file:
                file.write("text")
            htmap.transfer_output_files(os.path.abspath("out.txt"))
            return 42
    """
    one = job(source, control=control, prepare=linked)
    scratch, outcome = one.attempt()
    assert (outcome.value == 42) is not control, outcome.dump()
    if not control:
        assert one.delivered(scratch) == {"out.txt": b"text"}


@pytest.mark.parametrize("control", [False, True])
def test_t1_a_file_outside_the_scratch_directory_is_refused_with_advice(job: MakeJob, control: bool) -> None:
    """The report said "is not in the subpath of" and no more."""
    source = """
        import tempfile
        def f():
            import htmap
            with tempfile.NamedTemporaryFile(dir="/tmp") as file:
                htmap.transfer_output_files(file.name)
    """
    _, outcome = job(source, control=control).attempt()
    unmet = Err("outside the scratch directory", "/tmp/", "(?i)copy|write").unmet(outcome)
    assert bool(unmet) is control, outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_t2_a_destination_is_refused_for_the_true_reason(job: MakeJob, control: bool) -> None:
    """It asked for HTCondor v8.9.2, on every version."""
    source = """
        def f():
            import htmap
            open("out.txt", "w").close()
            htmap.transfer_output_files(("out.txt", htmap.TransferPath("/data/out.txt")))
    """
    _, outcome = job(source, control=control).attempt()
    unmet = Err("output_remaps").unmet(outcome) or ("v8.9.2" in outcome.report and "it asks for HTCondor v8.9.2")
    assert bool(unmet) is control, outcome.dump()


@pytest.mark.parametrize("control", [False, True])
def test_t3_a_directory_given_twice_is_not_nested(job: MakeJob, control: bool) -> None:
    """The second call put it into the first: `res/res/1`."""
    source = """
        import os
        def f():
            import htmap
            for part in ("0", "1"):
                os.makedirs("res", exist_ok=True)
                with open("res/" + part, "w") as file:
                    file.write(part)
                htmap.transfer_output_files("res")
            return 42
    """
    one = job(source, control=control)
    scratch, outcome = one.attempt()
    assert outcome.status == OK, outcome.dump()
    assert (one.delivered(scratch) == {"res/0": b"0", "res/1": b"1"}) is not control, one.delivered(scratch)


@pytest.mark.parametrize("control", [False, True])
def test_t4_a_transfer_path_joined_to_another_keeps_both(job: MakeJob, control: bool) -> None:
    """`A / B` of two TransferPaths dropped A."""
    source = """
        import os
        def f():
            import htmap
            return os.fspath(htmap.TransferPath("a") / htmap.TransferPath("b"))
    """
    _, outcome = job(source, control=control).attempt()
    assert (outcome.value == "a/b") is not control, outcome.dump()


def test_output_files_of_many_kinds_keep_their_paths(job: MakeJob) -> None:
    """Relative to the scratch directory, wherever the function has gone meanwhile."""
    source = """
        import os, pathlib
        def f():
            import htmap
            os.makedirs("deep/er")
            os.makedirs("empty")
            for name in ("top", "deep/er/file", "with space, and comma"):
                pathlib.Path(name).write_text(name)
            os.chdir("deep")
            htmap.transfer_output_files("er", pathlib.Path("../top"), os.path.abspath("../with space, and comma"))
            return 42
    """
    one = job(source)
    scratch, outcome = one.attempt()
    assert outcome.value == 42, outcome.dump()
    assert one.delivered(scratch) == {
        "deep/er/file": b"deep/er/file",
        "top": b"top",
        "with space, and comma": b"with space, and comma",
    }


def test_output_files_survive_a_failing_function(job: MakeJob) -> None:
    """A record of an error and the files that explain it."""
    source = """
        def f():
            import htmap
            open("log.txt", "w").close()
            htmap.transfer_output_files("log.txt")
            raise ValueError("see log.txt")
    """
    one = job(source)
    scratch, outcome = one.attempt()
    assert Err("see log.txt").unmet(outcome) == "", outcome.dump()
    assert one.delivered(scratch) == {"log.txt": b""}


def test_an_output_file_given_in_both_attempts_is_the_last_one(job: MakeJob) -> None:
    """The newer content wins over what SPOOL brought back."""
    source = """
        import os, time
        def f():
            import htmap
            again = os.path.exists("last")
            with open("result.txt", "w") as file:
                file.write("second" if again else "first")
            htmap.transfer_output_files("result.txt")
            if again:
                return 42
            open("started", "w").close()
            time.sleep(100)
    """
    one = job(source)
    one.evict()
    one.prepare = lambda scratch: scratch.write("last")
    scratch, outcome = one.attempt()
    assert outcome.value == 42, outcome.dump()
    assert one.delivered(scratch) == {"result.txt": b"second"}
