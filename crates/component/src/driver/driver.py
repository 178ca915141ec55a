# Runs inside the user's Python: loads the function and its input, calls it, sends the result.
# Only the standard library, Python 3.6 to 3.14. Rarely needed parts (failure, display, the htmap
# module) are compiled when they are needed: compiling is most of what this program costs.
import faulthandler
import gc
import io
import os
import sys
import types

# Nothing that is imported here becomes garbage: looking for it costs a tenth of the start.
gc.disable()

# What is used after the function ran is looked up before it: it may replace anything.
_close, _exit, _fstat, _getpid, _open = os.close, os._exit, os.fstat, os.getpid, os.open
_O_RDWR = os.O_RDWR
_settrace, _setprofile = sys.settrace, sys.setprofile
_process = _getpid()
component, scratch, shipped_cloudpickle, show = (os.fsdecode(field) for field in sources[b"O"].split(b"\0"))
# Given back when memory runs out, so that the report of it finds some.
# bytes, not bytearray: the pages stay untouched until then.
_reserve = [bytes(1 << 22)]
_modules = {}


def part(kind, name):
    """One of the rarely needed sources, as a module."""
    if kind not in _modules:
        module = types.ModuleType("_htmap_exec_" + name)
        module.__dict__.update(component=component, outside_scratch=outside_scratch, scratch=scratch)
        exec(compile(sources[kind], "<htmap-exec %s>" % name, "exec"), module.__dict__)
        _modules[kind] = module
    return _modules[kind]


class outside_scratch:
    """Imports of our own must not find the user's `json.py`."""

    def __enter__(self):
        self.path = sys.path
        sys.path = [entry for entry in self.path if entry not in ("", scratch)]

    def __exit__(self, *_):
        sys.path = self.path


class Stream(io.RawIOBase):
    """One of the inputs, unpacked by the runner and sent in chunks."""

    left = 0
    ended = False

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.left:
            if self.ended:
                return 0
            kind, self.left = frame(control)
            if kind == b"Z":
                self.ended = True
                return 0
        view = memoryview(buffer).cast("B")
        size = control.recv_into(view, min(len(view), self.left))
        if not size:
            raise EOFError("htmap-exec closed the channel")
        self.left -= size
        return size


class Sink:
    """What the pickler writes to: chunks on the channel to the runner."""

    def __init__(self, connection):
        self.connection = connection

    def write(self, data):
        size = memoryview(data).nbytes
        if size <= 1 << 16:
            self.connection.sendall(header(b"D", size) + bytes(data))
        else:
            self.connection.sendall(header(b"D", size))
            self.connection.sendall(data)
        return size


class Finder:
    """First on sys.meta_path: htmap on an execute node is htmap-exec's, under either of its names."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "htmap" or name.startswith("htmap.") or name == "htmap_exec":
            return part(b"M", "htmap").find_spec(name)
        return None


def stage(name):
    send(control, b"S", name.encode("ascii"))


def load():
    stream = Stream()
    buffered = io.BufferedReader(stream, 1 << 16)
    start = buffered.peek(2)[:2]
    value = pickle.load(buffered)
    while buffered.read(1 << 16):
        pass
    return value, start[1] if start[:1] == b"\x80" else 0


_atoms = (int, float, complex, bool, type(None))


def plain(value):
    kind = type(value)
    if kind is int:
        return value.bit_length() < 10000
    return kind in _atoms or (kind in (str, bytes) and len(value) < 1000)


def shown(value):
    kind = type(value)
    if kind is types.FunctionType:
        return repr(value)
    if kind is tuple and len(value) < 100 and all(map(plain, value)):
        return repr(value)
    if kind is dict and not value:
        return "{}"
    if not show:
        return "<%s, whose repr did not end>" % kind.__name__
    return part(b"Y", "display").bounded(value, 10000)


def text(value):
    return value.encode("utf-8", "backslashreplace")


def reconnect():
    # A socket that took the place of a closed standard stream would get the user's prints.
    for standard in (0, 1, 2):
        try:
            _fstat(standard)
        except OSError:
            _open("/dev/null", _O_RDWR)
    try:
        return connect()
    except OSError:
        # Most likely out of descriptors: the function is over, these can go.
        for descriptor in range(3, 64):
            try:
                _close(descriptor)
            except OSError:
                pass
        return connect()


def flush():
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()
        except BaseException:
            pass


def failed(connection, where, error):
    _reserve.clear()
    kind = type(error)
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    fields = where, kind.__name__, missing if isinstance(missing, str) else ""
    send(connection, b"X", b"\0".join(map(text, fields)))
    try:
        part(b"F", "failure").report(lambda kind, payload: send(connection, kind, payload), part, error)
    except OSError:
        raise
    except BaseException as problem:
        send(connection, b"N", text("%s while the report was made" % type(problem).__name__))
    send(connection, b"E", b"")


sys.argv = ["htmap-exec", component]
for stream in (sys.stdout, sys.stderr):
    # A name that the locale cannot encode is no reason to fail.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
sys.path[:] = [entry for entry in sys.path if entry not in ("", ".", scratch)]
try:
    faulthandler.enable()
except Exception:
    pass

where = "importing cloudpickle"
try:
    stage(where)
    cloudpickle = broken = None
    for place in ("", scratch, shipped_cloudpickle):
        if place == scratch:
            # Spawned workers inherit sys.path: there they find `htmap`, before one that is installed.
            sys.path[:0] = [scratch, os.path.join(scratch, ".htmap-exec-modules")]
        elif place and cloudpickle is None:
            sys.path.append(place)
        if cloudpickle is None:
            try:
                import cloudpickle
            except Exception as error:
                if getattr(error, "name", None) != "cloudpickle":
                    broken = error
    if cloudpickle is None and broken is not None:
        raise broken
    # Without cloudpickle, what refers to modules only can still be run.
    import pickle

    # What is there now stays out of every later collection, the one at the end included; what the
    # user brings is not part of it.
    if hasattr(gc, "freeze"):
        gc.freeze()
    gc.enable()
    sys.meta_path.insert(0, Finder)
    where = "loading the function"
    stage(where)
    function, protocol = load()
    where = "loading the arguments"
    stage(where)
    arguments, _ = load()
    args, kwargs = arguments
    stage("showing the arguments")
    send(
        control,
        b"L",
        b"\0".join(text(field.replace("\0", "\\0")) for field in map(shown, (function, args, kwargs))),
    )
    go = frame(control)
except BaseException as error:
    failed(control, where, error)
else:
    # No descriptor of ours stays open while the function runs: it may close them all.
    control.close()
    problem = None
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        problem = error
        where = "running the function"
    for untrace in (_settrace, _setprofile, _settrace, _setprofile):
        try:
            untrace(None)
        except BaseException:
            # The very function that is being taken off.
            pass
    flush()
    if _getpid() != _process:
        # A child made by os.fork() came back from the function as well.
        _exit(0 if problem is None else 1)
    channel = reconnect()
    if problem is None:
        where = "pickling the result"
        send(channel, b"R", b"")
        try:
            (cloudpickle or pickle).dump(result, Sink(channel), protocol=min(protocol, pickle.HIGHEST_PROTOCOL))
        except BaseException as error:
            problem = error
        else:
            send(channel, b"E", b"")
    if problem is not None:
        failed(channel, where, problem)
    flush()
    channel.close()
