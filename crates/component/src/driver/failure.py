# Describes an exception to the runner, most important first: whatever hangs or fails later on,
# what was sent stands. Text is bounded everywhere: a report is read by people.
import os
import time

# What a class of the user's may define anew: the interpreter's own.
_cause = BaseException.__cause__.__get__
_context = BaseException.__context__.__get__
_trace = BaseException.__traceback__.__get__
_arguments = BaseException.args.__get__
_set_arguments = BaseException.args.__set__

FRAMES = 100
TEXT = 20000
LOCAL = 2000
LOCALS = 200000
SECONDS = 5.0
# The submit side's `source_lines.py` writes no larger file.
SOURCES = 1 << 20


def _cut(text, limit):
    return text if len(text) <= limit else text[:limit] + " ... cut at %d characters" % limit


def _clean(text):
    """Half of a surrogate pair is no text for anyone but Python."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Shown(str):
    """A text in the place of a value."""

    def __repr__(self):
        return str(self)


def _shorten(part, error):
    """Puts texts in the place of large things in an exception, and in those that led to it: what Python
    makes of them would be as large, and the function is over."""
    waiting = [error]
    seen = set()
    while waiting and len(seen) < 100:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [_cause(each), _context(each)]
        args = _arguments(each)
        if all(type(one) in (int, float, bool, type(None)) or (type(one) is str and len(one) <= TEXT) for one in args):
            continue
        display = part("display")
        waiting += [one for one in getattr(each, "exceptions", ())[:20] if isinstance(one, BaseException)]
        short = []
        for one in args:
            if type(one) is str:
                one = _cut(one, TEXT)
            elif display.large(one):
                one = _Shown(display.bounded(one, TEXT // 2 // len(args), 1.0))
            short.append(one)
        if any(one is not other for one, other in zip(args, short)):
            _set_arguments(each, tuple(short))


def _headline(traceback, error):
    try:
        lines = traceback.format_exception_only(type(error), error)
    except BaseException as problem:
        lines = ["%s: <its text could not be made: %s>" % (type(error).__name__, type(problem).__name__)]
    return _cut("".join(lines).strip(), TEXT)


class _Lines:
    """Looks to linecache like the lines of a file, of which only some are known."""

    def __init__(self, known):
        self.known = known
        self.size = max(known, default=0)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.known.get(index + 1, "\n")


class _Sources:
    """Where code that was pickled by value comes from, as the submit side tells, by what code keeps on its way.
    cloudpickle 3.1.3 takes the names of files out of it, and their lines are not on the node in any case."""

    def __init__(self):
        self.codes = {}
        try:
            with outside_scratch():
                import binascii
                import json
                import stat
            self.checksum = binascii.crc32
            # Not to wait for what is no file.
            descriptor = os.open(
                os.path.join(scratch, "_htmap_source.json"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return
                data = file.read(SOURCES + 1)
            if len(data) > SOURCES:
                return
            # A number of a million digits would take longer than the report may.
            told = json.loads(data.decode("ascii"), parse_int=lambda digits: int(digits[:9]))
            files = []
            for name, runs in told["files"]:
                known = {number: str(line) + "\n" for start, texts in runs for number, line in enumerate(texts, start)}
                files.append((str(name), _Lines(known)))
            self.codes = {key: files[index] for key, index in told["codes"].items()}
        except BaseException:
            # The report is made without it.
            self.codes = {}

    def find(self, code):
        """The file's name and lines, or None. The submit side's `source_lines.py` makes the same keys."""
        if not self.codes:
            return None
        table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
        kept = repr((code.co_code, code.co_names, code.co_varnames, table)).encode("utf-8", "backslashreplace")
        return self.codes.get("%d:%08x:%s" % (code.co_firstlineno, self.checksum(kept), code.co_name))

    def name(self, code):
        return (self.find(code) or [code.co_filename])[0]

    def line(self, linecache, frame, number):
        found = self.find(frame.f_code)
        if found:
            return found[1][number - 1]
        return linecache.getline(frame.f_code.co_filename, number, frame.f_globals)


def _traceback(traceback, linecache, sources, error, first):
    """As Python prints it, with the names and lines that the submit side knows."""
    told = traceback.TracebackException(type(error), error, first, lookup_lines=False)
    waiting = [(told, error, first)]
    named = {}
    while waiting:
        each, error, trace = waiting.pop()
        for summary in each.stack:
            found = sources.find(trace.tb_frame.f_code)
            if found:
                summary.filename = found[0]
                named[found[0]] = found[1]
            else:
                # Before linecache is told of files that may have the same name.
                _ = summary.line
            trace = trace.tb_next
        for inner, cause in [(each.__cause__, _cause(error)), (each.__context__, _context(error))] + list(
            zip(getattr(each, "exceptions", None) or (), getattr(error, "exceptions", None) or ())
        ):
            if inner is not None and cause is not None:
                waiting.append((inner, cause, _trace(cause)))
    before = {name: linecache.cache.get(name) for name in named}
    try:
        for name, lines in named.items():
            linecache.cache[name] = (len(lines), None, lines, name)
        return "".join(told.format())
    finally:
        for name, entry in before.items():
            linecache.cache.pop(name, None)
            if entry is not None:
                linecache.cache[name] = entry


def _message(traceback, sources, error):
    """The exception, what it holds if it is a group, and what led to it."""
    lines = [_headline(traceback, error)]

    def members(group, indent, budget):
        inner = getattr(group, "exceptions", None)
        if not isinstance(inner, tuple):
            return
        for index, member in enumerate(inner):
            if index == 20 or indent > 5:
                lines.append("  " * indent + "+ and %d more" % (len(inner) - index))
                break
            if isinstance(member, BaseException):
                lines.append("  " * indent + "+ " + _headline(traceback, member))
                members(member, indent + 1, budget)

    members(error, 1, 20)
    seen = {id(error)}
    for _ in range(20):
        if _cause(error) is not None:
            how, error = "caused by", _cause(error)
        elif _context(error) is not None and not error.__suppress_context__:
            how, error = "raised while handling", _context(error)
        else:
            break
        if id(error) in seen:
            break
        seen.add(id(error))
        lines.append("%s: %s" % (how, _headline(traceback, error)))
        members(error, 1, 20)
        place = _frames(error)[-1:]
        if place:
            code = place[0][0].f_code
            lines.append('    at "%s", line %d, in %s' % (sources.name(code), place[0][1], code.co_name))
    return "\n".join(lines)


def _frames(error):
    """The frames of the user's code, outermost first."""
    frames = []
    trace = _trace(error)
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno or 0))
        trace = trace.tb_next
    while frames and frames[0][0].f_code.co_filename.startswith("<htmap-exec"):
        del frames[0]
    return frames


