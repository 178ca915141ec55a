"""The conversation between the runner and its Python: forks, strangers, suspensions, and what a function leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faults_left_behind import GRACE
from faults_stops import term
from support.cases import Case, Err, Ok, Stopped
from support.environment import Python, is_root, pythons, system_python
from support.outcome import Outcome
from support.running import Running
from support.scratch import Scratch

MANY = 400_000_000

# Makes something happen where the pickle is loaded, on the node.
AT_LOADING = """
class Loading:
    def __init__(self, source):
        self.source = source
    def __reduce__(self):
        return eval, (f"exec({self.source!r}, {{}}) or 42",)
"""


def at_loading(name: str, source: str, expect: Ok | Err, **more: object) -> Case:
    """The source runs while the argument is unpickled; the function returns 42."""
    text = f"{AT_LOADING}\ndef f(x):\n    return x\nargs = (Loading({source!r}),)"
    return Case(name, text, expect, **more)  # type: ignore[arg-type]


# Who connects


def channels() -> set[bytes]:
    """The abstract sockets that runners listen on."""
    lines = Path("/proc/net/unix").read_bytes().splitlines()
    return {line.split()[-1] for line in lines if b"@htmap-exec-" in line}


STRANGER = """
import os, socket, sys
if sys.argv[1] != "0":
    os.setuid(int(sys.argv[1]))
held = []
for name in sys.argv[3:]:
    for _ in range(int(sys.argv[2].split(",")[0])):
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(5)
        try:
            stranger.connect(b"\\0" + name[1:].encode())
            stranger.sendall(eval(sys.argv[2].split(",")[1]))
        except OSError:
            pass
        held.append(stranger)
