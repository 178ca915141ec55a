"""Times transplants against what else packs, moves and unpacks a Python: scripts/bench transplant [--runs N] [--quick]

Everything in one run, each round every candidate in turn, medians. Unpacking needs root: an ext4 without a journal
gets slower with every tree that was deleted on it, so each one goes to a new journaled ext4 in memory. `--quick`
leaves out the peers that take minutes. Of the peers pigz, mksquashfs and squashfuse are Debian's (`apt-get install
pigz squashfs-tools squashfuse`), conda-pack and venv-pack are installed into the cache; what is missing is left out by
name.
"""

import contextlib
import gzip
import hashlib
import os
import pathlib
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Optional, Tuple

PACKAGES = [
    "numpy==2.4.6",
    "scipy==1.17.1",
    "pandas==3.1.1",
    "matplotlib==3.11.2",
    "scikit-learn==1.9.1",
    "pyarrow==26.0.1",
    "cloudpickle==3.1.2",
]
PACKERS = ["conda-pack==0.9.2", "venv-pack==0.2.0", "setuptools<81"]
MEMORY = pathlib.Path("/dev/shm")
IMPORTS = "numpy, scipy, pandas"

HTMAPS = """
import shutil, sys
shutil.make_archive(sys.argv[2], "gztar", sys.argv[1])
"""
FUNCTION = """
import gzip, cloudpickle
def function(modules):
    import time
    begun = time.time()
    for module in modules:
        __import__(module)
    return begun, time.time()
modules = %r
for name, value in ("func", function), ("0.in", ((modules,), {})):
    with gzip.open(name, "wb") as file:
        cloudpickle.dump(value, file)
"""

Command = List[str]
# What installs packages without compiling them, and this with their `.pyc`.
UV = {"without .pyc": (), "with .pyc": ("--compile-bytecode",)}
UV_PACKAGES = [package for package in PACKAGES if package.split("==")[0] in (*IMPORTS.split(", "), "cloudpickle")]

# Seconds on the clock, and of processors: the second ones say more on a machine that is shared.
Seconds = Tuple[float, float]


def cached(name: str, key: str, fill: "Callable[[pathlib.Path], None]") -> pathlib.Path:
    """As in scripts/setup: what has its final name is complete."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = pathlib.Path(os.environ.get("HTMAP_EXEC_DEV_CACHE", f"{home}/htmap-exec-dev"))
    path = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not path.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        making = pathlib.Path(tempfile.mkdtemp(prefix=".making-", dir=cache))
        fill(making)
        making.chmod(0o755)
        making.rename(path)
    return path


def pip(python: "os.PathLike[str]", *words: str) -> None:
    quiet = ["-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.check_call([python, "-m", "pip", "install", *quiet, *words])


def environment(base: str) -> pathlib.Path:
    """A copy of a whole Python with the usual science packages; its interpreter."""
    program = "import sys; print(sys.base_prefix, 'python%d.%d' % sys.version_info[:2])"
    prefix, name = subprocess.check_output([base, "-c", program], text=True).split()

    def fill(where: pathlib.Path) -> None:
        print(f"making the environment: {prefix} with {' '.join(PACKAGES)}")
        subprocess.check_call(["cp", "-a", f"{prefix}/.", where])
        # A copy whose RUNPATH names the original would run with the original's library.
        interpreter = where / "bin" / name
        old, new = f"{prefix}/lib\0".encode(), b"$ORIGIN/../lib\0"
        content = interpreter.read_bytes()
        if old in content:
            interpreter.write_bytes(content.replace(old, new.ljust(len(old), b"\0")))
        pip(interpreter, *PACKAGES)

    return cached("bench-transplant", f"{prefix} {name} {PACKAGES}", fill) / "bin" / name


def packers() -> "Optional[pathlib.Path]":
    def fill(where: pathlib.Path) -> None:
        subprocess.check_call(["python3", "-m", "venv", where])
        pip(where / "bin/python", *PACKERS)

    try:
        return cached("bench-packers", str(PACKERS), fill) / "bin"
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"conda-pack and venv-pack are left out: {error}")
        return None


def as_if_conda(tree: pathlib.Path) -> pathlib.Path:
    """The same files, which conda-pack takes for packages that pip installed into a conda environment."""

    def fill(where: pathlib.Path) -> None:
        subprocess.check_call(["cp", "-al", f"{tree}/.", where])
        (where / "conda-meta").mkdir()
        (where / "conda-meta/history").touch()

    return cached("bench-conda", str(tree), fill)


def as_if_venv(tree: pathlib.Path, base: str) -> pathlib.Path:
    """The same files, which venv-pack takes for a virtual environment's."""

    def fill(where: pathlib.Path) -> None:
        subprocess.check_call(["cp", "-al", f"{tree}/.", where])
        (where / "pyvenv.cfg").write_text(f"home = {pathlib.Path(base).parent}\n")

    return cached("bench-venv", str(tree), fill)


