# The htmap module of the execute side: what a mapped function calls there, without HTMap.
# Anything else comes from a real HTMap, where there is one; its checkpoint and
# transfer_output_files are still these, because the runner reads their layout.
# `import htmap_exec as htmap` is the same; functions carry that name in their pickles.
# The runner's driver puts `scratch`, `component` and `outside_scratch` into this module.
import os
import sys
import types

with outside_scratch():
    import contextlib
    import fcntl
    import hashlib
    import importlib.machinery
    import json
    import pathlib
    import shutil
    import stat
    from urllib.parse import urlunsplit

_TRANSFER_DIR = "_htmap_transfer"
_USER_TRANSFER_DIR = "_htmap_user_transfer"
_PREPARED = "_htmap_prep_checkpoint"
_CURRENT = "_htmap_current_checkpoint"
_OLD = "_htmap_old_checkpoint"
_MANIFEST = ".htmap-exec-manifest.json"


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
    path = os.path.normpath(os.path.join(os.getcwd(), os.fspath(path)))
    place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    root = os.path.realpath(scratch)
    if place != root and not place.startswith(root.rstrip("/") + "/"):
        raise ValueError(
            "htmap.%s: `%s` is outside the scratch directory `%s`, and HTCondor takes back files "
            "from there only. Write it below the scratch directory (the working directory when "
            "the function starts), or copy it there first." % (call, path, root)
        )
    relative = os.path.relpath(place, root)
    if relative == "." or relative.split("/")[0] in (_TRANSFER_DIR, _USER_TRANSFER_DIR):
        raise ValueError("htmap.%s: `%s` cannot be given: it holds HTMap's own files" % (call, path))
    if not os.path.lexists(place):
        raise FileNotFoundError(2, "htmap.%s: No such file or directory" % call, path)
    return place, relative


def _files(place, relative):
    """Yields (path, path below the scratch directory) of the files and links below a path."""
    if os.path.isdir(place) and not os.path.islink(place):
        names = sorted(os.listdir(place))
        if not names:
            yield place, relative
        for name in names:
            for found in _files(os.path.join(place, name), os.path.join(relative, name)):
                yield found
    else:
        yield place, relative


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _copy(source, target):
    """A reflink where the file system has them, else a copy; never a hard link to a file that
    the function goes on writing to: it would change the checkpoint as well."""
    import fcntl

    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            fcntl.ioctl(write.fileno(), 0x40049409, read.fileno())  # FICLONE
        except OSError:
            shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())
    shutil.copystat(source, target)


def _read_manifest(directory):
    try:
        with open(os.path.join(directory, _MANIFEST)) as file:
            return json.load(file)
    except (OSError, ValueError):
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
        for place, relative in _files(*_relative(path, "checkpoint")):
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


def _store(transfer, wanted):
    prepared, current, old = (os.path.join(transfer, n) for n in (_PREPARED, _CURRENT, _OLD))
    for leftover in (prepared, old) if os.path.isdir(current) else (prepared,):
        if os.path.lexists(leftover):
            shutil.rmtree(leftover)
    os.mkdir(prepared)
    last = _read_manifest(current) or _read_manifest(old) or {"generation": 0, "files": {}}
    entries = {}
    for relative, place in sorted(wanted.items()):
        target = os.path.join(prepared, relative)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        status = os.lstat(place)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(place), target)
            entries[relative] = {"link": os.readlink(place)}
        elif stat.S_ISDIR(status.st_mode):
            os.makedirs(target, exist_ok=True)
            entries[relative] = {"directory": True}
        elif stat.S_ISREG(status.st_mode):
            identity = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            before = last["files"].get(relative, {})
            kept = os.path.join(current, relative)
            if before.get("source") == identity and os.path.isfile(kept):
                # Unchanged since the last generation, whose copy nobody writes to.
                os.link(kept, target)
                entries[relative] = before
            else:
                _copy(place, target)
                entries[relative] = {
                    "size": os.path.getsize(target),
                    "sha256": _digest(target),
                    "source": identity,
                }
        else:
            raise ValueError("htmap.checkpoint: `%s` is no file, directory or link" % place)
    for directory, _, _ in os.walk(prepared, topdown=False):
        _sync(directory)
    manifest = os.path.join(prepared, _MANIFEST)
    with open(manifest + ".part", "w") as file:
        json.dump({"version": 1, "generation": last["generation"] + 1, "files": entries}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(manifest + ".part", manifest)
    _sync(prepared)
    # From here on the prepared generation is complete: a restart takes the newest complete one.
    if os.path.isdir(current):
        os.rename(current, old)
    os.rename(prepared, current)
    _sync(transfer)
    shutil.rmtree(old, ignore_errors=True)


def _move(place, target):
    if os.path.isdir(place) and not os.path.islink(place) and os.path.isdir(target):
        for name in os.listdir(place):
            _move(os.path.join(place, name), os.path.join(target, name))
        os.rmdir(place)
        return
    if os.path.isdir(target) and not os.path.islink(target):
        shutil.rmtree(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.move(place, target)


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
        _move(place, os.path.join(scratch, _USER_TRANSFER_DIR, component, relative))


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
        real = importlib.machinery.PathFinder.find_spec("htmap_exec", sys.path)
        if real is None or real.loader is None:
            raise missing
        self._executed = True
        self.__path__ = real.submodule_search_locations
        real.loader.exec_module(self)
        # It would import HTMap's submit side.
        self.__dict__.pop("__getattr__", None)
        return getattr(self, name)


def _real(wanted):
    """Imports the HTMap that is installed here in the place of this one."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "htmap"}
    spec = importlib.machinery.PathFinder.find_spec("htmap", sys.path)
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
        real = importlib.machinery.PathFinder.find_spec(name, sys.path)
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
