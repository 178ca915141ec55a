"""`func`, `N.in`, the modules they need and the Python itself: missing, broken or not what they seem."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

from support.cases import Case, Err, Ok
from support.environment import (
    Python,
    base_python_2,
    binary,
    can_unshare,
    cloudpickle_package,
    is_root,
    main_python,
    pythons,
    system_python,
)
from support.scratch import Scratch

SIMPLE = "def f(x):\n    return 2 * x\nargs = (21,)"
NOBODY = 54321


def only_root() -> str | None:
    return None if is_root() else "only root may change the user"


def no_mount_namespace() -> str | None:
    return None if can_unshare("--mount") else "mount namespaces are not permitted here"


def no_system_python() -> str | None:
    if not is_root():
        return "only root may change the user"
    return None if system_python() is not None else "there is no /usr/bin/python3"


def the_system_python() -> Python:
    python = system_python()
    assert python is not None
    return python


def same_minor_as_system() -> Python:
    """Pickles for the system's Python, by one that has cloudpickle."""
    return pythons().get(the_system_python().minor, main_python())


def change(name: str, how: Callable[[bytes], bytes]) -> Callable[[Scratch], object]:
    return lambda scratch: scratch.edit(name, how)


def gone(*names: str) -> Callable[[Scratch], object]:
    def remove(scratch: Scratch) -> None:
        for name in names:
            (scratch.dir / name).unlink()

    return remove


def a_directory(name: str) -> Callable[[Scratch], object]:
    def make(scratch: Scratch) -> None:
        (scratch.dir / name).unlink()
        (scratch.dir / name).mkdir()

    return make


def a_dangling_link(name: str) -> Callable[[Scratch], object]:
    def make(scratch: Scratch) -> None:
        (scratch.dir / name).unlink()
        (scratch.dir / name).symlink_to("/no/such/target")

    return make


def unreadable(name: str) -> Callable[[Scratch], object]:
    def make(scratch: Scratch) -> None:
        as_nobody(scratch)
        (scratch.dir / name).chmod(0)

    return make


def as_nobody(scratch: Scratch) -> None:
    """A user without a passwd entry, on the system's Python, which it may run, with cloudpickle as an input."""
    scratch.ship_cloudpickle("lib")
    scratch.env["PYTHONPATH"] = str(scratch.dir / "lib")
    scratch.give_to(NOBODY)


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_trailer(content: bytes) -> bytes:
    return content[:-8]


def wrong_checksum(content: bytes) -> bytes:
    return content[:-8] + bytes(4) + content[-4:]


