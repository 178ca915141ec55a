"""Names that may be anything, and files of every kind: what is in an environment, and where it, its archive and the
scratch directory lie.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.environment import binary, is_root, system_python
from support.hostile_archives import Directory, File, Frame, Link, blake3, hostile, manifest_of, write, zstd
from support.node_archives import MAIN, PRUNED, Node, copy_of_prefix, encoded, excluding, pack
from support.scratch import Scratch, new_base

Done = subprocess.CompletedProcess[bytes]

ODD = {
    "newline": b"new\nline",
    "quotes": b"'quo\"ted'",
    "tab": b"a\ttab",
    "backslash": b"back\\slash",
    "dash": b"-dash",
    "option": b"--help",
    "no-utf-8": b"\xff\xfe\x80",
    "blanks": b" lead and trail ",
    "escape": b"\x1b[31mred",
    "shell": b"$HOME`id`*?",
    "braces": b"%s{}[a]#",
    "long": b"n" * 250,
}
EACH = pytest.mark.parametrize("name", ODD.values(), ids=ODD)
LIBRARY = f"lib/python{MAIN.minor}"


def run(*words: object, **env: str) -> Done:
    return subprocess.run(
        [binary(), "transplant", *map(os.fspath, words)],  # type: ignore[call-overload]
        env={"PATH": os.defpath, **env},
        capture_output=True,
        timeout=100,
    )


def runs(*words: object, **env: str) -> Done:
    done = run(*words, **env)
    assert done.returncode == 0, done.stderr
    return done


def contents(root: Path) -> dict[bytes, bytes]:
    """Of each file and link below a directory, whatever its name and however long its path."""
    found = {}
    for directory, _, names, at in os.fwalk(os.fsencode(root)):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), os.fsencode(root))
            try:
                found[path] = os.readlink(name, dir_fd=at)
            except OSError:
                with open(os.open(name, os.O_RDONLY, dir_fd=at), "rb") as file:
                    found[path] = file.read()
    return found


def fill(site: Path, python: Path) -> dict[bytes, bytes]:
    """Files, directories, links and scripts of all names, and a path as long as one can be; what is there then."""
    root = os.fsencode(site)
    for name in (*ODD.values(), b"n" * 255):
        directory = os.path.join(root, name)
        os.mkdir(directory)
        for inner in (name, name[:240] + b".py"):
            Path(os.fsdecode(os.path.join(directory, inner))).write_bytes(b"x = " + str(len(inner)).encode() + b"\n")
        os.symlink(name, os.path.join(directory, b"link"))
        script = Path(os.fsdecode(os.path.join(directory, b"script")))
        script.write_bytes(b"#!" + os.fsencode(python) + b"\nprint(1)\n")
        script.chmod(0o755)
    deep = os.open(root, os.O_RDONLY)
    length = len(root) + 1
    while length + 100 < 4095:
        os.mkdir(b"d" * 99, dir_fd=deep)
        below = os.open(b"d" * 99, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep, length = below, length + 100
    with open(os.open(b"f" * (4095 - length), os.O_RDWR | os.O_CREAT, dir_fd=deep), "wb") as file:
        file.write(b"deep")
    os.close(deep)
    # Times in bytecode are made to fit those of the tree.
    return {path: content for path, content in contents(site).items() if not path.endswith(b".pyc")}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """The archive of such an environment, and what its packages are."""
    root = tmp_path_factory.mktemp("odd")
    python = copy_of_prefix(MAIN, root / "prefix")
    there = fill(root / "prefix" / LIBRARY / "site-packages", python)
    done = pack(python, root / "store", "--level", "1", "--no-compile")
    assert "warning" not in done.stderr
    return Path(done.stdout.strip()), there


def test_files_of_all_names_are_unpacked(filled: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    archive, there = filled
    runs("verify", archive)
    # The deepest is more than the kernel takes.
    tree = tmp_path / ("t" * 200)
    runs("unpack", archive, tree)
    found = contents(tree / LIBRARY / "site-packages")
    scripts = {path for path in there if path.endswith(b"/script")}
    assert len(scripts) == len(ODD) + 1
    assert {path: found[path] for path in there if path not in scripts} == {
        path: content for path, content in there.items() if path not in scripts
    }
    for path in scripts:
        script = tree / LIBRARY / "site-packages" / os.fsdecode(path)
        assert subprocess.check_output([script], cwd="/") == b"1\n"


LISTED = """
    def f():
        import os, sys
        found = []
        for directory, _, names, at in os.fwalk(os.fsencode(sys.prefix)):
            for name in names:
                if not os.path.islink(os.path.join(directory, name)):
                    with open(os.open(name, os.O_RDONLY, dir_fd=at), "rb") as file:
                        if b"site-packages" in directory and not name == b"script":
                            found.append((os.path.join(directory, name).partition(b"site-packages/")[2], file.read()))
        return dict(found)
