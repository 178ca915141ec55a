"""Libraries of the machine that an archive was built on: which come along, and which a node uses."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bare import Bare
from support.environment import binary, can_unshare, is_root, system_python
from support.node_archives import MAIN, PRUNED, Node, copy_of_prefix, excluding, pack, with_manifest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc to make libraries with")

MODULE = """
#include <Python.h>
extern const char *who(void);
static PyObject *call(PyObject *self, PyObject *args) { return PyUnicode_FromString(who()); }
static PyMethodDef methods[] = {{"who", call, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "NAME", "", -1, methods};
PyMODINIT_FUNC PyInit_NAME(void) { return PyModule_Create(&module); }
"""


def gcc(*words: object) -> None:
    done = subprocess.run(["gcc", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def library(directory: Path, says: str, name: str = "libtwin.so.1", *more: object) -> Path:
    """It says who it is."""
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / f"{name}.c"
    source.write_text(f'const char *who(void) {{ return "{says}"; }}\n')
    gcc("-shared", "-fPIC", "-o", directory / name, source, f"-Wl,-soname,{name}", *more)
    source.unlink()
    return directory / name


def module(site: Path, name: str, *linked: object) -> None:
    """Asks a library who it is."""
    source = site / f"{name}.c"
    source.write_text(MODULE.replace("NAME", name))
    suffix = "import sysconfig; print(sysconfig.get_path('include')); print(sysconfig.get_config_var('EXT_SUFFIX'))"
    include, suffix = subprocess.check_output([MAIN.path, "-c", suffix], text=True).split()
    gcc("-shared", "-fPIC", f"-I{include}", "-o", site / f"{name}{suffix}", source, "-Wl,--no-as-needed", *linked)
    source.unlink()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("original") / "prefix"
    copy_of_prefix(MAIN, prefix)
    return prefix


@pytest.fixture
def prefix(original: Path, tmp_path: Path) -> Path:
    """A Python to put something into."""
    prefix = tmp_path / "prefix"
    subprocess.run(["cp", "-al", original, prefix], check=True)
    return prefix


def site_of(prefix: Path) -> Path:
    return prefix / "lib" / f"python{MAIN.minor}" / "site-packages"


class Built:
    def __init__(self, archive: Path, stderr: str) -> None:
        self.archive = archive
        self.stderr = stderr

    @property
    def manifest(self) -> Any:
        words = [binary(), "transplant", "info", "--json", self.archive]
        return json.loads(subprocess.check_output(words))["manifest"]

    @property
    def bundled(self) -> dict[str, Any]:
        return {each["name"]: each for each in self.manifest["audit"]["bundled"]}

    @property
    def lacking(self) -> dict[str, str]:
        return {each["needs"]: each["file"] for each in self.manifest["audit"]["libraries"]}

    def names(self) -> set[str]:
        return set(subprocess.check_output(["tar", "--zstd", "-tf", self.archive], text=True).split("\n"))


def build(prefix: Path, *options: object, before: tuple[str, ...] = (), **env: str) -> Built:
    python = prefix / "bin" / f"python{MAIN.minor}"
    env = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", **env}
    done = pack(python, prefix.with_name("store"), *options, before=before, **env)
    return Built(Path(done.stdout.strip().split("\n")[-1]), done.stderr)


WHO = """
    def f():
        import twin
        return twin.who()
"""


def linked_by_search_path(prefix: Path, directory: Path) -> None:
    library(directory, "ours")
    module(site_of(prefix), "twin", directory / "libtwin.so.1", f"-Wl,-rpath,{directory}")


def test_the_nodes_programs_keep_their_libraries(prefix: Path, node: Node, tmp_path: Path) -> None:
    """Those of the archive's Pythons are found all the same, by each of them."""
    linked_by_search_path(prefix, tmp_path / "lib")
    built = build(prefix)
    shutil.rmtree(tmp_path / "lib")
    theirs = library(tmp_path / "theirs", "theirs")
    say = tmp_path / "say"
    source = tmp_path / "say.c"
    source.write_text("#include <stdio.h>\nconst char *who(void);\nint main(void) { puts(who()); return 0; }\n")
    gcc("-o", say, source, theirs, f"-Wl,-rpath,{theirs.parent}")
    function = f"""
    def f():
        import multiprocessing, os, subprocess, sys, twin
        say = lambda *words: subprocess.check_output(words).decode().strip()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            spawned = pool.apply(eval, ["__import__('twin').who()"])
        program = "import twin; print(twin.who())"
        return [
            say("{say}"), say("sh", "-c", "{say}"), twin.who(), spawned,
            say(sys.executable, "-c", program), say("python3", "-c", program), say("python3", "-I", "-c", program),
            os.environ.get("LD_LIBRARY_PATH"),
        ]
    """
    for options, outer in [([], None), (["--no-mount"], "/no/such")]:
        outcome = node.run(built.archive, function, *options, **({"LD_LIBRARY_PATH": outer} if outer else {}))
        assert outcome.value == ["theirs"] * 2 + ["ours"] * 5 + [outer], outcome.dump()


def test_a_library_that_the_builds_environment_leads_to(prefix: Path, node: Node, tmp_path: Path) -> None:
    """As a module system does."""
    twin = library(tmp_path / "lib", "ours")
    module(site_of(prefix), "twin", twin)
    assert "libtwin.so.1" not in build(prefix).bundled
    built = build(prefix, LD_LIBRARY_PATH=str(tmp_path / "lib"))
    assert built.bundled["libtwin.so.1"]["file"] == "lib/htmap-exec/libtwin.so.1"
    shutil.rmtree(tmp_path / "lib")
    assert node.run(built.archive, WHO).value == "ours"


@pytest.mark.skipif(
    not is_root() or not can_unshare("--mount"), reason="another list of libraries needs root and a mount namespace"
)
def test_a_library_that_ldconfig_knows(prefix: Path, node: Node, tmp_path: Path) -> None:
    twin = library(tmp_path / "lib", "ours")
    module(site_of(prefix), "twin", twin)
    (tmp_path / "ld.so.conf").write_text(f"include {tmp_path}/conf.d/*.conf\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "own.conf").write_text(f"{twin.parent}\n")
    cache = tmp_path / "cache"
    ldconfig = shutil.which("ldconfig", path=f"{os.defpath}:/usr/sbin:/sbin")
    assert ldconfig
    subprocess.run([ldconfig, "-C", cache, "-f", tmp_path / "ld.so.conf"], check=True, capture_output=True)
    bind = 'mount --bind "$0" /etc/ld.so.cache && exec "$@"'
    built = build(prefix, before=("unshare", "--mount", "sh", "-c", bind, str(cache)))
    assert built.bundled["libtwin.so.1"]["file"] == "lib/htmap-exec/libtwin.so.1"
    shutil.rmtree(tmp_path / "lib")
    assert node.run(built.archive, WHO).value == "ours"


def test_one_of_that_name_where_the_loader_does_not_look(prefix: Path, node: Node, tmp_path: Path) -> None:
    package = site_of(prefix) / "package"
    twin = library(package, "packed")
    module(site_of(prefix), "twin", twin)
    built = build(prefix)
    assert "libtwin" not in built.stderr
    assert node.run(built.archive, WHO).value == "packed"
    # The machine's own goes before one that happens to have its name.
    library(tmp_path / "lib", "ours")
    built = build(prefix, LD_LIBRARY_PATH=str(tmp_path / "lib"))
    assert node.run(built.archive, WHO).value == "ours"
    # Of two, nobody knows which.
    library(site_of(prefix) / "another", "packed")
    built = build(prefix)
    assert "needs `libtwin.so.1`, which it does not find, and which is packed as `" in built.stderr
    assert "libtwin.so.1" in built.lacking


def test_search_paths_are_inherited_as_the_loader_does(prefix: Path, node: Node, tmp_path: Path) -> None:
    """An RPATH counts for what is loaded in turn, a RUNPATH does not."""
    deep = library(tmp_path / "deep", "ours")
    through = tmp_path / "through"
    through.mkdir()
    (through / "x.c").write_text("")
    gcc("-shared", "-o", through / "libthrough.so", through / "x.c", "-Wl,-soname,libthrough.so", deep)
    site = site_of(prefix)
    own = site / "own"
    own.mkdir()
    shutil.copy(through / "libthrough.so", own)
    paths = f"-Wl,-rpath,{own}:{deep.parent}"
    for name, kind in [("twin", "--disable-new-dtags"), ("closed", "--enable-new-dtags")]:
        module(site, name, through / "libthrough.so", deep, paths, f"-Wl,{kind}")
    built = build(prefix)
    assert "libtwin.so.1" in built.bundled and "libthrough.so" not in built.bundled
    shutil.rmtree(tmp_path / "deep")
    assert node.run(built.archive, WHO).value == "ours"
    assert node.run(built.archive, WHO.replace("twin", "closed")).value == "ours"


def test_what_is_left_out_and_what_is_put_in(prefix: Path, node: Node, tmp_path: Path) -> None:
    linked_by_search_path(prefix, tmp_path / "lib")
    for pattern in ["lib/htmap-exec*", "lib/htmap-exec/libtwin*", "libtwin.so.1"]:
        built = build(prefix, "--exclude", pattern)
        assert "libtwin.so.1" not in built.bundled
        assert built.lacking["libtwin.so.1"].endswith(".so")
        assert not any(name.endswith("libtwin.so.1") for name in built.names())
        assert "libtwin" not in built.stderr
    everything = build(prefix, "--exclude", "lib/htmap-exec*")
    # The link to its own libpython, which it would not find otherwise, is no library of the machine.
    left = {name for name in everything.names() if "htmap-exec" in name}
    assert all("libpython" in name or name.strip("/") == "lib/htmap-exec" for name in left), left
    # One that is opened by its name alone, by a link as they lie in a system.
    named = library(tmp_path / "named", "named", "libnamed.so.2.0", "-Wl,-soname,libnamed.so.2")
    (tmp_path / "named" / "libnamed.so.2").symlink_to(named.name)
    built = build(prefix, "--include", tmp_path / "named" / "libnamed.so.2")
    assert "lib/htmap-exec/libnamed.so.2" in built.names()
    shutil.rmtree(tmp_path / "named")
    value = node.run(
        built.archive,
        """
    def f():
        import ctypes
        who = ctypes.CDLL("libnamed.so.2").who
        who.restype = ctypes.c_char_p
        return who().decode()
    """,
    ).value
    assert value == "named"


def test_what_is_normal_is_no_warning(prefix: Path, tmp_path: Path) -> None:
    linked_by_search_path(prefix, tmp_path / "lib")
    built = build(prefix)
    assert "warning" not in built.stderr.lower()
    assert " of this machine (-v lists them)" in built.stderr.splitlines()[-1]
    text = subprocess.check_output([binary(), "transplant", "info", built.archive], text=True)
    assert " of the machine that it was built on" in text


def test_the_nodes_own_where_its_glibc_is_too_old(prefix: Path, node: Node, tmp_path: Path) -> None:
    linked_by_search_path(prefix, tmp_path / "lib")
    built = build(prefix)
    shutil.rmtree(tmp_path / "lib")
    library(tmp_path / "theirs", "theirs")

    def needs(glibc: str) -> Callable[[Any], None]:
        def change(manifest: Any) -> None:
            [twin] = [each for each in manifest["audit"]["bundled"] if each["name"] == "libtwin.so.1"]
            twin["glibc"] = glibc

        return change

    theirs = {"LD_LIBRARY_PATH": str(tmp_path / "theirs")}
    assert node.run(with_manifest(built.archive, needs("2.99")), WHO, **theirs).value == "theirs"
    assert node.run(with_manifest(built.archive, needs("2.2.5")), WHO, **theirs).value == "ours"
    # The floor of the archive is another matter: a node without one of its own runs what does without it.
    outcome = node.run(with_manifest(built.archive, needs("2.99")), "def f():\n    return 7")
    assert outcome.value == 7, outcome.dump()
    assert "`libtwin.so.1` is not there: the one that came along needs glibc 2.99" in outcome.stderr


def without_room(program: Path, search_path: str | None) -> None:
    """Takes the room for a search path, and puts another one in the place of the one that is there."""
    data = bytearray(program.read_bytes())
    if search_path is not None:
        said = subprocess.check_output(["readelf", "-dW", program], text=True)
        [old] = [line.partition("[")[2].rstrip("]\n") for line in said.splitlines() if "runpath" in line]
        assert len(search_path) <= len(old)
        at = data.index(old.encode())
        data[at : at + len(old)] = search_path.encode().ljust(len(old), b"\0")
    said = subprocess.check_output(["readelf", "-lW", program], text=True)
    [first, *_] = [line.split() for line in said.splitlines() if line.split()[:1] == ["LOAD"]]
    end = int(first[1], 16) + int(first[4], 16)
    assert data[end : end + 16] == bytes(16)
    data[end : end + 16] = b"\x01" * 16
    # It is a link to the original's.
    program.unlink()
    program.write_bytes(data)
    program.chmod(0o755)


@pytest.mark.parametrize("search_path", ["$ORIGIN/../lib", None], ids=["directory", "nothing"])
def test_a_program_without_room(prefix: Path, node: Node, tmp_path: Path, search_path: str | None) -> None:
    linked_by_search_path(prefix, tmp_path / "lib")
    program = prefix / "bin" / f"python{MAIN.minor}"
    if "runpath" not in subprocess.check_output(["readelf", "-dW", program], text=True):
        pytest.skip("this Python has no search path")
    without_room(program, search_path)
    built = build(prefix)
    assert ("has no room for a search path" in built.stderr) is (search_path is None), built.stderr
    shutil.rmtree(tmp_path / "lib")
    function = """
    def f():
        import os, twin
        return twin.who(), "LD_LIBRARY_PATH" in os.environ
    """
    outcome = node.run(built.archive, function)
    assert outcome.value == ("ours", search_path is None), outcome.dump()


@pytest.mark.skipif(
    not is_root() or not can_unshare("--mount", "--pid", "--fork"), reason="entering another root needs root"
)
def test_the_operating_systems_python_starts_where_its_libraries_are_missing(tmp_path: Path) -> None:
    """By itself: whatever a function starts is told nothing."""
    found = system_python()
    if found is None:
        pytest.skip("this machine has no /usr/bin/python3")
    lean = excluding((*PRUNED, "lib/python3/dist-packages"))
    words = [binary(), "transplant", "build", "--python", found.path, "--dir", tmp_path / "store", *lean]
    env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bare = Bare(tmp_path / "bare")
    archive = done.stdout.strip()
    words = [binary(), "transplant", "unpack", archive, bare.root / "opt" / "x"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    program = "import ssl, sqlite3, subprocess, sys; print(sys.prefix, flush=True)"
    again = f"{program}; subprocess.run([sys.executable, '-c', {program!r}], check=True)"
    done = bare.run("/opt/x/bin/python3", "-c", again)
    assert done.stdout.split() == ["/opt/x", "/opt/x"], done.stderr


@pytest.fixture(scope="module")
def cpp(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """With a module that needs libstdc++."""
    prefix = tmp_path_factory.mktemp("cpp") / "prefix"
    subprocess.run(["cp", "-al", original, prefix], check=True)
    found = subprocess.check_output(["gcc", "-print-file-name=libstdc++.so.6"], text=True).strip()
    if not os.path.isabs(found):
        pytest.skip("this machine has no libstdc++")
    source = prefix.with_name("x.c")
    source.write_text('const char *who(void) { return "x"; }\n')
    module(site_of(prefix), "twin", "-x", "c", source, "-x", "none", found)
    return build(prefix)


MAPS = """
    def f():
        import twin, subprocess, sys
        program = "import twin; print(open('/proc/self/maps').read())"
        there = [open("/proc/self/maps").read(), subprocess.check_output([sys.executable, "-c", program]).decode()]
        return [sorted({line.split()[-1] for line in each.split("\\n") if "libstdc++" in line}) for each in there]
"""


def test_libstdcxx_where_the_nodes_is_older(cpp: Built, node: Node) -> None:
    bundled = cpp.bundled["libstdc++.so.6"]
    assert bundled["file"] == "lib/htmap-exec-common/libstdc++.so.6"
    assert any(version.startswith("GLIBCXX_3.4.") for version in bundled["versions"])
    for [found] in node.run(cpp.archive, MAPS).value:
        assert not found.endswith("/lib/htmap-exec-common/libstdc++.so.6")

    def newer(manifest: Any) -> None:
        [library] = [each for each in manifest["audit"]["bundled"] if each["name"] == "libstdc++.so.6"]
        library["versions"] = [
            "GLIBCXX_99.0" if version.startswith("GLIBCXX_3") else version for version in library["versions"]
        ]

    value = node.run(with_manifest(cpp.archive, newer), MAPS).value
    for [found] in value:
        assert found.endswith("/lib/htmap-exec-common/libstdc++.so.6")


def test_no_libstdcxx_that_fits(cpp: Built, node: Node) -> None:
    def change(manifest: Any) -> None:
        [library] = [each for each in manifest["audit"]["bundled"] if each["name"] == "libstdc++.so.6"]
        library.update(glibc="2.99", asked=[{"needs": "GLIBCXX_99.0", "file": "lib/new.so"}])

    outcome = node.run(with_manifest(cpp.archive, change), "def f():\n    return 7")
    assert outcome.status == "ERR", outcome.dump()
    assert "`lib/new.so` needs GLIBCXX_99.0 of `libstdc++.so.6`; this node's (`/" in outcome.report
    assert "and the one that came along needs glibc 2.99, where this node has 2." in outcome.report


def test_archives_that_say_less(cpp: Built, node: Node) -> None:
    """As earlier versions made them: a variable leads to what came along."""

    def change(manifest: Any) -> None:
        del manifest["places"]["has_search_path"]
        del manifest["audit"]["bundled"], manifest["audit"]["gpu_driver"]

    function = """
    def f():
        import os, sys, ssl
        return os.environ["LD_LIBRARY_PATH"] == sys.prefix + "/lib/htmap-exec"
    """
    assert node.run(with_manifest(cpp.archive, change), function).value is True


@pytest.mark.parametrize("libraries", [["nvidia"], ["conda"], []], ids=["wheels", "conda", "none"])
def test_gpu_packages(prefix: Path, libraries: list[str]) -> None:
    site = site_of(prefix)
    runtime = library(site / "nvidia" / "cuda_runtime" / "lib", "cuda", "libcudart.so.12")
    module(site, "twin", runtime, "-Wl,-rpath,$ORIGIN/nvidia/cuda_runtime/lib")
    file = ""
    if "nvidia" in libraries:
        info = site / "nvidia_cuda_runtime_cu12-12.4.127.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cuda-runtime-cu12\nVersion: 12.4.127\n")
        file = f"lib/python{MAIN.minor}/site-packages/{info.name}"
    elif "conda" in libraries:
        record = prefix / "conda-meta" / "gpu-1-0.json"
        record.parent.mkdir()
        (record.parent / "history").touch()
        depends = {"depends": ["python", "__cuda  >=12.0,<13"], "files": []}
        record.write_text(json.dumps({"name": "gpu", "version": "1", **depends}))
        file = "conda-meta/gpu-1-0.json"
    built = build(prefix)
    need = built.manifest["audit"]["gpu_driver"]
    assert need == ({"needs": "525", "file": file} if libraries else None)
    text = subprocess.check_output([binary(), "transplant", "info", built.archive], text=True)
    assert (f"GPU driver NVIDIA's 525 or later, for `{file}`" in text) is bool(libraries), text
    assert any(name.endswith("nvidia/cuda_runtime/lib/libcudart.so.12") for name in built.names())


# A GPU in a place of its own: NAME of the device, VERSION of the driver.
WITH_GPU = """
mkdir "$0" && mount -t tmpfs none /proc/driver && mkdir /proc/driver/nvidia && mount -t tmpfs none "$0" &&
echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  $2  Sat Aug 19 01:15:15 UTC 2023" >/proc/driver/nvidia/version
for name in null zero random urandom; do touch "$0/$name"; mount --bind "/dev/$name" "$0/$name"; done
mkdir "$0/shm" && mount --bind /dev/shm "$0/shm"
touch "$0/$1" && mount --rbind "$0" /dev && shift 2 && exec "$@"
"""


@pytest.mark.skipif(
    not is_root() or not can_unshare("--mount") or not Path("/proc/driver").is_dir(),
    reason="a driver of a GPU to look at needs root, a mount namespace, and `/proc/driver`",
)
@pytest.mark.parametrize(
    ("device", "driver", "visible", "fits"),
    [
        ("nvidia0", "470.82.01", None, False),
        ("nvidia0", "525.60.13", None, True),
        ("nvidia0", "580.65.06", None, True),
        ("nvidia0", "470.82.01", "", True),
        ("nvidiactl", "470.82.01", None, True),
    ],
    ids=["old", "first", "new", "hidden", "none"],
)
def test_a_node_with_an_older_driver(
    cpp: Built, node: Node, tmp_path: Path, device: str, driver: str, visible: str | None, fits: bool
) -> None:
    need = {"needs": "525", "file": "lib/gpu"}
    archive = with_manifest(cpp.archive, lambda manifest: manifest["audit"].update(gpu_driver=need), "gpu")
    scratch = node.scratch("def f():\n    return 7").dir
    words = [binary(), "run", "--scratch", scratch, "--transplant", archive, "0"]
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", WITH_GPU, tmp_path / "dev", device, driver, *words],
        env={"PATH": os.defpath, **({"CUDA_VISIBLE_DEVICES": visible} if visible is not None else {})},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    said = gzip.decompress((scratch / "_htmap_transfer" / "0.out").read_bytes()).decode(errors="replace")
    complaint = f"`lib/gpu` needs NVIDIA's driver 525 or later, and this node has {driver}"
    assert (complaint in said) is not fits, said


def test_the_driver_never_comes_along(prefix: Path, tmp_path: Path) -> None:
    site = site_of(prefix)
    library(prefix / "cuda-compat", "driver", "libcuda.so.1")
    library(prefix / "lib" / "stubs", "driver", "libcuda.so")
    library(prefix / "lib", "driver", "libnvidia-ml.so.1")
    driver = library(tmp_path / "lib", "driver", "libcuda.so.1")
    module(site, "twin", driver, f"-Wl,-rpath,{driver.parent}")
    built = build(prefix, LD_LIBRARY_PATH=str(driver.parent))
    assert not any("libcuda.so" in name or "libnvidia" in name for name in built.names())
    assert "and 2 more: a part of NVIDIA's driver, which has to be the node's own: left out" in built.stderr
    assert "needs `libcuda.so.1`, which a node must have itself" in built.stderr
    assert "libcuda.so.1" in built.lacking
