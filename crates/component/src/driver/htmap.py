# The htmap module of the execute side: what a mapped function calls there, without HTMap.
# Anything else comes from a real HTMap, where there is one; its checkpoint and
# transfer_output_files are still these, because the runner reads their layout.
# `import htmap_exec as htmap` is the same; functions carry that name in their pickles.
# The runner's driver puts `scratch`, `component` and `outside_scratch` into this module, and
# worker.py does so where a spawned worker imports it.
import os
import sys
import types

with outside_scratch():
    import contextlib
    import errno
    import fcntl
    import hashlib
    import importlib.machinery
    import json
    import pathlib
    import shutil
    import stat
    from urllib.parse import quote, urlunsplit

_TRANSFER_DIR = "_htmap_transfer"
_USER_TRANSFER_DIR = "_htmap_user_transfer"
# Output files wait here until the output stands, and then go to the directory above.
_OUTPUT_FILES = "_htmap_output_files"
_PREPARED = "_htmap_prep_checkpoint"
_CURRENT = "_htmap_current_checkpoint"
_OLD = "_htmap_old_checkpoint"
_MANIFEST = ".htmap-exec-manifest.json"
_MODULES = os.path.join(scratch, ".htmap-exec-modules")
# The unit of digests: SHA-256 of every block that is not all zeros, each after its number.
_BLOCK = 1 << 20
_PAGE = 1 << 12
_ZEROS = bytes(_BLOCK)


class TransferPath:
    """Where a file is, on this machine or elsewhere; on the execute side mostly a value."""

    def __init__(self, path, protocol=None, location=None):
        if isinstance(path, TransferPath):
            protocol = protocol or path.protocol
            location = location or path.location
            path = path.path
        if location is not None and protocol is None:
            raise ValueError("a TransferPath with a location needs a protocol as well")
        self.path = pathlib.Path(path)
        self.protocol = protocol
        self.location = location

    @classmethod
    def cwd(cls):
        return cls(os.getcwd())

    @classmethod
    def home(cls):
        return cls(os.path.expanduser("~"))

    def as_url(self):
        path = self.path if self.protocol is not None else self.path.absolute()
        return urlunsplit((self.protocol or "", self.location or "", path.as_posix(), "", ""))

    def _with(self, path):
        return type(self)(path, self.protocol, self.location)

    def __truediv__(self, other):
        return self._with(self.path / (other.path if isinstance(other, TransferPath) else other))

    def __fspath__(self):
        return os.fspath(self.path)

    def __getattr__(self, name):
        if name.startswith("__") or name == "path":
            raise AttributeError(name)
        value = getattr(self.path, name)
        if isinstance(value, pathlib.PurePath):
            return self._with(value)
        if callable(value):

            def call(*args, **kwargs):
                answer = value(*args, **kwargs)
                return self._with(answer) if isinstance(answer, pathlib.PurePath) else answer

            return call
        return value

    def __eq__(self, other):
        if not isinstance(other, TransferPath):
            return NotImplemented
        return self.as_url() == other.as_url()

    def __lt__(self, other):
        return self.as_url() < other.as_url()

    def __le__(self, other):
        return self.as_url() <= other.as_url()

    def __hash__(self):
        return hash(self.as_url())

    def __repr__(self):
        return "TransferPath(path=%r, protocol=%r, location=%r)" % (
            self.path.as_posix(),
            self.protocol,
            self.location,
        )

    # The state that HTMap's own TransferPath pickles.
    def __getstate__(self):
        return self.path, self.location, self.protocol

    def __setstate__(self, state):
        self.path, self.location, self.protocol = state


TransferPath.__module__ = "htmap.transfer"


def _active():
    # HTMap promises that both calls do nothing where the function is run locally.
    return os.environ.get("HTMAP_ON_EXECUTE") == "1"


