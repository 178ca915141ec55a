"""The node is odd: no HOME, no user, no name, no descriptors, strange files, strange places. All of it must be OK."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from faults_inputs import as_nobody, no_system_python, same_minor_as_system, the_system_python
from support.cases import Case, Err, Ok
from support.environment import binary, can_unshare
from support.scratch import Scratch

SIMPLE = "def f(x):\n    print('at work')\n    return 2 * x\nargs = (21,)"
RAISES = "def f():\n    raise ValueError('still told')"
DONE = Ok(42, stdout="at work")
TOLD = Err("ValueError: still told")


def env(*gone: str, **set_to: str) -> Callable[[Scratch], object]:
    def change(scratch: Scratch) -> None:
        for name in gone:
            scratch.env.pop(name, None)
        scratch.env.update(set_to)

    return change


def both(*steps: Callable[[Scratch], object]) -> Callable[[Scratch], object]:
    def take_all(scratch: Scratch) -> None:
        for step in steps:
            step(scratch)

    return take_all


def only_scratch_dir(scratch: Scratch) -> None:
    scratch.env = {"_CONDOR_SCRATCH_DIR": scratch.env["_CONDOR_SCRATCH_DIR"]}


def closed(*fds: int) -> Callable[[Scratch], object]:
    def close() -> None:
        for fd in fds:
            os.close(fd)

    return lambda scratch: setattr(scratch, "before_exec", close)


def stdout_to(path: str) -> Callable[[Scratch], object]:
    return lambda scratch: setattr(scratch, "stdout", Path(path))


def no_uts_namespace() -> str | None:
    return None if can_unshare("--uts") else "UTS namespaces are not permitted here"


def no_net_namespace() -> str | None:
    return None if can_unshare("--net", "--uts") else "network namespaces are not permitted here"


def without_name(scratch: Scratch) -> None:
    scratch.wrapper = ["unshare", "--uts", "sh", "-c", 'hostname nowhere-to-be-found.invalid; exec "$@"', "sh"]


def without_network(scratch: Scratch) -> None:
    scratch.wrapper = ["unshare", "--uts", "--net", "sh", "-c", 'hostname nowhere-to-be-found; exec "$@"', "sh"]


def file_named(name: bytes, content: bytes = b"") -> Callable[[Scratch], object]:
    def write(scratch: Scratch) -> None:
        with open(os.path.join(os.fsencode(scratch.dir), name), "wb") as file:
            file.write(content)

    return write


def stray(*names: str, content: str = "raise ImportError('a stray file of the user')\n") -> Callable[[Scratch], object]:
    def write(scratch: Scratch) -> None:
        for name in names:
            scratch.write(name, content)

    return write


def stray_standard_library(scratch: Scratch) -> None:
    # `__future__` and the like too: a folder full of a user's own modules with unlucky names.
    stray(*(f"{name}.py" for name in sorted(sys.stdlib_module_names)))(scratch)


def many_files(scratch: Scratch) -> None:
    for i in range(500):
        directory = scratch.dir / f"d{i:03}"
        directory.mkdir()
        for j in range(100):
            (directory / f"file{j:02}.txt").touch()


def loops(scratch: Scratch) -> None:
    for i in range(8):
        (scratch.dir / f"d{i}").mkdir()
        (scratch.dir / f"d{i}" / "up").symlink_to("..")
    (scratch.dir / "me").symlink_to("me")
    (scratch.dir / "a").symlink_to("b")
    (scratch.dir / "b").symlink_to("a")
    (scratch.dir / "gone").symlink_to("/no/such/target")
    (scratch.dir / "root").symlink_to("/")


def special_files(scratch: Scratch) -> None:
    os.mkfifo(scratch.dir / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    # Bound by a short name: socket paths are limited to 107 bytes.
    where = os.open(scratch.dir, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{where}/socket")
    os.close(where)
    scratch.undo.append(listener.close)


def deep(scratch: Scratch) -> None:
    """Deeper than PATH_MAX."""
    at = os.open(scratch.dir, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=at)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def unreadable_directory(scratch: Scratch) -> None:
    (scratch.dir / "closed").mkdir()
    as_nobody(scratch)
    (scratch.dir / "closed").chmod(0)


def linked_scratch(scratch: Scratch) -> None:
    """EXECUTE is a symlink: the environment names the link, the working directory is its target."""
    link = scratch.base / "execute-link"
    link.symlink_to(scratch.dir)
    scratch.env["_CONDOR_SCRATCH_DIR"] = str(link)


def called(name: str) -> Callable[[Scratch], object]:
    """The binary in the scratch directory under another name, with only the component's number."""

    def copy(scratch: Scratch) -> None:
        if scratch.is_control:
            return
        program = scratch.dir / name
        # By another process: the control's fork in the other thread would inherit a copy's descriptor (ETXTBSY).
        subprocess.run(["cp", str(binary()), str(program)], check=True)
        scratch.program = program
        scratch.arguments = [str(scratch.component)]

    return copy