def pickle_halved(content: bytes) -> bytes:
    inside = gzip.decompress(content)
    return gzip.compress(inside[: len(inside) // 2])


def unpickled(thing: object) -> Callable[[bytes], bytes]:
    return lambda _: gzip.compress(pickle.dumps(thing, protocol=2))


def each(name: str) -> list[Case]:
    """What can be wrong with either file; the report names it."""
    said = name.replace(".", r"\.")
    ways: list[tuple[str, Callable[[Scratch], object], Callable[[], str | None] | None]] = [
        ("missing", gone(name), None),
        ("empty", change(name, lambda _: b""), None),
        ("truncated", change(name, halved), None),
        ("without its last 8 bytes", change(name, without_trailer), None),
        ("with a wrong checksum", change(name, wrong_checksum), None),
        ("garbage", change(name, lambda _: os.urandom(4096)), None),
        ("a gzip of garbage", change(name, lambda _: gzip.compress(b"\xff" * 300)), None),
        ("a gzip of nothing", change(name, lambda _: gzip.compress(b"")), None),
        ("a gzip of half a pickle", change(name, pickle_halved), None),
        ("an HTML page", change(name, lambda _: b"<html><body>503 Service Unavailable</body></html>"), None),
        ("a zlib stream", change(name, lambda content: zlib.compress(gzip.decompress(content))), None),
        ("a directory", a_directory(name), None),
        ("a dangling link", a_dangling_link(name), None),
    ]
    cases = [Case(f"{name} is {what}", SIMPLE, Err(said), prepare=prepare, skip=skip) for what, prepare, skip in ways]
    nobody = Case(
        f"{name} is unreadable",
        SIMPLE,
        Err(said, "(?i)permission"),
        prepare=unreadable(name),
        skip=no_system_python,
        python=the_system_python,
        pickled_by=same_minor_as_system,
    )
    return [*cases, nobody]


def script(text: str, *, mode: int = 0o755) -> Callable[[Scratch], object]:
    """Put a Python in place that is a shell script."""

    def make(scratch: Scratch) -> None:
        path = scratch.base / "python3"
        path.write_text(text)
        path.chmod(mode)
        scratch.python = Python(path, (3, 11, 0))

    return make


def python_at(path: str) -> Callable[[Scratch], object]:
    def point(scratch: Scratch) -> None:
        scratch.python = Python(Path(path), (3, 11, 0))

    return point


def no_python_2() -> str | None:
    return None if base_python_2() is not None else "this machine has no Python 2"


def python_2(scratch: Scratch) -> None:
    path = base_python_2()
    assert path is not None
    scratch.python = Python(path, (2, 7, 18))


def found_on_path(prepare: Callable[[Scratch], object]) -> Callable[[Scratch], object]:
    """The same Python, but to be discovered, in front of the good ones."""

    def put(scratch: Scratch) -> None:
        good = scratch.python.path.parent
        prepare(scratch)
        scratch.name_python = False
        first = scratch.base / "first"
        first.mkdir()
        for name in ("python3", "python"):
            (first / name).symlink_to(scratch.python.path)
        scratch.env["PATH"] = f"{first}:{good}:/usr/bin:/bin"

    return put


def discovered(scratch: Scratch) -> None:
    scratch.name_python = False


def in_virtual_env(scratch: Scratch) -> None:
    scratch.name_python = False
    scratch.env["PATH"] = "/usr/bin:/bin"
    scratch.env["VIRTUAL_ENV"] = str(scratch.python.path.parent.parent)


def bare(scratch: Scratch) -> None:
    """A virtual environment of the same Python with nothing in it, not even pip."""
    place = scratch.base / "bare"
    subprocess.run([scratch.python.path, "-m", "venv", "--without-pip", place], check=True)
    scratch.python = Python(place / "bin" / "python", scratch.python.version)


def zipped(name: str) -> Callable[[Scratch], object]:
    def make(scratch: Scratch) -> None:
        bare(scratch)
        inside = scratch.base / "zip"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(cloudpickle_package(), inside / "cloudpickle", ignore=ignore)
        made = shutil.make_archive(str(scratch.base / "made"), "zip", inside)
        shutil.move(made, scratch.dir / name)

    return make


def broken_zip(scratch: Scratch) -> None:
    bare(scratch)
    scratch.write("_htmap_cloudpickle.zip", b"PK\x03\x04 but no more")


def cloudpickle_as_input(scratch: Scratch) -> None:
    bare(scratch)
    scratch.ship_cloudpickle()


def without_any_python(scratch: Scratch) -> None:
    """A node where nothing that could be Python exists: every usual place is hidden behind an empty directory."""
    empty = scratch.base / "empty"
    empty.mkdir()
    places = [place for place in ("/usr/local", "/opt", "/root", "/home", "/usr/bin") if Path(place).is_dir()]
    # /usr/bin comes last: after it the shell has no program left but the static binary.
    steps = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", *(f"mount --bind {empty} {place}" for place in places), "PATH="]
    unshare = shutil.which("unshare") or "unshare"
    shell = ["/bin/sh", "-c", "; ".join(steps) + '; exec "$@"', "sh"]
    scratch.wrapper = [unshare, "--mount", "--propagation", "private", *shell]
    scratch.name_python = False
    scratch.env["PATH"] = ""
    program = scratch.base / "htmap-exec"
    if not scratch.is_control:
        shutil.copy(binary(), program)
        scratch.program = program


def put(*names_and_contents: str) -> Callable[[Scratch], object]:
    def write(scratch: Scratch) -> None:
        for name, content in zip(names_and_contents[::2], names_and_contents[1::2], strict=True):
            scratch.write(name, content)

    return write


MISSING_MODULE = """
    import sys, types
    module = types.ModuleType("cluster_only_module")
    exec("def work(x):\\n    return x", module.__dict__)
    module.work.__module__ = "cluster_only_module"
    sys.modules["cluster_only_module"] = module
"""

CASES = [
    *each("func"),
    *each("0.in"),
    Case("both files are missing", SIMPLE, Err("func|0\\.in"), prepare=gone("func", "0.in")),
    Case("func holds no function", SIMPLE, Err("'int' object is not callable"), prepare=change("func", unpickled(42))),
    Case("0.in holds no arguments", SIMPLE, Err(r"0\.in|unpack"), prepare=change("0.in", unpickled(5))),
    Case("0.in holds three things", SIMPLE, Err(r"0\.in|unpack"), prepare=change("0.in", unpickled((1, 2, 3)))),
    Case("pickle of a protocol from the future", SIMPLE, Err("func", "(?i)protocol"),
         prepare=change("func", lambda _: gzip.compress(b"\x80\x63N."))),
    Case("func in two gzip members", SIMPLE, Ok(42), prepare=change("func", lambda content: (
        gzip.compress(gzip.decompress(content)[:20]) + gzip.compress(gzip.decompress(content)[20:])))),
    Case("arguments of 200 MB", "def f(x):\n    return len(x)\nargs = (bytes(200 * 2**20),)", Ok(200 * 2**20), timeout=90),
    Case("loading the arguments raises", """
        class Sender:
            def __reduce__(self):
                return eval, ("1 / 0",)
        def f(x):
            return x
        args = (Sender(),)
        """, Err("ZeroDivisionError", r"0\.in")),
    Case("loading the arguments calls sys.exit", """
        class Sender:
            def __reduce__(self):
                return eval, ("__import__('sys').exit('while loading')",)
        def f(x):
            return x
        args = (Sender(),)
        """, Err("SystemExit: while loading")),
    # Modules.
    Case("the pickle needs a missing module", MISSING_MODULE + "    f = module.work\n    args = (1,)\n",
         Err("No module named 'cluster_only_module'", "{python}")),
    Case("the arguments need a missing module", MISSING_MODULE + "    def f(x):\n        return 1\n    args = (module.work,)\n",
         Err("No module named 'cluster_only_module'", "{python}", r"0\.in")),
    Case("the function imports a missing module", "def f():\n    import cluster_only_module\n",
         Err("No module named 'cluster_only_module'", "{python}", "in f")),
    Case("the function imports a missing submodule", "def f():\n    import xml.cluster_only_module\n",
         Err("No module named 'xml.cluster_only_module'", "{python}")),
    Case("a module lacks the function", MISSING_MODULE + "    f = module.work\n    args = (1,)\n",
         Err("(?i)attribute", "work", "cluster_only_module"),
         prepare=put("cluster_only_module.py", "x = 1\n")),
    Case("a module of the user's is an input file", MISSING_MODULE + "    f = module.work\n    args = (42,)\n", Ok(42),
         prepare=put("cluster_only_module.py", "def work(x):\n    return x\n")),
    Case("a package of the user's is an input directory", "def f():\n    from mine.deep import answer\n    return answer\n", Ok(42),
         prepare=put("mine/__init__.py", "", "mine/deep.py", "answer = 42\n")),
    Case("a module of the user's does not parse", MISSING_MODULE + "    f = module.work\n    args = (42,)\n",
         Err("SyntaxError", "cluster_only_module"),
         prepare=put("cluster_only_module.py", "def work(:\n")),
    # cloudpickle.
    Case("no cloudpickle", SIMPLE, Err("cloudpickle", "{python}"), prepare=bare),
    Case("no cloudpickle, the submit side's beside", SIMPLE, Ok(42), prepare=zipped("_htmap_cloudpickle.zip"), control=False),
    Case("no cloudpickle, the submit side's by --cloudpickle", SIMPLE, Ok(42), prepare=zipped("cp.zip"),
         options=("--cloudpickle", "cp.zip"), control=False),
    Case("no cloudpickle, the archive is broken", SIMPLE, Err("cloudpickle"), prepare=broken_zip, control=False),
    Case("no cloudpickle, --cloudpickle names nothing", SIMPLE, Err("cloudpickle|nothing.zip"), prepare=bare,
         options=("--cloudpickle", "nothing.zip"), control=False),
    Case("cloudpickle is an input directory", SIMPLE, Ok(42), prepare=cloudpickle_as_input),
    # Python itself.
    Case("--python names no file", SIMPLE, Err("/no/such/python3"), prepare=python_at("/no/such/python3"), control=False),
    Case("--python names a directory", SIMPLE, Err("/tmp"), prepare=python_at("/tmp"), control=False),
    Case("--python names a file that is not executable", SIMPLE, Err("python3", "(?i)permission|not executable"),
         prepare=script("#!/bin/sh\nexit 0\n", mode=0o644), control=False),
    Case("--python names an empty file", SIMPLE, Err("python3"), prepare=script(""), control=False),
    Case("--python names garbage", SIMPLE, Err("python3", "(?i)exec|format"), prepare=script("\x7fELFgarbage"), control=False),
    Case("Python is a script that exits 1", SIMPLE, Err("python3", "(?i)exit", "licence expired"),
         prepare=script("#!/bin/sh\necho licence expired >&2\nexit 1\n"), control=False),
    Case("Python is a script that exits 0", SIMPLE, Err("python3"), prepare=script("#!/bin/sh\nexit 0\n"), control=False),
    Case("Python is a script that prints nonsense", SIMPLE, Err("python3"),
         prepare=script("#!/bin/sh\necho 'Python 3.11.7? (maybe)'\n"), control=False),
    Case("Python is a script that hangs", SIMPLE, Err("python3", "(?i)time|answer|second"),
         prepare=script("#!/bin/sh\nsleep 1000\n"), options=("--start-limit", "3"), control=False),
    Case("Python is a script with a missing interpreter", SIMPLE, Err("python3"),
         prepare=script("#!/no/such/interpreter\n"), control=False),
    Case("Python dies by a signal at its start", SIMPLE, Err("python3", "SIGSEGV"),
         prepare=script("#!/bin/sh\nkill -SEGV $$\n"), control=False),
    Case("Python is a script that calls Python", SIMPLE, Ok(42), prepare=lambda s: script(
        f'#!/bin/sh\nexec {main_python().path} "$@"\n')(s)),
    Case("Python too old", SIMPLE, Err(r"2\.7", "(?i)old|3\\.6"), prepare=python_2, skip=no_python_2, control=False),
    Case("found: on PATH", SIMPLE, Ok(42), prepare=discovered),
    Case("found: in VIRTUAL_ENV", SIMPLE, Ok(42), prepare=in_virtual_env),
    Case("found: the second, for the first exits 1", SIMPLE, Ok(42),
         prepare=found_on_path(script("#!/bin/sh\nexit 1\n")), control=False),
    Case("found: the second, for the first hangs", SIMPLE, Ok(42),
         prepare=found_on_path(script("#!/bin/sh\nsleep 1000\n")), options=("--start-limit", "3"), control=False),
    Case("found: the second, for the first is too old", SIMPLE, Ok(42),
         prepare=found_on_path(python_2), skip=no_python_2, control=False),
    Case("no Python on the node", SIMPLE, Err("(?i)no (usable |suitable )?python", "/usr/bin|PATH"),
         prepare=without_any_python, skip=no_mount_namespace),
]  # fmt: skip
