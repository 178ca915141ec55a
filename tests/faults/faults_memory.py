"""Memory runs out: for Python, for a worker, for somebody else; or it only looks so. And what is not there to load."""

from __future__ import annotations

import ctypes
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from faults_deaths import MEMORY_CGROUP, in_small_cgroup, memory_limit, no_memory_cgroup
from support.cases import Case, Err, Ok
from support.environment import can_unshare, is_root
from support.outcome import Outcome
from support.scratch import Scratch

# A control group's limit kills who does this; where there is none, nothing happens.
BOMB = "hoard = [bytes(2**20) + b'x' * 2**20 for _ in range(200)]"

KILLED = (
    "the kernel killed a process of this job for lack of memory",
    "the limit is 64 MiB",
    r"request_memory \(this job asked for 128 MiB\)",
)


def without(*words: str) -> str:
    """A pattern for a report that has none of these words."""
    return r"(?s)\A" + "".join(f"(?!.*{word})" for word in words)


def run_record(scratch: Scratch) -> dict[str, object]:
    """Empty beside the control, which writes none."""
    path = scratch.out.parent / f"{scratch.component}.json"
    record: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    return record


def wrapped(scratch: Scratch) -> None:
    """A script in the place of Python, as sites have them: it hands on an exit status, and no signal."""
    wrapper = scratch.base / "python"
    wrapper.write_text(f'#!/bin/sh\n{shlex.quote(str(scratch.python.path))} "$@"\nstatus=$?\nexit $status\n')
    wrapper.chmod(0o755)
    scratch.name_python = False
    scratch.options += ["--python", str(wrapper)]


def wrapped_in_small_cgroup(scratch: Scratch) -> None:
    wrapped(scratch)
    in_small_cgroup(scratch)


def killed_at_its_start(scratch: Scratch) -> None:
    wrapped(scratch)
    wrapper = scratch.base / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(scratch.python.path))} -c "{BOMB}"\n')
    in_small_cgroup(scratch)


def no_version_1() -> str | None:
    if not (MEMORY_CGROUP / "memory.limit_in_bytes").exists():
        return "memory is not counted by version 1 here"
    return no_mounts() or (None if can_unshare("--cgroup") else "cgroup namespaces are not permitted here")


def in_container(mounts: str, *options: str) -> Callable[[Scratch], None]:
    """The small cgroup, seen as a container sees it."""

    def prepare(scratch: Scratch) -> None:
        in_small_cgroup(scratch)
        group = MEMORY_CGROUP / f"htmap-exec-test-{scratch.marker}"
        within(scratch, mounts.format(group=group, memory=MEMORY_CGROUP), *options, before=scratch.wrapper)

    return prepare


def no_mounts() -> str | None:
    return None if is_root() and can_unshare("--mount") else "only root may mount something over /proc"


def within(scratch: Scratch, mounts: str, *options: str, before: Sequence[str] = ()) -> None:
    """The component runs where this was mounted first, seen by nobody else."""
    unshare = ["unshare", "--mount", "--propagation", "private", *options]
    scratch.wrapper = [*before, *unshare, "sh", "-ec", f'{mounts}\nexec "$@"', "sh"]


def nothing_readable(scratch: Scratch) -> None:
    # The groups' directories are named in mountinfo still.
    within(scratch, "mount -t tmpfs none /sys/fs/cgroup\nmount --bind /dev/null /proc/vmstat")


def version_2(*, shared: bool) -> Callable[[Scratch], None]:
    """A machine with control groups of version 2, as files; $$ becomes the runner."""

    def prepare(scratch: Scratch) -> None:
        proc, top = scratch.base / "proc", scratch.base / "groups"
        group = top / "htcondor" / "slot1"
        group.mkdir(parents=True)
        (group / "memory.max").write_text("max\n")
        (group.parent / "memory.max").write_text(f"{64 * 2**20}\n")
        for each in (group, group.parent):
            (each / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "mountinfo").write_text(f"30 23 0:26 / {top} rw - cgroup2 cgroup2 rw\n")
        (proc / "self" / "cgroup").write_text("0::/htcondor/slot1\n")
        (proc / "77").mkdir()
        (proc / "77" / "stat").write_text("77 (another job) S 0 77 77\n")
        others = f"echo 77 >> {group}/cgroup.procs\n" if shared else ""
        mounts = f"""
            echo $$ > {group}/cgroup.procs
            {others}
            mkdir {proc}/$$
            echo "$$ (htmap-exec) S 0 1 1" > {proc}/$$/stat
            mount --bind {proc} /proc
        """
        within(scratch, mounts)
        # What the kernel does when it kills a process of the group.
        scratch.env["EVENTS"] = str(group / "memory.events")

    return prepare