print("connected", flush=True)
sys.stdin.read()
"""


def strangers(count: int, said: str, uid: int = 0) -> Callable[[Running], object]:
    """So many connections to every runner there is, as this user, held until the run is over."""

    def connect(running: Running) -> None:
        assert running.wait_for("started")
        command = [sys.executable, "-c", STRANGER, str(uid), f"{count},{said}"]
        command += [name.decode() for name in channels()]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        (running.scratch.dir / "go").touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(30)
        other.stdin.close()
        other.wait()

    return connect


WAITS = """
import os, time
def f():
    open("started", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return 42
"""

# What stops


def suspended(after: str, seconds: float) -> Callable[[Running], object]:
    """The runner and its Python, as HTCondor suspends a job, for longer than every limit."""

    def suspend(running: Running) -> None:
        if after:
            assert running.wait_for(after)
        else:
            time.sleep(0.03)
        runner = running.runner_pid()
        everyone = [runner, *children(runner)]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)

    return suspend


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def python_stopped(running: Running) -> None:
    assert running.wait_for("started")
    (python,) = children(running.runner_pid())
    os.kill(python, signal.SIGSTOP)
    time.sleep(2)
    os.kill(python, signal.SIGCONT)


QUICKLY = ("--start-limit", "1", "--exit-grace", "1")


def slowly_starting(scratch: Scratch) -> None:
    """A Python that says when it is about to start."""
    path = scratch.base / "python3"
    path.write_text(f'#!/bin/sh\n: >"{scratch.dir}/starting"\nsleep 0.2\nexec {scratch.python.path} "$@"\n')
    path.chmod(0o755)
    scratch.python = Python(path, scratch.python.version)


def large_checkpoint(scratch: Scratch) -> None:
    """Which takes longer to restore than Python may take to start."""
    directory = scratch.dir / "_htmap_current_checkpoint"
    directory.mkdir()
    (directory / "state").write_bytes(os.urandom(2**20) * 1024)
    scratch.edit(".job.ad", lambda ad: ad.replace(b"NumShadowStarts = 1", b"NumShadowStarts = 2"))


# What the limits are


def as_unknown(scratch: Scratch, uid: int) -> None:
    """A user whom the node does not know, on a Python that every user may run."""
    python = system_python()
    assert python is not None
    scratch.ship_cloudpickle()
    scratch.python = python
    scratch.give_to(uid)


def few_processes(scratch: Scratch) -> None:
    """Python and the runner, and not one thread more."""
    as_unknown(scratch, 54321)
    scratch.before_exec = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))


def no_system_python() -> str | None:
    if not is_root():
        return "only root can become somebody else"
    if system_python() is None:
        return "there is no Python that every user may run"
    return None


def full_stderr(scratch: Scratch) -> None:
    scratch.wrapper = ["sh", "-c", 'exec "$@" 2>/dev/full', "sh"]


def ignoring(*numbers: int) -> Callable[[Scratch], object]:
    def prepare(scratch: Scratch) -> None:
        def ignore() -> None:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)

        scratch.before_exec = ignore

    return prepare


def sitecustomize(text: str) -> Callable[[Scratch], object]:
    def prepare(scratch: Scratch) -> None:
        place = scratch.base / "site"
        place.mkdir()
        (place / "sitecustomize.py").write_text(text)
        scratch.env["PYTHONPATH"] = str(place)

    return prepare


def record(scratch: Scratch) -> dict[str, object]:
    return json.loads((scratch.transfer / f"{scratch.component}.json").read_text())  # type: ignore[no-any-return]


# What lies where the runner looks


def fifo(*names: str) -> Callable[[Scratch], object]:
    def prepare(scratch: Scratch) -> None:
        for name in names:
            path = scratch.dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.mkfifo(path)

    return prepare


def listening(name: str) -> Callable[[Scratch], object]:
    def prepare(scratch: Scratch) -> None:
        (scratch.dir / name).unlink(missing_ok=True)
        held = socket.socket(socket.AF_UNIX)
        here = os.open(scratch.dir, os.O_PATH)
        # The whole path may be too long for a socket.
        held.bind(f"/proc/self/fd/{here}/{name}")
        os.close(here)
        scratch.undo.append(held.close)

    return prepare


def linked(name: str, target: str) -> Callable[[Scratch], object]:
    def prepare(scratch: Scratch) -> None:
        path = scratch.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return prepare


def victim(scratch: Scratch) -> None:
    """A file that no link may have the runner write to."""
    (scratch.base / "victim").write_text("precious")
    for name in ("_htmap_transfer/0.json", "_htmap_transfer/0.out", ".htmap-exec-0.out.part"):
        linked(name, str(scratch.base / "victim"))(scratch)


def job_ad(text: bytes, size: int = 0) -> Callable[[Scratch], object]:
    """More lines for the job's ad, and a hole up to this size."""

    def prepare(scratch: Scratch) -> None:
        with open(scratch.dir / ".job.ad", "ab") as file:
            file.write(text)
            file.truncate(max(size, file.tell()))

    return prepare


def untouched(scratch: Scratch, _: Outcome) -> str:
    return "" if (scratch.base / "victim").read_text() == "precious" else "something was written through a link"


# What a plain Python does


def seen_at_once(running: Running) -> None:
    """The line is in the file while the function still runs."""
    assert running.wait_for("started")
    stdout = running.scratch.base / "stdout"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if "a line" in stdout.read_text():
            (running.scratch.dir / "go").touch()
            return
        time.sleep(0.05)


def by_method(method: str) -> str:
    return f"""
        import multiprocessing, sys
        def f():
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                return pool.apply(eval, ("__import__('os').getpid()",)) > 0
        """


def old_cloudpickle(scratch: Scratch) -> None:
    """The node's is one that cannot read what this side's writes."""
    place = scratch.base / "node"
    (place / "cloudpickle").mkdir(parents=True)
    (place / "cloudpickle" / "__init__.py").write_text("__version__ = '1.6.0'\nfrom pickle import *\n")
    metadata = place / "cloudpickle-1.6.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cloudpickle\nVersion: 1.6.0\n")
    scratch.env["PYTHONPATH"] = str(place)
    ship(scratch)


def ship(scratch: Scratch) -> None:
    """The submit side's, as a zip archive."""
    program = (
        "import cloudpickle, pathlib, sys, zipfile\n"
        "package = pathlib.Path(cloudpickle.__file__).parent\n"
        "with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as archive:\n"
        "    for path in package.glob('*.py'):\n"
        "        archive.write(path, f'cloudpickle/{path.name}')\n"
    )
    subprocess.run([scratch.python.path, "-c", program, scratch.dir / "_htmap_cloudpickle.zip"], check=True)


