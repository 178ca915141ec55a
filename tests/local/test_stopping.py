"""Signals to `local` alone: nothing goes on behind its back, and the same command goes on where it was."""

from __future__ import annotations

import os
import signal

import pytest
from local_map import LocalMap, is_alive, wait_until

# Each waits until it may go on, and says who it is: its own process, its parent's and a child's.
SOURCE = """
import os, signal, subprocess, time
def f(x):
    here = os.environ["SAID"]
    said = lambda name: os.path.exists(os.path.join(here, name))
    if said("stubborn"):
        signal.signal(signal.SIGTERM, lambda *_: open(os.path.join(here, "heard"), "w").close())
    if x > 0 and not said("go"):
        child = subprocess.Popen(["sleep", "1000"])
        path = os.path.join(here, "%d.pid" % x)
        with open(path + ".new", "w") as file:
            file.write("%d %d %d" % (os.getpid(), os.getppid(), child.pid))
        os.rename(path + ".new", path)
        while not said("go"):
            time.sleep(0.01)
    return x
"""


def nothing_is_left(local: LocalMap, pids: list[int]) -> None:
    assert [pid for pid in pids if is_alive(pid)] == []
    assert list(local.scratches.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_it_ends_its_runners_and_says_so(local: LocalMap, number: signal.Signals) -> None:
    local.write(SOURCE, [0, 1, 2, 3])
    process = local.start("--jobs", "3")
    pids = local.pids(3)
    assert len(pids) == 9
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 79, err
    assert err == (
        f"htmap-exec: {number.name}: of the components that were running 0 finished and 3 were stopped; 1 are done "
        "and 3 are left: run the same command again to go on\n"
    )
    assert out == ""
    nothing_is_left(local, pids)
    (local.said / "go").touch()
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 components have a result: 1 had one already" in done.stdout


def test_python_that_does_not_hear_is_ended_within_the_grace(local: LocalMap) -> None:
    local.write(SOURCE, [1])
    (local.said / "stubborn").touch()
    process = local.start("--exit-grace", "1")
    pids = local.pids(1)
    process.terminate()
    # Half a minute less than the runner would take by itself.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 79, err
    nothing_is_left(local, pids)


def test_a_second_signal_is_impatience(local: LocalMap) -> None:
    local.write(SOURCE, [1])
    (local.said / "stubborn").touch()
    process = local.start("--exit-grace", "1000")
    python, runner, _ = local.pids(1)
    process.send_signal(signal.SIGINT)
    wait_until((local.said / "heard").exists, "function that hears")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 79, err
    wait_until(lambda: not is_alive(python) and not is_alive(runner), "end of both")
    assert list(local.scratches.iterdir()) == []


def test_killed_outright_it_leaves_nobody_behind(local: LocalMap) -> None:
    local.write(SOURCE, [1, 2])
    process = local.start("--jobs", "2")
    pids = local.pids(2)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_alive, pids)), "end of the runners")
    assert len(list(local.scratches.iterdir())) == 1
    # Of nobody: another process's, a stranger's name, a directory that is being made.
    others = ["htmap-exec-local-elsewhere-1-abc", f"htmap-exec-local-{os.uname().nodename}-{os.getpid()}-abc", "other"]
    for name in others:
        (local.scratches / name).mkdir()
    (local.said / "go").touch()
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in local.scratches.iterdir()) == sorted(others)


def test_a_hangup_that_is_ignored_is_none(local: LocalMap) -> None:
    local.write(SOURCE, [1])
    process = local.start(before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    local.pids(1)
    process.send_signal(signal.SIGHUP)
    (local.said / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


def test_a_checkpoint_outlives_the_stop(local: LocalMap) -> None:
    local.write(
        """
        import os, time
        def f(x):
            import htmap
            if os.path.exists("steps"):
                return open("steps").read()
            with open("steps", "w") as steps:
                steps.write("ten")
            htmap.checkpoint("steps")
            open(os.path.join(os.environ["SAID"], "0.pid"), "w").write(str(os.getpid()))
            time.sleep(1000)
        """,
        [0],
    )
    process = local.start()
    wait_until((local.said / "0.pid").exists, "function that runs")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 79
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert local.value(0) == "ten"
    assert list((local.directory / "checkpoints").iterdir()) == []


def test_what_a_function_protects_is_removed(local: LocalMap) -> None:
    local.write(
        "import os\ndef f(x):\n    os.makedirs('a/b')\n    open('a/b/c', 'w').close()\n    os.chmod('a/b', 0o500)\n"
        "    os.chmod('a', 0o500)\n",
        [0],
    )
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(local.scratches.iterdir()) == []
