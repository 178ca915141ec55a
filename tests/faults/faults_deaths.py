"""Python dies: by every signal that kills, by its own hand, for want of memory, in the middle of a result."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from support.cases import Case, Err
from support.environment import is_root
from support.running import Running
from support.scratch import Scratch

# SIGSTOP and its like do not kill; SIGINT becomes KeyboardInterrupt (see exceptions).
DEADLY = [
    "SIGHUP", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV",
    "SIGUSR2", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGXCPU", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSYS",
]  # fmt: skip
# Python ignores these two from its start; a function may put the default back.
IGNORED = ["SIGPIPE", "SIGXFSZ"]


def by_signal(name: str) -> Case:
    # SIGIO is SIGPOLL by another name.
    said = "SIGIO|SIGPOLL" if name == "SIGIO" else name
    return Case(
        f"{name} to itself",
        f"""
        import os, signal, time
        def f():
            print("before the end")
            signal.signal(signal.{name}, signal.SIG_DFL) if signal.{name} not in (9,) else None
            os.kill(os.getpid(), signal.{name})
            time.sleep(30)
        """,
        Err(said, stdout="before the end"),
    )


def memory_limit(scratch: Scratch) -> None:
    # One GiB holds the runner's and Python's address space, not what the functions ask for.
    scratch.before_exec = lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))


MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")


def no_memory_cgroup() -> str | None:
    if not is_root():
        return "only root may make a cgroup"
    if (
        not (MEMORY_CGROUP / "memory.limit_in_bytes").exists()
        and not Path("/sys/fs/cgroup/cgroup.subtree_control").exists()
    ):
        return "no memory cgroup is mounted"
    return None


def in_small_cgroup(scratch: Scratch) -> None:
    """64 MiB for the whole job, as HTCondor's starter sets it up."""
    version_1 = (MEMORY_CGROUP / "memory.limit_in_bytes").exists()
    group = (MEMORY_CGROUP if version_1 else Path("/sys/fs/cgroup")) / f"htmap-exec-test-{scratch.marker}"
    group.mkdir()
    scratch.undo.append(group.rmdir)
    (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(64 * 2**20))
    swap = group / ("memory.memsw.limit_in_bytes" if version_1 else "memory.swap.max")
    if swap.exists():
        swap.write_text(str(64 * 2**20) if version_1 else "0")
    scratch.wrapper = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]


def kill_python_from_outside(running: Running) -> None:
    """As an out-of-memory killer or an operator does: Python only, in the middle of the function."""
    running.wait_for("python_pid")
    pid = int((running.scratch.dir / "python_pid").read_text())
    os.kill(pid, signal.SIGKILL)


BOMB = """
    import os, signal, time
    class Bomb:
        def __{hook}__(self{argument}):
            {death}
            {rest}
    def f():
        return [{ballast}, Bomb()]
"""


def bomb(name: str, hook: str, death: str, ballast: str, *patterns: str) -> Case:
    argument = ", protocol" if hook == "reduce_ex" else ""
    source = BOMB.format(hook=hook, argument=argument, death=death, ballast=ballast, rest="return (int, ())")
    return Case(name, source, Err(*patterns), timeout=90)


SMALL = "1"
# Random, so that it does not vanish in compression; made of few bytes, so that making it costs nothing.
LARGE = "os.urandom(2**20) * 200"
MANY = "[str(i) for i in range(3_000_000)]"

