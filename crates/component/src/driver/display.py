# Texts of values, bounded in size, time and memory, whatever their __repr__ does.
#
# Containers are walked item by item, by their own type's methods, as long as there is room. The repr of
# anything else is called where it can be expected to be short. No thread of ours may be there when the
# function forks, so an alarm ends what takes too long. What holds the interpreter lock, or catches the
# alarm again and again, is ended by the runner, which has a deadline for every report.
#
# What is rare stands in `kinds.py`, which is compiled when it is needed: that takes time.
# The runner's driver puts `sources` into this module.
import time

import _signal

# What has more items is not given to a repr that might write all of them.
LARGE = 100000
# Their reprs abbreviate, and the length of some is a long computation.
# fmt: off
ABBREVIATING = {
    "astropy", "awkward", "cudf", "cupy", "dask", "datasets", "geopandas", "h5py", "jax", "jaxlib", "modin",
    "networkx", "numpy", "pandas", "polars", "pyarrow", "pyspark", "scipy", "sklearn", "tensorflow", "torch",
    "vaex", "xarray", "zarr",
}
# fmt: on
DEPTH = 5
AGAIN = 0.2

# Past what a metaclass may define.
_mro, _space, _module, _name, _qualname = (
    type.__dict__[name].__get__ for name in ("__mro__", "__dict__", "__module__", "__name__", "__qualname__")
)


class _Full(Exception):
    pass


class _Late(BaseException):
    pass


class _Alarm:
    """Raises in the main thread, and leaves the function's own alarm as it was."""

    armed = False

    def __init__(self, seconds):
        self.seconds = max(seconds, 0.01)

    def set(self):
        try:
            self.handler = _signal.getsignal(_signal.SIGALRM)
            if self.handler is None:
                # It is not Python's, so Python could not put it back.
                return
            _signal.signal(_signal.SIGALRM, self.ring)
        except ValueError:
            # Not in the main thread.
            return
        self.mask = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGALRM])
        self.timer = _signal.setitimer(_signal.ITIMER_REAL, 0)
        self.start = time.monotonic()
        self.armed = True
        # Again and again: the first may be caught.
        _signal.setitimer(_signal.ITIMER_REAL, self.seconds, AGAIN)

    def ring(self, _, frame):
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                # Not every module can be imported once more.
                return
            frame = frame.f_back
        if self.armed:
            raise _Late

    def off(self):
        """A second call does nothing: the first may be what the alarm ends."""
        if not self.armed:
            return
        self.armed = False
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, self.handler)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        left, interval = self.timer
        if left:
            _signal.setitimer(_signal.ITIMER_REAL, max(left - (time.monotonic() - self.start), 1e-6), interval)


class _Text:
    def __init__(self, limit):
        self.limit = limit
        self.parts = []
        self.size = 0

    def add(self, piece):
        self.parts.append(piece[: self.limit - self.size])
        self.size += len(piece)
        if self.size > self.limit:
            raise _Full


class _Pair(tuple):
    """A key and its value."""


class _Named(tuple):
    """A name and what it stands for."""


class _Parts(tuple):
    """What is before some items, the items, and what is after them."""


def _pairs(value):
    return map(_Pair, dict.items(value))


def _set(kind, value, base):
    if type(value) is set and value:
        return "{", set.__iter__(value), "}"
    return (kind + "({", base.__iter__(value), "})") if base.__len__(value) else (kind + "(", (), ")")


# How their reprs look.
_COMMON = {
    list: lambda kind, value, base: ("[", list.__iter__(value), "]"),
    tuple: lambda kind, value, base: ("(", tuple.__iter__(value), ",)" if tuple.__len__(value) == 1 else ")"),
    dict: lambda kind, value, base: ("{", _pairs(value), "}"),
    set: _set,
    frozenset: _set,
}
_SIZED = (str, bytes, bytearray, *_COMMON)


def _length(value):
    """Of the interpreter's own containers."""
    for base in _mro(type(value)):
        if base in _SIZED or (_module(base), _name(base)) in (("array", "array"), ("collections", "deque")):
            return base.__len__(value)
    return None


def _parts(value, owner):
    """What to walk, or None where the text is short, as far as one can tell."""
    make = _COMMON.get(owner)
    if make is not None:
        return make(_name(type(value)), value, owner)
    length = _length(value)
    if str(_module(owner)).partition(".")[0] in ABBREVIATING:
        # A text of theirs is as long as any other.
        return None if length is None or length <= LARGE else _many(value, length)
    _load()
    return _rare(value, owner, length)


def _load():
    if "_rare" not in globals():
        exec(compile(sources["kinds"], "<htmap-exec kinds>", "exec"), globals())


def large(value):
    """Whether its repr might write out something large."""
    _load()
    return _holds_much(value)


def _many(value, length):
    return "<%s.%s of %d items>" % (_module(type(value)), _name(type(value)), length), (), ""


def _write(text, value, depth):
    for owner in _mro(type(value)):
        if "__repr__" in _space(owner):
            break
    if owner in (str, bytes, bytearray):
        length = owner.__len__(value)
        if length > text.limit:
            text.add(repr(owner.__getitem__(value, slice(text.limit))))
            text.add("... (%d in all)" % length)
        else:
            text.add(owner.__repr__(value))
    elif owner is int and int.bit_length(value) > 10000:
        text.add("<int of %d bits>" % int.bit_length(value))
    elif owner in (object, int, float):
        text.add(owner.__repr__(value))
    else:
        parts = _parts(value, owner)
        if parts is None:
            text.add(str.__str__(repr(value)))
        elif depth > DEPTH:
            text.add("...")
        else:
            _walk(text, parts, depth)


def _walk(text, parts, depth):
    text.add(parts[0])
    comma = ""
    for item in parts[1]:
        text.add(comma)
        comma = ", "
        kind = type(item)
        if kind is _Parts:
            _walk(text, item, depth)
            continue
        if kind is _Pair:
            _write(text, item[0], depth + 1)
            text.add(": ")
            item = item[1]
        elif kind is _Named:
            text.add(item[0] + "=")
            item = item[1]
        _write(text, item, depth + 1)
    text.add(parts[2])


def bounded(value, limit, seconds=2.0):
    text = _Text(limit)
    alarm = _Alarm(seconds)
    try:
        try:
            alarm.set()
            _write(text, value, 0)
        finally:
            alarm.off()
    except _Full:
        length = None if any(base in (str, bytes, bytearray) for base in _mro(type(value))) else _length(value)
        more = "" if length is None else " (%d items)" % length
        text.parts.append(" ... cut at %d characters%s" % (limit, more))
    except _Late:
        alarm.off()
        text.parts.append("<repr took longer than %.1f s>" % seconds)
    except BaseException as error:
        alarm.off()
        text.parts.append("<repr raised %s>" % type(error).__name__)
    return "".join(text.parts)
