"""What a component of `local` finds: its files, its Python, its share of the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from local_map import LocalMap
from support.environment import binary, main_python

READ = """
import os
def f(name):
    with open(name) as file:
        return file.read()
"""


def test_inputs_are_brought_when_they_are_named(local: LocalMap) -> None:
    (local.base / "data.csv").write_text("1,2")
    (local.base / "deep").mkdir()
    (local.base / "deep/more.csv").write_text("3")
    local.write(READ, ["data.csv", "deep/more.csv"])
    done = local.run()
    assert done.returncode == 1
    assert "hint: each component runs in a scratch directory of its own: `--input data.csv` brings it" in done.stdout
    done = local.run("--input", "data.csv", "--input", local.base / "deep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [local.value(n) for n in range(2)] == ["1,2", "3"]


def test_an_input_is_a_copy(local: LocalMap) -> None:
    (local.base / "data.csv").write_text("mine")
    local.write("def f(x):\n    open('data.csv', 'w').write('spoilt')\n", [0])
    done = local.run("--input", "data.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (local.base / "data.csv").read_text() == "mine"
    assert "nobody asked for" not in done.stdout


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nothing"], "cannot bring the input `nothing`: No such file"),
        (["func"], "has a name that HTMap needs"),
        (["a/x", "b/x"], "would arrive under one name"),
        (["fifo"], "is neither a file nor a directory"),
        ([".machine.ad"], "has a name that HTMap needs"),
        (["."], "holds the scratch directories"),
    ],
)
def test_inputs_that_cannot_be_brought(local: LocalMap, names: list[str], said: str) -> None:
    local.write(READ, ["x"])
    for name in ("a/x", "b/x", "func", ".machine.ad"):
        (local.base / name).parent.mkdir(exist_ok=True)
        (local.base / name).touch()
    os.mkfifo(local.base / "fifo")
    done = local.run(*(word for name in names for word in ("--input", name)))
    assert done.returncode == 1
    assert said in done.stderr, done.stderr
    assert done.stdout == "" and not (local.directory / "logs/0.stdout").exists()


def test_inputs_that_htmap_wrote_down(local: LocalMap) -> None:
    local.write("import os\ndef f(x):\n    return sorted(os.listdir())", [0, 1])
    for name in ("fixed", "zero", "one", "two", "content/part"):
        (local.base / name).parent.mkdir(exist_ok=True)
        (local.base / name).touch()
    was = "/elsewhere/maps/1"
    files = [
        f"{was}/_htmap_run.py",
        f"{was}/func",
        f"{was}/inputs/$(component).in",
        f"{local.base}/fixed",
        f"{local.base}/content/",
        "/elsewhere/transplants/abc",
        "https://example.org/data",
        f"{local.base}/gone",
        "$(extra_input_files)",
    ]
    (local.directory / "submit").write_text(json.dumps({"transfer_input_files": ",".join(files)}))
    items = [
        {"component": "0", "extra_input_files": f"{local.base}/zero"},
        {"component": "1", "extra_input_files": f"{local.base}/one, {local.base}/two"},
    ]
    (local.directory / "itemdata").write_text(json.dumps(items))
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    found = [{name for name in local.value(n) if not name.startswith(("_htmap", "."))} for n in range(2)]
    assert found == [{"func", "0.in", "fixed", "part", "zero"}, {"func", "1.in", "fixed", "part", "one", "two"}]
    assert "components 0, 1 the input `https://example.org/data` is not fetched here\n" in done.stdout
    assert f"components 0, 1 cannot bring the input `{local.base}/gone`: " in done.stdout


def test_files_that_nobody_asked_for(local: LocalMap) -> None:
    local.write(
        """
        import os
        def f(x):
            import htmap
            for name in ["kept", "plot.png", "deep/er"][: x + 1]:
                os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
                open(name, "w").close()
            htmap.transfer_output_files("kept")
        """,
        [0, 2],
    )
    done = local.run()
    assert done.returncode == 0, done.stderr
    said = "component 1 left 2 files in its scratch directory that nobody asked for, such as `deep/er`"
    assert f"{said}: htmap.transfer_output_files keeps files\n" in done.stdout
    for component in range(2):
        assert [path.name for path in (local.directory / f"output_files/{component}").iterdir()] == ["kept"]
    done = local.run("--rerun", "all")
    assert [path.name for path in (local.directory / "output_files/1").iterdir()] == ["kept"]


VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def test_components_share_the_processors(local: LocalMap) -> None:
    local.write(f"import os\ndef f(x):\n    return [os.environ.get(name) for name in {VARIABLES!r}]\n", [0, 1, 2])
    processors = len(os.sched_getaffinity(0))
    assert local.run("--jobs", "3").returncode == 0
    assert local.value(0) == [str(max(1, processors // 3))] * 3
    local.env["MKL_NUM_THREADS"] = "7"
    assert local.run("--jobs", "1", "--rerun", "all").returncode == 0
    assert local.value(0) == [str(processors), str(processors), "7"]
    local.env = {**local.env, "OMP_NUM_THREADS": "5"}
    assert local.run("--jobs", "1", "--rerun", "all").returncode == 0
    assert local.value(0) == ["5", None, "7"]


def test_the_python_beside_the_binary(local: LocalMap) -> None:
    local.write("import sys\ndef f(x):\n    return sys.executable\n", [0])
    environment = local.base / "venv"
    subprocess.run([main_python().path, "-m", "venv", "--without-pip", environment], check=True)
    program = environment / "bin/htmap-exec"
    shutil.copy(binary(), program)
    local.env["PATH"] = f"{main_python().path.parent}:/usr/bin:/bin"
    # Another environment that is active, as it is when somebody calls ours by its path.
    local.env["VIRTUAL_ENV"] = str(main_python().path.parents[1])
    done = local.run(program=program, name_python=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(local.value(0)).parent == environment / "bin"
    # A link elsewhere is how tools offer a program without their environment.
    link = local.base / "linked/htmap-exec"
    link.parent.mkdir()
    link.symlink_to(program)
    done = local.run("--rerun", "all", program=link, name_python=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(local.value(0)).parent == main_python().path.parent


@pytest.mark.parametrize("name", ["/nope", "/bin/cat", "no-such-python"])
def test_a_python_that_is_none_is_found_before_anything_runs(local: LocalMap, name: str) -> None:
    local.write(READ, ["x"])
    done = local.run("--python", name, name_python=False)
    assert done.returncode == 1
    assert f"cannot use `{name}`: " in done.stderr and done.stderr.count("cannot use") == 1
    assert list((local.directory / "logs").iterdir()) == []


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_jobs_are_at_least_one(local: LocalMap, jobs: str) -> None:
    done = local.run(f"--jobs={jobs}")
    assert done.returncode == 2
    assert "it says how many components run at once: 1 or more" in done.stderr


def test_it_works_within_a_job(local: LocalMap) -> None:
    """Whose ads are not those of the components."""
    local.write("def f(x):\n    return x\n", [0])
    ad = local.base / "job.ad"
    ad.write_text("NumShadowStarts = 3\nNumJobStarts = 2\nClusterId = 5\nProcId = 7\n")
    local.env.update(_CONDOR_JOB_AD=str(ad), _CONDOR_MACHINE_AD=str(ad), _CONDOR_SCRATCH_DIR=str(local.base))
    done = local.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert local.record(0)["attempt"] is None and local.record(0)["job"] is None


def test_results_cross_file_systems(local: LocalMap) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == local.base.stat().st_dev:
        pytest.skip("there is no other file system to use")
    local.write(
        """
        import os
        def f(x):
            import htmap
            os.makedirs("kept/deep")
            for name in ("kept/a.txt", "kept/a.part", "kept/deep/b"):
                with open(name, "w") as file:
                    file.write(name)
            os.symlink("a.txt", "kept/link")
            os.mkfifo("kept/fifo")
            os.chmod("kept/deep", 0o500)
            htmap.transfer_output_files("kept")
            return x
        """,
        [5],
    )
    with tempfile.TemporaryDirectory(dir=shared_memory) as elsewhere:
        local.env["TMPDIR"] = elsewhere
        for _ in range(2):
            done = local.run("--rerun", "all")
            assert done.returncode == 0, done.stdout + done.stderr
            assert local.value(0) == 5
            kept = local.directory / "output_files/0/kept"
            assert sorted(path.name for path in kept.iterdir()) == ["a.part", "a.txt", "deep", "link"]
            assert [(kept / name).read_text() for name in ("a.part", "link")] == ["kept/a.part", "kept/a.txt"]
            for place in ("outputs", "records", "output_files"):
                assert len(list((local.directory / place).iterdir())) == 1
            assert list(Path(elsewhere).iterdir()) == []
