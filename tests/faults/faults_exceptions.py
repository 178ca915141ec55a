"""The function raises: every kind of exception, and everything that passes for one."""

from __future__ import annotations

import signal

from support.cases import Case, Err, Ok
from support.environment import main_python
from support.scratch import Scratch


def no_groups() -> str | None:
    return None if main_python().version >= (3, 11) else "exception groups came with Python 3.11"


def ignoring_sigint(scratch: Scratch) -> None:
    """As a shell starts what it puts into the background."""
    scratch.before_exec = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)


CASES = [
    Case("plain", "def g(x):\n    return 1 / x\ndef f():\n    return g(0)", Err("ZeroDivisionError: division by zero", "in g", "x = 0")),
    Case("component 12 of a map", "def f():\n    raise ValueError('twelve')", Err("component 12", "ValueError: twelve"), component=12),
    Case(
        "chained: raise from",
        """
        def f():
            try:
                {}["first cause"]
            except KeyError as error:
                raise ValueError("second") from error
        """,
        Err("ValueError: second", "KeyError: 'first cause'", "caused by|direct cause"),
    ),
    Case(
        "chained: while handling another",
        """
        def f():
            try:
                {}["first cause"]
            except KeyError:
                undefined_name
        """,
        Err("NameError", "KeyError: 'first cause'", "(?i)handling"),
    ),
    Case(
        "chained: from None",
        """
        def f():
            try:
                {}["first cause"]
            except KeyError:
                raise ValueError("only this") from None
        """,
        Err("ValueError: only this"),
    ),
    Case(
        "chained to itself",
        """
        def f():
            one, two = ValueError("one"), ValueError("two")
            one.__cause__, two.__cause__ = two, one
            raise one
        """,
        Err("ValueError: one"),
    ),
    Case(
        "chained 2,000 times",
        """
        def f():
            error = None
            for i in range(2000):
                new = ValueError("link %d" % i)
                new.__cause__ = error
                error = new
            raise error
        """,
        Err("ValueError: link 1999"),
    ),
    Case(
        "group",
        "def f():\n    raise ExceptionGroup('many', [ValueError('first'), TypeError('second')])",
        Err("ExceptionGroup: many", "ValueError: first", "TypeError: second"),
        skip=no_groups,
    ),
    Case(
        "group in a group, from a TaskGroup",
        """
        import asyncio
        async def fail(text):
            raise ValueError(text)
        async def both():
            async with asyncio.TaskGroup() as group:
                group.create_task(fail("first task"))
                group.create_task(fail("second task"))
        def f():
            asyncio.run(both())
        """,
        Err("ExceptionGroup", "first task"),
        skip=no_groups,
    ),
    Case(
        "BaseExceptionGroup",
        "def f():\n    raise BaseExceptionGroup('base', [KeyboardInterrupt(), ValueError('inner')])",
        Err("BaseExceptionGroup: base", "KeyboardInterrupt", "ValueError: inner"),
        skip=no_groups,
    ),
    Case(
        "notes",
        "def f():\n    error = ValueError('what')\n    error.add_note('a note on why')\n    raise error",
        Err("ValueError: what", "a note on why"),
        skip=no_groups,
    ),
    Case(
        "notes that are no list of strings",
        "def f():\n    error = ValueError('what')\n    error.__notes__ = 7\n    raise error",
        Err("ValueError: what"),
    ),
    Case(
        "__str__ raises",
        "class Shy(Exception):\n    def __str__(self):\n        raise RuntimeError('no')\ndef f():\n    raise Shy()",
        Err("Shy"),
    ),
    Case(
        "__str__ returns no string",
        "class Shy(Exception):\n    def __str__(self):\n        return 7\ndef f():\n    raise Shy()",
        Err("Shy"),
    ),
    Case(
        "__str__ and __repr__ exit",
        """
        import sys
        class Shy(Exception):
            def __str__(self):
                sys.exit(3)
            __repr__ = __str__
        def f():
            raise Shy()
        """,
        Err("Shy"),
    ),
    Case(
        "__str__ hangs",
        "import time\nclass Slow(Exception):\n    def __str__(self):\n        time.sleep(1000)\ndef f():\n    raise Slow()",
        Err("Slow"),
    ),
    Case(
        "cannot be pickled",
        """
        import threading
        class Holder(Exception):
            def __init__(self):
                super().__init__("holds a lock")
                self.lock = threading.Lock()
            def __reduce__(self):
                raise TypeError("no pickle of me")
        def f():
            raise Holder()
        """,
        Err("Holder: holds a lock"),
    ),
    Case(
        "class of the function's own",
        "class OutOfCheese(Exception):\n    pass\ndef f():\n    raise OutOfCheese('+++')",
        Err(r"OutOfCheese: \+\+\+"),
    ),
    Case("message of 100 MB", "def f():\n    raise ValueError('x' * 10**8)", Err("ValueError: xxxx")),
    Case("message with lone surrogates", "def f():\n    raise ValueError('\\udcff\\ud800 end')", Err("ValueError: .* end")),
    Case("message with a NUL and escapes", "def f():\n    raise ValueError('a\\0b\\x1b[31m end')", Err("ValueError: a(.|\n)* end")),
    Case("message of many lines", "def f():\n    raise ValueError('one\\ntwo\\nthree')", Err("ValueError: one\n *two\n *three")),
    Case("sys.exit()", "import sys\ndef f():\n    sys.exit()", Err("SystemExit", "in f")),
    Case("sys.exit(0)", "import sys\ndef f():\n    sys.exit(0)", Err("SystemExit: 0", "in f")),
    Case("sys.exit(3)", "import sys\ndef f():\n    sys.exit(3)", Err("SystemExit: 3", "in f")),
    Case("sys.exit('text')", "import sys\ndef f():\n    sys.exit('disk quota reached')", Err("SystemExit: disk quota reached")),
    Case("sys.exit(None)", "import sys\ndef f():\n    sys.exit(None)", Err("SystemExit")),
    Case("sys.exit(object())", "import sys\ndef f():\n    sys.exit(object())", Err("SystemExit: <object object")),
    Case("exit()", "def f():\n    exit(5)", Err("SystemExit|NameError")),
    Case("KeyboardInterrupt raised", "def f():\n    raise KeyboardInterrupt", Err("KeyboardInterrupt", "in f")),
    Case(
        "KeyboardInterrupt by SIGINT",
        "import os, signal, time\ndef f():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(30)",
        Err("KeyboardInterrupt|SIGINT"),
    ),
    Case(
        "KeyboardInterrupt by SIGINT, started where it is ignored",
        "import os, signal, time\ndef f():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(3)",
        Err("KeyboardInterrupt|SIGINT"),
        prepare=ignoring_sigint,
    ),
    Case("GeneratorExit", "def f():\n    raise GeneratorExit('odd')", Err("GeneratorExit")),
    Case("StopIteration", "def f():\n    return next(iter(()))", Err("StopIteration")),
    Case("BaseException", "class Root(BaseException):\n    pass\ndef f():\n    raise Root('bare')", Err("Root: bare")),
    Case("a class raised", "def f():\n    raise ValueError", Err("ValueError")),
    Case("what cannot be raised", "def f():\n    raise 'text'", Err("TypeError: exceptions must derive from BaseException")),
    Case("RecursionError", "def f():\n    return f()", Err("RecursionError: maximum recursion depth exceeded", "repeated .* more time")),
    Case(
        "RecursionError under a high limit",
        "import sys\ndef down(n):\n    return down(n + 1)\ndef f():\n    sys.setrecursionlimit(15000)\n    return down(0)",
        Err("RecursionError|SIGSEGV"),
    ),
    Case(
        "RecursionError in C",
        "def f():\n    nested = []\n    for _ in range(200000):\n        nested = [nested]\n    return repr(nested)",
        Err("RecursionError|SIGSEGV"),
    ),
    Case("recursion limit left low", """
        import sys
        def f():
            sys.setrecursionlimit(sys.getrecursionlimit() // 10)
            raise ValueError("low")
        """, Err("ValueError: low")),
    Case("MemoryError raised", "def f():\n    raise MemoryError('of its own')", Err("MemoryError: of its own")),
    Case("SyntaxError", "def f():\n    exec('def (:')", Err("SyntaxError")),
    Case(
        "UnicodeDecodeError",
        "def f():\n    return b'\\xff'.decode('utf-8')",
        Err("UnicodeDecodeError"),
    ),
    Case("OSError with a file name", "def f():\n    open('/no/such/file')", Err("FileNotFoundError.*'/no/such/file'")),
    Case(
        "raised in a callback from C",
        "def key(x):\n    raise LookupError('in key')\ndef f():\n    sorted([1, 2], key=key)",
        Err("LookupError: in key", "in key"),
    ),
    Case(
        "traceback removed",
        "def f():\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n        raise error.with_traceback(None)",
        Err("ZeroDivisionError"),
    ),
    Case(
        "__traceback__ of its own",
        """
        class Odd(Exception):
            __traceback__ = property(lambda self: 7)
        def f():
            raise Odd("odd")
        """,
        Err("Odd: odd"),
    ),
    Case("assert with a message", "def f():\n    assert False, 'not so'", Err("AssertionError: not so")),
    Case("async function", "async def f():\n    return 1", Err("coroutine")),
    Case("wrong number of arguments", "def f(a, b):\n    return a\nargs = (1,)", Err("TypeError.*missing 1 required positional argument")),
    Case("arguments by keyword", "def f(a, *, b):\n    return a * b\nargs = (6,)\nkwargs = {'b': 7}", Ok(42)),
    Case("warnings turned into errors", """
        import warnings
        def f():
            warnings.simplefilter("error")
            warnings.warn("was only a warning")
        """, Err("UserWarning: was only a warning")),
]  # fmt: skip
