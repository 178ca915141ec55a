"""Each bug of HTMap 0.6.1's run script, by its number: mended in the binary, and still there in the control."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cases import Case, Err, Ok, Stopped, dispose
from support.environment import (
    Python,
    can_unshare,
    htmap_directory,
    is_root,
    pythons,
    system_python,
)
from support.eviction import MakeJob, Mended, sigterm
from support.outcome import ERR, NONE, OK, TRUNCATED, Outcome
from support.scratch import Scratch

SIMPLE = "def f(x):\n    return 2 * x\nargs = (21,)"
GRACE = ("--exit-grace", "2")
NOBODY = 54321


def needs(*minors: str) -> None:
    for minor in minors:
        if minor not in pythons():
            pytest.skip(f"this machine has no Python {minor} with cloudpickle")


def bare_python(scratch: Scratch) -> None:
    """A virtual environment with nothing in it."""
    place = scratch.base / "bare"
    subprocess.run([scratch.python.path, "-m", "venv", "--without-pip", place], check=True)
    scratch.python = Python(place / "bin" / "python", scratch.python.version)


def bare_python_with_cloudpickle(scratch: Scratch) -> None:
    bare_python(scratch)
    # Alone: beside it in its own site-packages may lie pip.
    scratch.ship_cloudpickle("lib")
    scratch.env["PYTHONPATH"] = str(scratch.dir / "lib")


def as_nobody(scratch: Scratch) -> None:
    scratch.ship_cloudpickle("lib")
    scratch.env["PYTHONPATH"] = str(scratch.dir / "lib")
    scratch.give_to(NOBODY)


def test_r1_an_unresolvable_host_name_is_no_failure(mended: Mended) -> None:
    """`gethostbyname(gethostname())` ran outside any `try`, before the transfer directory existed."""

    def nameless(scratch: Scratch) -> None:
        scratch.wrapper = ["unshare", "--uts", "sh", "-c", 'hostname nowhere-to-be-found.invalid; exec "$@"', "sh"]

    if not can_unshare("--uts"):
        pytest.skip("UTS namespaces are not permitted here")
    mended(Case("r1", SIMPLE, Ok(42), prepare=nameless))


@pytest.mark.parametrize("argument", ["0", "1", "'told why'", ""])
def test_r2_sys_exit_gives_a_report(mended: Mended, argument: str) -> None:
    """`except Exception` missed SystemExit: no `N.out`, or a hold."""
    pattern = f"SystemExit.*{argument.strip(chr(39))}"
    mended(Case("r2", f"import sys\ndef f():\n    sys.exit({argument})", Err(pattern, "in f")))


def test_r2_keyboard_interrupt_gives_a_report(mended: Mended) -> None:
    """The same for KeyboardInterrupt."""
    mended(Case("r2", "def f():\n    raise KeyboardInterrupt('by hand')", Err("KeyboardInterrupt: by hand")))


@pytest.mark.parametrize(("made", "what"), [("threading.Lock()", "lock"), ("(x for x in 'ab')", "generator")])
def test_r3_an_unpicklable_result_gives_a_report(mended: Mended, made: str, what: str) -> None:
    """The output was saved outside the `try`: a truncated `N.out` that says "OK"."""
    mended(Case("r3", f"import threading\ndef f():\n    return {made}", Err("(?i)pickle", what)))


@pytest.mark.parametrize("control", [False, True])
def test_r4_the_checkpoint_outlives_an_eviction_while_the_result_is_written(job: MakeJob, control: bool) -> None:
    """Checkpoints were deleted before the result was saved: an eviction then lost both."""
    source = """
        import os, time
        class Slow:
            def __reduce__(self):
                open("started", "w").close()
                time.sleep(60)
        def f():
            import htmap
            if os.path.exists("state"):
                return "from " + open("state").read()
            with open("state", "w") as file:
                file.write("the checkpoint")
            htmap.checkpoint("state")
            return Slow()
    """
    one = job(source, control=control)
    one.evict()
    _, outcome = one.attempt(sigterm("started"))
    if control:
        assert outcome.value != "from the checkpoint"
    else:
        assert outcome.value == "from the checkpoint", outcome.dump()


def test_r5_a_node_without_cloudpickle_gives_a_report(mended: Mended) -> None:
    """The error path imported cloudpickle, too."""
    mended(Case("r5", SIMPLE, Err("cloudpickle", "{python}"), prepare=bare_python))


@pytest.mark.parametrize("control", [False, True])
def test_r6_an_error_record_loads_on_another_python(control: bool) -> None:
    """`ExecutionError` lived in `__main__`, so that its code was shipped by value."""
    needs("3.8", "3.13")
    case = Case(
        "r6", "def f(x):\n    return 1 / x\nargs = (0,)", Err("ZeroDivisionError"), python=lambda: pythons()["3.8"]
    )
    scratch = case.scratch(is_control=control)
    try:
        outcome, unmet = case.run_control(scratch) if control else case.run_ours(scratch)
        assert not unmet, outcome.dump()
        decode = Path(sys.modules["support"].__path__[0]) / "decode.py"
        errors_py = htmap_directory() / "htmap" / "errors.py"
        done = subprocess.run(
            [pythons()["3.13"].path, decode, scratch.out, errors_py], capture_output=True, check=False
        )
        assert (done.returncode == 0) is not control, done.stderr.decode()
        if not control:
            assert "ZeroDivisionError" in json.loads(done.stdout)["report"]
    finally:
        dispose(scratch)


@pytest.mark.parametrize("options", [("--submit-python", "3.13"), ()])
def test_r7_another_pythons_bytecode_is_never_run(mended: Mended, options: tuple[str, ...]) -> None:
    """`2 * x` pickled on 3.13 returned 21 for 21 on 3.11, with status OK."""
    needs("3.11", "3.13")
    mended(Case("r7", SIMPLE, Err(r"3\.13", r"3\.11"), options=options,
                python=lambda: pythons()["3.11"], pickled_by=lambda: pythons()["3.13"]))  # fmt: skip


def test_r11_no_stray_checkpoint_directory_is_made(mended: Mended) -> None:
    """The run script made an empty `_htmap_current_checkpoint` in the scratch directory itself."""

    def stray(scratch: Scratch, outcome: Outcome) -> str:
        return "there is one" if (scratch.dir / "_htmap_current_checkpoint").exists() else ""

    mended(Case("r11", SIMPLE, Ok(42), after=stray))


def test_r12_symlinks_in_circles_are_not_followed(mended: Mended) -> None:
    """Three links to `..` kept the listing busy for ever, after the result was saved."""
    source = """
        import os
        def f():
            for i in range(4):
                os.mkdir("d%d" % i)
                os.symlink("..", "d%d/up" % i)
            return 42
    """
    mended(Case("r12", source, Ok(42)))


def test_r13_a_file_name_that_is_not_utf_8_does_not_hold_a_finished_component(mended: Mended) -> None:
    """The second listing came after the output, outside any `try`."""

    def strict(scratch: Scratch) -> None:
        scratch.env.update(PYTHONIOENCODING="utf-8:strict", LC_ALL="C")

    mended(Case("r13", "def f():\n    open(b'caf\\xe9', 'w').close()\n    return 42", Ok(42), prepare=strict))


def test_r13_an_unreadable_directory_does_not_hold_a_finished_component(mended: Mended) -> None:
    """The same, with PermissionError."""
    python = system_python()
    if not is_root() or python is None or python.minor not in pythons():
        pytest.skip("needs root, and a system Python of a version that has cloudpickle elsewhere")
    source = "import os\ndef f():\n    os.mkdir('closed')\n    os.chmod('closed', 0)\n    return 42"
    mended(Case("r13", source, Ok(42), prepare=as_nobody, python=lambda: python,
                pickled_by=lambda: pythons()[python.minor]))  # fmt: skip


def test_r14_python_is_described_without_pip(mended: Mended) -> None:
    """Without pip the interpreter's path and version were dropped, too."""
    mended(
        Case(
            "r14",
            "def f():\n    raise ValueError",
            Err("Python executable is {python} "),
            prepare=bare_python_with_cloudpickle,
        )
    )