KERNEL_COUNTS = 'open(os.environ["EVENTS"], "w").write("oom 1\\noom_kill 1\\noom_group_kill 0\\n")'


def is_warned(scratch: Scratch, outcome: Outcome) -> str:
    warned = "WARN" in outcome.stderr and "killed a process of this job for lack of memory" in outcome.stderr
    return "" if warned else "nobody was told while the function still ran"


def is_counted(scratch: Scratch, outcome: Outcome) -> str:
    record = run_record(scratch)
    right = record.get("memory_kills") == 1 and record.get("memory_limit") == 64 * 2**20
    return "" if right else f"the run record has {record}"


def peaks_between(least: int, most: int, of: str) -> Callable[[Scratch, Outcome], str]:
    def after(scratch: Scratch, outcome: Outcome) -> str:
        record = run_record(scratch)
        peak = record["peak_memory"]
        assert isinstance(peak, int)
        right = least <= peak >> 20 <= most and record["peak_memory_of"] == of
        return "" if right else f"the peak is {peak >> 20} MiB of the {record['peak_memory_of']}"

    return after


def no_standard_library_of_cpp() -> str | None:
    try:
        ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return "libstdc++ is not on this machine"
    return None


def no_compiler() -> str | None:
    return None if shutil.which("gcc") else "there is no gcc"


def module_without_its_library(scratch: Scratch) -> None:
    """A compiled module whose library was on the submit machine only."""
    library, source = scratch.base / "libfaraway.so.7", scratch.base / "empty.c"
    source.write_text("")
    build: list[str | Path] = ["gcc", "-shared", "-fPIC", source, "-o"]
    subprocess.run([*build, library, "-Wl,-soname,libfaraway.so.7"], check=True)
    subprocess.run([*build, scratch.dir / "faraway.so", "-Wl,--no-as-needed", library], check=True)
    library.unlink()


def read_only_place(scratch: Scratch) -> None:
    within(scratch, "mount -t tmpfs -o ro none /mnt")


