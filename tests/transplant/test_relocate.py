"""What names the place of an environment, before and after it was moved: unpacked elsewhere, or mounted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import uuid
from pathlib import Path

import pytest
from support.environment import binary, can_unshare, is_root
from support.node_archives import MAIN, Node, build, copy_of_prefix
from support.trees import DIGEST_OF, digest_of

PLACEHOLDER = "/opt/placehold" + "_placehold" * 20
MODULE = "answer = {!r}\n"

needs_mount = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or not can_unshare("--mount" if is_root() else "--user"),
    reason="mounting needs /dev/fuse and namespaces",
)


def unpack(archive: Path, target: Path) -> Path:
    done = subprocess.run([binary(), "transplant", "unpack", archive, target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def record(name: str, **modes: str) -> str:
    """What conda writes down of a package whose files name the prefix."""
    paths = [
        {
            "_path": path.replace("__", "/"),
            "path_type": "hardlink",
            "prefix_placeholder": PLACEHOLDER,
            "file_mode": mode,
        }
        for path, mode in modes.items()
    ]
    return json.dumps({"name": name, "version": "1", "paths_data": {"paths_version": 1, "paths": paths}})


class Conda:
    """A prefix that looks like conda's, and the archive of it."""

    def __init__(self, root: Path) -> None:
        self.prefix = root / "conda"
        python = copy_of_prefix(MAIN, self.prefix)
        self.site = f"lib/python{MAIN.minor}/site-packages"
        old = str(self.prefix)
        self.data = b"\x7fELF?\0" + f"/srv{old}/x:{old}-other".encode() + b"\0" + f"{old}/ssl:{old}/certs".encode()
        self.data += bytes(2 * (len(PLACEHOLDER) - len(old)) + 1) + b"end"
        self.write("lib/libdata.so.1", self.data)
        self.write(
            "etc/text.conf", f"home = {old}/share\nother = {old}-other\nbelow = /srv{old}/y\nflags = -I{old}/include\n"
        )
        self.write(f"{self.site}/where.py", MODULE.format(f"{old}/share"))
        subprocess.run([python, "-m", "compileall", "-q", self.prefix / self.site / "where.py"], check=True)
        scripts = "etc/conda/activate.d"
        self.write(f"{scripts}/a.sh", 'export FIRST="$(cat "$CONDA_PREFIX/etc/text.conf" | head -n 1)"\n')
        self.write("conda-meta/history", "")
        paths = {"lib/libdata.so.1": "binary", "etc/text.conf": "text", f"{self.site}/where.py": "text"}
        self.write("conda-meta/data-1-0.json", record("data", **paths))
        # The same file in two packages, as happens.
        self.write("conda-meta/more-1-0.json", record("more", **{"etc/text.conf": "text"}))
        self.archive = build(python, root / "store")

    def write(self, path: str, content: str | bytes) -> None:
        place = self.prefix / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Conda:
    return Conda(tmp_path_factory.mktemp("relocate"))


def test_names_that_begin_or_end_like_the_prefix_stay(conda: Conda, tmp_path: Path) -> None:
    root, old = unpack(conda.archive, tmp_path / "moved"), str(conda.prefix)
    assert (root / "etc" / "text.conf").read_text().splitlines() == [
        f"home = {root}/share",
        f"other = {old}-other",
        f"below = /srv{old}/y",
        f"flags = -I{root}/include",
    ]
    first, second = (root / "lib" / "libdata.so.1").read_bytes().split(b"\0")[1:3]
    assert first.decode() == f"/srv{old}/x:{old}-other"
    assert second.decode() == f"{root}/ssl:{root}/certs"
    assert len((root / "lib" / "libdata.so.1").read_bytes()) == len(conda.data)


def test_bytecode_of_an_edited_module_is_not_used(conda: Conda, tmp_path: Path) -> None:
    """At a place with as long a path the module keeps its size, and every file has the same time."""
    base = Path(f"/{uuid.uuid4().hex[:8]}") if is_root() else tmp_path
    missing = len(str(conda.prefix)) - len(str(base)) - 1
    assert missing > 0
    try:
        root = unpack(conda.archive, base / ("x" * missing))
        assert len(str(root)) == len(str(conda.prefix))
        program = root / "bin" / f"python{MAIN.minor}"
        code = "import where; print(where.answer)"
        done = subprocess.run([program, "-c", code], capture_output=True, text=True)
        assert done.stdout == f"{root}/share\n", done.stderr
    finally:
        if base != tmp_path:
            shutil.rmtree(base)


