"""Pickled by one Python, run by another: never a wrong answer, never a crash, always both versions by name."""

from __future__ import annotations

from collections.abc import Callable

from support.cases import Case, Either, Err, Ok
from support.environment import Python, pythons

DOUBLE = "def f(x):\n    return 2 * x\nargs = (21,)"
# Pairs that compile `2 * x` to the same bytes.
SAME_BYTECODE = [{"3.6", "3.7"}, {"3.8", "3.9"}, {"3.11", "3.12"}]
LOOP = """
    def f(n):
        import math
        total = 0
        for i in range(n):
            try:
                total += math.floor(i)
            except ValueError:
                pass
        return total
    args = (10,)
"""
BY_REFERENCE = "from math import sqrt as f\nargs = (1764,)"
PARTIAL = "import functools, operator\nf = functools.partial(operator.mul, 6)\nargs = (7,)"
CODE_IN_ARGUMENTS = "import functools\nfrom functools import reduce as f\nargs = (lambda a, b: a * b, [2, 3, 7])"
CLASS_BY_VALUE = """
    class Point:
        def __init__(self, x):
            self.x = x
        def doubled(self):
            return 2 * self.x
    from operator import methodcaller
    f = methodcaller("doubled")
    args = (Point(21),)
"""


def version(minor: str) -> Callable[[], Python]:
    return lambda: pythons()[minor]


def missing(*minors: str) -> Callable[[], str | None]:
    def reason() -> str | None:
        lacking = [minor for minor in minors if minor not in pythons()]
        return f"this machine has no Python {' and '.join(lacking)} with cloudpickle" if lacking else None

    return reason


def across(
    made: str, run: str, name: str, source: str, expect: Ok | Err | Either, *options: str, control: bool = True
) -> Case:
    return Case(
        f"{made} to {run}: {name}",
        source,
        expect,
        options=options,
        python=version(run),
        pickled_by=version(made),
        skip=missing(made, run),
        control=control,
    )


def mismatch(made: str, run: str) -> Err:
    return Err(made.replace(".", r"\."), run.replace(".", r"\."))


def guarded(made: str, run: str, name: str, source: str, *, told: bool) -> Case:
    options = ("--submit-python", made) if told else ()
    expect: Err | Either = mismatch(made, run)
    if not told and source == DOUBLE and {made, run} in SAME_BYTECODE:
        # Nothing in the file tells the versions apart, and the answer is right.
        expect = Either(mismatch(made, run), Ok(42))
    return across(made, run, name + (", --submit-python" if told else ""), source, expect, *options)


PAIRS = [
    ("3.13", "3.11"), ("3.13", "3.12"), ("3.11", "3.13"), ("3.12", "3.11"), ("3.11", "3.12"), ("3.12", "3.13"),
    ("3.10", "3.11"), ("3.11", "3.10"), ("3.8", "3.11"), ("3.11", "3.8"), ("3.9", "3.10"), ("3.7", "3.13"),
    ("3.13", "3.7"), ("3.6", "3.12"), ("3.12", "3.6"), ("3.8", "3.9"), ("3.6", "3.7"),
]  # fmt: skip
# `functools.partial` and friends carry no code; protocol 5 came with 3.8, so 3.6 and 3.7 cannot load newer pickles.
CODELESS = [("3.13", "3.11"), ("3.11", "3.13"), ("3.8", "3.12"), ("3.12", "3.8"), ("3.6", "3.13"), ("3.7", "3.6")]

CASES = [
    *(guarded(made, run, "2 * x", DOUBLE, told=True) for made, run in PAIRS[:6]),
    *(guarded(made, run, "2 * x", DOUBLE, told=False) for made, run in PAIRS),
    *(guarded(made, run, "a loop with an import", LOOP, told=False) for made, run in PAIRS[:6]),
    guarded("3.13", "3.11", "code in the arguments", CODE_IN_ARGUMENTS, told=True),
    guarded("3.13", "3.11", "code in the arguments", CODE_IN_ARGUMENTS, told=False),
    guarded("3.11", "3.12", "a class by value", CLASS_BY_VALUE, told=True),
    guarded("3.11", "3.12", "a class by value", CLASS_BY_VALUE, told=False),
    *(across(made, run, "math.sqrt", BY_REFERENCE, Ok(42.0)) for made, run in CODELESS),
    across("3.13", "3.11", "math.sqrt, --submit-python", BY_REFERENCE, Ok(42.0), "--submit-python", "3.13"),
    across("3.11", "3.12", "functools.partial", PARTIAL, Ok(42)),
    across("3.11", "3.7", "math.sqrt, a protocol too new", BY_REFERENCE, Err("(?i)protocol", r"3\.7")),
    across("3.13", "3.11", "mismatch allowed", DOUBLE, Ok(where=lambda value: True),
           "--submit-python", "3.13", "--allow-python-mismatch", control=False),
    across("3.13", "3.11", "mismatch allowed, nothing told", DOUBLE, Ok(where=lambda value: True),
           "--allow-python-mismatch", control=False),
    *(across(minor, minor, "2 * x", DOUBLE, Ok(42)) for minor in
      ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")),
    *(across(minor, minor, "2 * x, --submit-python", DOUBLE, Ok(42), "--submit-python", minor, control=False)
      for minor in ("3.6", "3.13")),
    *(across(minor, minor, "a loop with an import", LOOP, Ok(45)) for minor in ("3.6", "3.9", "3.12", "3.13")),
    *(across(minor, minor, "an exception", "def f(x):\n    return 1 / x\nargs = (0,)", Err("ZeroDivisionError", "x = 0"))
      for minor in ("3.6", "3.7", "3.8", "3.9", "3.10", "3.12", "3.13")),
    *(across(minor, minor, "segmentation fault", "import ctypes\ndef f():\n    ctypes.string_at(0)",
             Err("SIGSEGV", "Segmentation fault")) for minor in ("3.6", "3.8", "3.13")),
]  # fmt: skip
