"""The version guard over whole bodies of code: every code object fits its own Python, and no other one unless it means the same.

The binary reads what each Python pickled, as a component's arguments, and says at `--log trace` for each code object
which versions can have written it. Each run reads a sample of the standard library; with HTMAP_EXEC_TEST_FULL=1 it is
all of it, and about thirty packages that pip downloads.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cases import dispose
from support.environment import Python, pythons
from support.outcome import Outcome
from support.running import Running, run_ours
from support.scratch import Scratch, make_pickles, new_base

MINORS = ["3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
MAKE_CODE = Path(__file__).parents[1] / "support" / "make_code.py"
FULL = os.environ.get("HTMAP_EXEC_TEST_FULL") == "1"
SEED = 20260102
SAMPLE = 12

PACKAGES = [
    "aiohttp", "astropy", "attrs", "boto3", "botocore", "celery", "cryptography", "dask", "django", "docutils", "fonttools",
    "hypothesis", "ipython", "jinja2", "lark", "matplotlib", "mpmath", "networkx", "numba", "numpy", "pandas", "pillow",
    "pip", "pydantic", "pygments", "pytest", "scikit-learn", "scipy", "setuptools", "sqlalchemy", "statsmodels", "sympy",
    "tornado", "twisted",
]  # fmt: skip

# Names that the versions give to the same instruction.
SAME_NAMES = {
    f"POP_JUMP_{way}IF_{what}": f"POP_JUMP_IF_{what}"
    for way in ("FORWARD_", "BACKWARD_")
    for what in ("TRUE", "FALSE", "NONE", "NOT_NONE")
}
# What the versions of a pair do differently under one name.
CHANGED = {frozenset({"3.6", "3.7"}): {"GET_AITER"}}
# `CO_GENERATOR`, `CO_COROUTINE`, `CO_ASYNC_GENERATOR`: 3.10 starts them in another way.
GENERATORS = 0x20 | 0x80 | 0x200


class InstructionSet:
    """What one Python's own `opcode` module says."""

    def __init__(self, facts: dict[str, object]) -> None:
        self.version = str(facts["version"])
        minor = int(self.version.partition(".")[2])
        self.names = {int(number): name for number, name in facts["names"].items()}  # type: ignore[attr-defined]
        self.caches = {int(number): count for number, count in facts["caches"].items()}  # type: ignore[attr-defined]
        self.absolute = set(facts["absolute"])  # type: ignore[call-overload]
        self.relative = set(facts["relative"])  # type: ignore[call-overload]
        self.extended = facts["extended"]
        self.argument = int(facts["argument"])  # type: ignore[call-overload]
        # How many bytes one step of a jump is.
        self.step = 1 if minor < 10 else 2
        self.after_caches = minor >= 12

    def listing(self, code: bytes) -> list[tuple[str, int]] | None:
        """The instructions with their arguments, and jumps with the place that they go to."""
        made = []
        place = 0
        extended = 0
        while place < len(code):
            number, argument = code[place], code[place + 1] | extended
            place += 2
            if number == self.extended:
                extended = argument << 8
                continue
            extended = 0
            name = self.names.get(number)
            if name is None or name == "CACHE":
                return None
            caches = 2 * self.caches.get(number, 0)
            if any(code[place : place + caches]):
                return None
            if number in self.absolute:
                argument *= self.step
            elif number in self.relative:
                sign = -1 if "BACKWARD" in name else 1
                argument = place + caches * self.after_caches + sign * argument * self.step
            elif number < self.argument:
                argument = 0
            place += caches
            made.append((SAME_NAMES.get(name, name), argument))
        return made


@dataclass
class Code:
    """A code object, and the versions that the guard takes it for."""

    name: str
    file: str
    line: int
    flags: int
    code: bytes
    versions: list[str]

    def __str__(self) -> str:
        return f"{self.name} ({self.file}:{self.line}) of {' '.join(self.versions) or 'no version'}"


@dataclass
class Body:
    """What one Python made of a body of sources, and what the guard says to it."""

    python: Python
    instructions: InstructionSet
    codes: list[Code]
    outcome: Outcome
    directory: Path


