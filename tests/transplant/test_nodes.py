"""Nodes that cannot run an archive say so before anything is unpacked; what can, runs as if it was activated."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.environment import binary, is_root
from support.node_archives import MAIN, MEMORY, Frame, Node, build, copy_of_prefix, hostile, with_manifest
from support.scratch import Scratch, new_base

SIMPLE = "def f():\n    return 7"

# What the function sees, and what a program that it starts sees.
LOOK = """
    def f():
        import os, ssl, subprocess, sys
        child = subprocess.run(
            ["python3", "-c", "import sys; print(sys.prefix)"], stdout=subprocess.PIPE, universal_newlines=True
        )
        context = ssl.create_default_context()
        return dict(
            environment=dict(os.environ), prefix=sys.prefix, path=sys.path, child=child.stdout.strip(),
            certificates=context.cert_store_stats()["x509_ca"],
        )
"""


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda manifest: manifest["audit"].update(glibc={"needs": "2.99", "file": "lib/libnew.so"}),
            r"`lib/libnew\.so` needs glibc 2\.99, and this node has 2\.\d+ \(`/\S+/libc\.so\.6`\)",
        ),
        (
            lambda manifest: manifest["audit"].update(x86_64_level={"needs": 9, "file": "lib/fast.so"}),
            r"`lib/fast\.so` needs a processor of x86-64-v9, and this node's is x86-64-v[1-4]",
        ),
        (lambda manifest: manifest.update(machine="vax"), r"it is for vax, and this node is \w+"),
    ],
    ids=["glibc", "processor", "machine"],
)
def test_a_node_that_does_not_fit_says_why(node: Node, archive: Path, change: Change, said: str) -> None:
    patched = with_manifest(archive, change)
    outcome = node.run(patched, SIMPLE)
    assert outcome.exit == 0
    assert outcome.status == "ERR", outcome.dump()
    assert "the transplanted Python cannot be used on this execute node" in outcome.report
    assert re.search(said, outcome.report), outcome.report
    assert "requirements" in outcome.report
    assert not (outcome.out_path.parents[1] / "_htmap_python").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(python="/bin/sh"),
        lambda manifest: manifest["places"].update(scripts=["../../evil.sh"]),
    ],
    ids=["python", "script"],
)
def test_a_manifest_that_leads_out_of_the_archive(node: Node, archive: Path, change: Change) -> None:
    outcome = node.run(with_manifest(archive, change), SIMPLE)
    assert outcome.status == "ERR", outcome.dump()
    assert "which does not lie in it" in outcome.report


def test_all_that_is_missing_is_said_at_once(node: Node, archive: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["audit"]["glibc"] = {"needs": "2.99", "file": "lib/libnew.so"}
        manifest["audit"]["x86_64_level"] = {"needs": 9, "file": "lib/fast.so"}

    report = node.run(with_manifest(archive, change), SIMPLE).report
    assert "needs glibc 2.99" in report and "x86-64-v9" in report


@pytest.mark.skipif(not is_root(), reason="only root may change its root directory")
@pytest.mark.parametrize("libc", ["none", "musl", "old"])
def test_nodes_of_other_kinds(node: Node, archive: Path, tmp_path: Path, libc: str) -> None:
    if b"INTERP" in subprocess.check_output(["readelf", "-lW", binary()]):
        pytest.skip("this binary needs a C library itself: name a static one by HTMAP_EXEC_BIN")
    (tmp_path / "lib").mkdir()
    if libc == "musl":
        (tmp_path / "lib" / "ld-musl-x86_64.so.1").touch()
    elif libc == "old":
        (tmp_path / "lib" / "libc.so.6").write_text("GNU C Library stable release version 2.17, by Roland McGrath\n")
    shutil.copy(binary(), tmp_path / "htmap-exec")
    scratch = tmp_path / "scratch"
    shutil.copytree(node.scratch(SIMPLE).dir, scratch)
    shutil.copy(archive, scratch)
    chroot = shutil.which("chroot", path=f"{os.defpath}:/usr/sbin:/sbin")
    assert chroot
    words = ["/htmap-exec", "run", "--scratch", "/scratch", "--transplant", archive.name, "0"]
    subprocess.run([chroot, tmp_path, *words], env={}, check=True, stdout=subprocess.DEVNULL)
    said = gzip.decompress((scratch / "_htmap_transfer" / "0.out").read_bytes()).decode(errors="replace")
    found = {"none": "none", "musl": "musl (`/lib/ld-musl-x86_64.so.1`)", "old": "2.17 (`/lib/libc.so.6`)"}[libc]
    assert f"and this node has {found}" in said


@pytest.mark.skipif(not is_root(), reason="only root may mount a small file system")
def test_a_scratch_directory_that_is_too_small(node: Node, archive: Path) -> None:
    def mount(scratch: Any) -> None:
        kept = scratch.base / "kept"
        shutil.copytree(scratch.dir, kept)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", scratch.dir], check=True)
        scratch.undo.append(lambda: subprocess.run(["umount", "--lazy", scratch.dir], check=True))
        shutil.copytree(kept, scratch.dir, dirs_exist_ok=True)

    # A mount takes no room, and leaves what there is to the result.
    assert node.run(archive, SIMPLE, prepare=mount).status == "OK"
    outcome = node.run(archive, SIMPLE, "--no-mount", prepare=mount)
    assert outcome.status == "ERR", outcome.dump()
    assert re.search(r"it needs \d+ MB, and `\S+` has \d MB left", outcome.report), outcome.report
    assert "request_disk" in outcome.report


def test_it_runs_as_if_activated(node: Node, archive: Path) -> None:
    foreign = {"PYTHONHOME": "/no/such", "PYTHONPATH": "/no/such", "CONDA_PREFIX": "/no/such"}
    value = node.run(archive, LOOK, **foreign, LD_LIBRARY_PATH="/opt/own").value
    seen = value["environment"]
    assert seen["PATH"] == f"{value['prefix']}/bin:/usr/bin:/bin"
    assert value["child"] == value["prefix"]
    assert value["prefix"].endswith("/_htmap_python")
    assert seen["VIRTUAL_ENV"] == value["prefix"]
    assert seen["PYTHONNOUSERSITE"] == "1"
    assert not foreign.keys() & seen.keys()
    assert "/no/such" not in value["path"]
    # What the job brought for programs of its own stays, and nothing is added to it.
    assert seen["LD_LIBRARY_PATH"] == "/opt/own"
    assert "HTMAP_EXEC_PRELOAD" not in seen
    assert seen["HTMAP_COMPONENT"] == "0"
    assert "PYTHONDONTWRITEBYTECODE" not in seen
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        assert value["certificates"] > 0
        assert seen["SSL_CERT_FILE"] == "/etc/ssl/certs/ca-certificates.crt"


def test_what_is_asked_for_is_kept(node: Node, archive: Path) -> None:
    own = {"PYTHONPATH": "/opt/mine", "PYTHONHOME": "/no/such", "SSL_CERT_DIR": "/no/such"}
    seen = node.run(archive, LOOK, "--keep-variable", "PYTHONPATH", **own).value
    assert "PYTHONHOME" not in seen["environment"]
    # Whoever says where certificates are is believed.
    assert "SSL_CERT_FILE" not in seen["environment"]
    assert seen["environment"]["PYTHONPATH"] == "/opt/mine"
    assert "/opt/mine" in seen["path"]


def test_another_libpython_on_the_search_path(node: Node, archive: Path, tmp_path: Path) -> None:
    decoy = tmp_path / f"libpython{MAIN.minor}.so.1.0"
    decoy.write_text("not a library\n")
    outcome = node.run(archive, SIMPLE, LD_LIBRARY_PATH=str(tmp_path))
    assert outcome.value == 7, outcome.dump()


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix that looks like conda's, with scripts that set something."""
    root = tmp_path_factory.mktemp("conda") / "prefix"
    copy_of_prefix(MAIN, root)
    (root / "conda-meta").mkdir()
    (root / "conda-meta" / "history").touch()
    scripts = root / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "b.sh").write_text('export SECOND="$FIRST\n2"\necho noise\nunset DROPPED\n')
    (scripts / "a.sh").write_text('export FIRST="$CONDA_PREFIX/x" PATH="$CONDA_PREFIX/more:$PATH"\nunexported=1\n')
    (scripts / "c.sh").write_text('if [ -n "$GIVE_UP" ]; then exit 3; fi\n')
    (scripts / "c.fish").write_text("nonsense (\n")
    of_user = {
        "OF_USER": 'set by "user"',
        "OF_BOTH": "user",
        "DATA": f"{root}/share:{root}-other",
        "DROPPED_BY_USER": "***unset***",
        "NOT_SET": "***unset***",
        "a=b": "no name",
    }
    (root / "conda-meta" / "state").write_text(json.dumps({"version": 1, "env_vars": of_user}))
    of_packages = root / "etc" / "conda" / "env_vars.d"
    of_packages.mkdir()
    (of_packages / "package.json").write_text(
        json.dumps({"OF_PACKAGE": "package", "OF_BOTH": "package", "NOT_SET": "1"})
    )
    (of_packages / "broken.json").write_text("{")
    (scripts / "d.sh").write_text('export SEEN="$OF_USER"\n')
    return build(root / "bin" / f"python{MAIN.minor}", root.parent / "store")