def used(where: str) -> Callable[[Scratch, Outcome], str]:
    def look(scratch: Scratch, _: Outcome) -> str:
        found = record(scratch)["cloudpickle"]
        assert isinstance(found, dict)
        return "" if where in str(found["file"]) and found["version"] else f"the record says {found}"

    return look


def recorded(**wanted: object) -> Callable[[Scratch, Outcome], str]:
    def look(scratch: Scratch, _: Outcome) -> str:
        found = record(scratch)
        return "" if wanted.items() <= found.items() else f"the run record says {found}"

    return look


def nowhere_at_home(scratch: Scratch) -> None:
    as_unknown(scratch, 54322)
    scratch.env["HOME"] = "/"
    scratch.env["XDG_CACHE_HOME"] = "/nonexistent/cache"
    for name in ("USER", "LOGNAME"):
        scratch.env.pop(name, None)


RETURNS = "def f(x):\n    return 2 * x\nargs = (21,)"
OLDEST_AND_NEWEST = [list(pythons().values())[place] for place in (0, -1)]

CASES = [
    # Forks while something is unpickled.
    at_loading("forks while it is loaded, the child stays", "import os, time\nif os.fork() == 0:\n time.sleep(1000)", Ok(42)),
    at_loading("forks while it is loaded, the child comes back", "import os\nos.fork()", Ok(42)),
    at_loading("forks while it is loaded, the child raises", "import os\nif os.fork() == 0:\n raise ValueError('not the parent')", Ok(42)),
    at_loading("forks while it is loaded, and raises", "import os\nif os.fork():\n raise ValueError('the parent')", Err("ValueError: the parent")),
    at_loading("a pool of processes is started while it is loaded", "import multiprocessing, builtins\n"
               "builtins.kept = multiprocessing.get_context('fork').Pool(2)", Ok(42), options=GRACE),
    at_loading("a manager is started while it is loaded", "import multiprocessing, builtins\n"
               "builtins.kept = multiprocessing.get_context('fork').Manager()", Ok(42), options=GRACE),
    Case("forks while the result is pickled", """
        import os
        class Forks:
            def __reduce__(self):
                if os.fork() == 0:
                    os._exit(0)
                return int, (42,)
        def f():
            return Forks()
        """, Ok(42)),
    # Strangers.
    *(Case(f"{name} at the channel", WAITS, Ok(42), during=strangers(count, said, uid), control=False,
           skip=lambda: None if is_root() else "only root can become somebody else")
      for uid, who in ((0, "one of the same user"), (54323, "another user's"))
      for name, count, said in (
          (f"a silent connection, {who},", 1, "b''"),
          (f"a connection with a wrong token, {who},", 1, "b'0' * 32"),
          (f"a connection that says it returned, {who},", 1, "b'R0000000000000000'"),
          (f"a hundred silent connections, {who},", 100, "b''"))),
    # Suspensions.
    *(Case(f"suspended for longer than every limit, {stage}", source, Ok(42), prepare=prepare, options=QUICKLY,
           during=suspended(after, 3), control=False)
      for stage, source, after, prepare in (
          ("while Python starts", RETURNS, "starting", slowly_starting),
          ("at an early moment", RETURNS, "", None),
          ("while the function runs", "import time\ndef f():\n    open('started', 'w').close()\n    time.sleep(0.5)\n    return 42",
           "started", None),
          ("while the result is pickled", """
           import time
           class Slow:
               def __reduce__(self):
                   open('started', 'w').close()
                   time.sleep(0.5)
                   return int, (42,)
           def f():
               return Slow()
           """, "started", None),
          ("while Python exits", """
           import atexit, time
           def late():
               open('started', 'w').close()
               time.sleep(0.3)
           def f():
               atexit.register(late)
               return 42
           """, "started", None))),
    Case("only Python is stopped for a while", "import time\ndef f():\n    open('started', 'w').close()\n    time.sleep(0.5)\n    return 42",
         Ok(42), during=python_stopped, options=QUICKLY, control=False),
    Case("a checkpoint that takes longer than Python may", "import os\ndef f():\n    return os.path.getsize('state')", Ok(2**30),
         prepare=large_checkpoint, options=("--start-limit", "0.5"), control=False),
    # What the function leaves behind.
    Case("a default timeout for sockets", f"import os, socket\ndef f():\n    socket.setdefaulttimeout(0.05)\n    return len(bytes(1)), bytes({MANY})",
         Ok(where=lambda value: len(value[1]) == MANY)),
    Case("a timer whose handler raises", f"""
        import signal
        def out_of_time(number, frame):
            raise TimeoutError("too late")
        def f():
            signal.signal(signal.SIGALRM, out_of_time)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 0.01)
            return bytes({MANY})
        """, Ok(where=lambda value: len(value) == MANY)),
    Case("an alarm without a handler", f"import signal\ndef f():\n    signal.alarm(1)\n    return bytes({MANY})",
         Ok(where=lambda value: len(value) == MANY)),
    Case("a watchdog that ends the process while the result is pickled", """
        import os, threading, time
        class Slow:
            def __reduce__(self):
                time.sleep(1)
                return int, (42,)
        def f():
            watchdog = threading.Timer(0.5, os._exit, [7])
            watchdog.daemon = True
            watchdog.start()
            return Slow()
        """.replace("os._exit, [7]", "lambda: os._exit(7)"), Ok(42)),
    Case("faulthandler's watchdog", """
        import faulthandler, time
        class Slow:
            def __reduce__(self):
                time.sleep(1)
                return int, (42,)
        def f():
            faulthandler.dump_traceback_later(0.5, exit=True)
            return Slow()
        """, Ok(42)),
    Case("a limit of open files, lowered", "import resource\ndef f():\n    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n    return 42", Ok(42)),
    Case("a limit of file size", f"import resource\ndef f():\n    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n    return bytes({2**21})",
         Ok(where=lambda value: len(value) == 2**21)),
    Case("a handler that raises at SIGUSR1 while the result is pickled", """
        import os, signal
        class Signals:
            def __reduce__(self):
                os.kill(os.getpid(), signal.SIGUSR1)
                return int, (42,)
        def raises(number, frame):
            raise RuntimeError("not now")
        def f():
            signal.signal(signal.SIGUSR1, raises)
            return Signals()
        """, Ok(42)),
    # What was complete stays.
    Case("SIGTERM after the whole report, a thread is left", """
        import threading, time
        def f():
            threading.Thread(target=lambda: (time.sleep(0.5), open("started", "w").close(), time.sleep(1000))).start()
            raise ValueError("after twenty hours")
        """, Err("ValueError: after twenty hours"), during=term(0.0, after="started"), options=("--exit-grace", "60"), control=False),
    Case("SIGTERM while the report is made", """
        import time
        class Slow:
            def __repr__(self):
                open("started", "w").close()
                time.sleep(0.8)
                return "slow"
        def f():
            local = Slow()
            raise ValueError("reported")
        """, Err("ValueError: reported"), during=term(0.0, after="started"), control=False),
    Case("evicted: the run record says so", "import time\ndef f():\n    open('started', 'w').close()\n    time.sleep(1000)", Stopped(),
         during=term(0.0, after="started"), after=recorded(status="EVICTED", component=0, attempts=[]), control=False),
    # Limits of the machine.
    Case("two processes and no thread, 3 MiB", f"import os\ndef f():\n    return os.urandom({3 * 2**20})",
         Ok(where=lambda value: len(value) == 3 * 2**20), prepare=few_processes, skip=no_system_python),
    Case("stderr on a full device", RETURNS, Ok(42), prepare=full_stderr),
    Case("stderr on a full device, raises", "def f():\n    raise ValueError('x')", Err("ValueError: x"), prepare=full_stderr),
    Case("stderr on a full device, SIGTERM", "import time\ndef f():\n    open('started', 'w').close()\n    time.sleep(1000)", Stopped(),
         prepare=full_stderr, during=term(0.0, after="started"),
         after=lambda _, outcome: "" if outcome.exit == 79 else f"exit {outcome.exit}", control=False),
    Case("nohup", "import time\ndef f():\n    open('started', 'w').close()\n    time.sleep(0.5)\n    return 42", Ok(42),
         prepare=ignoring(signal.SIGHUP), during=term(0.0, after="started", number=signal.SIGHUP), control=False,
         after=lambda _, outcome: "the signal was acted upon" if "SIGHUP" in outcome.stderr else ""),
    Case("SIGCHLD is ignored at the start", "import os\ndef f():\n    os.kill(os.getpid(), 11)", Err("SIGSEGV"), prepare=ignoring(signal.SIGCHLD)),
    # What is on sys.path.
    *(Case(f"sys.path holds {name}", RETURNS, Ok(42), prepare=sitecustomize(f"import sys, pathlib\nsys.path.append({what})"))
      for name, what in (("a Path", "pathlib.Path('/tmp')"), ("bytes", "b'/tmp'"), ("None", "None"), ("a number", "7"))),
    # What lies where the runner looks.
    Case("a FIFO for func", RETURNS, Err("`.*func`.*FIFO"), prepare=fifo("func"), control=False),
    Case("a FIFO for the input", RETURNS, Err(r"`.*0\.in`.*FIFO"), prepare=fifo("0.in"), control=False),
    Case("a socket for func", RETURNS, Err("`.*func`.*socket"), prepare=listening("func"), control=False),
    Case("a device for func", RETURNS, Err("`.*func`.*device"), prepare=linked("func", "/dev/zero"), control=False),
    Case("FIFOs wherever an earlier attempt may have left a file", RETURNS, Ok(42), control=False,
         prepare=fifo("0.out", "0.json", "_htmap_transfer/0.out", "_htmap_transfer/0.json", ".htmap-exec-0.out.part",
                      "_htmap_current_checkpoint/.htmap-exec-manifest.json", "_htmap_cloudpickle.zip")),
    Case("links wherever the runner writes", RETURNS, Ok(42), prepare=victim, after=untouched, control=False),
    Case("a job ad of 1 GB", RETURNS, Ok(42), prepare=job_ad(b"", 2**30), control=False),
    Case("a job ad of 100,000 parentheses", RETURNS, Ok(42), control=False,
         prepare=job_ad(b"JobMaxVacateTime = " + b"(" * 100_000 + b"1" + b")" * 100_000 + b"\n")),
    Case("a FIFO for the job ad", RETURNS, Ok(42), prepare=fifo(".job.ad", ".machine.ad"), control=False),
    # The text of an argument is for people only.
    *(Case(f"the repr of an argument {how}", f"""
        import ctypes, os
        class Bad:
            def __repr__(self):
                {what}
        def f(x):
            return 42
        args = (Bad(),)
        """, Ok(42), control=False)
      for how, what in (("crashes Python", "ctypes.string_at(0)"), ("ends Python", "os._exit(3)"), ("kills Python", "os.kill(os.getpid(), 9)"))),
    # What a plain Python would do.
    Case("a line is seen at once", WAITS.replace("open(", "print('a line')\n    open("), Ok(42), during=seen_at_once),
    *(Case(f"stdout on {python}", """
        import sys
        def f():
            print("one", end=" ")
            print("two")
            sys.stdout.buffer.write(b"three\\n")
            return type(sys.stdout.buffer).__name__, sys.stdout.line_buffering, sys.stdout is sys.__stdout__
        """, Ok(("BufferedWriter", True, True), stdout="one two\nthree\n"), python=lambda python=python: python)
      for python in OLDEST_AND_NEWEST),
    Case("no thread of ours runs when the function forks", "import threading\ndef f(x):\n    return len(threading.enumerate())\nargs = ([set()] * 9,)",
         Ok(1)),
    *(Case(f"workers by {method}", by_method(method), Ok(True), options=GRACE) for method in ("fork", "spawn", "forkserver")),
    # Which cloudpickle.
    Case("the node's cloudpickle is older than the one that was sent", RETURNS, Ok(42), prepare=old_cloudpickle,
         after=used("_htmap_cloudpickle.zip"), control=False),
    Case("the node's cloudpickle is the one that was sent", RETURNS, Ok(42), prepare=ship, after=used("site-packages"), control=False),
    # Who one is.
    Case("HOME is /, no name", """
        import getpass, os, pathlib
        def f():
            cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
            os.makedirs(cache, exist_ok=True)
            pathlib.Path(cache, "x").write_text("x")
            return getpass.getuser()
        """, Ok(where=lambda name: bool(name)), prepare=nowhere_at_home, skip=no_system_python),
]  # fmt: skip