def make_body(python: Python, sources: list[Path], directory: Path) -> None:
    subprocess.run(
        [python.path, MAKE_CODE, directory, "0"],
        input="\n".join(map(str, sources)),
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
        text=True,
        check=True,
    )


def judge(python: Python, directory: Path) -> Body:
    """Run it as a component, on the Python that made it."""
    scratch = Scratch(base=new_base(), python=python)
    try:
        scratch.fill(directory)
        arguments = ["run", "--log", "trace", "--python", str(python.path), "0"]
        said, outcome = run_for_log(scratch, arguments)
    finally:
        dispose(scratch)
    verdicts = re.findall(r"code object `(.*)`: (.*)$", said, re.MULTILINE)
    with (directory / "code.jsonl").open(encoding="utf-8") as lines:
        instructions = InstructionSet(json.loads(next(lines)))
        codes = []
        for line, (name, versions) in zip(lines, verdicts, strict=True):
            facts = json.loads(line)
            assert name in ("?", facts[0]) or len(facts[0]) > 64
            codes.append(Code(*facts[:4], bytes.fromhex(facts[4]), [v for v in versions.split(" or ") if v]))
    return Body(python, instructions, codes, outcome, directory)


def run_for_log(scratch: Scratch, arguments: list[str]) -> tuple[str, Outcome]:
    """All that the binary says, of which an `Outcome` keeps the head and the tail."""
    scratch.arguments = arguments
    outcome = run_ours(scratch, timeout=600)
    return (scratch.base / "stderr").read_text(encoding="utf-8", errors="replace"), outcome


def standard_library(python: Python) -> Path:
    printed = subprocess.check_output([python.path, "-c", "import os; print(os.__file__)"], text=True)
    return Path(printed.strip()).parent


def sample(python: Python) -> list[Path]:
    """Files of the standard library: others for each version, the same in each run."""
    library = standard_library(python)
    files = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    return random.Random(f"{SEED} {python}").sample(files, min(SAMPLE, len(files)))


