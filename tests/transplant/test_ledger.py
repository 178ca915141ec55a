"""What a build looked at: any change of it makes another archive, and nothing else does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environment import binary
from support.node_archives import MAIN, pack

Done = subprocess.CompletedProcess[str]
Build = Callable[..., Done]


@pytest.fixture
def build(venv: Path, tmp_path: Path) -> Build:
    def run(*options: object, check: bool = False, **env: str) -> Done:
        words = ["--level", "1"] if check else ["--level", "1", "--no-check"]
        env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), **env}
        return pack(venv / "bin/python", tmp_path / "store", *words, *options, **env)

    return run


def is_new(done: Done) -> bool:
    return "nothing to do" not in done.stderr


def unpacked(done: Done, place: Path) -> Path:
    subprocess.run([binary(), "transplant", "unpack", done.stdout.strip(), place], check=True, capture_output=True)
    return place


def behind_a_link(site: Path, outside: Path) -> Path:
    (outside / "mymod.py").write_text("x = 1\n")
    (site / "mymod.py").symlink_to(outside / "mymod.py")
    return outside / "mymod.py"


def behind_two_links(site: Path, outside: Path) -> Path:
    (outside / "real.py").write_text("x = 1\n")
    (outside / "mymod.py").symlink_to("real.py")
    (site / "mymod.py").symlink_to(outside / "mymod.py")
    return outside / "real.py"


def behind_a_linked_package(site: Path, outside: Path) -> Path:
    (outside / "pkg/sub").mkdir(parents=True)
    (outside / "pkg/sub/deep.py").write_text("x = 1\n")
    (site / "pkg").symlink_to(outside / "pkg")
    return outside / "pkg/sub/deep.py"


def behind_a_link_of_an_editable(site: Path, outside: Path) -> Path:
    (outside / "src/pkg").mkdir(parents=True)
    (outside / "data.json").write_text("1")
    (outside / "src/pkg/data.json").symlink_to(outside / "data.json")
    (site / "mine.pth").write_text(f"{outside}/src\n")
    return outside / "data.json"


def a_compiled_editable(site: Path, outside: Path) -> Path:
    """Which setuptools' finder names without its end."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (outside / f"native{suffix}").write_bytes(b"x = 1")
    (site / "__editable___native_1_finder.py").write_text(f"MAPPING = {{'native': '{outside}/native'}}\n")
    (site / "__editable__.native-1.pth").write_text("import __editable___native_1_finder; x.install()\n")
    return outside / f"native{suffix}"