def uv_environments(base: str) -> "Dict[str, pathlib.Path]":
    """Two virtual environments that uv made; their interpreters."""
    uv = os.environ.get("HTMAP_EXEC_DEV_PYTHON", sys.executable)
    made = {}
    for name, options in UV.items():

        def fill(where: pathlib.Path, options: "Tuple[str, ...]" = options) -> None:
            quiet = [uv, "-m", "uv", "--quiet", "--no-config"]
            subprocess.check_call([*quiet, "venv", "--clear", "--python", base, where])
            install = [*quiet, "pip", "install", "--link-mode", "copy", "--python", str(where / "bin/python"), *options]
            subprocess.check_call([*install, *UV_PACKAGES])

        try:
            made[name] = cached("bench-uv", f"{base} {options} {UV_PACKAGES}", fill) / "bin/python"
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"uv's environment {name} is left out: {error}")
    return made


@contextlib.contextmanager
def every_core_busy() -> "Iterator[None]":
    """By others at the priority that a job has, as on a node whose slots are all taken."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def clock(command: Command, env: "Optional[Dict[str, str]]" = None, cwd: "Optional[pathlib.Path]" = None) -> Seconds:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
        raise RuntimeError(lines[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextlib.contextmanager
def fresh_file_system(work: pathlib.Path) -> "Iterator[pathlib.Path]":
    image, where = work / "image", work / "mounted"
    with open(image, "wb") as file:
        file.truncate(8 << 30)
    quick = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.check_call(["mkfs.ext4", "-q", "-F", "-N", "400000", "-E", quick, image])
    where.mkdir(exist_ok=True)
    subprocess.check_call(["mount", "-o", "loop", image, where])
    try:
        (where / "scratch").mkdir()
        yield where / "scratch"
    finally:
        subprocess.check_call(["umount", where])
        image.unlink()


def table(title: str, found: "Dict[str, List[Seconds]]", against: "List[str]", notes: "Dict[str, str]") -> None:
    """Medians, and what ours (the first) is of those that there are goals for."""

    def median(values: "List[Seconds]", which: int) -> float:
        return statistics.median(each[which] for each in values)

    print(f"\n{title:38}   wall      CPU   ours is of it")
    ours = next(iter(found.values()))
    for name, values in found.items():
        times = [median(values, which) for which in (0, 1)]
        shares = [median(ours, which) / times[which] for which in (0, 1)]
        share = f"{shares[0]:5.2f}  ({shares[1]:4.2f} of the CPU)" if name in against else " " * 24
        print(f"    {name:34} {times[0]:6.2f} s {times[1]:6.2f} s  {share} {notes.get(name, '')}".rstrip())


class Bench:
    def __init__(self, binary: str, base: str, runs: int, quick: bool, work: pathlib.Path) -> None:
        self.binary, self.runs, self.quick, self.work = binary, runs, quick, work
        self.base = base
        self.python = environment(base)
        self.tree = self.python.parent.parent
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self.archives: Dict[str, pathlib.Path] = {}

    def ours(self, directory: pathlib.Path, python: "Optional[pathlib.Path]" = None) -> Command:
        return [self.binary, "transplant", "build", "--python", str(python or self.python), "--dir", str(directory)]

    def build(self) -> None:
        tree, work = self.tree, self.work
        peers: Dict[str, Tuple[Command, pathlib.Path]] = {}
        zstd = work / "tree.tar.zst"
        peers["tar | zstd -T0 -3"] = (["sh", "-c", f"tar -C {tree} -cf - . | zstd -T0 -3 -qf -o {zstd}"], zstd)
        squash = work / "tree.squashfs"
        peers["mksquashfs, zstd 3"] = (
            [*f"mksquashfs {tree} {squash} -noappend -quiet -no-progress -comp zstd -Xcompression-level 3".split()],
            squash,
        )
        slow: Dict[str, Tuple[Command, pathlib.Path]] = {}
        pigz = work / "tree.pigz.tar.gz"
        slow["tar | pigz"] = (["sh", "-c", f"tar -C {tree} -cf - . | pigz > {pigz}"], pigz)
        gztar = work / "tree.tar.gz"
        slow["HTMap: shutil's gztar"] = ([str(self.python), "-c", HTMAPS, str(tree), str(work / "tree")], gztar)
        packer = packers()
        for tool, prefix in (
            (("conda-pack", as_if_conda(tree)), ("venv-pack", as_if_venv(tree, self.base))) if packer else ()
        ):
            out = work / f"{tool}.tar.gz"
            # Its first line names the place where it was installed, which was a temporary one.
            words = [str(packer / "python"), str(packer / tool)]
            slow[tool] = ([*words, "-p", str(prefix), "-o", str(out), "-q"], out)
        found: Dict[str, List[Seconds]] = {"htmap-exec": [], "htmap-exec, nothing changed": []}
        found["htmap-exec, the same once more"] = []
        found["htmap-exec, one package changed"] = []
        notes: Dict[str, str] = {}
        more = self.tree / "lib" / self.python.name / "site-packages/bench_transplant.py"
        for number in range(self.runs):
            fresh = work / f"store-{number}"
            env = {**self.env, "XDG_CACHE_HOME": str(work / f"cache-{number}")}
            found["htmap-exec"].append(clock(self.ours(fresh), env))
            # The second one finds all metadata and the ledger in memory.
            found["htmap-exec, nothing changed"].append(clock(self.ours(fresh), env))
            found["htmap-exec, the same once more"].append(clock(self.ours(fresh), env))
            [self.archives["htmap-exec"]] = [path for path in fresh.iterdir() if path.suffix != ".pip"]
            try:
                more.write_text(f"number = {number}\n")
                found["htmap-exec, one package changed"].append(clock(self.ours(fresh), env))
            finally:
                more.unlink()
            for name, (command, out) in {**peers, **({} if self.quick or number else slow)}.items():
                if name in notes:
                    continue
                try:
                    found.setdefault(name, []).append(clock(command, self.env))
                    self.archives[name] = out
                except (OSError, RuntimeError) as error:
                    notes[name] = f"left out: {error}"
                    del found[name]
        for name, archive in self.archives.items():
            notes[name] = f"  {archive.stat().st_size / 1e6:.0f} MB"
        table("build (peers that take minutes: once)", found, list(self.archives)[1:], notes)
        first, again = (min(found[name])[0] for name in ("htmap-exec", "htmap-exec, one package changed"))
        print(f"    one package changed: {again / first:.2f} of the first build")
        for name, note in notes.items():
            if name not in found:
                print(f"    {name:34} {note}")

    def unpackers(self) -> "Dict[str, Callable[[str], Command]]":
        archives = self.archives
        every: Dict[str, Callable[[str], Command]] = {
            "htmap-exec": lambda to: [self.binary, "transplant", "unpack", str(archives["htmap-exec"]), to],
            "tar | zstd -T0 -3": lambda to: ["tar", "--zstd", "-xf", str(archives["tar | zstd -T0 -3"]), "-C", to],
            "mksquashfs, zstd 3": lambda to: (
                ["unsquashfs", "-q", "-n", "-f", "-d", to, str(archives["mksquashfs, zstd 3"])]
            ),
            "HTMap: shutil's gztar": lambda to: ["tar", "-xzf", str(archives["HTMap: shutil's gztar"]), "-C", to],
            "cp -a": lambda to: ["cp", "-a", f"{self.tree}/.", to],
        }
        return {name: make for name, make in every.items() if name in archives or name == "cp -a"}

    def unpack(self) -> None:
        found: Dict[str, List[Seconds]] = {}
        for _ in range(self.runs):
            for name, make in self.unpackers().items():
                with fresh_file_system(self.work) as where:
                    found.setdefault(name, []).append(clock(make(str(where)), self.env))
        table("unpack, each time on a new ext4 in memory", found, list(found)[1:], {})

    def start(self) -> None:
        pickles: Dict[str, pathlib.Path] = {}
        for name, modules in (("first instruction", []), (f"import {IMPORTS}", IMPORTS.split(", "))):
            pickles[name] = self.work / name.split()[0]
            pickles[name].mkdir()
            subprocess.check_call([self.python, "-c", FUNCTION % modules], cwd=pickles[name])
        archive = str(self.archives["htmap-exec"])
        cache = self.work / "node-cache"
        cache.mkdir()
        transplant = ["--transplant", archive]
        ways: Dict[str, Tuple[Command, Dict[str, str]]] = {
            "htmap-exec, mounted": (transplant, {}),
            "htmap-exec, unpacked": ([*transplant, "--no-mount"], {}),
            "htmap-exec, node's cache": (transplant, {"HTMAP_EXEC_CACHE_DIR": str(cache)}),
            "in place": (["--python", str(self.python)], {}),
        }
        with fresh_file_system(self.work) as scratch:
            self.run(scratch, pickles["first instruction"], *ways["htmap-exec, node's cache"])
        if not any(cache.iterdir()):
            del ways["htmap-exec, node's cache"]
        for name, pickled in pickles.items():
            reached: Dict[str, List[Seconds]] = {}
            whole: Dict[str, List[Seconds]] = {}
            for _ in range(self.runs):
                for way, (options, env) in ways.items():
                    with fresh_file_system(self.work) as scratch:
                        times = self.run(scratch, pickled, options, env)
                    reached.setdefault(way, []).append((times[0], times[2]))
                    whole.setdefault(way, []).append((times[1], times[2]))
                for way, make in self.unpackers().items():
                    if not name.startswith("import") or way not in ("tar | zstd -T0 -3", "HTMap: shutil's gztar"):
                        continue
                    with fresh_file_system(self.work) as scratch:
                        one = clock(make(str(scratch)), self.env)
                        python = str(scratch / "bin" / self.python.name)
                        other = clock([python, "-c", f"import {IMPORTS}"], self.env)
                    reached.setdefault(f"{way}, then python", []).append((one[0] + other[0], one[1] + other[1]))
                if name.startswith("import"):
                    self.squashed(reached)
            table(f"from the start to: {name}", reached, list(reached)[1:], {})
            if not name.startswith("import"):
                table("the whole run of a function that does nothing", whole, ["in place"], {})
        self.busy(pickles[f"import {IMPORTS}"], {way: ways[way] for way in ("htmap-exec, mounted", "in place")})
        self.uv(pickles[f"import {IMPORTS}"])

    def squashed(self, reached: "Dict[str, List[Seconds]]") -> None:
        """The image mounted, then Python: by the kernel, which takes root, and by squashfuse, which few nodes have."""
        image = self.archives.get("mksquashfs, zstd 3")
        if image is None:
            return
        where = self.work / "squashed"
        where.mkdir(exist_ok=True)
        python = f"{where}/bin/{self.python.name} -c 'import {IMPORTS}'"
        mounts = {"the kernel": f"mount -t squashfs -o loop,ro {image} {where}"}
        if shutil.which("squashfuse"):
            mounts["squashfuse"] = f"squashfuse {image} {where}"
        for name, mount in mounts.items():
            try:
                times = clock(["sh", "-c", f"{mount} && {python}"], self.env)
                reached.setdefault(f"squashfs by {name}, then python", []).append(times)
            except RuntimeError as error:
                print(f"squashfs by {name} is left out: {error}")
            finally:
                subprocess.run(["umount", where], stderr=subprocess.DEVNULL, check=False)

    def busy(self, pickled: pathlib.Path, ways: "Dict[str, Tuple[Command, Dict[str, str]]]") -> None:
        found: Dict[str, List[Seconds]] = {}
        for _ in range(self.runs):
            for way, (options, env) in ways.items():
                with fresh_file_system(self.work) as scratch, every_core_busy():
                    times = self.run(scratch, pickled, options, env)
                found.setdefault(way, []).append((times[0], times[2]))
        table(f"every core busy: import {IMPORTS}", found, ["in place"], {})

    def uv(self, pickled: pathlib.Path) -> None:
        """What an environment without `.pyc`, as uv makes them, costs a component that mounts it."""
        found: Dict[str, List[Seconds]] = {}
        notes: Dict[str, str] = {}
        for name, python in uv_environments(self.base).items():
            compiled = sum(1 for _ in python.parent.parent.rglob("site-packages/**/*.pyc"))
            assert (compiled == 0) == (name == "without .pyc"), f"{compiled} .pyc in `{python}`"
            store = self.work / f"store-uv-{len(found)}"
            subprocess.check_call([*self.ours(store, python)], env=self.env, stdout=subprocess.DEVNULL)
            [archive] = [path for path in store.iterdir() if path.suffix != ".pip"]
            notes[name] = f"  {archive.stat().st_size / 1e6:.0f} MB"
            found[name] = []
            self.archives[name] = archive
        for _ in range(self.runs):
            for name, times in found.items():
                with fresh_file_system(self.work) as scratch:
                    one = self.run(scratch, pickled, ["--transplant", str(self.archives[name])], {})
                times.append((one[0], one[2]))
        if found:
            table(f"uv, mounted: import {IMPORTS}", found, ["with .pyc"], notes)

    def run(
        self, scratch: pathlib.Path, pickled: pathlib.Path, options: Command, env: "Dict[str, str]"
    ) -> "Tuple[float, float, float]":
        """Until the function got there, until the runner had ended, and the CPU for that."""
        for file in pickled.iterdir():
            shutil.copy(file, scratch)
        begun = time.time()
        everything = {**self.env, **env, "_CONDOR_SCRATCH_DIR": str(scratch)}
        seconds, cpu = clock([self.binary, "run", *options, "0"], everything, scratch)
        with gzip.open(scratch / "_htmap_transfer/0.out") as file:
            status, times = pickle.load(file), pickle.load(file)
        assert status == "OK", times
        return times[1] - begun, seconds, cpu


def transplant(binary: str, base: str, runs: int, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="htmap-exec-bench-", dir=MEMORY) as directory:
        bench = Bench(binary, base, runs, quick, pathlib.Path(directory))
        print(
            f"binary {binary}\nPython {bench.python}\nmedians of {runs}, everything in memory; load {os.getloadavg()}"
        )
        bench.build()
        if os.geteuid() != 0:
            print("the rest needs root, for new file systems")
            return
        bench.unpack()
        bench.start()
        print(f"load {os.getloadavg()}")
