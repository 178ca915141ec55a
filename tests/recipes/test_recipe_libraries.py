"""Libraries of the operating system, what is compiled, and images that lack what a recipe begins with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from live import Live, write_project
from support.environment import main_python

DPKG = shutil.which("dpkg-query")
TAG = "cp311-cp311-linux_x86_64"


def library(path: Path, *, needs: Path | None = None, soname: str | None = None) -> Path:
    """An extension module, or a library, that is linked with another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ["gcc", "-shared", "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed", "-o", str(path)]
    if needs is not None:
        words.append(str(needs))
    if soname is not None:
        words.append(f"-Wl,-soname,{soname}")
    subprocess.run(words, check=True)
    return path


def debians(name: str) -> tuple[Path, str]:
    """A library of this machine's that no table here knows, and its package."""
    if DPKG is None:
        pytest.skip("there is no dpkg")
    done = subprocess.run([DPKG, "-S", f"*/{name}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{name} is not installed")
    package, path = done.stdout.splitlines()[0].split(": ", 1)
    return Path(path), package.partition(":")[0].removesuffix("t64")


def packages(text: str) -> list[str]:
    """What apt installs to stay."""
    [line] = [
        line for line in text.splitlines() if re.match(r"(RUN |    )apt-get update && apt-get install", line)
    ] or [""]
    found = re.search(r"--no-install-recommends (.*?) &&", line)
    return found[1].split() if found else []


def test_a_library_that_dpkg_knows(live: Live, tmp_path: Path) -> None:
    path, package = debians("libacl.so.1")
    live.install("needy", "1.0")
    library(live.site / "needy.so", needs=path)
    recipe = live.recipe(tmp_path / "context")
    assert recipe.exit == 0, recipe.stderr
    assert packages(recipe.text) == [package]


def test_a_library_that_the_table_knows(live: Live, tmp_path: Path) -> None:
    live.install("needy", "1.0")
    made = library(tmp_path / "libOSMesa.so.8", soname="libOSMesa.so.8")
    library(live.site / "needy.so", needs=made)
    recipe = live.recipe(tmp_path / "context", PATH="/no/dpkg")
    assert packages(recipe.text) == ["libosmesa6"]


def test_a_library_that_an_editable_package_needs(live: Live, tmp_path: Path) -> None:
    path, package = debians("libacl.so.1")
    own = library(tmp_path / "libown.so.7", soname="libown.so.7")
    project = write_project(tmp_path / "project", {"setup.py": "setup()", "mine/__init__.py": ""})
    module = library(project / "mine" / "fast.cpython-311-x86_64-linux-gnu.so", needs=path)
    other = library(project / "mine" / "other.so", needs=own)
    # Whatever else lies there is not copied.
    library(project / ".venv" / "lib" / "x.so", needs=library(tmp_path / "libno.so.1", soname="libno.so.1"))
    live.install_editable("mine", "1.0", project)
    recipe = live.recipe(tmp_path / "context")
    assert packages(recipe.text) == [package], module
    assert f"left out: the library `libown.so.7`, which `{other}` needs" in recipe.stderr
    assert "libno" not in recipe.stderr


def steps(text: str) -> list[str]:
    found = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]
    for step in found:
        subprocess.run(["sh", "-n", "-c", step], check=True)
    return found


def compiling(text: str) -> list[str]:
    """The commands of the step that has compilers."""
    found = [step for step in steps(text) if "build-essential" in step]
    return found[0].split(" && ") if found else []


def test_an_editable_extension_is_compiled_by_a_compiler(live: Live, tmp_path: Path) -> None:
    if not Path("/usr/lib/x86_64-linux-gnu/libssl.so").exists():
        pytest.skip("OpenSSL's headers are not installed")
    project = write_project(
        tmp_path / "project", {"setup.py": "setup(ext_modules=[Extension('fast', ['fast.c'])])", "fast.c": ""}
    )
    path, _ = debians("libssl.so.3")
    library(project / "fast.cpython-311-x86_64-linux-gnu.so", needs=path)
    live.install_editable("mine", "1.0", project, tag=TAG)
    recipe = live.recipe(tmp_path / "context")
    assert "# Compiled while the image is built: mine\n" in recipe.text
    commands = compiling(recipe.text)
    tools = "build-essential libssl-dev pkg-config"
    assert f"apt-get install -y --no-install-recommends {tools}" in commands
    # Nothing of it stays.
    pip = next(number for number, command in enumerate(commands) if " pip install " in command)
    assert commands.index(f"apt-mark auto {tools} > /dev/null") > pip
    assert commands.index("apt-get purge -y --auto-remove") > pip
    assert recipe.exit == 0, recipe.stderr