CASES = [
    *(by_signal(name) for name in DEADLY + IGNORED),
    Case(
        "SIGKILL to its own process group",
        "import os, signal\ndef f():\n    os.killpg(0, signal.SIGKILL)",
        Err("SIGKILL"),
    ),
    Case(
        "SIGKILL from outside",
        """
        import os, time
        def f():
            with open("python_pid.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("python_pid.new", "python_pid")
            time.sleep(60)
        """,
        Err("SIGKILL"),
        during=kill_python_from_outside,
    ),
    Case("real-time signal", "import os\ndef f():\n    os.kill(os.getpid(), 40)", Err("(?i)SIGRT|signal 40")),
    Case("os._exit(0)", "import os\ndef f():\n    os._exit(0)", Err(r"os\._exit|(?i:exit\w* (with )?(code|status) 0)")),
    Case("os._exit(3)", "import os\ndef f():\n    os._exit(3)", Err(r"\b3\b", r"(?i)exit")),
    Case("os._exit(255)", "import os\ndef f():\n    os._exit(255)", Err(r"\b255\b", r"(?i)exit")),
    Case("os._exit in a thread", """
        import os, threading, time
        def f():
            threading.Thread(target=os._exit, args=(4,)).start()
            time.sleep(30)
        """, Err(r"\b4\b", r"(?i)exit")),
    Case("os.abort", "import os\ndef f():\n    os.abort()", Err("SIGABRT", "Fatal Python error: Aborted", "in f")),
    Case(
        "segmentation fault",
        "import ctypes\ndef deeper():\n    ctypes.string_at(0)\ndef f():\n    deeper()",
        Err("SIGSEGV", "Fatal Python error: Segmentation fault", "in deeper"),
    ),
    Case(
        "segmentation fault in a thread",
        """
        import ctypes, threading
        def in_thread():
            ctypes.string_at(0)
        def f():
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()
        """,
        Err("SIGSEGV", "Segmentation fault", "in_thread"),
    ),
    Case(
        "stack overflow in C",
        """
        import sys, threading
        def f():
            sys.setrecursionlimit(10**9)
            def down(x):
                return sorted([x, x], key=down)
            down(1)
        """,
        Err("SIGSEGV"),
    ),
    Case(
        "a C library calls exit",
        "import ctypes\ndef f():\n    ctypes.CDLL(None).exit(7)",
        Err(r"\b7\b", r"(?i)exit"),
    ),
    Case(
        "a C library calls _exit(0)",
        "import ctypes\ndef f():\n    ctypes.CDLL(None)._exit(0)",
        Err(r"(?i)exit"),
    ),
    Case("exec of another program", 'import os\ndef f():\n    os.execv("/bin/true", ["true"])', Err("(?i)exit")),
    Case(
        "last words on stderr are in the report",
        'import os, sys\ndef f():\n    print("licence server unreachable", file=sys.stderr, flush=True)\n    os._exit(9)',
        Err("licence server unreachable", r"\b9\b"),
    ),
    Case("SIGKILL while the inputs are loaded", """
        class Sender:
            def __reduce__(self):
                return eval, ("__import__('os').kill(__import__('os').getpid(), 9)",)
        def f(x):
            return 1
        args = (Sender(),)
        """, Err("SIGKILL")),
    Case("os._exit while the inputs are loaded", """
        class Sender:
            def __reduce__(self):
                return eval, ("__import__('os')._exit(11)",)
        def f(x):
            return 1
        args = (Sender(),)
        """, Err(r"\b11\b", "(?i)exit")),
    # In the middle of pickling the result.
    bomb("os._exit in __reduce__ of a small result", "reduce", "os._exit(3)", SMALL, r"\b3\b", "(?i)exit"),
    bomb("os._exit in __reduce__ after 200 MB", "reduce", "os._exit(3)", LARGE, r"\b3\b", "(?i)exit"),
    bomb("SIGKILL in __reduce__ of a small result", "reduce", "os.kill(os.getpid(), 9)", SMALL, "SIGKILL"),
    bomb("SIGKILL in __reduce__ after 200 MB", "reduce", "os.kill(os.getpid(), 9)", LARGE, "SIGKILL"),
    bomb("SIGKILL in __reduce__ after 3,000,000 objects", "reduce", "os.kill(os.getpid(), 9)", MANY, "SIGKILL"),
    bomb("SIGSEGV in __getstate__ of a small result", "getstate", "__import__('ctypes').string_at(0)", SMALL,
         "SIGSEGV", "Segmentation fault"),
    bomb("SIGABRT in __getstate__ after 200 MB", "getstate", "os.abort()", LARGE, "SIGABRT"),
    bomb("os._exit(0) in __reduce_ex__ after 200 MB", "reduce_ex", "os._exit(0)", LARGE, "(?i)exit"),
    # Memory.
    Case("MemoryError under RLIMIT_AS", "def f():\n    return len(bytearray(4 * 2**30))", Err("MemoryError", "in f"),
         prepare=memory_limit),
    Case(
        "MemoryError with the memory really gone",
        "def f():\n    hoard = []\n    while True:\n        hoard.append(bytearray(2**20))",
        Err("MemoryError"),
        prepare=memory_limit,
    ),
    Case(
        "MemoryError under a limit set by the function",
        """
        import resource
        def f():
            resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
            hoard = []
            while True:
                hoard.append(list(range(10000)))
        """,
        Err("MemoryError"),
    ),
    Case(
        "MemoryError while the result is pickled",
        """
        class Greedy:
            def __reduce__(self):
                return bytes, (bytes(4 * 2**30),)
        def f():
            return Greedy()
        """,
        Err("MemoryError"),
        prepare=memory_limit,
    ),
    Case(
        "out of memory in a cgroup",
        "def f():\n    hoard = []\n    while True:\n        hoard.append(b'x' * 2**20)",
        Err("(?i)memory", "SIGKILL"),
        prepare=in_small_cgroup,
        skip=no_memory_cgroup,
    ),
    Case(
        "CPU time limit",
        """
        import resource
        def f():
            resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
            while True:
                pass
        """,
        Err("SIGXCPU|SIGKILL"),
    ),
]  # fmt: skip
