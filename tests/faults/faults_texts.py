"""Texts of arguments and locals: large, slow and odd values cost neither memory nor time, nor a thread."""

from __future__ import annotations

import json
import re

from support.cases import Case, Err, Ok
from support.outcome import Outcome
from support.scratch import Scratch

SOON = 45

# Each refers to the same large thing, or is as large itself.
LARGE = {
    "array.array": "array.array('b', bytes(30_000_000))",
    "list": "ballast",
    "list of a class of its own": "List(ballast)",
    "tuple": "tuple(ballast)",
    "deque": "collections.deque(ballast)",
    "namedtuple": "Pair(1, ballast)",
    "namedtuple's subclass": "MorePair(1, ballast)",
    "dataclass": "Generated(ballast)",
    "UserList": "collections.UserList(ballast)",
    "SimpleNamespace": "types.SimpleNamespace(a=ballast)",
    "exception": "ValueError(ballast)",
    "partial": "functools.partial(print, ballast)",
    "bound method": "Holder(ballast).method",
    "dict": "mapping",
    "defaultdict": "collections.defaultdict(list, mapping)",
    "OrderedDict": "collections.OrderedDict(mapping)",
    "Counter": "collections.Counter(mapping)",
    "ChainMap": "collections.ChainMap({}, mapping)",
    "MappingProxyType": "types.MappingProxyType(mapping)",
    "keys of a dict": "mapping.keys()",
    "values of a dict": "mapping.values()",
    "items of a dict": "mapping.items()",
    "KeysView": "collections.abc.KeysView(mapping)",
    "set": "set(mapping)",
    "set of a class of its own": "Set(mapping)",
    "frozenset": "frozenset(mapping)",
    "string of a class of its own": "Text('x' * 30_000_000)",
    "bytes": "bytes(30_000_000)",
    "bytearray": "bytearray(30_000_000)",
    "own repr of what it holds": "Holder(ballast)",
    "own repr of what is held deeper": "Holder([Holder({1: ballast})])",
    "own repr of slots": "Slots(ballast)",
    "own repr of a list": "Own(ballast)",
    "own repr of a length": "Sequence()",
}

HEAD = """
import array, collections, collections.abc, dataclasses, functools, types
class List(list): pass
class Set(set): pass
class Text(str): pass
class Own(list):
    def __repr__(self): return "Own(%s)" % list(self)
class Holder:
    def __init__(self, held): self.held = held
    def method(self): pass
    def __repr__(self): return "Holder(%r)" % (self.held,)
class Slots:
    __slots__ = ("held",)
    def __init__(self, held): self.held = held
    def __repr__(self): return "Slots(%r)" % (self.held,)
class Sequence:
    def __len__(self): return 10**9
    def __repr__(self): return repr([0] * 10**7)
Pair = collections.namedtuple("Pair", "a b")
class MorePair(Pair): pass
@dataclasses.dataclass
class Generated:
    a: list
def ballast_and_mapping():
    return [0] * 5_000_000, dict.fromkeys(range(500_000))
"""

PEAK = """
    def peak():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
"""


def flat(name: str, made: str) -> Case:
    """The report of a large local needs no more memory than the function did."""

    def after(scratch: Scratch, outcome: Outcome) -> str:
        local = outcome.record.stack_summary[-1].locals
        if not re.search(r"cut at 2000|items>|in all", local["large"]):
            return f"not cut: {local['large'][-100:]}"
        peak = json.loads((scratch.transfer / "0.json").read_bytes())["peak_memory"]
        more = peak - 1024 * int(local["before"])
        return "" if more < 10_000_000 else f"the report took {more} bytes more"

    source = f"{HEAD}\ndef f():{PEAK}\n    ballast, mapping = ballast_and_mapping()\n    large = {made}\n    before = peak()\n    raise ValueError('the cause')\n"
    return Case(
        f"large: {name}",
        source,
        Err("ValueError: the cause", r"before = \d+"),
        after=after,
        control=False,
        timeout=SOON,
    )


def raised(name: str, statement: str, pattern: str) -> Case:
    """The same for what is in an exception."""

    def after(scratch: Scratch, outcome: Outcome) -> str:
        peak = json.loads((scratch.transfer / "0.json").read_bytes())["peak_memory"]
        more = peak - 1024 * int(outcome.record.stack_summary[-1].locals["before"])
        if "Traceback (most recent call last)" not in outcome.record.traceback:
            return "there is no traceback"
        return "" if more < 10_000_000 else f"the report took {more} bytes more"

    source = f"{HEAD}\nclass Own(ValueError): pass\ndef f():{PEAK}\n    ballast, mapping = ballast_and_mapping()\n    large = array.array('b', bytes(30_000_000))\n    before = peak()\n    {statement}\n"
    return Case(f"raised: {name}", source, Err(pattern, r"before = \d+"), after=after, control=False, timeout=SOON)


SLEEPS = "import time\nclass Odd:\n    def __repr__(self):\n        time.sleep(1000)\n"
LOOPS = "class Odd:\n    def __repr__(self):\n        while True:\n            pass\n"


