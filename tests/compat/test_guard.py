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
import pickle
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
            [pip, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
            + ["--python-version", python.minor, "--only-binary=:all:", "--dest", str(wheels), package],
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