SEEN = f"""
{DIGEST_OF}
def f():
    import os, sys
    import where
    digest, _ = digest_of(sys.prefix, times=False)
    text = open(sys.prefix + "/etc/text.conf")
    text.seek(7)
    mounted = any("_htmap_python" in line for line in open("/proc/self/mountinfo"))
    return dict(
        digest=digest, prefix=sys.prefix, answer=where.answer, mounted=mounted, part=text.read(20),
        first=os.environ.get("FIRST"),
    )
"""


@needs_mount
def test_a_conda_environment_is_mounted_with_its_place_in_it(node: Node, conda: Conda) -> None:
    outcome = node.run(conda.archive, SEEN, PYTHONDONTWRITEBYTECODE="1")
    assert outcome.status == "OK", outcome.dump()
    seen = outcome.value
    assert "mounted the transplant in" in outcome.stderr
    assert seen["mounted"]
    assert seen["answer"] == f"{seen['prefix']}/share"
    assert seen["part"] == f"{seen['prefix']}/share"[:20]
    # The scripts of `activate.d` see what Python sees.
    assert seen["first"] == f"home = {seen['prefix']}/share"
    # The very tree that would have been unpacked there.
    assert seen["digest"] == digest_of(unpack(conda.archive, Path(seen["prefix"])), times=False)[0]


SCRIPTS = {
    "plain": "#!{python}\n",
    "options": "#!{python} -sE\n",
    "quoted": '#!"{python}"\n',
    "distlib": "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\n",
    "distlib-blank": "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n",
    "distlib-options": "#!/bin/sh\n'''exec' \"{python}\" -sE \"$0\" \"$@\"\n' '''\n",
    "uv": "#!/bin/sh\n'''exec' '{python}' \"$0\" \"$@\"\n' '''\n",
    "conda": "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\" #'''\n",
    "suffix.py": "#!{python}\n",
}
BODY = "import sys\nprint(sys.prefix, sys.flags.no_user_site, *sys.argv[1:])\n"


class Venv:
    """A virtual environment with all that installers leave in one, moved."""

    def __init__(self, root: Path) -> None:
        base = copy_of_prefix(MAIN, root / "base")
        self.old = root / "venv"
        subprocess.run([base, "-m", "venv", "--without-pip", self.old], check=True)
        python = self.old / "bin" / "python"
        for name, start in SCRIPTS.items():
            self.write(f"bin/{name}", start.format(python=python) + BODY, 0o755)
        self.write("share/tool/run", f"#!{python}\n{BODY}", 0o755)
        self.write("bin/wrapper", f'#!/bin/sh\nexec "{python}" -c \'print("wrapped")\'\n', 0o755)
        kernel = {"argv": [str(python), "-m", "ipykernel_launcher"], "env": {"X": f"{self.old}-other"}}
        self.write("share/jupyter/kernels/python3/kernel.json", json.dumps(kernel))
        self.write("lib/pkgconfig/x.pc", f"prefix={self.old}\nCflags: -I{self.old}/include\n")
        site = f"lib/python{MAIN.minor}/site-packages"
        self.write(f"{site}/inner/inside.py", "x = 1\n")
        self.write(f"{site}/x-nspkg.pth", f"import sys; sys.path.append({str(self.old / site / 'inner')!r})\n")
        unnamed = os.fsencode(self.old) + b"/share/caf\xe9.txt"
        with open(unnamed, "w") as file:
            file.write(f"{self.old}\n")
        archive, self.remarks = build_whole(python, root / "store")
        shutil.move(self.old, root / "away")
        shutil.move(root / "base", root / "away-base")
        self.new = unpack(archive, root / "a new place")

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        place = self.old / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
        place.chmod(mode)

    def run(self, path: str, *words: str) -> str:
        done = subprocess.run([self.new / path, *words], capture_output=True, text=True)
        return done.stdout + done.stderr