CASES = [
    Case(
        "worker of a ProcessPoolExecutor in a cgroup",
        f"""
        from concurrent.futures import ProcessPoolExecutor
        def f():
            with ProcessPoolExecutor(1) as pool:
                return pool.submit(exec, "{BOMB}").result()
        """,
        Err("BrokenProcessPool", *KILLED),
        prepare=in_small_cgroup,
        skip=no_memory_cgroup,
    ),
    Case(
        "worker of a Pool in a cgroup is replaced, and its work never ends",
        f"""
        import multiprocessing
        def f():
            with multiprocessing.Pool(1) as pool:
                return pool.map(exec, ["{BOMB}"])
        """,
        Err("--timeout", *KILLED),
        prepare=in_small_cgroup,
        options=("--timeout", "6"),
        skip=no_memory_cgroup,
        after=is_warned,
    ),
    Case(
        "program in a cgroup",
        f"""
        import subprocess, sys
        def f():
            subprocess.run([sys.executable, "-c", "{BOMB}"], check=True)
        """,
        Err("CalledProcessError", *KILLED),
        prepare=in_small_cgroup,
        skip=no_memory_cgroup,
    ),
    Case(
        "grandchild in a cgroup, behind a shell",
        f"""
        import os, subprocess, sys
        def f():
            code = "{BOMB}"
            status = os.system('"' + sys.executable + '" -c "' + code + '"; exit $?')
            raise RuntimeError("status %d" % (status >> 8))
        """,
        Err("status 137", *KILLED),
        prepare=in_small_cgroup,
        skip=no_memory_cgroup,
    ),
    Case(
        "worker in a cgroup that is done without",
        f"""
        from concurrent.futures import ProcessPoolExecutor
        def f():
            try:
                with ProcessPoolExecutor(1) as pool:
                    return pool.submit(exec, "{BOMB}").result()
            except Exception as error:
                return type(error).__name__
        """,
        Ok("BrokenProcessPool"),
        prepare=in_small_cgroup,
        skip=no_memory_cgroup,
        after=is_counted,
    ),
    Case(
        "Python in a cgroup",
        f"def f():\n    {BOMB}",
        Err("killed by SIGKILL while running the function: it ran out of memory", "the limit is 64 MiB",
            "asked for 128 MiB", without("somebody killed")),
        prepare=in_small_cgroup,
        skip=no_memory_cgroup,
    ),
    Case(
        "Python behind a script in a cgroup",
        f"def f():\n    {BOMB}",
        Err("exit status 137", "SIGKILL: it ran out of memory", "the limit is 64 MiB", without(r"os\._exit")),
        prepare=wrapped_in_small_cgroup,
        skip=no_memory_cgroup,
        control=False,
    ),
    Case(
        "Python in a cgroup namespace",
        f"def f():\n    {BOMB}",
        Err("SIGKILL while running the function: it ran out of memory", "the limit is 64 MiB, of `" + str(MEMORY_CGROUP) + "`"),
        prepare=in_container("umount {memory}\nmount -t cgroup -o memory none {memory}", "--cgroup"),
        skip=no_version_1,
        control=False,
    ),
    Case(
        "Python in a container that shares the host's cgroup namespace",
        f"def f():\n    {BOMB}",
        Err("SIGKILL while running the function: it ran out of memory", "the limit is 64 MiB, of `" + str(MEMORY_CGROUP) + "`"),
        prepare=in_container("mount --bind {group} {memory}"),
        skip=no_version_1,
        control=False,
    ),
    Case(
        "Python killed at its start in a cgroup",
        "def f():\n    return 1",
        Err("memory ran out while starting Python", *KILLED, without("--python PATH")),
        prepare=killed_at_its_start,
        skip=no_memory_cgroup,
        control=False,
    ),
    Case(
        "SIGKILL behind a script",
        "import os\ndef f():\n    os.kill(os.getpid(), 9)",
        Err("exit status 137", "was killed by SIGKILL", without(r"os\._exit", "request_memory")),
        prepare=wrapped,
        control=False,
    ),
    Case(
        "SIGTERM behind a script",
        "import os\ndef f():\n    os.kill(os.getpid(), 15)",
        Err("exit status 143", "was killed by SIGTERM", without(r"os\._exit", "request_memory")),
        prepare=wrapped,
        control=False,
    ),
    Case(
        "SIGKILL with memory left",
        "import os\ndef f():\n    os.kill(os.getpid(), 9)",
        Err("SIGKILL", "not for memory", "HTCondor, an administrator, or the function", without("request_memory")),
    ),
    Case(
        "SIGKILL with hardly any memory left",
        "import os\ndef f():\n    hoard = b'x' * 120 * 2**20\n    os.kill(os.getpid(), 9)",
        Err("SIGKILL", "perhaps Python took too much memory", "asked for 128 MiB"),
    ),
    Case(
        "SIGKILL where nothing can be read",
        "import os\ndef f():\n    os.kill(os.getpid(), 9)",
        Err("SIGKILL", "perhaps Python ran out of memory, which cannot be told on this node", "somebody killed it"),
        prepare=nothing_readable,
        skip=no_mounts,
    ),
    Case(
        "worker that ends itself",
        """
        import os
        from concurrent.futures import ProcessPoolExecutor
        def f():
            with ProcessPoolExecutor(1) as pool:
                return pool.submit(os._exit, 1).result()
        """,
        Err("BrokenProcessPool", "nobody for lack of memory", without("request_memory")),
    ),
    Case(
        "worker in a group of version 2",
        f"""
        import os
        def f():
            {KERNEL_COUNTS}
            raise RuntimeError("a worker is gone")
        """,
        Err("RuntimeError", *KILLED, r"groups/htcondor`\)"),
        prepare=version_2(shared=False),
        skip=no_mounts,
        control=False,
    ),
    Case(
        "Python in a group of version 2",
        f"import os\ndef f():\n    {KERNEL_COUNTS}\n    os.kill(os.getpid(), 9)",
        Err("SIGKILL", "it ran out of memory", r"the limit is 64 MiB, of `\S+/groups/htcondor`"),
        prepare=version_2(shared=False),
        skip=no_mounts,
        control=False,
    ),
    Case(
        "Python or another job in a group of version 2",
        f"import os\ndef f():\n    {KERNEL_COUNTS}\n    os.kill(os.getpid(), 9)",
        Err("SIGKILL", "perhaps", r"slot1`, which other jobs may share", without("it ran out of memory")),
        prepare=version_2(shared=True),
        skip=no_mounts,
        control=False,
    ),
    Case(
        "MemoryError under ulimit -v",
        "def f():\n    return len(bytearray(4 * 2**30))",
        Err("MemoryError", "1024 MiB", "RLIMIT_AS", "ulimit -v", "asked for 128 MiB"),
        prepare=memory_limit,
    ),
    Case(
        "no memory for a mapping under ulimit -v",
        "import mmap\ndef f():\n    mmap.mmap(-1, 4 * 2**30)",
        Err("OSError", "RLIMIT_AS", "asked for 128 MiB"),
        prepare=memory_limit,
    ),
    Case(
        "std::bad_alloc under ulimit -v",
        'import ctypes\ndef f():\n    ctypes.CDLL("libstdc++.so.6")._ZSt17__throw_bad_allocv()',
        Err("SIGABRT", "it ran out of memory", "bad_alloc", "RLIMIT_AS"),
        prepare=memory_limit,
        skip=no_standard_library_of_cpp,
    ),
    # The runner looks once a second, and tells nobody: the processes stay that long.
    Case(
        "peak of a tree",
        """
        import os, time
        def f():
            hoard = None
            for child in range(2):
                if not os.fork():
                    hoard = b"x" * 100 * 2**20
                    time.sleep(2.5)
                    os._exit(0)
            for child in range(2):
                os.wait()
            return 1
        """,
        Ok(1),
        control=False,
        after=peaks_between(200, 260, "tree"),
    ),
    Case(
        "peak of forks that share their memory",
        """
        import os, time
        def f():
            hoard = b"x" * 100 * 2**20
            for child in range(4):
                if not os.fork():
                    time.sleep(2.5)
                    os._exit(0)
            for child in range(4):
                os.wait()
            return 1
        """,
        Ok(1),
        control=False,
        after=lambda scratch, outcome: "" if run_record(scratch)["peak_memory"] < 180 * 2**20 else "counted twice",
    ),
    Case(
        "peak of one process",
        "def f():\n    return len(b'x' * 200 * 2**20)",
        Ok(200 * 2**20),
        control=False,
        after=peaks_between(200, 240, "process"),
    ),
    Case(
        "library that is not there",
        'import ctypes\ndef f():\n    ctypes.CDLL("libfaraway.so.7")',
        Err("OSError", "does not find the shared library `libfaraway.so.7`", without("lacks the module")),
    ),
    Case(
        "module whose library is not there",
        "def f():\n    import faraway",
        Err("ImportError", "does not find the shared library `libfaraway.so.7`", without("lacks the module")),
        prepare=module_without_its_library,
        skip=no_compiler,
    ),
    Case(
        "module that is another version",
        "def f():\n    from json import loads_faster",
        Err("ImportError", "module `json`", "another version", without("lacks the module")),
    ),
    Case(
        "place where nothing can be written",
        'def f():\n    open("/mnt/file", "w")',
        Err(r"\[Errno 30\]", "write to the scratch directory, `/", without("--no-mount")),
        prepare=read_only_place,
        skip=no_mounts,
    ),
]  # fmt: skip