def argument(name: str, made: str, body: str, value: object, head: str) -> Case:
    source = f"{head}\ndef f(x):\n    {body}\nargs = ({made},)\n"
    return Case(
        name, source, Ok(value, stdout="Running component 0", stdout_limit=1_000_000), timeout=SOON, control=False
    )


def slow_module(scratch: Scratch) -> None:
    scratch.write(
        "slow.py",
        "import time\ndef say(word):\n    with open('imports', 'a') as file:\n        file.write(word)\nsay('begun ')\ntime.sleep(4)\nsay('ended ')\n",
    )


ALONE = "import os, threading; return [threading.active_count(), len(os.listdir('/proc/self/task'))]"
ALARM = "import signal; return [signal.getsignal(signal.SIGALRM) == signal.SIG_DFL, signal.getitimer(signal.ITIMER_REAL), list(signal.pthread_sigmask(signal.SIG_BLOCK, []))]"

CASES = [
    *(flat(name, made) for name, made in LARGE.items()),
    raised("array.array", "raise ValueError(large)", r"ValueError: array\('b', \[0, 0,"),
    raised("list and a number", "raise Own(ballast, 5)", r"Own: \(\[0, 0, .*, 5\)"),
    raised("key of a dict", "raise KeyError(Holder(ballast))", r"KeyError: <__main__.Holder with held=\[0, 0"),
    raised("cause", "raise Own('short') from ValueError(mapping)", r"(?s)Own: short.*caused by: ValueError: {0: None, 1: None"),
    raised("string", "raise ValueError('x' * 3_000_000)", "ValueError: xxxxxxx"),
    raised("nothing large", "raise ValueError([1, 'a'], {2: None})", r"ValueError: \(\[1, 'a'\], {2: None}\)"),
    argument("one thread after a slow argument", "Odd()", ALONE, [1, 1], SLEEPS),
    argument("one thread after a looping argument", "Odd()", ALONE, [1, 1], LOOPS),
    argument("one thread after a list", "[[1]]", ALONE, [1, 1], ""),
    argument("no alarm is left by a slow argument", "Odd()", ALARM, [True, (0.0, 0.0), []], SLEEPS),
    argument("no alarm is left by a list", "[[1]]", ALARM, [True, (0.0, 0.0), []], ""),
    Case("an import by a slow argument is not cut off", """
        class Odd:
            def __repr__(self):
                import slow
                while True: pass
        def f(x):
            import slow
            with open("imports") as file:
                return file.read()
        args = (Odd(),)
        """, Ok("begun ended ", stdout="<repr took longer"), prepare=slow_module, control=False, timeout=SOON),
    argument("argument list of 100,000,000 items", "Large()", "return len(x)", 10**8,
             "class Large:\n    def __reduce__(self):\n        return eval, ('[0] * 10**8',)\n"),
    Case("locals beside slow ones are there", SLEEPS + LOOPS.replace("Odd", "Other") +
         "def f():\n    first = 'is there'\n    slow = Odd()\n    other = Other()\n    last = 'is there'\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause", "first = 'is there'", "slow = <repr took longer than", "other = <repr took longer than", "last = 'is there'"),
         control=False, timeout=SOON),
    Case("slow locals where the function blocked SIGALRM", SLEEPS +
         "def f():\n    import signal\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))\n    slow = Odd()\n    last = 'is there'\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause", "slow = <repr took longer than", "last = 'is there'"), control=False, timeout=SOON),
    Case("slow locals where the function ignores SIGALRM", SLEEPS +
         "def f():\n    import signal\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    slow = Odd()\n    last = 'is there'\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause", "slow = <repr took longer than", "last = 'is there'"), control=False, timeout=SOON),
    Case("the function's own handler of SIGALRM is put back", SLEEPS +
         "def ring(*_): pass\ndef f():\n    import atexit, signal\n    signal.signal(signal.SIGALRM, ring)\n    atexit.register(lambda: print('handler', signal.getsignal(signal.SIGALRM) is ring, flush=True))\n    slow = Odd()\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause", "slow = <repr took longer than", stdout="handler True"), control=False, timeout=SOON),
    Case("iterating and comparing are not asked for", """
        class Odd(list):
            def __iter__(self): raise RuntimeError("asked")
            __getitem__ = __len__ = __eq__ = __bool__ = __iter__
        class Keys(dict):
            def __iter__(self): raise RuntimeError("asked")
            __getitem__ = __len__ = items = keys = values = __bool__ = __iter__
        def f():
            odd = Odd([1, 2])
            keys = Keys(a=1)
            raise ValueError("the cause")
        """, Err("ValueError: the cause", r"odd = \[1, 2\]", "keys = {'a': 1}"), control=False, timeout=SOON),
    Case("lengths that raise, lie and hang", """
        class Raises:
            def __len__(self): raise SystemExit(3)
            def __repr__(self): return "short"
        class Lies(Raises):
            def __len__(self): return -5
        class Hangs(Raises):
            def __len__(self):
                while True: pass
        def f():
            lies = Lies()
            hangs = Hangs()
            last = 'is there'
            raises = Raises()
            raise ValueError("the cause")
        """, Err("ValueError: the cause", "lies = short", "hangs = <repr took longer", "last = 'is there'", "raises = <repr raised SystemExit>"),
         control=False, timeout=SOON),
]  # fmt: skip