def _relative(path, call):
    """The path below the scratch directory; the last part may itself be a symbolic link."""
    path = os.path.normpath(os.path.join(os.getcwd(), os.fsdecode(path)))
    place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    root = os.path.realpath(scratch)
    if place != root and not place.startswith(root.rstrip("/") + "/"):
        raise ValueError(
            "htmap.%s: `%s` is outside the scratch directory `%s`, and HTCondor takes back files "
            "from there only. Write it below the scratch directory (the working directory when "
            "the function starts), or copy it there first." % (call, path, root)
        )
    relative = os.path.relpath(place, root)
    first = relative.split("/")[0]
    if first in (".", _TRANSFER_DIR, _USER_TRANSFER_DIR) or first.startswith(".htmap-exec-"):
        raise ValueError("htmap.%s: `%s` cannot be given: it holds HTMap's own files" % (call, path))
    if not os.path.lexists(place):
        raise FileNotFoundError(2, "htmap.%s: No such file or directory" % call, path)
    return place, relative


def _below(place, relative):
    """Yields (path, path below the scratch directory) of all that is at a path and below it."""
    left = [(place, relative)]
    while left:
        place, relative = left.pop()
        yield place, relative
        if os.path.isdir(place) and not os.path.islink(place):
            for name in os.listdir(place):
                left.append((os.path.join(place, name), os.path.join(relative, name)))


def _make_directory(path):
    """With its parents, and whatever the umask is."""
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o700)


def _sync(paths, file_system):
    # A sync for each of 50,000 files takes minutes.
    if len(paths) > 200:
        try:
            with outside_scratch():
                import ctypes
            descriptor = os.open(file_system, os.O_RDONLY)
            try:
                if ctypes.CDLL(None).syncfs(descriptor) == 0:
                    return
            finally:
                os.close(descriptor)
        except (ImportError, AttributeError):
            pass
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _data(descriptor, size):
    """Yields where the blocks with data begin. Holes are not read."""
    at = data = 0
    while at < size:
        if data < at:
            try:
                data = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError as error:
                data = size if error.errno == errno.ENXIO else at
        if data >= at + _BLOCK:
            at = data - data % _BLOCK
        else:
            yield at
            data = at
            at += _BLOCK


def _write(descriptor, block, at):
    """Leaves pages of zeros out."""
    start = 0
    while start < len(block):
        end = start
        while end < len(block) and block[end : end + _PAGE] != _ZEROS[: min(_PAGE, len(block) - end)]:
            end += _PAGE
        while start < min(end, len(block)):
            start += os.pwrite(descriptor, block[start:end], at + start)
        start = end + _PAGE


