# Texts of values, bounded in size and time, whatever their __repr__ does.
# A repr in pure Python that hangs is left behind in a daemon thread; one that holds the
# interpreter lock is ended by the runner, which has a deadline for every report.
import threading

_OPEN = {list: "[]", tuple: "()", set: "{}", frozenset: ("frozenset({", "})"), dict: "{}"}


class _Full(Exception):
    pass


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


def _write(text, value, depth):
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray:
        if len(value) > text.limit:
            text.add(repr(value[: text.limit]))
            text.add("... (%d in all)" % len(value))
        else:
            text.add(repr(value))
    elif kind is int and value.bit_length() > 10000:
        text.add("<int of %d bits>" % value.bit_length())
    elif kind in _OPEN and value:
        if depth > 5:
            text.add("...")
            return
        opening, closing = _OPEN[kind]
        text.add(opening)
        for index, item in enumerate(value):
            if index:
                text.add(", ")
            _write(text, item, depth + 1)
            if kind is dict:
                text.add(": ")
                _write(text, value[item], depth + 1)
        if kind is tuple and len(value) == 1:
            text.add(",")
        text.add(closing)
    else:
        text.add(str.__str__(repr(value)))


def _compose(value, limit):
    text = _Text(limit)
    try:
        _write(text, value, 0)
    except _Full:
        more = " (%d items)" % len(value) if type(value) in _OPEN else ""
        text.parts.append(" ... cut at %d characters%s" % (limit, more))
    except BaseException as error:
        text.parts.append("<repr raised %s>" % type(error).__name__)
    return "".join(text.parts)


def bounded(value, limit, seconds=2.0):
    if type(value) in (int, float, bool, str, bytes, type(None)):
        return _compose(value, limit)
    answer = []
    try:
        worker = threading.Thread(target=lambda: answer.append(_compose(value, limit)))
        worker.daemon = True
        worker.start()
        worker.join(max(seconds, 0.01))
    except Exception:
        return _compose(value, limit)
    return answer[0] if answer else "<repr took longer than %.1f s>" % seconds
