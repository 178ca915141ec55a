# Given to the environment's Python with -c: compiles the sources that come on stdin, and writes a
# `.pyc` for each, or nothing where there is none. Only what is built in, Python 3.6 to 3.14.
#
# Each in a process of its own: one that crashes or hangs takes no other along, and a `.pyc` does not
# depend on what was compiled before (marshal notes which objects are in use elsewhere).
import _frozen_importlib_external as external
import _imp
import gc
import marshal
import posix
import sys

import _signal

seconds, mtime = map(int, sys.argv[1:])


def exactly(length):
    parts = []
    while length:
        part = posix.read(0, min(length, 1 << 20))
        if not part:
            posix._exit(0)
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def number():
    return int.from_bytes(exactly(8), "little")


def say(payload):
    payload = memoryview(len(payload).to_bytes(8, "little") + payload)
    while payload:
        payload = payload[posix.write(1, payload) :]


def compiled(name, source):
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    if sys.version_info >= (3, 7):
        # Python takes it without a look at the source (PEP 552), which nobody changes in a transplant.
        key = int.from_bytes(external.MAGIC_NUMBER, "little")
        header = (1).to_bytes(4, "little") + _imp.source_hash(key, source)
    else:
        header = mtime.to_bytes(4, "little") + len(source).to_bytes(4, "little")
    return external.MAGIC_NUMBER + header + marshal.dumps(code)


gc.disable()
try:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except Exception:
    pass  # built without it, or a lower limit is set

say(sys.implementation.cache_tag.encode())
while True:
    name = exactly(number()).decode("utf-8", "surrogateescape")
    source = exactly(number())
    child = posix.fork()
    if child == 0:
        _signal.alarm(seconds)
        try:
            pyc = compiled(name, source)
        except BaseException:
            posix._exit(1)
        _signal.alarm(0)
        say(pyc)
        posix._exit(0)
    if posix.waitpid(child, 0)[1] != 0:
        say(b"")