def _copy(source, target, mode):
    """A reflink where the file system has them, else a copy; never a hard link to a file that the
    function goes on writing to: it would change the checkpoint as well. Returns size and digest."""
    digest = hashlib.sha256()
    read = os.open(source, os.O_RDONLY)
    try:
        write = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            size = os.fstat(read).st_size
            try:
                fcntl.ioctl(write, 0x40049409, read)  # FICLONE
                source, size = write, os.fstat(write).st_size
            except OSError:
                source = read
            for at in _data(source, size):
                block = os.pread(source, min(_BLOCK, size - at), at)
                if len(block) < min(_BLOCK, size - at):
                    # The function cuts it off meanwhile.
                    size = at + len(block)
                if block != _ZEROS[: len(block)]:
                    digest.update((at // _BLOCK).to_bytes(8, "little") + block)
                    if source != write:
                        _write(write, block, at)
                if size < at + _BLOCK:
                    break
            os.ftruncate(write, size)
            os.fchmod(write, mode & 0o777 | 0o600)
        finally:
            os.close(write)
    finally:
        os.close(read)
    return size, digest.hexdigest()


def _read_manifest(directory):
    try:
        with open(os.path.join(directory, _MANIFEST)) as file:
            manifest = json.load(file)
        return manifest if isinstance(manifest["generation"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoint(*paths):
    """Stores the files and directories given as this component's checkpoint.

    The next attempt finds them at the same paths below the scratch directory. A crash at any
    moment leaves the old checkpoint or the new one."""
    if not _active():
        return
    transfer = os.path.join(scratch, _TRANSFER_DIR)
    os.makedirs(transfer, exist_ok=True)
    wanted = {}
    for path in paths:
        for place, relative in _below(*_relative(path, "checkpoint")):
            wanted[relative] = place
    with _locked(transfer):
        _store(transfer, wanted)


@contextlib.contextmanager
def _locked(directory):
    """One checkpoint at a time, whichever threads and processes ask for them."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _discard(directory, prepared):
    """A generation that is half gone must not be taken for a whole one of HTMap's: without a
    manifest, only what is called prepared is known as such."""
    if os.path.lexists(directory):
        if directory != prepared:
            os.rename(directory, prepared)
        if os.path.lexists(os.path.join(prepared, _MANIFEST)):
            os.unlink(os.path.join(prepared, _MANIFEST))
        shutil.rmtree(prepared)


def _store(transfer, wanted):
    prepared, current, old = (os.path.join(transfer, n) for n in (_PREPARED, _CURRENT, _OLD))
    _discard(prepared, prepared)
    if os.path.isdir(current):
        _discard(old, prepared)
    # Damaged ones that were kept count as well: the new one is newer.
    found = {
        name: _read_manifest(os.path.join(transfer, name))
        for name in os.listdir(transfer)
        if name.startswith((_PREPARED, _CURRENT, _OLD))
    }
    generation = 1 + max([0] + [manifest["generation"] for manifest in found.values() if manifest])
    last = (found.get(_CURRENT) or {}).get("files", {})
    _make_directory(prepared)
    # A file that changed just now may change again without a trace in its times.
    settled = os.stat(prepared).st_mtime_ns - 2 * 10**9
    entries = {}
    fresh = [prepared]
    for relative, place in wanted.items():
        name = quote(os.fsencode(relative))
        target = os.path.join(prepared, relative)
        _make_directory(os.path.dirname(target))
        status = os.lstat(place)
        kept = {"mode": stat.S_IMODE(status.st_mode), "mtime": _time(status)}
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(place)
            os.symlink(link, target)
            entries[name] = {"link": quote(os.fsencode(link))}
        elif stat.S_ISDIR(status.st_mode):
            _make_directory(target)
            fresh.append(target)
            entries[name] = dict(kept, directory=True)
        elif stat.S_ISREG(status.st_mode):
            before = last.get(name, {})
            if (
                "blocks" in before
                and before.get("source") == _identity(status)
                and _link(os.path.join(current, relative), target)
            ):
                # Unchanged since the last generation, whose copy nobody writes to.
                entries[name] = before
                continue
            size, blocks = _copy(place, target, status.st_mode)
            fresh.append(target)
            entries[name] = dict(kept, size=size, blocks=blocks)
            changed = max(status.st_mtime_ns, status.st_ctime_ns)
            if changed < settled and _identity(os.lstat(place)) == _identity(status):
                entries[name]["source"] = _identity(status)
        else:
            raise ValueError("htmap.checkpoint: `%s` is no file, directory or link" % place)
    _sync(fresh, prepared)
    manifest = os.path.join(prepared, _MANIFEST)
    with open(os.open(manifest + ".part", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        # By dumps: dump is written in Python.
        file.write(json.dumps({"version": 2, "generation": generation, "files": entries}))
        file.flush()
        os.fsync(file.fileno())
    os.rename(manifest + ".part", manifest)
    _sync([prepared], prepared)
    # From here on the prepared generation is complete: a restart takes the newest complete one.
    if os.path.isdir(current):
        os.rename(current, old)
    os.rename(prepared, current)
    _sync([transfer], transfer)
    with contextlib.suppress(OSError):
        _discard(old, prepared)


def _identity(status):
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _time(status):
    return max(-(2**63), min(status.st_mtime_ns, 2**63 - 1))


def _link(source, target):
    try:
        os.link(source, target)
        return True
    except OSError:
        return False


def _move(place, target):
    is_directory = os.path.isdir(place) and not os.path.islink(place)
    is_there = os.path.isdir(target) and not os.path.islink(target)
    if is_directory and is_there:
        for name in os.listdir(place):
            _move(os.path.join(place, name), os.path.join(target, name))
        os.rmdir(place)
        return
    if is_there:
        shutil.rmtree(target)
    elif is_directory and os.path.lexists(target):
        os.remove(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not is_directory or os.access(place, os.W_OK):
        shutil.move(place, target)
        return
    # A directory that may not be written cannot change its parent.
    mode = stat.S_IMODE(os.lstat(place).st_mode)
    os.chmod(place, 0o700)
    shutil.move(place, target)
    os.chmod(target, mode)


def transfer_output_files(*paths):
    """Moves files and directories to where HTCondor takes them back from.

    They keep their paths relative to the scratch directory, in the map's `output_files`."""
    if not _active():
        return
    places = []
    for path in paths:
        if isinstance(path, tuple):
            raise ValueError(
                "htmap.transfer_output_files: a destination (%r) cannot be given here: HTMap 0.6.1 "
                "switched these transfers off. Name the file alone and say where it goes with "
                "output_remaps in the map's MapOptions." % (path[1:],)
            )
        places.append(_relative(path, "transfer_output_files"))
    for place, relative in places:
        _move(place, os.path.join(scratch, _TRANSFER_DIR, _OUTPUT_FILES, relative))


checkpoint.__module__ = "htmap.checkpointing"
transfer_output_files.__module__ = "htmap.transfer"

_SUBMODULES = {
    "htmap.checkpointing": {"checkpoint": checkpoint},
    "htmap.transfer": {
        "TransferPath": TransferPath,
        "transfer_output_files": transfer_output_files,
    },
}


class _Package(types.ModuleType):
    """`htmap` itself: three names, and a real HTMap behind them for all others."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(name), name)


class _Alias(types.ModuleType):
    """`htmap_exec`: what `htmap` has here, and a real htmap_exec behind it for its own functions."""

    checkpoint = staticmethod(checkpoint)
    transfer_output_files = staticmethod(transfer_output_files)
    TransferPath = TransferPath

    def __getattr__(self, name):
        # While it is executed, what it lacks is a submodule of its own.
        if name.startswith("__") or "_executed" in self.__dict__:
            raise AttributeError(name)
        import htmap

        try:
            return getattr(htmap, name)
        except AttributeError as error:
            missing = error
        real = _installed("htmap_exec")
        if real is None or real.loader is None:
            raise missing
        self._executed = True
        self.__path__ = real.submodule_search_locations
        real.loader.exec_module(self)
        # It would import HTMap's submit side.
        self.__dict__.pop("__getattr__", None)
        return getattr(self, name)


def _installed(name):
    path = [entry for entry in sys.path if entry != _MODULES]
    return importlib.machinery.PathFinder.find_spec(name, path)


def _real(wanted):
    """Imports the HTMap that is installed here in the place of this one."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "htmap"}
    spec = _installed("htmap")
    if spec is None or spec.loader is None:
        raise AttributeError(
            "htmap.%s is not available on this execute node: HTMap is not installed for `%s`; "
            "htmap-exec brings checkpoint, transfer_output_files and TransferPath" % (wanted, sys.executable)
        )
    real = types.ModuleType("htmap")
    real.__spec__, real.__path__ = spec, spec.submodule_search_locations
    real.__file__, real.__package__, real.__loader__ = spec.origin, "htmap", spec.loader
    sys.modules["htmap"] = real
    try:
        spec.loader.exec_module(real)
    except BaseException:
        sys.modules.update(ours)
        raise
    for names in _SUBMODULES.values():
        real.__dict__.update(names)
    package = ours.get("htmap")
    if package is not None:
        package.__dict__.update(real.__dict__)
    return real


def find_spec(name):
    """Answers for `htmap` and two submodules, any other one is a real HTMap's; and for `htmap_exec`."""
    if name == "htmap_exec":
        spec = importlib.machinery.ModuleSpec(name, _Loader, is_package=True)
        real = _installed(name)
        if real is not None:
            spec.submodule_search_locations = real.submodule_search_locations
        return spec
    if name == "htmap" or name in _SUBMODULES:
        return importlib.machinery.ModuleSpec(name, _Loader, is_package=name == "htmap")
    if isinstance(sys.modules.get("htmap"), _Package):
        try:
            _real(name.split(".")[1])
        except AttributeError as error:
            raise ModuleNotFoundError(str(error), name=name) from None
    return importlib.machinery.PathFinder.find_spec(name, sys.modules["htmap"].__path__)


class _Loader:
    @staticmethod
    def create_module(spec):
        return {"htmap": _Package, "htmap_exec": _Alias}.get(spec.name, types.ModuleType)(spec.name)

    @staticmethod
    def exec_module(module):
        if module.__name__ == "htmap":
            for names in _SUBMODULES.values():
                module.__dict__.update(names)
        elif module.__name__ != "htmap_exec":
            module.__dict__.update(_SUBMODULES[module.__name__])