def test_scripts_of_conda_packages(node: Node, conda: Path) -> None:
    outcome = node.run(conda, LOOK, DROPPED="1")
    seen, prefix = outcome.value["environment"], outcome.value["prefix"]
    assert seen["CONDA_PREFIX"] == prefix
    assert seen["FIRST"] == f"{prefix}/x"
    assert seen["SECOND"] == f"{prefix}/x\n2"
    assert seen["PATH"].startswith(f"{prefix}/more:{prefix}/bin:")
    assert "DROPPED" not in seen and "unexported" not in seen and "VIRTUAL_ENV" not in seen
    assert "noise" not in outcome.stdout and "noise" in outcome.stderr


def test_variables_that_conda_sets(node: Node, conda: Path) -> None:
    """By `conda env config vars set`, and by packages; scripts see them."""
    value = node.run(conda, LOOK, OF_PACKAGE="of the job", DROPPED_BY_USER="of the job").value
    seen, prefix = value["environment"], value["prefix"]
    assert seen["OF_USER"] == seen["SEEN"] == 'set by "user"'
    assert (seen["OF_PACKAGE"], seen["OF_BOTH"]) == ("package", "user")
    assert seen["DATA"].startswith(f"{prefix}/share:/") and seen["DATA"].endswith("/prefix-other")
    assert seen["DROPPED_BY_USER"] == "of the job"
    assert "NOT_SET" not in seen and "a" not in seen