"""


@pytest.mark.parametrize("options", [[], ["--no-mount"], ["--cache-dir"]], ids=["mounted", "unpacked", "cached"])
def test_a_node_has_files_of_all_names(
    node: Node, filled: tuple[Path, dict[bytes, bytes]], tmp_path: Path, options: list[str]
) -> None:
    archive, there = filled
    tmp_path.chmod(0o755)
    for _ in range(2):
        place = [str(tmp_path / "cache")] if options == ["--cache-dir"] else []
        outcome = node.run(archive, LISTED, *options, *place)
        assert outcome.status == "OK", outcome.dump()
        lacking = [path for path in there if not path.endswith((b"/link", b"/script")) and path not in outcome.value]
        assert lacking == []


@pytest.mark.parametrize("name", [b"\xff\xfe\x80", "naïve".encode(), b"new\nline"])
def test_a_cache_sees_what_is_removed_from_a_directory_of_any_name(node: Node, tmp_path: Path, name: bytes) -> None:
    tmp_path.chmod(0o755)
    prefix, store, cache = tmp_path / "prefix", tmp_path / "store", tmp_path / "cache"
    python = copy_of_prefix(MAIN, prefix)
    directory = prefix / LIBRARY / "site-packages" / os.fsdecode(name)
    directory.mkdir()
    for number in range(300):
        (directory / f"{number}.txt").write_text("x")
    archive = Path(pack(python, store, "--level", "1", "--no-check").stdout.strip())
    source = """
        def f():
            import os, sys
            return {root: len(files) for root, _, files in os.walk(os.fsencode(sys.prefix))}
    """
    for word in ("unpacked `", "found `"):
        outcome = node.run(archive, source, "--cache-dir", cache)
        assert word in outcome.stderr, outcome.dump()
        [place] = [root for root in outcome.value if os.path.basename(root) == name]
        assert outcome.value[place] == 300
    os.chmod(place, 0o755)
    for number in range(0, 300, 2):
        os.unlink(os.path.join(place, b"%d.txt" % number))
    os.chmod(place, 0o555)
    outcome = node.run(archive, source, "--cache-dir", cache)
    assert outcome.value[place] == 300, outcome.stderr


def test_formats_for_other_tools(filled: tuple[Path, dict[bytes, bytes]], tmp_path: Path) -> None:
    """tar takes all names, zip those in UTF-8."""
    archive, there = filled
    python = archive.parents[1] / "prefix/bin" / f"python{MAIN.minor}"
    done = pack(python, tmp_path / "store", "--level", "1", "--no-compile", "--no-check", "--format", "tar.gz")
    (tmp_path / "tree").mkdir()
    subprocess.run(["tar", "-xzf", done.stdout.strip(), "-C", tmp_path / "tree"], check=True)
    assert contents(tmp_path / "tree" / LIBRARY / "site-packages").keys() >= there.keys()
    done = run("build", "--python", python, "--dir", tmp_path / "store", "--format", "zip", "--no-check")
    assert done.returncode == 1
    assert b"UTF-8" in done.stderr, done.stderr


@EACH
def test_a_prefix_and_a_store_of_any_name(name: bytes, tmp_path: Path) -> None:
    prefix, store, target = (tmp_path / end / os.fsdecode(name) for end in ("prefix", "store", "target"))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HTMAP_DIR": str(tmp_path / "htmap")}
    prefix.parent.mkdir()
    python = copy_of_prefix(MAIN, prefix)
    words = ("build", "--python", python, "--dir", store, "--level", "1", "--exclude", f"{LIBRARY}/site-packages/c*")
    done = runs(*words, **cache)
    # Programs read it.
    archive = Path(os.fsdecode(done.stdout[:-1]))
    assert archive.parent == store
    assert b"\x1b" not in done.stderr
    # What names such a place cannot be edited.
    assert (b"` will still do so: its name is no text" in done.stderr) == (name == ODD["no-utf-8"]), done.stderr
    assert b"nothing to do" in runs(*words, **cache).stderr
    shown = os.fsencode(archive).decode(errors="replace")
    for command in ("info", "verify"):
        assert json.loads(runs(command, "--json", archive).stdout)["path"] == shown
        assert b"\x1b" not in runs(command, archive).stdout
    assert json.loads(runs("list", "--json", "--dir", store).stdout)[0]["path"] == shown
    again = json.loads(runs(*words, "--json", **cache).stdout)
    assert again["path"] == shown
    assert runs("diff", archive, archive).stdout == b"the same\n"
    unpacked = runs("unpack", archive, target)
    program = Path(os.fsdecode(unpacked.stdout[:-1]))
    assert program.parents[1] == target
    code = "import os, sys, ssl; print(sys.prefix == os.path.dirname(os.path.dirname(sys.executable)))"
    assert subprocess.check_output([program, "-c", code], cwd="/") == b"True\n"
    shutil.rmtree(target)
    unpacked = runs("unpack", "--json", archive, target)
    assert json.loads(unpacked.stdout)["target"] == os.fsencode(target).decode(errors="replace")
    for word in ("--dry-run", "--json"):
        pruned = runs("prune", "--keep", "0", "--dir", store, word, **cache)
        assert b"\x1b" not in pruned.stdout
    assert shown in [each["path"] for each in json.loads(pruned.stdout)["removed"]]
    assert not archive.exists()


@EACH
@pytest.mark.parametrize("options", [[], ["--no-mount"]], ids=["mounted", "unpacked"])
def test_a_scratch_directory_of_any_name(node: Node, archive: Path, name: bytes, options: list[str]) -> None:
    def prepare(scratch: Scratch) -> None:
        scratch.rename(name)

    source = "def f():\n    import sys, ssl, ctypes\n    return ascii(sys.prefix)"
    outcome = node.run(archive, source, *options, prepare=prepare)
    assert outcome.status == "OK", outcome.dump()
    assert outcome.value.endswith(("/_htmap_python'", '/_htmap_python"')), outcome.dump()


def test_what_is_no_file_is_left_out_and_named(venv: Path, site: Path, tmp_path: Path) -> None:
    names = ["fifo.py", "libx.so.1", "__editable___x_finder.py", "x-1.dist-info/RECORD", "y-1.dist-info/METADATA"]
    for name in names:
        (site / name).parent.mkdir(exist_ok=True)
        os.mkfifo(site / name)
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(site)
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
    (site / "link.py").symlink_to("fifo.py")
    (site / "zero").symlink_to("/dev/zero")
    if is_root():
        os.mknod(site / "disk", 0o600 | 0o060000, os.makedev(7, 200))
        names.append("disk")
    (site / "setuid").write_text("")
    (site / "setuid").chmod(0o6755)
    done = pack(venv / "bin/python", tmp_path / "store", "--level", "1", "-v")
    # As one may expect it, so no warnings: a count, and a list for who asks.
    for name in (*names, "socket"):
        assert f"\n  `{site / name}` is a device, pipe or socket: left out\n" in done.stderr, done.stderr
    assert f"left: {len(names) + 1} devices, pipes or sockets\n" in done.stderr
    assert "zero` is a link to what is every machine's own" in done.stderr
    runs("unpack", Path(done.stdout.strip()), tmp_path / "tree")
    there = tmp_path / "tree" / LIBRARY / "site-packages"
    assert not any(os.path.lexists(there / name) for name in (*names, "socket", "zero"))
    # Whoever unpacks it owns it: it gives nobody else's rights.
    assert (there / "setuid").stat().st_mode & 0o7777 == 0o755


# Somebody without a passwd entry, and another one.
UID, OTHER = 64_123, 64_124
SYSTEM = system_python()


@pytest.fixture
def mine() -> Iterator[Path]:
    """A directory of another user's than root, with the program in it and an environment with files of all modes."""
    base = new_base()
    assert SYSTEM is not None
    subprocess.run([SYSTEM.path, "-m", "venv", "--without-pip", base / "venv"], check=True)
    site = base / f"venv/lib/python{SYSTEM.minor}/site-packages"
    for directory in ("closed", "fixed"):
        (site / directory).mkdir()
        (site / directory / "x.py").write_text("x = 1\n")
    (site / "secret.py").write_text("x = 1\n")
    shutil.copy(binary(), base / "program")
    subprocess.run(["chown", "-R", str(UID), base], check=True)
    for name, mode in {"secret.py": 0, "fixed/x.py": 0o400, "fixed": 0o500, "closed": 0o300}.items():
        (site / name).chmod(mode)
    yield base
    shutil.rmtree(base)