@pytest.mark.parametrize(
    "make",
    [
        behind_a_link,
        behind_two_links,
        behind_a_linked_package,
        behind_a_link_of_an_editable,
        a_compiled_editable,
    ],
)
def test_what_lies_elsewhere(make: Callable[[Path, Path], Path], site: Path, build: Build, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    file = make(site, tmp_path / "outside")
    first = build()
    assert not is_new(build())
    file.write_text("x = 22\n")
    second = build()
    assert is_new(second)
    assert second.stdout != first.stdout
    tree = unpacked(second, tmp_path / "tree")
    found = [path for path in tree.rglob(f"{file.name.replace('real', 'mymod')}") if path.is_file()]
    assert [path.read_text() for path in found] == ["x = 22\n"]
    assert not is_new(build())


def test_a_link_that_leads_elsewhere_now(site: Path, build: Build, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"mymod{number}.py").write_text(f"x = {number}\n")
    (tmp_path / "current").symlink_to("mymod1.py")
    (site / "mymod.py").symlink_to(tmp_path / "current")
    build()
    assert not is_new(build())
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("mymod2.py")
    tree = unpacked(build(), tmp_path / "tree")
    assert (tree / site.relative_to(site.parents[2]) / "mymod.py").read_text() == "x = 2\n"


def test_what_a_link_lacked_is_there_now(site: Path, build: Build, tmp_path: Path) -> None:
    (site / "mymod.py").symlink_to(tmp_path / "later.py")
    assert "is a link to nowhere" in build().stderr
    assert not is_new(build())
    (tmp_path / "later.py").write_text("x = 1\n")
    tree = unpacked(build(), tmp_path / "tree")
    assert (tree / site.relative_to(site.parents[2]) / "mymod.py").read_text() == "x = 1\n"


def test_a_library_outside(site: Path, build: Build, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    outside = tmp_path / "outside"
    first = tmp_path / "first"
    outside.mkdir()
    first.mkdir()

    def make(answer: int, place: Path) -> None:
        (tmp_path / "lib.c").write_text(f"int answer(void) {{ return {answer}; }}\n")
        subprocess.run(["cc", "-shared", "-o", place / "libmine.so", tmp_path / "lib.c"], check=True)

    make(1, outside)
    (tmp_path / "ext.c").write_text("int answer(void); int more(void) { return answer(); }\n")
    words = ["-L", outside, "-lmine", f"-Wl,-rpath,{first}:{outside}", "-Wl,--enable-new-dtags"]
    subprocess.run(["cc", "-shared", "-o", site / "ext.so", tmp_path / "ext.c", *words], check=True)
    assert f"libmine.so from `{outside}/libmine.so`" in build("--verbose").stderr
    assert not is_new(build())
    make(2, outside)
    assert is_new(build())
    assert not is_new(build())
    # In a directory that the loader looks into before.
    make(3, first)
    tree = unpacked(build(), tmp_path / "tree")
    assert (tree / "lib/htmap-exec/libmine.so").read_bytes() == (first / "libmine.so").read_bytes()


def test_only_new_bytecode_shows_in_a_cache(site: Path, build: Build) -> None:
    (site / "mymod.py").write_text("x = 1\n")
    (site / "__pycache__").mkdir()
    build()
    times = (site / "__pycache__").stat()
    os.utime(site / "__pycache__", (times.st_atime + 9, times.st_mtime + 9))
    (site / "x").touch()
    (site / "x").unlink()
    assert not is_new(build())
    subprocess.run([MAIN.path, "-m", "compileall", "-q", site / "mymod.py"], check=True)
    assert is_new(build())


@pytest.mark.parametrize("harm", ["damaged", "another", "without-packages"])
def test_the_archive_itself(harm: str, build: Build, tmp_path: Path) -> None:
    archive = Path(build().stdout.strip())
    content = archive.read_bytes()
    times = archive.stat()
    if harm == "damaged":
        with archive.open("r+b") as file:
            file.seek(len(content) // 2)
            file.write(bytes([content[len(content) // 2] ^ 1]))
        os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif harm == "another":
        archive.unlink()
        archive.write_bytes(content[:-1])
    else:
        archive.with_suffix(".pip").unlink()
    assert is_new(build())
    assert archive.read_bytes() == content
    assert archive.with_suffix(".pip").is_file()
    assert not is_new(build())


def test_one_that_was_not_checked_is_checked(build: Build) -> None:
    unchecked = build()
    assert not is_new(build())
    checked = build(check=True)
    assert is_new(checked)
    assert checked.stdout == unchecked.stdout
    assert not is_new(build(check=True))
    # What was checked is good enough for who does not ask for it.
    assert not is_new(build())


def test_what_python_looks_through(build: Build, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    build()
    assert is_new(build(PYTHONPATH=str(tmp_path / "more")))


@pytest.mark.parametrize("harm", [b"", b"htmap-exec ledger 1\n", b"x" * 1000])
def test_a_damaged_ledger_is_none(harm: bytes, build: Build, tmp_path: Path) -> None:
    build()
    [ledger] = (tmp_path / "cache").rglob("*.ledger")
    ledger.write_bytes(harm)
    assert is_new(build())
    assert not is_new(build())


def test_environments_inside_change_as_they_like(venv: Path, build: Build, tmp_path: Path) -> None:
    inner = venv / "envs/inner"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", inner], check=True)
    (venv / "pkgs/numpy").mkdir(parents=True)
    (venv / "pkgs/urls.txt").touch()
    (inner / "mine_alone.txt").write_text("1")
    first = build()
    assert "left: 2 environments inside (-v lists them)\n" in first.stderr
    assert "warning: " not in first.stderr
    assert not any("mine_alone" in path.name for path in unpacked(first, tmp_path / "tree").rglob("*"))
    (inner / "mine_alone.txt").write_text("22")
    assert not is_new(build())
    # No environment any more.
    (inner / "pyvenv.cfg").unlink()
    assert is_new(build())
