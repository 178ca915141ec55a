"""Stopped from outside: SIGTERM at any moment, twice, as PID 1, and by --timeout."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from faults_left_behind import GRACE
from support.cases import Case, Either, Err, Ok, Stopped
from support.environment import Python, can_unshare
from support.outcome import Outcome
from support.running import Running
from support.scratch import Scratch

SLEEPS = """
    import time
    def f():
        print("said before the stop")
        open("started", "w").close()
        time.sleep(1000)
"""
QUICK = "def f(x):\n    return 2 * x\nargs = (21,)"


def term(*delays: float, after: str = "", number: int = signal.SIGTERM) -> Callable[[Running], object]:
    """One signal after each delay; with `after`, once the function has made that file."""

    def send(running: Running) -> None:
        if after:
            running.wait_for(after)
        for delay in delays:
            time.sleep(delay)
            running.signal(number)

    return send


def usr1_and_winch(running: Running) -> None:
    term(0.1, after="started", number=signal.SIGUSR1)(running)
    running.signal(signal.SIGWINCH)


def no_pid_namespace() -> str | None:
    return None if can_unshare("--pid", "--fork", "--mount-proc") else "PID namespaces are not permitted here"


def pid_1(scratch: Scratch) -> None:
    scratch.wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]


def said(scratch: Scratch, outcome: Outcome) -> str:
    return "" if "said before the stop" in outcome.stdout else "what was printed is lost"


def told(name: str) -> Callable[[Scratch, Outcome], str]:
    return lambda scratch, outcome: "" if (scratch.dir / name).exists() else f"the function never made `{name}`"


def slow_python(scratch: Scratch) -> None:
    path = scratch.base / "python3"
    path.write_text(f'#!/bin/sh\nsleep 5\nexec {scratch.python.path} "$@"\n')
    path.chmod(0o755)
    scratch.python = Python(path, scratch.python.version)


MOMENTS = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]

CASES = [
    *(Case(f"SIGTERM after {moment} s, the function sleeps", SLEEPS, Stopped(transfer_exists=moment >= 0.1), during=term(moment))
      for moment in MOMENTS),
    *(Case(f"SIGTERM after {moment} s, the function returns at once", QUICK, Either(Ok(42), Stopped(transfer_exists=moment >= 0.1)),
           during=term(moment)) for moment in MOMENTS),
    Case("SIGTERM in the function", SLEEPS, Stopped(), during=term(0.0, after="started"), after=said),
    Case("SIGTERM twice", SLEEPS, Stopped(), during=term(0.0, 0.05, after="started")),
    Case("SIGTERM ten times", SLEEPS, Stopped(), during=term(*[0.01] * 10, after="started")),
    Case("SIGTERM, the function ignores it", """
        import signal, time
        def f():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open("started", "w").close()
            time.sleep(1000)
        """, Stopped(), during=term(0.1, after="started")),
    Case("SIGTERM, the function hears of it", """
        import os, signal, time
        def heard(number, frame):
            open("heard", "w").close()
            raise SystemExit(0)
        def f():
            signal.signal(signal.SIGTERM, heard)
            open("started", "w").close()
            time.sleep(1000)
        """, Stopped(), during=term(0.1, after="started"), after=told("heard")),
    Case("SIGTERM, the function needs a second to tidy up", """
        import signal, time
        def heard(number, frame):
            time.sleep(1)
            open("tidy", "w").close()
            raise SystemExit(0)
        def f():
            signal.signal(signal.SIGTERM, heard)
            open("started", "w").close()
            time.sleep(1000)
        """, Stopped(), during=term(0.1, after="started"), after=told("tidy")),
    Case("SIGTERM, a child in the same group", """
        import subprocess, time
        def f():
            subprocess.Popen(["sleep", "1000"])
            open("started", "w").close()
            time.sleep(1000)
        """, Stopped(), during=term(0.1, after="started")),
    Case("SIGTERM, a child in a session of its own", """
        import subprocess, time
        def f():
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            open("started", "w").close()
            time.sleep(1000)
        """, Stopped(), during=term(0.1, after="started")),
    Case("SIGTERM, a daemon that ignores it", """
        import subprocess, time
        def f():
            subprocess.Popen(["sh", "-c", 'trap "" TERM HUP; sleep 1000; sleep 1000'], start_new_session=True)
            time.sleep(0.3)
            open("started", "w").close()
            time.sleep(1000)
        """, Stopped(), during=term(0.1, after="started")),
    Case("SIGTERM, a pool of processes", """
        import multiprocessing, time
        def f():
            with multiprocessing.get_context("fork").Pool(3) as pool:
                waiting = pool.map_async(time.sleep, [1000] * 3)
                time.sleep(0.3)
                open("started", "w").close()
                waiting.get()
        """, Stopped(), during=term(0.1, after="started")),
    Case("SIGTERM, a loop in C", """
        def f():
            open("started", "w").close()
            return sum(range(10**15))
        """, Stopped(), during=term(0.1, after="started")),
    Case("SIGTERM, Python is stopped", """
        import os, signal, time
        def f():
            open("started", "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)
        """, Stopped(), during=term(0.3, after="started")),
    Case("SIGTERM while __reduce__ of the result runs", """
        import time
        class Slow:
            def __reduce__(self):
                open("started", "w").close()
                time.sleep(1000)
        def f():
            return [bytes(10**7), Slow()]
        """, Stopped(), during=term(0.1, after="started")),
    *(Case(f"SIGTERM {moment} s into a result of 400 MB", """
        import os
        def f():
            made = [os.urandom(2**20) * 50 for _ in range(8)]
            open("started", "w").close()
            return made
        """, Either(Ok(where=lambda v: len(v) == 8), Stopped()), during=term(moment, after="started"), timeout=90)
      for moment in (0.0, 0.1, 0.4, 1.0, 2.0)),
    Case("SIGTERM while the result stands and a thread is left", """
        import threading, time
        def late():
            time.sleep(0.2)
            open("started", "w").close()
            time.sleep(1000)
        def f():
            threading.Thread(target=late).start()
            return 42
        """, Ok(42), during=term(0.1, after="started"), options=("--exit-grace", "30")),
    Case("SIGTERM while Python is being asked its version", QUICK, Stopped(), prepare=slow_python, during=term(0.3), control=False),
    Case("SIGTERM as PID 1", SLEEPS, Stopped(), prepare=pid_1, during=term(0.1, after="started"), skip=no_pid_namespace),
    Case("SIGTERM twice as PID 1", SLEEPS, Stopped(), prepare=pid_1, during=term(0.1, 0.1, after="started"), skip=no_pid_namespace),
    Case("a result as PID 1", QUICK, Ok(42), prepare=pid_1, skip=no_pid_namespace),
    Case("a result as PID 1, with orphans to reap", """
        import subprocess, time
        def f():
            for _ in range(20):
                subprocess.run(["sh", "-c", "(sleep 0.1; true) &"])
            time.sleep(0.5)
            dead = subprocess.run("cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z '", shell=True, stdout=subprocess.PIPE)
            return int(dead.stdout)
        """, Ok(0), prepare=pid_1, skip=no_pid_namespace),
    Case("a daemon left as PID 1", "import subprocess\ndef f():\n    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n    return 42",
         Ok(42), prepare=pid_1, skip=no_pid_namespace, options=GRACE),
    Case("SIGKILL of the runner in the function", SLEEPS, Stopped(), during=term(0.1, after="started", number=signal.SIGKILL)),
    Case("SIGINT to the runner", SLEEPS, Stopped(), during=term(0.1, after="started", number=signal.SIGINT)),
    Case("SIGHUP to the runner", SLEEPS, Stopped(), during=term(0.1, after="started", number=signal.SIGHUP)),
    Case("SIGQUIT to the runner", SLEEPS, Stopped(), during=term(0.1, after="started", number=signal.SIGQUIT)),
    Case("SIGUSR1 and SIGWINCH to the runner do no harm", """
        import signal, time
        def f():
            signal.signal(signal.SIGUSR1, lambda *a: None)
            open("started", "w").close()
            time.sleep(1)
            return 42
        """, Ok(42), during=usr1_and_winch),
    # --timeout; HTMap's script has none.
    Case("--timeout, the function sleeps", SLEEPS, Err("(?i)time", r"\b2\b", stdout="said before"), options=("--timeout", "2"), control=False),
    Case("--timeout, a loop in C", "def f():\n    return sum(range(10**15))", Err("(?i)time"), options=("--timeout", "2"), control=False),
    Case("--timeout, Python is stopped", "import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGSTOP)", Err("(?i)time"),
         options=("--timeout", "2"), control=False),
    Case("--timeout, children are left", "import subprocess\ndef f():\n    subprocess.run(['sh', '-c', 'trap \"\" TERM; sleep 1000; sleep 1000'])",
         Err("(?i)time"), options=("--timeout", "2"), control=False),
    Case("--timeout, long enough", QUICK, Ok(42), options=("--timeout", "50"), control=False),
]  # fmt: skip