def by_user(base: Path, *words: object, umask: int = 0o022, cache: str = "cache") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", f"--reuid={UID}", "--clear-groups", base / "program", "transplant", *map(str, words)],
        env={"PATH": os.defpath, "XDG_CACHE_HOME": str(base / cache), "HTMAP_DIR": str(base / "htmap")},
        umask=umask,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(not is_root() or SYSTEM is None, reason="needs root, and a Python that every user can run")
def test_modes_and_users(mine: Path) -> None:
    words = ["build", "--python", mine / "venv/bin/python", "--level", "1", *excluding(PRUNED), "--dir"]
    done = by_user(mine, *words, mine / "store")
    assert done.returncode == 1
    [site] = (mine / "venv/lib").glob("python3*/site-packages")
    assert done.stderr.splitlines() == [
        "htmap-exec: error: cannot read 2 files:",
        f"    `{site}/closed`",
        f"    `{site}/secret.py`",
        "hint: make them readable, or leave them out with --exclude",
    ]
    words[-1:] = ["--exclude", "**/closed", "--exclude", "**/secret.py", "--dir"]
    archives = []
    for umask in (0o022, 0o077):
        done = by_user(mine, *words, mine / f"store{umask}", umask=umask, cache=f"cache{umask}")
        assert done.returncode == 0, done.stderr
        archives.append(Path(done.stdout.strip()))
    assert archives[0].name == archives[1].name
    # HTCondor's daemons have to read an archive; who may come to it is the directory's business.
    for archive, mode in zip(archives, (0o755, 0o700), strict=True):
        assert archive.stat().st_mode & 0o777 == 0o644
        assert archive.parent.stat().st_mode & 0o777 == mode
    assert all(path.stat().st_mode & 0o077 == 0 for path in (mine / "cache63").rglob("*"))
    done = by_user(mine, "unpack", archives[1], mine / "tree", umask=0o077)
    assert done.returncode == 0, done.stderr
    assert (mine / "tree").stat().st_mode & 0o777 == 0o700
    [fixed] = mine.glob("tree/**/fixed")
    assert (fixed.stat().st_mode & 0o777, (fixed / "x.py").stat().st_mode & 0o777) == (0o755, 0o644)
    # What cannot be removed is named, and stays whole.
    archives[0].parent.chmod(0o555)
    done = by_user(mine, "prune", "--keep", "0", "--dir", archives[0].parent)
    assert done.returncode == 1
    assert f"cannot remove `{archives[0]}`: Permission denied" in done.stderr
    archives[0].parent.chmod(0o755)
    archives[0].chmod(0o400)
    done = by_user(mine, "prune", "--keep", "0", "--dir", archives[0].parent)
    assert done.returncode == 0, done.stderr
    assert list(archives[0].parent.iterdir()) == []


