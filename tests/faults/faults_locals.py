"""Locals and arguments whose repr raises, hangs, kills or is huge: the report comes soon and stays small."""

from __future__ import annotations

from support.cases import Case, Err, Ok

# Long enough for a loaded machine, and far from how long the worst of these would take.
SOON = 45


def local(name: str, setting: str, *patterns: str, head: str = "") -> Case:
    lines = "\n    ".join(setting.splitlines())
    source = f"{head}\ndef f():\n    good = 'still here'\n    {lines}\n    raise ValueError('the cause')\n"
    return Case(name, source, Err("ValueError: the cause", "good = 'still here'", *patterns), timeout=SOON)


def argument(name: str, made: str, head: str = "") -> Case:
    source = f"{head}\ndef f(x):\n    return 42\nargs = ({made},)\n"
    return Case(name, source, Ok(42, stdout="Running component 0", stdout_limit=1_000_000), timeout=SOON)


def with_repr(body: str, head: str = "") -> str:
    return f"{head}\nclass Odd:\n    def __repr__(self):\n        {body}\n"


CASES = [
    local("repr raises", "odd = Odd()", head=with_repr("raise RuntimeError('no')")),
    local("repr returns no string", "odd = Odd()", head=with_repr("return 7")),
    local("repr raises SystemExit", "odd = Odd()", head=with_repr("raise SystemExit(3)")),
    local("repr raises KeyboardInterrupt", "odd = Odd()", head=with_repr("raise KeyboardInterrupt")),
    local("repr recurses for ever", "odd = Odd()", head=with_repr("return repr(self)")),
    local("repr sleeps", "odd = Odd()", head=with_repr("time.sleep(1000)", "import time")),
    local("repr loops in Python", "odd = Odd()", head=with_repr("while True: pass")),
    local("repr loops and catches everything", "odd = Odd()", head="""
class Odd:
    def __repr__(self):
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
"""),
    local("repr loops in C", "odd = Odd()", head=with_repr("return str(sum(range(10**15)))")),
    local("repr waits for a lock", "odd = Odd()", head=with_repr(
        "lock = threading.Lock(); lock.acquire(); lock.acquire()", "import threading")),
    local("repr of ten objects, each sleeping", "odd = [Odd() for _ in range(10)]\nmore = [Odd()]\nyet = Odd()",
          head=with_repr("time.sleep(1000)", "import time")),
    Case("repr exits the process", with_repr("os._exit(9)", "import os") + "def f():\n    odd = Odd()\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause|(?i:exit).*9"), timeout=SOON),
    Case("repr segfaults", with_repr("ctypes.string_at(0)", "import ctypes") + "def f():\n    odd = Odd()\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause|SIGSEGV"), timeout=SOON),
    Case("repr takes all memory", with_repr("return 'x' * 10**13") + "def f():\n    odd = Odd()\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause"), timeout=SOON),
    local("repr of an integer with 10,000,000 digits", "import sys\ngetattr(sys, 'set_int_max_str_digits', int)(0)\nodd = 10**10**7"),
    local("string of 1 GB", "odd = 'x' * 2**30"),
    local("bytes of 1 GB", "odd = bytes(2**30)"),
    local("list of 20,000,000 integers", "odd = list(range(20_000_000))"),
    local("dict of 1,000,000 entries", "odd = dict.fromkeys(range(1_000_000), 'value')"),
    local("list in itself", "odd = []\nodd.append(odd)"),
    local("list nested 100,000 deep", "odd = []\nfor _ in range(100_000):\n    odd = [odd]"),
    local("attribute access raises", "odd = Odd()", head="""
class Odd:
    def __getattribute__(self, name):
        raise RuntimeError("no attributes here")
"""),
    local("__class__ raises", "class Odd:\n    __class__ = property(lambda self: 1 / 0)\nodd = Odd()"),
    local("metaclass with a raising repr", "odd = Odd", head="""
class Meta(type):
    def __repr__(self):
        raise RuntimeError("no")
class Odd(metaclass=Meta):
    pass
"""),
    local("lone surrogates", "odd = '\\udc80\\ud800'"),
    local("NUL and terminal escapes", "odd = 'a\\0b\\x1b[2J'"),
    Case("1,000 locals", "def f():\n" + "".join(f"    x{i} = 'a' * 5000\n" for i in range(1000)) + "    raise ValueError('the cause')\n",
         Err("ValueError: the cause"), timeout=SOON),
    Case("900 frames of large locals", """
        def down(n):
            ballast = ["x" * 1000] * 1000
            if n == 0:
                raise ValueError("the cause")
            return down(n - 1)
        def f():
            return down(900)
        """, Err("ValueError: the cause", "in down"), timeout=SOON),
    Case("900 different frames", """
        def f():
            space = {}
            exec("def f0(): raise ValueError('the cause')", space)
            for i in range(1, 900):
                exec("def f%d():\\n    mine = 'y' * 3000\\n    return f%d()" % (i, i - 1), space)
            return space["f899"]()
        """, Err("ValueError: the cause", "in f0"), timeout=SOON),
    Case("locals are in the report", "def f():\n    answer = 42\n    raise ValueError('the cause')\n",
         Err("ValueError: the cause", "answer = 42")),
    argument("argument whose repr raises", "Odd()", with_repr("raise RuntimeError('no')")),
    argument("argument whose repr raises SystemExit", "Odd()", with_repr("raise SystemExit(3)")),
    argument("argument whose repr sleeps", "Odd()", with_repr("time.sleep(1000)", "import time")),
    argument("argument whose repr loops in C", "Odd()", with_repr("return str(sum(range(10**15)))")),
    argument("argument whose repr is 1 GB", "Odd()", with_repr("return 'x' * 2**30")),
    argument("argument list of 5,000,000 integers", "[0] * 5_000_000"),
    argument("argument with lone surrogates in its repr", "Odd()", with_repr("return '\\udc80\\ud800'")),
    Case("the function's own repr raises", """
        class Callable:
            def __call__(self):
                return 42
            def __repr__(self):
                raise RuntimeError("no")
        f = Callable()
        """, Ok(42, stdout="Running component 0"), timeout=SOON),
]  # fmt: skip
