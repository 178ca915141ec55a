# Runs inside the user's Python: loads the function and its input, calls it, sends the result.
# Only the standard library, Python 3.6 to 3.14. Rarely needed parts (failure, display, the htmap
# module) are compiled when they are needed: compiling is most of what this program costs.
# What is said, and by which letters: session/protocol.rs.
import faulthandler
import gc
import io
import os
import sys
import types

import _signal
import _socket

# Nothing that is imported here becomes garbage: looking for it costs a tenth of the start.
gc.disable()

# What is used after the function ran is looked up before it: it may replace anything.
_close, _exit, _fstat, _getpid, _open = os.close, os._exit, os.fstat, os.getpid, os.open
_O_RDWR = os.O_RDWR
_settrace, _setprofile = sys.settrace, sys.setprofile
_process = _getpid()
component, scratch, shipped, prefer_shipped, show = map(os.fsdecode, sources[b"O"].split(b"\0"))
# Given back when memory runs out, so that the report of it finds some.
# bytes, not bytearray: the pages stay untouched until then.
_reserve = [bytes(1 << 22)]
_modules = {}


def part(name):
    """One of the rarely needed sources, as a module."""
    if name not in _modules:
        module = types.ModuleType("_htmap_exec_" + name)
        module.__dict__.update(component=component, outside_scratch=outside_scratch, scratch=scratch, sources=sources)
        exec(compile(sources[name], "<htmap-exec %s>" % name, "exec"), module.__dict__)
        _modules[name] = module
    return _modules[name]


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
        if _getpid() != _process:
            # A child that was forked while this is unpickled: these bytes are its parent's.
            _exit(0)
        if not self.left:
            if self.ended:
                return 0
            kind, self.left = frame(control)
            if kind == b"Z":
                self.ended = True
                return 0
            if kind != b"C":
                raise EOFError("htmap-exec sent something else than an input")
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
            return part("htmap").find_spec(name)
        return None


def stage(name):
    send(control, b"S", name.encode("ascii"))


def load():
    stream = Stream()
    buffered = io.BufferedReader(stream, 1 << 16)
    start = buffered.peek(2)[:2]
    value = pickle.load(buffered)
    if _getpid() != _process:
        _exit(0)
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
    return part("display").bounded(value, 10000)


def text(value):
    return value.encode("utf-8", "backslashreplace")


def quiet():
    """The function is over: what it left behind must not end Python, nor raise while its result is sent.

    Returns the signal handlers that were taken off; exit handlers may count on them."""
    taken = []
    _socket.setdefaulttimeout(None)
    faulthandler.cancel_dump_traceback_later()
    for timer in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
        _signal.setitimer(timer, 0)
    for number in range(1, _signal.NSIG):
        try:
            # A handler in Python; the others raise nothing.
            handler = _signal.getsignal(number)
            if callable(handler):
                taken.append((number, handler))
                ends = number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT)
                _signal.signal(number, _signal.SIG_DFL if ends else _signal.SIG_IGN)
        except (OSError, ValueError):
            pass

    def exit_of_another_thread(status):
        # A watchdog of the function's; children that Python forks for the result end as they do.
        if _getpid() != _process or _thread.get_ident() == main:
            _exit(status)
        while True:
            time.sleep(3600)

    import _thread
    import time

    main = _thread.get_ident()
    os._exit = exit_of_another_thread
    return taken


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
        # Most likely out of descriptors: the function is over, these can go; stdin is empty.
        for descriptor in (*range(3, 64), 0):
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
    missing = number = name = None
    lineage = ""
    try:
        lineage = " ".join(base.__name__ for base in kind.__mro__ if base.__module__ == "builtins")
        if isinstance(error, ImportError):
            missing = ImportError.name.__get__(error)
        elif isinstance(error, OSError):
            number, name = OSError.errno.__get__(error), OSError.filename.__get__(error)
    except BaseException:
        pass  # a metaclass of the user's
    fields = where, kind.__name__, lineage, missing, number if type(number) is int else None, name
    fields = [str(field).replace("\0", "") if type(field) in (str, int) else "" for field in fields]
    send(connection, b"X", b"\0".join(map(text, fields)))
    try:
        part("failure").report(lambda kind, payload: send(connection, kind, payload), part, error)
    except OSError:
        raise
    except BaseException as problem:
        send(connection, b"N", text("%s while the report was made" % type(problem).__name__))
    send(connection, b"E", b"")


sys.argv = ["htmap-exec", component]
for stream in ("stdout", "stderr"):
    # A line is seen when it is printed. A name that the locale cannot encode is no reason to fail.
    try:
        settings = {"errors": "backslashreplace", "line_buffering": True}
        if hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(**settings)
        else:  # Python 3.6
            settings["encoding"] = getattr(sys, stream).encoding
            setattr(sys, stream, io.TextIOWrapper(getattr(sys, stream).detach(), **settings))
            setattr(sys, "__%s__" % stream, getattr(sys, stream))
    except (AttributeError, ValueError):
        pass  # a standard stream that is closed is None
sys.path[:] = [entry for entry in sys.path if entry not in ("", ".", scratch)]
try:
    faulthandler.enable()
except Exception:
    pass

where = "importing cloudpickle"
try:
    stage(where)
    cloudpickle = broken = None
    if prefer_shipped:
        # First for workers, too: it holds nothing else.
        sys.path.insert(0, shipped)
    for place in ("", scratch, shipped):
        if place == scratch:
            # Spawned workers inherit sys.path: there they find `htmap`, before one that is installed.
            sys.path[:0] = [scratch, os.path.join(scratch, ".htmap-exec-modules")]
        elif place and cloudpickle is None and place not in sys.path:
            sys.path.append(place)
        if cloudpickle is None:
            try:
                import cloudpickle
            except Exception as error:
                if prefer_shipped and place == "":
                    sys.path.remove(shipped)
                    try:
                        import cloudpickle
                    except Exception:
                        pass
                if getattr(error, "name", None) != "cloudpickle":
                    broken = error
    if cloudpickle is None and broken is not None:
        raise broken
    if cloudpickle is not None:
        about = (getattr(cloudpickle, name, "") for name in ("__version__", "__file__"))
        send(control, b"K", b"\0".join(text(str(field)) for field in about))
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
    if frame(control)[0] != b"G":
        raise EOFError("htmap-exec does not let the function run")
except BaseException as error:
    if _getpid() != _process:
        # A child that was forked meanwhile: its parent goes on with this conversation.
        _exit(1)
    try:
        quiet()
    except BaseException:
        pass
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
    taken = ()
    try:
        taken = quiet()
    except BaseException:
        pass
    channel = reconnect()
    if problem is None:
        where = "pickling the result"
        try:
            send(channel, b"R", b"")
            (cloudpickle or pickle).dump(result, Sink(channel), protocol=min(protocol, pickle.HIGHEST_PROTOCOL))
            send(channel, b"E", b"")
        except BaseException as error:
            problem = error
            # Half a frame may have been sent: what follows must not be taken for its rest.
            channel.close()
            channel = reconnect()
    if problem is not None:
        failed(channel, where, problem)
    flush()
    channel.close()
    os._exit = _exit
    for number, handler in taken:
        _signal.signal(number, handler)