ESCAPES = "\x1b]0;title\x07\x9b31m\u202e\r"


def test_no_text_of_an_archive_reaches_the_terminal(archive: Path, node: Node, tmp_path: Path) -> None:
    """All control characters and marks that turn the direction of writing are escaped, wherever they stand."""
    manifest = json.loads(manifest_of(archive))
    one = blake3(b"x")
    entries = [Directory("bin"), File("bin/python3.11", 1, 0, 0, one), File(f"a{ESCAPES}", 1, 0, 0, one)]
    for name in ("implementation", "python_version", "machine", "extension_suffix"):
        manifest[name] += ESCAPES
    manifest["packages"] = [f"a{ESCAPES}==1{ESCAPES}", f"b{ESCAPES}"]
    for name in ("glibc", "libstdcxx", "x86_64_level", "gpu_driver"):
        manifest["audit"][name] = {"needs": "2.0", "file": f"f{ESCAPES}"}
    manifest["audit"]["x86_64_level"]["needs"] = 2
    manifest["audit"]["libraries"] = [{"needs": f"l{ESCAPES}", "file": f"f{ESCAPES}"}]
    manifest["audit"]["largest"] = [{"name": f"s{ESCAPES}", "bytes": 1}]
    store = tmp_path / "store"
    store.mkdir()
    same = [File(f"b{number}{ESCAPES}", 1, 0, 0, one) for number in range(4)]
    made = hostile(store / ("0" * 64), manifest, [*entries, same[0]], [Frame.of(b"x")])
    other = dict(manifest, packages=[f"c{ESCAPES}==1"], machine=f"m{ESCAPES}")
    links = [Link(f"b0{ESCAPES}", f"a{ESCAPES}")]
    second = hostile(tmp_path / "second", other, [*entries[:2], *links, *same[1:]], [Frame.of(b"x")])
    out = hostile(tmp_path / "out", manifest, [*entries, Link(f"l{ESCAPES}", f"/etc{ESCAPES}")], [Frame.of(b"x")])
    manifest["python"] = f"../{ESCAPES}"
    outside = hostile(tmp_path / "outside", manifest, entries, [Frame.of(b"x")])
    for words in (
        ("info", made),
        ("diff", made, second),
        ("diff", second, made),
        ("list", "--dir", store),
        ("info", out),
        ("unpack", out, tmp_path / "tree"),
    ):
        done = run(*words)
        said = (done.stdout + done.stderr).decode()
        assert not set(said) & (set(ESCAPES) - set("0;title31m]")), said
        assert "\\u{1b}]0;title" in said
    for archive in (out, outside):
        outcome = node.run(archive, "def f():\n    return 1", "--no-mount")
        said = outcome.report + outcome.stderr
        assert "\\u{1b}]0;title" in said, outcome.dump()
        assert "\x1b" not in said and "\x9b" not in said and "\u202e" not in said