@pytest.mark.parametrize(
    ("files", "tag"),
    [
        ({"pyproject.toml": 'requires = ["meson-python"]\nbuild-backend = "mesonpy"\n'}, "py3-none-any"),
        ({"setup.py": "setup(ext_modules=cythonize('fast.pyx'))"}, "py3-none-any"),
        ({"setup.py": "import build_it\n"}, TAG),
    ],
    ids=["meson", "cython", "by its wheel"],
)
def test_extensions_of_other_kinds(live: Live, tmp_path: Path, files: dict[str, str], tag: str) -> None:
    live.install_editable("mine", "1.0", write_project(tmp_path / "project", files), tag=tag)
    assert compiling(live.recipe(tmp_path / "context").text)


def test_what_an_index_has_as_sources_alone(live: Live, tmp_path: Path) -> None:
    """Wheels of PyPI say on which Linux they run; one that says `linux` was made on this machine."""
    live.install("mpi4py", "3.1.5", tag=TAG)
    live.install("numpy", "1.26.4", tag="cp311-cp311-manylinux_2_17_x86_64")
    live.install("torch", "2.1.0+cu118", tag=TAG)
    repository = {"url": "https://git.example/fast.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    live.install("fast", "1.0", tag=TAG, url=repository)
    recipe = live.recipe(tmp_path / "context")
    assert "# Compiled while the image is built: fast, mpi4py\n" in recipe.text
    assert compiling(recipe.text)


def test_a_pure_package_needs_no_compiler(live: Live, tmp_path: Path) -> None:
    live.install_editable("mine", "1.0", write_project(tmp_path / "project", {"setup.py": "setup()"}))
    recipe = live.recipe(tmp_path / "context")
    assert "build-essential" not in recipe.text
    assert "apt-get purge" not in recipe.text


def begin(text: str, python: Path | None, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs what comes before anything is installed, with this Python and no other program."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if python is not None:
        (programs / "python3").symlink_to(python)
    step = " && ".join(f"{{ {step}; }}" for step in steps(text)[:2])
    return subprocess.run(
        ["/bin/sh", "-c", step], env={"PATH": str(programs)}, capture_output=True, text=True, check=False
    )


def test_a_base_image_without_pip_gets_one(live: Live, tmp_path: Path) -> None:
    text = live.recipe(tmp_path / "context", "--base", "my/image").text
    without = tmp_path / "venv"
    subprocess.run([main_python().path, "-m", "venv", "--without-pip", without], check=True)
    # Not a link: Python would look for the environment beside that.
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "python3").write_text(f'#!/bin/sh\nexec {without}/bin/python "$@"\n')
    (tmp_path / "programs" / "python3").chmod(0o755)
    step = " && ".join(f"{{ {step}; }}" for step in steps(text)[:2])
    subprocess.run(["/bin/sh", "-c", step], env={"PATH": str(tmp_path / "programs")}, check=True)
    assert list(without.glob("lib/python3*/site-packages/pip"))


def test_a_base_image_with_no_way_to_pip(live: Live, tmp_path: Path) -> None:
    text = live.recipe(tmp_path / "context", "--base", "my/image").text
    python = tmp_path / "python"
    # As Debian's, which has no ensurepip.
    python.write_text(f'#!/bin/sh\ncase "$2" in pip|ensurepip) exit 1;; esac\nexec {main_python().path} "$@"\n')
    python.chmod(0o755)
    done = begin(text, python, tmp_path)
    assert done.returncode == 1
    assert "error: the base image has no pip" in done.stderr


@pytest.mark.parametrize("program", [None, "#!/bin/sh\nexit 1\n"], ids=["none", "another"])
def test_a_base_image_without_the_right_python(live: Live, tmp_path: Path, program: str | None) -> None:
    text = live.recipe(tmp_path / "context", "--base", "my/image").text
    python = tmp_path / "python" if program else None
    if python is not None:
        python.write_text(program or "")
        python.chmod(0o755)
    done = begin(text, python, tmp_path)
    assert done.returncode == 1
    assert f"error: the maps are of Python {main_python().minor}, and the base image has none" in done.stderr


def test_what_is_left_out_is_no_success(live: Live, tmp_path: Path) -> None:
    live.install("mine", "1.0", url={"url": "file:///home/me/mine", "dir_info": {}})
    recipe = live.recipe(tmp_path / "context")
    assert recipe.exit == 1
    assert "lacks what is left out above, which maps may need" in recipe.stderr
    assert "hint: complete the recipe by hand, or accept it as it is by --allow-missing" in recipe.stderr
    # It is there all the same.
    assert "# - mine 1.0" in recipe.text
    accepted = live.recipe(tmp_path / "context", "--allow-missing")
    assert accepted.exit == 0
    assert "left out: mine 1.0" in accepted.stderr
