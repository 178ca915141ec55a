"""The module `classad` of version 1, by `classad2`.

An expression that refers to attributes does not remember its ad as in version 1: `ad.lookup("X").eval()` needs to be
told, `.eval(ad)`; `ad.eval("X")` is the same in both.
"""

from typing import Any, List

import classad2

__version__ = classad2.version()

# The names of version 1 for what version 2 raises.
ClassAdEvaluationError = classad2.ClassAdException
ClassAdInternalError = classad2.ClassAdException
ClassAdParseError = classad2.ClassAdException
ClassAdEnumError = TypeError
ClassAdOSError = OSError
ClassAdTypeError = TypeError
ClassAdValueError = ValueError

parse = classad2.parseOne


def __getattr__(name: str) -> Any:
    try:
        return getattr(classad2, name)
    except AttributeError:
        raise AttributeError(
            f"module 'classad' has no attribute {name!r}: this is HTCondor's `classad2` under the name that HTMap knows"
        ) from None


def __dir__() -> List[str]:
    return sorted({*globals(), *dir(classad2)})