def test_r15_stdout_is_live(mended: Mended) -> None:
    """stdout was buffered in blocks: SIGTERM lost all of it, even "Landed on"."""
    source = "import time\ndef f():\n    print('progress 1')\n    open('started', 'w').close()\n    time.sleep(100)"

    def lost(scratch: Scratch, outcome: Outcome) -> str:
        lines = ("Landed on execute node", "Running component 0", "MAP COMPONENT OUTPUT START", "progress 1")
        return next((f"stdout lacks {line!r}" for line in lines if line not in outcome.stdout), "")

    mended(Case("r15", source, Stopped(), during=sigterm("started"), after=lost))


def test_r16_an_eviction_is_noted(mended: Mended) -> None:
    """There was no SIGTERM handler: nothing said that the component was evicted."""
    source = "import time\ndef f():\n    open('started', 'w').close()\n    time.sleep(100)"

    def silent(scratch: Scratch, outcome: Outcome) -> str:
        said = re.search("(?i)sigterm|evict|vacat", outcome.stdout + outcome.stderr)
        return "" if said else "neither stdout nor stderr says so"

    mended(Case("r16", source, Stopped(), during=sigterm("started"), after=silent))


def test_r17_a_local_whose_repr_raises_costs_only_itself(mended: Mended) -> None:
    """`FrameSummary(locals=...)` called every repr unprotected (Python 3.11 and older)."""
    needs("3.10")
    source = "class Odd:\n    def __repr__(self):\n        raise RuntimeError\ndef f():\n    odd = Odd()\n    raise ValueError('why')"
    mended(Case("r17", source, Err("ValueError: why"), python=lambda: pythons()["3.10"]))


