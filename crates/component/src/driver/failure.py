# Describes an exception to the runner, most important first: whatever hangs or fails later on,
# what was sent stands. Text is bounded everywhere: a report is read by people.
import time

# What a class of the user's may define anew: the interpreter's own.
_cause = BaseException.__cause__.__get__
_context = BaseException.__context__.__get__
_trace = BaseException.__traceback__.__get__

FRAMES = 100
TEXT = 20000
LOCAL = 2000
LOCALS = 200000
SECONDS = 5.0


def _cut(text, limit):
    return text if len(text) <= limit else text[:limit] + " ... cut at %d characters" % limit


def _clean(text):
    """Half of a surrogate pair is no text for anyone but Python."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _headline(traceback, error):
    try:
        lines = traceback.format_exception_only(type(error), error)
    except BaseException as problem:
        lines = ["%s: <its text could not be made: %s>" % (type(error).__name__, type(problem).__name__)]
    return _cut("".join(lines).strip(), TEXT)


def _message(traceback, error):
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
            lines.append('    at "%s", line %d, in %s' % (code.co_filename, place[0][1], code.co_name))
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

    frames = _frames(error)
    left_out = len(frames) - FRAMES
    if left_out > 0:
        frames = frames[: FRAMES // 2] + frames[-FRAMES // 2 :]
    described = []
    for frame, number in frames:
        code = frame.f_code
        try:
            line = linecache.getline(code.co_filename, number, frame.f_globals).strip()
        except Exception:
            line = ""
        described.append([_clean(code.co_filename), number, _clean(code.co_name), _clean(_cut(line, 500))])
    message = _clean(_cut(_message(traceback, error), 5 * TEXT))
    try:
        first = _trace(error)
        while first is not None and first.tb_frame.f_code.co_filename.startswith("<htmap-exec"):
            first = first.tb_next
        text = _clean("".join(traceback.format_exception(type(error), error, first)))
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