def by_link(scratch: Scratch) -> None:
    link = scratch.base / "run.py"
    link.symlink_to(binary())
    scratch.program = link
    scratch.arguments = [str(scratch.component)]


def shorthand(scratch: Scratch) -> None:
    scratch.arguments = [str(scratch.component)]


def elsewhere(scratch: Scratch) -> None:
    if not scratch.is_control:
        scratch.working_directory = Path("/")


def by_option(scratch: Scratch) -> None:
    if not scratch.is_control:
        scratch.working_directory = Path("/")
        scratch.env["_CONDOR_SCRATCH_DIR"] = str(scratch.base)
        scratch.options = ["--scratch", str(scratch.dir)]


def limits(**values: int) -> Callable[[Scratch], object]:
    def set_all() -> None:
        for name, value in values.items():
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (value, value))

    return lambda scratch: setattr(scratch, "before_exec", set_all)


def case(name: str, prepare: Callable[[Scratch], object], source: str = SIMPLE, expect: Ok | Err = DONE,
         skip: Callable[[], str | None] | None = None, component: int = 0, control: bool = True) -> Case:  # fmt: skip
    return Case(name, source, expect, prepare=prepare, skip=skip, component=component, control=control)


def nobody(name: str, prepare: Callable[[Scratch], object], source: str = SIMPLE, expect: Ok | Err = DONE) -> Case:
    return Case(name, source, expect, prepare=prepare, skip=no_system_python, python=the_system_python,
                pickled_by=same_minor_as_system)  # fmt: skip


STRICT = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8:strict"}