def build_whole(python: Path, store: Path) -> tuple[Path, str]:
    """The archive of a Python, and what was said of it."""
    done = subprocess.run(
        [binary(), "transplant", "build", "--python", python, "--dir", store],
        env={"PATH": os.defpath, "XDG_CACHE_HOME": str(store / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()), done.stderr


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    return Venv(tmp_path_factory.mktemp("venv"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_its_python_however_it_names_it(venv: Venv, name: str) -> None:
    said = venv.run(f"bin/{name}", "a word")
    assert said == f"{venv.new} {int('options' in name)} a word\n"


def test_a_script_outside_of_bin_finds_its_python(venv: Venv) -> None:
    assert venv.run("share/tool/run", "a word") == f"{venv.new} 0 a word\n"


def test_a_script_of_the_shell_names_the_new_place(venv: Venv) -> None:
    assert venv.run("bin/wrapper") == "wrapped\n"


def test_texts_name_the_new_place(venv: Venv) -> None:
    kernel = json.loads((venv.new / "share/jupyter/kernels/python3/kernel.json").read_text())
    assert kernel["argv"][0] == f"{venv.new}/bin/python"
    assert kernel["env"]["X"] == f"{venv.old}-other"
    assert (venv.new / "lib/pkgconfig/x.pc").read_text() == f"prefix={venv.new}\nCflags: -I{venv.new}/include\n"
    code = "import inside; print(inside.__file__)"
    done = subprocess.run([venv.new / "bin" / "python", "-c", code], capture_output=True, text=True)
    site = f"{venv.new}/lib/python{MAIN.minor}/site-packages"
    assert done.stdout == f"{site}/inner/inside.py\n", done.stderr


def test_what_cannot_be_edited_is_said(venv: Venv) -> None:
    assert "caf\N{REPLACEMENT CHARACTER}.txt` will still name `" in venv.remarks
    assert "its own name is no text" in venv.remarks


LIBRARY = "int answer(void) { return 42; }\n"
EXTENSION = """
#include <Python.h>
int answer(void);
static PyObject *call(PyObject *self, PyObject *args) { return PyLong_FromLong(answer()); }
static PyMethodDef methods[] = {{"call", call, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "short", "", -1, methods};
PyMODINIT_FUNC PyInit_short(void) { return PyModule_Create(&module); }
"""


def test_a_search_path_without_room_is_no_reason_to_refuse(tmp_path: Path) -> None:
    prefix = Path(f"/tmp/{uuid.uuid4().hex[:3]}")
    python = copy_of_prefix(MAIN, prefix)
    try:
        site = prefix / "lib" / f"python{MAIN.minor}" / "site-packages"
        (tmp_path / "answer.c").write_text(LIBRARY)
        (tmp_path / "short.c").write_text(EXTENSION)
        include = subprocess.check_output(
            [MAIN.path, "-c", "import sysconfig; print(sysconfig.get_path('include'))"], text=True
        ).strip()
        compiler = sysconfig.get_config_var("CC").split()[0]
        shared = [compiler, "-shared", "-fPIC", "-o"]
        subprocess.run([*shared, prefix / "lib" / "libanswer.so", tmp_path / "answer.c"], check=True)
        words = [site / "short.so", tmp_path / "short.c", f"-I{include}", f"-L{prefix}/lib", "-lanswer"]
        subprocess.run([*shared, *words, f"-Wl,-rpath,{prefix}/lib"], check=True)
        archive, _ = build_whole(python, tmp_path / "store")
    finally:
        shutil.rmtree(prefix)
    root = unpack(archive, tmp_path / "moved")
    done = subprocess.run(
        [root / "bin" / python.name, "-c", "import short; print(short.call())"],
        env={"LD_LIBRARY_PATH": f"{root}/lib/htmap-exec"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "42\n", done.stderr


def test_an_edited_tree_is_found_in_the_cache(node: Node, conda: Conda, tmp_path: Path) -> None:
    source = "def f():\n    import where\n    return where.answer"
    cache = tmp_path / "cache"
    cache.mkdir()
    for said in ("unpacked `", "found `"):
        outcome = node.run(conda.archive, source, "--cache-dir", cache)
        assert said in outcome.stderr, outcome.dump()
        assert outcome.value.startswith(f"{cache}/"), outcome.dump()
