"""Results: those that cannot be pickled, and those that are large, deep or odd and must arrive."""

from __future__ import annotations

import math

from support.cases import Case, Err, Ok

CASES = [
    Case("nothing", "def f():\n    pass", Ok(None)),
    Case("by doubling", "def f(x):\n    return 2 * x\nargs = (21,)", Ok(42)),
    Case("closure and globals", """
        import math
        FACTOR = 6
        def make(n):
            def inner(x):
                return math.floor(FACTOR * x * n)
            return inner
        f = make(1)
        args = (7,)
        """, Ok(42)),
    Case("lambda", "f = lambda x, y=2: x * y\nargs = (21,)", Ok(42)),
    Case("by reference", "from math import sqrt as f\nargs = (1764,)", Ok(42.0)),
    Case("nan and infinity", "def f():\n    return [float('nan'), float('inf'), -0.0]",
         Ok(where=lambda v: math.isnan(v[0]) and math.isinf(v[1]) and math.copysign(1, v[2]) == -1)),
    Case("lock", "import threading\ndef f():\n    return threading.Lock()", Err("(?i)pickle", "lock")),
    Case("generator", "def f():\n    return (x for x in range(3))", Err("(?i)pickle", "generator")),
    Case("open file", "def f():\n    return open('func', 'rb').raw", Err("(?i)pickle|TypeError")),
    Case("socket", "import socket\ndef f():\n    return socket.socket()", Err("(?i)pickle", "socket")),
    Case("frame", "import sys\ndef f():\n    return sys._getframe()", Err("(?i)pickle", "frame")),
    Case("lock after 200 MB", "import os, threading\ndef f():\n    return [os.urandom(2**20) * 200, threading.Lock()]",
         Err("(?i)pickle", "lock"), timeout=90),
    Case("__reduce__ raises", """
        class Closed:
            def __reduce__(self):
                raise RuntimeError("the connection is closed")
        def f():
            return Closed()
        """, Err("RuntimeError: the connection is closed")),
    Case("__reduce__ exits", """
        import sys
        class Closed:
            def __reduce__(self):
                sys.exit(4)
        def f():
            return Closed()
        """, Err("SystemExit: 4")),
    Case("__reduce__ returns nonsense", """
        class Odd:
            def __reduce__(self):
                return 7
        def f():
            return Odd()
        """, Err("PicklingError|__reduce__")),
    Case("__getstate__ prints and raises KeyboardInterrupt", """
        class Odd:
            def __getstate__(self):
                print("asked for state")
                raise KeyboardInterrupt
        def f():
            return Odd()
        """, Err("KeyboardInterrupt")),
    Case("nested 100,000 deep", """
        def f():
            nested = []
            for _ in range(100_000):
                nested = [nested]
            return nested
        """, Err("RecursionError|SIGSEGV|recursion")),
    Case("list in itself", "def f():\n    odd = [1]\n    odd.append(odd)\n    return odd",
         Ok(where=lambda v: v[0] == 1 and v[1] is v)),
    Case("200 MB of zeros", "def f():\n    return bytes(200 * 2**20)", Ok(where=lambda v: v == bytes(200 * 2**20)), timeout=90),
    Case("100 MB that do not compress", "import os\ndef f():\n    return os.urandom(2**20) * 100",
         Ok(where=lambda v: len(v) == 100 * 2**20 and v[:2**20] == v[-2**20:]), timeout=90),
    Case("1,000,000 small objects", "def f():\n    return [str(i) for i in range(1_000_000)]",
         Ok(where=lambda v: len(v) == 1_000_000 and v[-1] == "999999"), timeout=90),
    Case("bytearray and memoryview-able buffers", "import array\ndef f():\n    return array.array('d', [1.5]) * 1_000_000",
         Ok(where=lambda v: len(v) == 1_000_000 and v[7] == 1.5)),
    Case("the strings OK and ERR", "def f():\n    return ['OK', 'ERR']", Ok(["OK", "ERR"])),
    Case("an exception as a value", "def f():\n    return ValueError('only a value')",
         Ok(where=lambda v: isinstance(v, ValueError) and v.args == ("only a value",))),
]  # fmt: skip
