"""The images that tests run components in: built once for all of them, by real Docker and real Apptainer.

No registry is needed: the images that ours are made from are Debian's packages, as `scripts/pool --suite containers`
lays them out, and packages come from an index on this machine.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

if "HTMAP_EXEC_TEST_IMAGES" in os.environ:
    from containers import SOURCES, build, imported, run


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index of Python packages, for builds in containers that share this network and reach no other."""
    root = tmp_path_factory.mktemp("index")
    for wheel in (SOURCES / "wheels").glob("*.whl"):
        project = root / "simple" / wheel.name.partition("-")[0]
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, project)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


@pytest.fixture(scope="session")
def docker() -> str:
    """Docker's command, if its daemon answers."""
    done = run("docker", "version", check=False)
    if done.returncode != 0:
        pytest.skip(f"Docker does not run here: {done.stderr.strip()}")
    return "docker"


@pytest.fixture(scope="session")
def local_python(docker: str) -> str:
    """Debian with a Python, in the place of python:X.Y-slim."""
    return imported("python")


@pytest.fixture(scope="session")
def local_debian(docker: str) -> str:
    """Debian without a Python, in the place of debian:slim."""
    return imported("debian")


@pytest.fixture(scope="session")
def base_image(docker: str) -> str:
    build("base")
    return "htmap-exec/base"


@pytest.fixture(scope="session")
def python_image(base_image: str, local_python: str, index: str) -> str:
    build("python", f"FROM={local_python}", f"PIP_INDEX_URL={index}")
    return "htmap-exec/python"


@pytest.fixture(scope="session")
def python_tree(local_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that `local_python` was made from, as a directory."""
    directory = tmp_path_factory.mktemp("trees") / "python"
    directory.mkdir()
    run("tar", "-C", directory, "-xf", SOURCES / "python.tar")
    # Apptainer mounts over them.
    for name in ("dev", "proc"):
        (directory / name).mkdir()
    return directory
