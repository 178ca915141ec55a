"""Fixtures for maps on a real pool. Runs inside the pool, as the user who submits: `scripts/pool test`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Version 1 of HTCondor's bindings says wherever it is used that it will go.
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    if "HTMAP_EXEC_POOL" in os.environ:
        # Before any test imports HTMap: it cannot be imported, or follow its maps, by itself in every combination of
        # pool and bindings. (What it cannot do is tested in processes of their own.)
        from htmap_exec import bindings

        bindings.present()
        import htmap

        bindings.adapt(htmap)


@pytest.fixture(autouse=True)
def no_holds(tmp_path: Path) -> Iterator[None]:
    """HTMap's directory is each test's own. Nothing that a test does may put a component on hold."""
    import htcondor
    import htmap
    from on_pool import unasked_holds

    before = htmap.settings["HTMAP_DIR"]
    htmap.settings["HTMAP_DIR"] = str(tmp_path / "htmap")
    for name in ("maps", "tags", "logs", ".removed-tags"):
        (tmp_path / "htmap" / name).mkdir(parents=True)
    yield
    holds = unasked_holds(htmap.load_maps())
    htcondor.Schedd().act(htcondor.JobAction.Remove, "true")
    htmap.settings["HTMAP_DIR"] = before
    assert holds == []


def deliver(method: str) -> None:
    import htmap
    import htmap_exec
    from on_pool import BINARY

    htmap_exec.enable(BINARY)
    htmap.settings["DELIVERY_METHOD"] = method


@pytest.fixture(params=["assume", "shared"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Components run by htmap-exec, on the nodes' Python and on the submit side's."""
    deliver(request.param)
    return str(request.param)


@pytest.fixture
def assume() -> None:
    """Components run by htmap-exec, on nodes that have no HTMap."""
    deliver("assume")


@pytest.fixture
def stock() -> Callable[[str], None]:
    """Chooses one of HTMap's own delivery methods, as they are on PyPI."""
    import htmap
    from htmap import options

    def choose(method: str) -> None:
        descriptors = {
            "assume": options._get_base_descriptors_for_assume,
            "shared": options._get_base_descriptors_for_shared,
        }
        htmap.register_delivery_method(method, descriptors[method])
        htmap.settings["DELIVERY_METHOD"] = method

    return choose


@pytest.fixture
def map_options() -> Iterator[Callable[..., None]]:
    """Sets HTMap's MAP_OPTIONS, which go before those of a delivery method."""
    import htmap

    chosen = htmap.settings["MAP_OPTIONS"]
    before = dict(chosen)
    yield chosen.update
    chosen.clear()
    chosen.update(before)


@pytest.fixture
def settings() -> Iterator[Callable[..., None]]:
    """Sets htmap-exec's own settings, those below `EXEC.`."""
    import htmap

    before = dict(htmap.settings["EXEC"])

    def choose(**values: object) -> None:
        for name, value in values.items():
            htmap.settings[f"EXEC.{name}"] = value

    yield choose
    htmap.settings["EXEC"] = before