def test_r17_a_huge_local_is_cut(mended: Mended) -> None:
    """A local list of 20,000,000 integers made an `N.out` of 44 MB."""
    mended(
        Case("r17", "def f():\n    odd = list(range(20_000_000))\n    raise ValueError('why')", Err("ValueError: why"))
    )


def test_r18_an_argument_whose_repr_raises_does_not_keep_the_function_from_running(mended: Mended) -> None:
    """Arguments were formatted inside the `try`."""
    source = """
        class Odd:
            def __repr__(self):
                raise RuntimeError
        def f(x):
            return 42
        args = (Odd(),)
    """
    mended(Case("r18", source, Ok(42)))


def test_r19_a_closed_stdout_does_not_keep_the_report_from_being_written(mended: Mended) -> None:
    """The handler printed to it."""
    mended(
        Case("r19", "import sys\ndef f():\n    sys.stdout.close()\n    raise ValueError('why')", Err("ValueError: why"))
    )


def test_r20_threads_and_children_do_not_keep_the_slot(mended: Mended) -> None:
    """The interpreter waited for threads, and left children behind."""
    source = """
        import subprocess, threading, time
        def f():
            subprocess.Popen(["sleep", "1000"])
            threading.Thread(target=time.sleep, args=(1000,)).start()
            return 42
    """
    mended(Case("r20", source, Ok(42), options=GRACE, timeout=30))


@pytest.mark.parametrize("name", ["gzip", "socket", "types"])
def test_r21_a_stray_module_among_the_input_files_is_harmless(mended: Mended, name: str) -> None:
    """The scratch directory was `sys.path[0]` before the run script's own imports."""
    mended(Case("r21", SIMPLE, Ok(42), prepare=lambda scratch: scratch.write(f"{name}.py", "raise ImportError")))


@pytest.mark.parametrize("control", [False, True])
def test_r22_the_component_of_a_record_is_a_number(control: bool) -> None:
    """It stayed the text from the command line, so that `err.component == 0` was False."""
    case = Case("r22", "def f():\n    raise ValueError", Err("ValueError"))
    scratch = case.scratch(is_control=control)
    try:
        outcome, _ = case.run_control(scratch) if control else case.run_ours(scratch)
    finally:
        dispose(scratch)
    assert outcome.status == ERR
    assert (outcome.record.component == 0) is not control