def download(python: Python, into: Path) -> Iterator[Path]:
    """The sources of PACKAGES, in the latest versions that this Python takes."""
    # The one that runs the tests has no pip.
    pip = list(pythons().values())[-1].path
    for package in PACKAGES:
        wheels = into / "wheels" / package
        subprocess.run(
            [
                *(pip, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"),
                *("--python-version", python.minor, "--only-binary=:all:", "--dest", str(wheels), package),
            ],
            check=False,
            capture_output=True,
        )
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith(".py"):
                        archive.extract(name, into / package)
            yield into / package
        shutil.rmtree(wheels, ignore_errors=True)


@functools.cache
def bodies(minor: str) -> list[Body]:
    """Each is one component's arguments."""
    python = pythons()[minor]
    with tempfile.TemporaryDirectory(prefix="htmap-exec-guard-") as place:
        groups = [sample(python)]
        if FULL:
            groups = [[standard_library(python)], *([package] for package in download(python, Path(place)))]
        made = []
        for index, group in enumerate(groups):
            directory = Path(place) / f"body{index}"
            directory.mkdir()
            make_body(python, group, directory)
            made.append(judge(python, directory))
    return made


def means_the_same(code: Code, made: InstructionSet, other: InstructionSet) -> bool:
    """Whether the other version's instructions are the same ones, and do the same."""
    listing = made.listing(code.code)
    assert listing is not None
    if listing != other.listing(code.code):
        return False
    pair = frozenset({made.version, other.version})
    changed = CHANGED.get(pair, set())
    return not any(name in changed for name, _ in listing) and not ("3.10" in pair and code.flags & GENERATORS)


needs = [
    pytest.param(minor, marks=pytest.mark.skipif(minor not in pythons(), reason=f"this machine has no Python {minor}"))
    for minor in MINORS
]


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("minor", needs)
def test_every_code_object_fits_its_own_version(minor: str) -> None:
    for body in bodies(minor):
        refused = [code for code in body.codes if minor not in code.versions]
        assert body.codes
        assert not refused, f"{len(refused)} of {len(body.codes)}: {', '.join(map(str, refused[:5]))}"
        assert body.outcome.status == "OK", body.outcome


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("minor", needs)
def test_no_code_object_fits_a_version_that_reads_it_differently(minor: str) -> None:
    sets = {other: bodies(other)[0].instructions for other in MINORS if other in pythons()}
    wrong: Counter[str] = Counter()
    examples = []
    total = 0
    for body in bodies(minor):
        total += len(body.codes)
        for code in body.codes:
            for other in code.versions:
                if other != minor and other in sets and not means_the_same(code, sets[minor], sets[other]):
                    wrong[other] += 1
                    examples.append(f"{code} on {other}")
    if FULL:
        print(f"{minor}: {total} code objects; taken for another version's that reads them differently: {dict(wrong)}")
    assert not wrong, f"{dict(wrong)} of {total}: {', '.join(examples[:5])}"


BIG = "{}\nbig = {}\nfunction = lambda x: 2 * x\nimport builtins\nf = builtins.len\nargs = ((big, function),)"
# What stands before a function in the same pickle, and once led to its being overlooked.
BEFORE = {
    "many memos": ("", "[str(i) for i in range(200_000)]"),
    "many texts that look like a type's name": ("", "[''.join(['co', 'de'][:n % 2 + 1]) for n in range(200_000)]"),
    "a long tuple": ("", "tuple(range(100_000))"),
    "deep lists": ("big = []\nfor i in range(300):\n    big = [i, big]", "big"),
    "many bytes": ("", "[b'%d' % i for i in range(50_000)]"),
}


def run_on(python: Python, pickles: Path, *options: str, during: Callable[[Running], object] | None = None) -> Outcome:
    scratch = Scratch(base=new_base(), python=python, options=list(options))
    try:
        scratch.fill(pickles)
        return run_ours(scratch, timeout=300, during=during)
    finally:
        dispose(scratch)


def both(*minors: str) -> pytest.MarkDecorator:
    lacking = [minor for minor in minors if minor not in pythons()]
    return pytest.mark.skipif(bool(lacking), reason=f"this machine has no Python {' and '.join(lacking)}")


@both("3.11", "3.12")
@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("name", BEFORE)
def test_a_function_is_found_behind_anything(name: str, told: bool) -> None:
    pickles = make_pickles(BIG.format(*BEFORE[name]), pythons()["3.11"], 0)
    options = ("--submit-python", "3.11") if told else ()
    refused = run_on(pythons()["3.12"], pickles, *options)
    if told:
        assert refused.status == "ERR" and "pickled by Python 3.11" in refused.report, refused.dump()
        assert "`<lambda>`" in refused.report
    else:
        # The two versions compile it to the same bytes.
        assert refused.status == "OK" and refused.value == 2, refused.dump()
    assert run_on(pythons()["3.11"], pickles).value == 2


@both("3.11", "3.13")
def test_code_before_the_damage_refuses(scratch: Scratch) -> None:
    pickles = make_pickles("def f(x):\n    return 2 * x\nargs = (21,)", pythons()["3.13"], 0)
    scratch.python = pythons()["3.11"]
    scratch.options = ["--submit-python", "3.13"]
    scratch.fill(pickles)
    content = gzip.decompress((scratch.dir / "func").read_bytes())
    # Ends like a pickle, and is broken between the function and its end.
    scratch.write("func", gzip.compress(content[:-1] + b"\xff."))
    outcome = run_ours(scratch)
    assert outcome.status == "ERR" and "pickled by Python 3.13" in outcome.report, outcome.dump()


# Each of them once was refused on the Python that pickled it, or is read differently by another one.
FUNCTIONS = {
    "a swap in try and finally": "def f(a, b):\n    try:\n        a, b = b, a\n    finally:\n        b += 1\n    return a\nargs = (1, 42)",
    "dead code": "def f():\n    return 42\n    print(1)\n    print(2)",
    "dead code of a generator": "def g():\n    return\n    yield\ndef f():\n    return 42 + len(list(g()))",
    "a return in finally": "def f():\n    try:\n        return 1\n    finally:\n        return 42",
    "two functions with the same bytes": "def g(x):\n    return x + 1\ndef h(y):\n    return y + 1\ndef f():\n    return g(20) + h(20)",
    "a while loop": "def f():\n    a, b = 84, 126\n    while a:\n        a, b = b % a, a\n    return b",
    "unpacking": "def f():\n    a = [1, 2]\n    return 36 + sum((*a, *a)) + len({*a, *a}) - 2",
    "many constants": "f = eval('lambda: [' + ','.join(str(n + 0.5) for n in range(400)) + '][0] + 41.5')",
    "sixteen constants": "f = eval('lambda: sum([' + ','.join('%d.5' % n for n in range(15)) + ']) - 70.5')",
    "many cells": (
        "names = ['v%d' % n for n in range(90)]\n"
        "text = 'def f():\\n' + ''.join('    %s = 1\\n' % n for n in names)\n"
        "exec(text + '    return 42 + (lambda: ' + ' + '.join(names) + ')() - 90')"
    ),
    "async": (
        "import asyncio\nclass A:\n    def __aiter__(self):\n        self.n = 0\n        return self\n"
        "    async def __anext__(self):\n        self.n += 1\n        if self.n > 42:\n            raise StopAsyncIteration\n"
        "        return self.n\n"
        "async def g():\n    n = 0\n    async for n in A():\n        pass\n    return n\n"
        "def f():\n    loop = asyncio.new_event_loop()\n    try:\n        return loop.run_until_complete(g())\n"
        "    finally:\n        loop.close()"
    ),
    "a long function": "exec('def f():\\n    n = 0\\n' + '    n += len(str(n))\\n' * 3000 + '    return n and 42')",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("minor", needs)
def test_a_function_runs_on_the_version_that_pickled_it(minor: str, name: str) -> None:
    python = pythons()[minor]
    outcome = run_on(python, make_pickles(FUNCTIONS[name], python, 0))
    assert outcome.status == "OK" and outcome.value == 42, outcome.dump()


DIFFERENT = [
    ("3.6", "3.7", "async"), ("3.7", "3.6", "async"), ("3.9", "3.8", "unpacking"), ("3.8", "3.9", "unpacking"),
    ("3.8", "3.9", "a return in finally"), ("3.9", "3.10", "a while loop"), ("3.10", "3.9", "a while loop"),
    ("3.8", "3.10", "dead code"), ("3.10", "3.8", "dead code"), ("3.11", "3.12", "a while loop"),
    ("3.12", "3.11", "a long function"), ("3.13", "3.12", "dead code"), ("3.12", "3.13", "unpacking"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "run", "name"), DIFFERENT)
def test_a_function_that_means_something_else_is_refused(made: str, run: str, name: str) -> None:
    if lacking := {made, run} - set(pythons()):
        pytest.skip(f"this machine has no Python {lacking}")
    outcome = run_on(pythons()[run], make_pickles(FUNCTIONS[name], pythons()[made], 0))
    assert outcome.status == "ERR"
    assert re.search(rf"pickled by Python [\d. or]*\b{re.escape(made)}\b", outcome.report), outcome.dump()


LARGE = {
    "one string": b"B\x00\x00\x00\x01" + bytes(1 << 24),
    "a tuple of numbers": b"(" + b"K\x01" * 4_000_000 + b"t",
    "marks": b"(" * 4_000_000 + b"N",
    "marks and numbers": b"(K\x01" * 2_000_000,
    "memos": b"]" + b"".join(b"r" + n.to_bytes(4, "little") for n in range(2_000_000)),
    "strings in the memo": b"(" + b"C\x04d\x00S\x00\x94" * 300_000 + b"t",
    "nested tuples": b")" + b"\x85" * 4_000_000,
    "a line": b"V" + b"x" * (1 << 24) + b"\n",
}


@both("3.11", "3.12")
def test_memory_is_flat(scratch: Scratch) -> None:
    """A function of another version stands behind each: nothing of it reaches Python."""
    peaks = {}
    function = make_pickles("def f():\n    return 42", pythons()["3.11"], 0)
    code = gzip.decompress((function / "func").read_bytes())
    scratch.python = pythons()["3.12"]
    scratch.options = ["--submit-python", "3.11"]
    scratch.fill(function)
    for name, pickled in LARGE.items():
        scratch.write("func", gzip.compress(b"\x80\x04" + pickled + code[2:], 1))
        peak = 0

        def watch(running: Running) -> None:
            nonlocal peak
            while running.process.poll() is None:
                if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.process.pid}/status").read_text()):
                    peak = int(found[1])
                time.sleep(0.002)

        outcome = run_ours(scratch, during=watch)
        assert "pickled by Python 3.11" in outcome.report, f"{name}: {outcome.dump()}"
        peaks[name] = peak
    least = peaks["one string"]
    assert all(peak < least + (8 << 10) for peak in peaks.values()), peaks


# Run by the Python that pickles; `DIRECTORY PROTOCOL MODULE`.
DUMP = """
import gzip, importlib, sys
directory, protocol, module = sys.argv[1:]
pickler = importlib.import_module(module)
space = {"__name__": "__main__"}
exec(compile("import math\\ndef outer(y):\\n    def inner(x):\\n        total = 2 * x\\n        while total < y and"
             " math:\\n            total += 1\\n        return total\\n    return inner\\nf = outer(42)", "f.py", "exec"), space)
for name, thing in (("func", len), ("0.in", ((["text", space["f"]],), {}))):
    with gzip.open(directory + "/" + name, "wb", 1) as file:
        file.write(pickler.dumps(thing, protocol=int(protocol)))
"""


def found_in(python: Python, protocol: int, module: str = "cloudpickle", path: Path | None = None) -> list[str]:
    """The versions of `inner`, as each Python's own pickler writes it."""
    scratch = Scratch(base=new_base(), python=python)
    try:
        scratch.fill(None)
        subprocess.run(
            [python.path, "-c", DUMP, scratch.dir, str(protocol), module],
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(path or "")},
            check=True,
        )
        said, _ = run_for_log(scratch, ["run", "--log", "trace", "--python", str(python.path), "0"])
    finally:
        dispose(scratch)
    return re.findall(r"code object `inner`: (.*)$", said, re.MULTILINE)


