"""Which bindings HTMap gets, each time in a new process: what is imported stays imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import htmap_exec
import pytest

PACKAGE = Path(htmap_exec.__file__).resolve().parent.parent
PRESENT = "from htmap_exec import bindings; bindings.present(); bindings.present()\n"
NO_1 = "import sys; sys.modules['htcondor'] = None; sys.modules['classad'] = None\n"
NO_2 = "import sys; sys.modules['htcondor2'] = None; sys.modules['classad2'] = None\n"


def run(program: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "CONDOR_CONFIG": "/dev/null"}
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_version_1_stays_where_it_is(tmp_path: Path) -> None:
    program = PRESENT + "import classad, htcondor; print(htcondor.__name__, classad.__name__, htcondor.Transaction)"
    assert said(run(program, tmp_path)) == "htcondor classad <class 'htcondor.htcondor.Transaction'>"


def test_version_1_does_not_announce_its_end(tmp_path: Path) -> None:
    done = run("from htmap_exec import bindings; bindings.present()", tmp_path, "-W", "always")
    assert done.stderr == ""


def test_later_warnings_are_not_kept_from_the_user(tmp_path: Path) -> None:
    program = PRESENT + "import warnings; warnings.warn('that', FutureWarning)"
    assert "FutureWarning: that" in run(program, tmp_path).stderr


def test_version_2_takes_its_place(tmp_path: Path) -> None:
    program = (
        NO_1
        + PRESENT
        + "import classad, htcondor, htmap, htcondor2\n"
        + "from htcondor import JobAction, dags\n"
        + "print(htcondor.__name__, classad.parseOne('[a = 1]')['a'], JobAction is htcondor2.JobAction)\n"
        + "print(hasattr(htcondor2.Schedd, 'transaction'), htmap.state.htcondor is htcondor)\n"
    )
    assert said(run(program, tmp_path)).splitlines() == ["htmap_exec.bindings.htcondor_by_2 1 True", "False True"]


def test_directories_of_these_names_are_no_bindings(tmp_path: Path) -> None:
    (tmp_path / "htcondor").mkdir()
    (tmp_path / "classad").mkdir()
    # As if nothing were installed.
    program = f"""
import sys
class NoneInstalled:
    def find_spec(name, path, target=None):
        if name in ("classad", "htcondor"):
            import importlib.machinery
            return importlib.machinery.PathFinder.find_spec(name, [{str(tmp_path)!r}])
sys.meta_path.insert(0, NoneInstalled)
{PRESENT}
import htcondor; print(htcondor.__name__)
"""
    assert said(run(program, tmp_path)) == "htmap_exec.bindings.htcondor_by_2"


def test_none_are_missed_by_name(tmp_path: Path) -> None:
    done = run(NO_1 + NO_2 + "import htmap_exec; htmap_exec.enable()", tmp_path)
    assert done.stderr.splitlines()[-1] == (
        f"htmap_exec.failures.BindingsMissing: Python {sys.version_info[0]}.{sys.version_info[1]} "
        f"(`{sys.executable}`) has no bindings for HTCondor: pip install htcondor"
    )


def test_bindings_that_cannot_be_loaded_say_why(tmp_path: Path) -> None:
    (tmp_path / "htcondor.py").write_text("raise ImportError('libfoo.so.1: cannot open shared object file')")
    done = run(NO_2 + "import htmap_exec; htmap_exec.enable()", tmp_path)
    assert "libfoo.so.1: cannot open shared object file" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("module", "name"), [("htcondor", "SecMan"), ("classad", "register")])
def test_what_version_2_has_not_is_missed_by_name(tmp_path: Path, module: str, name: str) -> None:
    done = run(NO_1 + PRESENT + f"import {module}; {module}.{name}", tmp_path)
    assert f"AttributeError: module '{module}' has no attribute '{name}'" in done.stderr
    assert f"{module}2" in done.stderr
