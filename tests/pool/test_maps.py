"""Results, reports, logs and files of maps."""

import os
import pathlib
import shutil
import sys

import conftest
import htmap
import pytest


def test_map(delivery):
    m = htmap.map(lambda x: 2 * x, range(10))
    assert list(m) == [2 * x for x in range(10)]
    assert m.is_done
    assert (m._map_dir / "records" / "3.json").exists()
    assert not list((m._map_dir / "output_files").glob("*.json"))


def test_starmap(assume):
    m = htmap.starmap(lambda x, y=0: x + y, args=[(1,), (2,)], kwargs=[{"y": 10}, {"y": 20}])
    assert list(m) == [11, 22]


def test_build_map(assume):
    with htmap.build_map(lambda x, p: x**p) as builder:
        for x in range(1, 4):
            builder(x, x)
    assert list(builder.map) == [1, 4, 27]


def test_error_reports_name_the_cause_and_the_locals(delivery):
    def inverse(x):
        secret = x + 41
        return secret / (x - 1)

    m = conftest.finished(htmap.map(inverse, [0, 1]))
    assert m.component_statuses == [htmap.ComponentStatus.COMPLETED, htmap.ComponentStatus.ERRORED]
    (report,) = m.error_reports()
    for text in ("ZeroDivisionError: division by zero", "secret = 42", "in inverse", "component 1"):
        assert text in report
    assert m.get_err(1).component == 1
    with pytest.raises(htmap.exceptions.MapComponentError):
        m[1]


@pytest.mark.parametrize(
    ("death", "text"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("os._exit(3)", "exit status 3"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("sys.exit('enough')", "SystemExit: enough"),
    ],
)
def test_a_component_that_dies_has_a_report(assume, death, text):
    def die(_):
        import ctypes
        import os
        import sys

        eval(death, {"ctypes": ctypes, "os": os, "sys": sys})

    m = conftest.finished(htmap.map(die, [0]))
    assert m.component_statuses == [htmap.ComponentStatus.ERRORED]
    (report,) = m.error_reports()
    assert text in report


def test_stdout_and_stderr(assume):
    def talk(x):
        import sys

        print("to stdout", x)
        print("to stderr", x, file=sys.stderr)

    m = conftest.finished(htmap.map(talk, [7]))
    stdout = m.stdout.get(0)
    order = [
        "Landed on execute node",
        "Scratch directory contents before run:",
        "Python executable is /usr/bin/python3",
        "Running component 0",
        "----- MAP COMPONENT OUTPUT START -----",
        "to stdout 7",
        "-----  MAP COMPONENT OUTPUT END  -----",
        "Finished executing component at",
        "Scratch directory contents after run:",
    ]
    places = [stdout.index(text) for text in order]
    assert places == sorted(places)
    assert m.stderr.get(0) == "to stderr 7\n"


def test_output_files(assume):
    def write(x):
        import pathlib

        import htmap

        pathlib.Path("sub").mkdir()
        pathlib.Path("sub", "deep.txt").write_text(f"deep {x}")
        pathlib.Path("flat.txt").write_text(f"flat {x}")
        htmap.transfer_output_files("sub", "flat.txt")
        return x

    m = htmap.map(write, [5, 6])
    assert list(m) == [5, 6]
    for component, x in enumerate([5, 6]):
        files = m.output_files.get(component)
        assert (files / "sub" / "deep.txt").read_text() == f"deep {x}"
        assert (files / "flat.txt").read_text() == f"flat {x}"


def test_input_files_by_transfer_path(assume, tmp_path):
    inputs = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(name)
        inputs.append(htmap.TransferPath(tmp_path / f"{name}.txt"))
    m = htmap.map(lambda path: path.read_text(), inputs)
    assert list(m) == ["one", "two"]


def test_rerun_of_failed_components(assume):
    switch = pathlib.Path.home() / f"switch-{os.getpid()}"

    def picky(x):
        import pathlib

        if x and not pathlib.Path(switch).exists():
            raise ValueError("not yet")
        return x

    m = conftest.finished(htmap.map(picky, [0, 1]))
    assert m.components_by_status()[htmap.ComponentStatus.ERRORED] == (1,)
    assert "not yet" in m.get_err(1).report()
    switch.touch()
    try:
        m.rerun([1])
        assert m.get(1, timeout=conftest.TIMEOUT) == 1
    finally:
        switch.unlink()
    assert m.get(0) == 0


def test_a_second_map_does_not_bring_the_first_ones_inputs(assume):
    first = htmap.map(lambda x: x + 1, range(3))
    second = htmap.map(lambda x: x - 1, range(3))
    assert list(first) == [1, 2, 3]
    assert list(second) == [-1, 0, 1]


def test_a_node_without_cloudpickle_gets_the_submit_sides(assume):
    import cloudpickle

    version = cloudpickle.__version__
    options = htmap.MapOptions()
    htmap.settings["MAP_OPTIONS"]["arguments"] = (
        f"run --submit-python {sys.version_info[0]}.{sys.version_info[1]} --python /opt/bare/bin/python $(component)"
    )
    try:

        def look(x):
            import cloudpickle

            return x, cloudpickle.__version__, cloudpickle.__file__

        m = htmap.map(look, [1], map_options=options)
        ((x, found, path),) = list(m)
    finally:
        del htmap.settings["MAP_OPTIONS"]["arguments"]
    assert (x, found) == (1, version)
    assert "_htmap_cloudpickle.zip" in path


def test_bytecode_of_another_python_is_refused_by_name(assume):
    htmap.settings["MAP_OPTIONS"]["arguments"] = "run --submit-python 3.8 $(component)"
    try:
        m = conftest.finished(htmap.map(lambda x: 2 * x, [21]))
    finally:
        del htmap.settings["MAP_OPTIONS"]["arguments"]
    (report,) = m.error_reports()
    assert "pickled by Python 3.8" in report
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in report


def test_stock_htmap_with_nothing_but_settings(stock):
    """The way that the README shows for HTMap without the htmap_exec package."""
    options = {"executable": conftest.BINARY, "arguments": "run $(component)"}
    htmap.settings["MAP_OPTIONS"].update(options)
    try:
        assert list(htmap.map(lambda x: 2 * x, range(3))) == [0, 2, 4]
    finally:
        for name in options:
            del htmap.settings["MAP_OPTIONS"][name]


def test_the_binary_in_the_place_of_htmaps_script(stock):
    """HTMap's own descriptors, unchanged: the file they name is the binary."""
    from htmap import names, options

    def replace(tag, map_dir):
        script = map_dir / names.RUN_SCRIPT
        shutil.copy2(conftest.BINARY, script)

    htmap.register_delivery_method("assume", options._get_base_descriptors_for_assume, replace)
    assert list(htmap.map(lambda x: 2 * x, range(3))) == [0, 2, 4]