@pytest.mark.parametrize("name", ["func", "0.in"])
@pytest.mark.parametrize("control", [False, True])
def test_r23_a_checkpoint_does_not_overwrite_the_function(job: MakeJob, name: str, control: bool) -> None:
    """A file of that name in a checkpoint took the place of HTMap's own in the next attempt."""
    source = f"""
        import os, time
        def f():
            import htmap
            if os.path.exists("second"):
                return 42
            open("second", "w").close()
            with open("{name}", "w") as file:
                file.write("a table of the user's functions")
            try:
                htmap.checkpoint("{name}", "second")
            finally:
                open("started", "w").close()
            time.sleep(60)
    """
    one = job(source, control=control)
    scratch, outcome = one.attempt(sigterm("started"))
    if outcome.status == NONE:
        one.take(scratch)
        _, outcome = one.attempt()
    refused = outcome.status == ERR and re.search(f"htmap.checkpoint: .*{re.escape(name)}", outcome.report)
    assert (outcome.value == 42 or bool(refused)) is not control, outcome.dump()


@pytest.mark.parametrize("minor", ["3.12", "3.13"])
def test_r24_stderr_is_the_users(mended: Mended, minor: str) -> None:
    """Each component on 3.12 and later wrote two DeprecationWarnings."""
    needs(minor)

    def noise(scratch: Scratch, outcome: Outcome) -> str:
        return f"stderr holds {outcome.stderr[:200]!r}" if outcome.stderr else ""

    mended(Case("r24", SIMPLE, Ok(42), python=lambda: pythons()[minor], after=noise))


@pytest.mark.parametrize("control", [False, True])
def test_r25_the_output_is_whole_or_absent_after_sigkill(job: MakeJob, control: bool) -> None:
    """`N.out` was written in place."""
    source = """
        import os
        def f():
            made = [os.urandom(2**20) * 40 for _ in range(10)]
            open("started", "w").close()
            return made
    """
    states = set()
    for delay in (0.1, 0.5, 1.0):
        _, outcome = job(source, control=control).attempt(sigterm("started", delay, signal.SIGKILL))
        states.add(outcome.status)
    if control:
        assert TRUNCATED in states
    else:
        assert states <= {OK, NONE}


def test_a_finished_output_of_an_earlier_attempt_is_delivered(job: MakeJob) -> None:
    """An eviction after the end: HTCondor runs the component again, beside its own `N.out` at the top level."""
    one = job("import os\ndef f():\n    return os.getpid()")
    first, outcome = one.attempt()
    assert outcome.status == OK, outcome.dump()
    one.take(first)
    assert (one.spool / "0.out").exists()
    _second, again = one.attempt()
    assert again.exit == 0
    assert again.value == outcome.value, f"the component ran again\n{again.dump()}"
    assert "MAP COMPONENT OUTPUT START" not in again.stdout


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b garbage"])
def test_a_broken_output_of_an_earlier_attempt_is_not_delivered(job: MakeJob, content: bytes) -> None:
    """The component runs again instead."""
    one = job(SIMPLE, earlier=1)
    (one.spool / "0.out").write_bytes(content)
    _, outcome = one.attempt()
    assert (outcome.exit, outcome.value) == (0, 42), outcome.dump()


def test_a_truncated_output_of_an_earlier_attempt_is_not_delivered(job: MakeJob) -> None:
    one = job("def f():\n    return list(range(1000))")
    first, _outcome = one.attempt()
    one.take(first)
    whole = (one.spool / "0.out").read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, len(whole) - 8):
        (one.spool / "0.out").write_bytes(whole[:size])
        _, again = one.attempt()
        assert again.value == list(range(1000)), again.dump()
        assert "MAP COMPONENT OUTPUT START" in again.stdout