def long_paths(at: Path, manifest: bytes, count: int) -> Path:
    """An archive with so many paths of 4,000 bytes, each of which says only in what it differs from the one before."""

    def entry(shared: int, rest: bytes, kind: bytes = b"d") -> bytes:
        return encoded(shared) + encoded(len(rest)) + rest + encoded(0o755) + kind

    entries = [entry(0, b"bin"), entry(3, b"/python3.11", b"f" + encoded(1) + blake3(b"x"))]
    entries += [entry(0, b"x" * 250)]
    entries += [entry(251 * depth - 1, b"/" + b"x" * 250) for depth in range(1, 15)]
    entries += [entry(3764, b"/" + b"y" * 229 + b"000000")]
    entries += [entry(3994, f"{number:06}".encode()) for number in range(1, count)]
    listing = b"\x02" + encoded(len(manifest)) + manifest + encoded(len(entries)) + b"".join(entries)
    frame = zstd(b"x")
    # One frame, none of them hot, and where the one file lies.
    layout = encoded(1) + encoded(1) + encoded(len(frame)) + bytes(3)
    return write(at, frame, encoded(len(listing)) + listing + layout)


@pytest.mark.parametrize("count", [8_000, 63_000])
def test_many_long_paths_keep_nobody_busy(archive: Path, tmp_path: Path, node: Node, count: int) -> None:
    """As few as all archives may have, and as many as are refused; in seconds of an unoptimized build."""
    made = long_paths(tmp_path / "made", manifest_of(archive), count)
    assert made.stat().st_size < 1 << 20
    is_refused = count > 8_000
    limit = ("prlimit", "--cpu=10", f"--as={1 << 30}", "--")
    for words in (("info", made), ("diff", made, archive), ("unpack", made, tmp_path / "tree")):
        done = subprocess.run([*limit, binary(), "transplant", *words], capture_output=True, timeout=100)
        assert done.returncode == is_refused, (words, done.stderr)
        assert (b"its index makes no sense" in done.stderr) == is_refused, done.stderr

    def prepare(scratch: Scratch) -> None:
        scratch.wrapper = [*limit]

    outcome = node.run(made, "def f():\n    return 1", prepare=prepare)
    assert outcome.status == "ERR", outcome.dump()
    assert ("its index makes no sense" in outcome.report) == is_refused, outcome.report