# The pair 3.6 and 3.7 has the same bytes for it.
INNER = {"3.6": "3.6 or 3.7", "3.7": "3.6 or 3.7", "3.8": "3.8 or 3.9", "3.9": "3.8 or 3.9"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("minor", needs)
def test_code_is_found_in_every_protocol(minor: str, protocol: int) -> None:
    if protocol == 5 and minor in ("3.6", "3.7"):
        pytest.skip("protocol 5 came with 3.8")
    assert found_in(pythons()[minor], protocol) == [INNER.get(minor, minor)]


# Before 2.0, cloudpickle gave 3.10 a line table of 3.9's form, which is taken for that: nothing in `inner` says otherwise.
PICKLERS = {
    "cloudpickle==0.8.1": ("3.6", "3.7"),
    "cloudpickle==1.2.2": ("3.6", "3.7"),
    "cloudpickle==1.6.0": ("3.6", "3.7", "3.8", "3.9"),
    "cloudpickle==2.0.0": ("3.6", "3.8", "3.10"),
    "cloudpickle==2.2.1": ("3.7", "3.8", "3.10", "3.11"),
    "dill==0.3.4": ("3.6", "3.8", "3.9"),
    "dill==0.3.9": ("3.8", "3.10", "3.11", "3.12", "3.13"),
}


@pytest.mark.skipif(not FULL, reason="downloads other picklers: HTMAP_EXEC_TEST_FULL=1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pickler", PICKLERS)
def test_code_is_found_whoever_pickled_it(pickler: str, tmp_path: Path) -> None:
    pip = list(pythons().values())[-1].path
    subprocess.run([pip, "-m", "pip", "-q", "install", "--no-deps", "--target", tmp_path, pickler], check=True)
    for minor in PICKLERS[pickler]:
        if minor in pythons():
            # dill's own way to bytes in protocol 2 hides them: the code object counts, and fits all of its shape.
            for protocol in (4,) if "dill" in pickler else (2, 4):
                found = found_in(pythons()[minor], protocol, pickler.partition("=")[0], tmp_path)
                assert found == [INNER.get(minor, minor)], (minor, protocol)