CASES = [
    # Environment.
    case("no HOME", env("HOME")),
    case("HOME names nothing", env(HOME="/no/such/home")),
    case("no PATH", env("PATH")),
    case("empty PATH", env(PATH="")),
    case("no TMPDIR, and no LANG", env("TMPDIR", "LANG")),
    case("TMPDIR names nothing", env(TMPDIR="/no/such/tmp")),
    case("empty environment", lambda s: s.env.clear()),
    case("only _CONDOR_SCRATCH_DIR", only_scratch_dir),
    case("PYTHONPATH names nothing", env(PYTHONPATH="/no/such/path:/neither")),
    case("PYTHONSAFEPATH", both(env(PYTHONSAFEPATH="1"), stray("mine.py", content="answer = 42\n")), "def f():\n    import mine\n    return mine.answer", Ok(42)),
    case("PYTHONOPTIMIZE and PYTHONDONTWRITEBYTECODE", env(PYTHONOPTIMIZE="2", PYTHONDONTWRITEBYTECODE="1")),
    case("PYTHONWARNINGS=error", env(PYTHONWARNINGS="error")),
    case("PYTHONVERBOSE", env(PYTHONVERBOSE="1")),
    case("PYTHONINSPECT", env(PYTHONINSPECT="1")),
    case("LC_ALL=C", env(LC_ALL="C", LANG="C")),
    case("LC_ALL names no locale", env(LC_ALL="xx_YY.UTF-9")),
    case("an environment variable that is not UTF-8", env(ODD=os.fsdecode(b"caf\xe9"))),
    Case("HTMAP_ON_EXECUTE, HTMAP_COMPONENT and HTCondor's variables are there", """
        import os
        def f():
            return [os.environ.get(k) for k in ("HTMAP_ON_EXECUTE", "HTMAP_COMPONENT", "_CONDOR_SLOT", "OMP_NUM_THREADS")]
        """, Ok(["1", "3", "slot1_1", "1"]), component=3),
    Case("the working directory is the scratch directory", "import os\ndef f():\n    return {'.job.ad', 'func'} < set(os.listdir('.'))", Ok(True)),
    # Who and where.
    nobody("no passwd entry", as_nobody),
    nobody("no passwd entry, no HOME, no PATH", both(as_nobody, env("HOME", "PATH"))),
    nobody("no passwd entry, HOME of another", both(as_nobody, env(HOME="/root"))),
    nobody("no passwd entry, raises", as_nobody, RAISES, TOLD),
    nobody("an unreadable directory", unreadable_directory),
    nobody("an unreadable directory made by the function", as_nobody,
           "import os\ndef f():\n    print('at work')\n    os.mkdir('closed')\n    os.chmod('closed', 0)\n    return 42"),
    nobody("the scratch directory unreadable but searchable", both(as_nobody, lambda s: s.dir.chmod(0o300))),
    nobody("the transfer directory can be written but not read", as_nobody,
           "import os\ndef f():\n    print('at work')\n    os.chmod('_htmap_transfer', 0o300)\n    return 42"),
    case("unresolvable host name", without_name, skip=no_uts_namespace),
    case("unresolvable host name, raises", without_name, RAISES, TOLD, no_uts_namespace),
    case("no network at all", without_network, skip=no_net_namespace),
    # Descriptors.
    case("closed stdin", closed(0)),
    case("closed stdout", closed(1), expect=Ok(42)),
    case("closed stderr", closed(2)),
    case("closed stdin, stdout and stderr", closed(0, 1, 2), expect=Ok(42)),
    case("closed stdin, stdout and stderr, raises", closed(0, 1, 2), RAISES, TOLD),
    case("stdout is full", stdout_to("/dev/full"), "def f():\n    return 42", Ok(42)),
    case("few descriptors", limits(NOFILE=32)),
    case("no core files, small stack", limits(CORE=0, STACK=2**20)),
    case("1 GiB of address space", limits(AS=2**30)),
    # Names of files.
    case("a file name that is not UTF-8", file_named(b"caf\xe9.dat")),
    case("a file name that is not UTF-8, strict C locale", both(file_named(b"caf\xe9.dat"), env(**STRICT))),
    case("a file name that is not UTF-8, strict C locale, raises",
         both(file_named(b"caf\xe9.dat"), env(**STRICT)), RAISES, TOLD),
    case("a file name that is not UTF-8, made by the function, strict C locale", env(**STRICT),
         "def f():\n    print('at work')\n    open(b'caf\\xe9', 'w').close()\n    return 42"),
    case("a UTF-8 file name under ASCII", both(file_named("żółw".encode()), env(LC_ALL="C", PYTHONIOENCODING="ascii:strict"))),
    case("a file name with newlines and escapes", file_named(b"a\nb\x1b[2J\x07c")),
    case("a file name of 255 bytes", file_named(b"n" * 255)),
    case("symlinks in circles", loops),
    case("symlinks in circles, raises", loops, RAISES, TOLD),
    case("a FIFO and a socket", special_files),
    case("deeper than PATH_MAX", deep),
    case("50,000 files", many_files, expect=Ok(42, stdout="at work", stdout_limit=1_000_000)),
    case("50,000 files, raises", many_files, RAISES, TOLD),
    # Strays.
    *(case(f"a stray {name}.py", stray(f"{name}.py")) for name in (
        "gzip", "types", "socket", "pickle", "os", "io", "struct", "traceback", "threading", "datetime", "subprocess",
        "getpass", "pathlib", "cloudpickle", "htmap_exec", "sitecustomize", "encodings", "__main__")),
    case("a stray gzip.py, raises", stray("gzip.py"), RAISES, TOLD),
    case("a stray traceback.py and linecache.py, raises", stray("traceback.py", "linecache.py", "textwrap.py", "reprlib.py"), RAISES, TOLD),
    case("a stray that exits", stray("types.py", content="import os\nos._exit(3)\n")),
    case("a stray encodings/ and collections/", stray("encodings/__init__.py", "collections/__init__.py")),
    case("every module of the standard library as a stray", stray_standard_library),
    case("every module of the standard library as a stray, raises", stray_standard_library, RAISES, TOLD),
    case("PYTHONPATH is the scratch directory, with stray modules",
         both(stray("fractions.py", "decimal.py"), lambda s: s.env.update(PYTHONPATH=str(s.dir)))),
    # Places.
    case("a scratch directory with a space", lambda s: s.rename("scratch dir")),
    case("a scratch directory that is not UTF-8", lambda s: s.rename(b"scr\xe4tch")),
    case("a scratch directory that is not UTF-8, raises", lambda s: s.rename(b"scr\xe4tch"), RAISES, TOLD),
    case("a scratch directory with quotes and newlines", lambda s: s.rename("a'b\"c\nd$e")),
    case("the scratch directory is reached by a link", linked_scratch),
    # How it is called.
    case("htmap-exec N", shorthand),
    case("as condor_exec.exe", called("condor_exec.exe")),
    case("as run.py in the scratch directory", called("run.py")),
    case("as a name with a space", called("my program")),
    case("as a name that is not UTF-8", called(os.fsdecode(b"pr\xf6gram"))),
    case("through a symlink", by_link),
    case("from another directory", elsewhere, control=False),
    case("--scratch", by_option, control=False),
    case("component 100000", shorthand, component=100000),
    case("no ads in the scratch directory", both(lambda s: (s.dir / ".job.ad").unlink(), lambda s: (s.dir / ".machine.ad").unlink())),
    case("ads that are garbage", both(lambda s: s.write(".job.ad", os.urandom(1000)), lambda s: s.write(".machine.ad", b"=\n= =\nx"))),
]  # fmt: skip