def report(send, part, error):
    try:
        _report(send, part, error)
    except MemoryError:
        # The function's variables are what fills the memory.
        trace = _trace(error)
        while trace is not None:
            try:
                trace.tb_frame.clear()
            except RuntimeError:
                pass
            trace = trace.tb_next
        _report(send, part, error)


def _report(send, part, error):
    with outside_scratch():
        import json
        import linecache
        import traceback

    try:
        _shorten(part, error)
    except MemoryError:
        raise
    except Exception:
        # Whatever stands in for a value of the user's: Python's own text has to do.
        pass
    sources = _Sources()
    frames = _frames(error)
    left_out = len(frames) - FRAMES
    if left_out > 0:
        frames = frames[: FRAMES // 2] + frames[-FRAMES // 2 :]
    described = []
    for frame, number in frames:
        code = frame.f_code
        try:
            line = sources.line(linecache, frame, number).strip()
        except Exception:
            line = ""
        described.append([_clean(sources.name(code)), number, _clean(code.co_name), _clean(_cut(line, 500))])
    message = _clean(_cut(_message(traceback, sources, error), 5 * TEXT))
    try:
        first = _trace(error)
        while first is not None and first.tb_frame.f_code.co_filename.startswith("<htmap-exec"):
            first = first.tb_next
        try:
            text = _traceback(traceback, linecache, sources, error, first)
        except Exception:
            text = "".join(traceback.format_exception(type(error), error, first))
        text = _clean(text)
    except BaseException:
        text = message
    if len(text) > 5 * TEXT:
        text = text[: 2 * TEXT] + "\n... cut ...\n" + text[-2 * TEXT :]
    send(
        b"F",
        json.dumps(
            {
                "message": message,
                "traceback": text,
                "frames": described,
                "left_out": max(left_out, 0),
            }
        ).encode("ascii"),
    )
    display = part("display")
    end = time.monotonic() + SECONDS
    budget = LOCALS
    # The innermost frame is the one that people look at first.
    for index in range(len(frames) - 1, -1, -1):
        try:
            variables = list(frames[index][0].f_locals.items())
        except BaseException:
            continue
        for name, value in variables[:100]:
            left = end - time.monotonic()
            if left <= 0 or budget <= 0:
                shown = "<not shown: %s>" % ("out of time" if left <= 0 else "the report is full")
            else:
                shown = display.bounded(value, LOCAL, min(left, 1.0))
            budget -= len(shown)
            if budget < -20000:
                return
            send(
                b"V",
                b"\0".join(
                    field.replace("\0", "\\0").encode("utf-8", "backslashreplace")
                    for field in (str(index), str(name), shown)
                ),
            )