def test_a_variable_of_condas_that_is_kept(node: Node, conda: Path) -> None:
    seen = node.run(conda, LOOK, "--keep-variable", "OF_USER", OF_USER="of the job").value["environment"]
    assert (seen["OF_USER"], seen["OF_BOTH"]) == ("of the job", "user")


def test_a_script_that_gives_up(node: Node, conda: Path) -> None:
    outcome = node.run(conda, SIMPLE, GIVE_UP="1")
    assert outcome.value == 7, outcome.dump()
    assert "activate.d` are left out: they ended with exit status: 3" in outcome.stderr


# Somebody without a passwd entry.
UID = 64_123
needs_root = pytest.mark.skipif(not is_root(), reason="only root can become somebody else")


@pytest.fixture
def user(archive: Path) -> Iterator[Path]:
    """A directory of another user's, with the archive and the program in it."""
    base = new_base(MEMORY)
    shutil.copy(archive, base / "archive")
    shutil.copy(binary(), base / "program")
    for path in (base, base / "archive"):
        os.chown(path, UID, UID)
    yield base
    subprocess.run(["chmod", "-R", "u+rwX", base], check=True)
    shutil.rmtree(base)


def unpack(base: Path, *wrapper: str, umask: int = 0o022) -> Path:
    target = base / "tree"
    words = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *wrapper]
    done = subprocess.run(
        [*words, base / "program", "transplant", "unpack", base / "archive", target],
        umask=umask,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return target


@needs_root
@pytest.mark.parametrize("umask", [0o077, 0o000, 0o337], ids=oct)
def test_a_tree_is_the_same_whatever_the_umask(user: Path, umask: int) -> None:
    def modes(tree: Path) -> dict[str, int]:
        return {str(path.relative_to(tree)): path.lstat().st_mode for path in tree.rglob("*")}

    expected = modes(unpack(user))
    shutil.rmtree(user / "tree")
    (user / "tree").mkdir()
    os.chown(user / "tree", UID, UID)
    assert modes(unpack(user, umask=umask)) == expected


@needs_root
def test_a_limit_of_processes_ends_nothing(user: Path) -> None:
    tree = unpack(user, "prlimit", "--nproc=1", "--")
    assert (tree / "bin").is_dir()


MANY = 100_000
HOSTILE = {
    # Whoever goes through all frames for each file does so 10^10 times.
    "empty-frames": (
        [*[Frame(0, 0)] * MANY, Frame(64 << 20, 4096)],
        [("bin/python3.11", 1, 0, 0), *((f"f{number:06}", 1, 0, 0) for number in range(MANY))],
    ),
    # Each file is made of that many pieces.
    "tiny-frames": (
        [*[Frame(1, 9)] * MANY, Frame(64 << 20, 4096)],
        [("bin/python3.11", MANY, 0, 0), *((f"f{number:06}", MANY, 0, 0) for number in range(10_000))],
    ),
    # Each read would take 64 MiB of memory, and of the disk.
    "huge-frames": (
        [Frame(64 << 20, 4096)] * 200,
        [("bin/python3.11", 9, 0, 0), *((f"f{number:06}", 64 << 20, number, 0) for number in range(1, 200))],
    ),
    "many-names": (
        [Frame(1, 9)],
        [("bin/python3.11", 1, 0, 0), *((f"f{number:06}", 0, 0, 0) for number in range(10 * MANY))],
    ),
}


@pytest.mark.parametrize("options", [[], ["--no-mount"]], ids=["mounted", "unpacked"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_little_hostile_archive_ends_soon(
    node: Node, archive: Path, tmp_path: Path, kind: str, options: list[str]
) -> None:
    made = hostile(archive, tmp_path / "hostile", *HOSTILE[kind])

    def limit(scratch: Scratch) -> None:
        # Of processor time, however busy this machine is, and of memory.
        scratch.wrapper = ["prlimit", "--cpu=20", f"--as={3 << 30}", "--"]

    outcome = node.run(made, SIMPLE, *options, prepare=limit)
    assert outcome.exit == 0, outcome.dump()
    assert outcome.status == "ERR", outcome.dump()
    assert str(made) in outcome.report


def test_times_are_those_that_programs_compare(archive: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    subprocess.run([binary(), "transplant", "unpack", archive, tree], check=True, stdout=subprocess.DEVNULL)
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    made = 1_577_836_800
    assert {int(path.stat().st_mtime) for path in files if path.suffix != ".pyc"} == {made}
    compiled = [path for path in files if path.suffix == ".pyc"]
    assert compiled and all(path.stat().st_mtime >= made for path in compiled)


def test_what_could_not_be_unpacked_is_not_left_behind(node: Node, archive: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    outcome = node.run(damaged, SIMPLE, "--no-mount")
    assert outcome.status == "ERR", outcome.dump()
    assert f"`{damaged}` is no whole transplant: frame" in outcome.report
    assert not (outcome.out_path.parents[1] / "_htmap_python").exists()


@needs_root
def test_what_an_attempt_left_that_was_killed_makes_room(node: Node, user: Path) -> None:
    """Directories of an archive may be such that nobody may write to them."""

    def prepare(scratch: Scratch) -> None:
        left = scratch.dir / "_htmap_python" / "lib"
        left.mkdir(parents=True)
        (left / "left").touch()
        left.chmod(0o555)
        scratch.give_to(UID)

    outcome = node.run(user / "archive", SIMPLE, "--no-mount", prepare=prepare)
    assert outcome.status == "OK", outcome.dump()
    assert not (outcome.out_path.parents[1] / "_htmap_python/lib/left").exists()
