"""Texts of local variables: what `repr` says of everything small, on each Python."""

from __future__ import annotations

import pytest
from support.cases import Case, Err, dispose
from support.environment import pythons

SOURCE = """
    import array, collections, collections.abc, datetime, decimal, enum, fractions, functools, pathlib, re, sys, time
    import types, uuid
    try:
        import dataclasses
    except ImportError:
        dataclasses = None
    try:
        import numpy
    except ImportError:
        numpy = None

    class List(list): pass
    class Set(set): pass
    class Frozen(frozenset): pass
    class Tuple(tuple): pass
    class Ordered(collections.OrderedDict): pass
    class Counted(collections.Counter): pass
    class Text(str): pass
    class Number(int): pass
    class Partial(functools.partial): pass
    class Error(ValueError): pass
    class Space(types.SimpleNamespace): pass
    class Users(collections.UserList): pass
    class Own(list):
        def __repr__(self):
            return "Own" + list.__repr__(self)
    class Mapping(collections.abc.Mapping):
        def __getitem__(self, key): return {"a": 1}[key]
        def __iter__(self): return iter("a")
        def __len__(self): return 1
        def __repr__(self): return "Mapping()"
    Pair = collections.namedtuple("Pair", "a b")
    class MorePair(Pair): pass
    class Slots:
        __slots__ = ("x",)
        def __init__(self): self.x = [1]
        def __repr__(self): return "Slots(%r)" % self.x
    class Plain:
        def __init__(self): self.inside = [1, 2]
        def method(self): pass
    class Color(enum.Enum):
        RED = 1

    def values():
        moved = collections.OrderedDict(a=1, b=[2])
        moved.move_to_end("a")
        made = [
            1, True, None, 2.5, 1j, "a'b", b"x", bytearray(b"y"), ..., NotImplemented, object, Plain, Color, Color.RED,
            [], [1, [2]], (), (1,), (1, 2), {}, {"a": [1]}, set(), {1}, frozenset(), frozenset([1]), List([1]), List(),
            Set(), Set([1]), Frozen(), Frozen([1]), Tuple((1,)), Ordered(), Ordered(a=1), Counted("aab"), Counted(),
            Text("x"), Number(5), Partial(int, 1, base=2), functools.partial(print, 1, sep=""), Error(), Error("x"),
            Error(1, [2]), KeyError("a"), OSError(2, "x"), Space(a=1), types.SimpleNamespace(a=1, b="x"),
            array.array("d"), array.array("d", [1.5, 2]), collections.deque([1], 5), collections.deque([1]),
            collections.defaultdict(list, {"a": [1]}), collections.defaultdict(), collections.Counter("hello"),
            collections.Counter(a=1, b="x"), Users([1]), collections.UserDict({1: 2}), collections.UserString("ab"),
            Pair(1, [2]), MorePair(1, 2), moved, moved.keys(), moved.items(), moved.values(), {1: 2}.keys(),
            {1: 2}.values(), {1: 2}.items(), collections.ChainMap({1: 2}, {}), types.MappingProxyType({1: [2]}),
            Mapping(), Mapping().keys(), Own([1]), Slots(), Plain(), Plain().method, [].append, Plain.method, len, sys,
            range(3), range(1, 3, 2), slice(1), slice(None, 2, 3), time.localtime(0), memoryview(b"abc"), iter([1]),
            lambda x: x, datetime.datetime(2020, 1, 1), decimal.Decimal("1.5"), fractions.Fraction(1, 3),
            re.compile("a"), pathlib.PurePosixPath("/x"), uuid.UUID(int=5), [[[[[1]]]]], {1: {2: {3: {4: 5}}}},
        ]
        if dataclasses:
            Generated = dataclasses.make_dataclass("Generated", [
                ("a", int), ("b", list), ("c", int, dataclasses.field(default=3, repr=False))])
            class Inherits(Generated): pass
            Silent = dataclasses.make_dataclass("Silent", ["a"], repr=False)
            made += [Generated(1, [2]), Inherits(1, 2), Silent(1), [Generated(1, [])]]
        if numpy:
            made += [numpy.arange(5), numpy.float64(2.5), numpy.str_("a"), numpy.zeros(10**6), numpy.int64(3),
                     numpy.array([[1, 2], [3, None]], dtype=object)]
        return made

    def f():
        def down(left):
            value = left[0]
            text = repr(value)
            if len(left) == 1:
                raise ValueError("the cause")
            down(left[1:])
        down(values()[args_from:args_from + 45])
"""


@pytest.mark.parametrize("part", [0, 40, 60])
@pytest.mark.parametrize("minor", ["3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_small_values_look_as_they_do_everywhere(minor: str, part: int) -> None:
    """A frame for each value, and beside it what `repr` makes of it."""
    if minor not in pythons():
        pytest.skip(f"this machine has no Python {minor}")
    source = SOURCE.replace("args_from", str(part))
    case = Case("texts", source, Err("ValueError: the cause"), python=lambda: pythons()[minor])
    scratch = case.scratch()
    try:
        outcome, unmet = case.run_ours(scratch)
    finally:
        dispose(scratch)
    assert not unmet, f"{unmet}\n{outcome.dump()}"
    found = [frame.locals for frame in outcome.record.stack_summary if frame.name == "down"]
    assert len(found) >= 9
    # The text is the repr of a text itself.
    assert [each["value"] for each in found] == [eval(each["text"]) for each in found]
