"""What HTMap's commands do wrong wherever they run: each with stock HTMap as the control."""

from __future__ import annotations

import json
import os
import subprocess

import event_log
import pytest
from person import CommandLine, printed


def test_json_and_csv_find_the_map_directory(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    assert "FileNotFoundError" in old.stock("status", "--format", "json").stderr
    assert json.loads(printed(old("status", "--format", "json")))["foo"]["local_disk_usage"] > 0


def test_a_status_that_no_component_has(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    assert "KeyError" in old.stock("components", "foo", "--status", "held").stderr
    assert printed(old("components", "foo", "--status", "held")) == "\n"


def test_a_report_that_cannot_be_read(old: CommandLine) -> None:
    directory = old.map("foo", "ERRORED", "ERRORED", "ERRORED")
    event_log.output(directory, 1, "ERR", None)
    stock = old.stock("errors", "foo")
    assert "AttributeError" in stock.stderr
    assert "2 is too odd" not in stock.stdout
    done = old("errors", "foo")
    assert "2 is too odd" in printed(done, status=1)
    assert "ERROR: component 1 of map foo left no report: AttributeError" in done.stderr


def test_a_path_that_no_map_has(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    assert "KeyError" in old.stock("path", "foo:fish").stderr
    done = old("path", "foo:fish")
    assert printed(done, status=2) == ""
    assert "`fish` is none of the paths of a map: map, tag" in done.stderr


def test_a_component_that_is_not_there(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    assert "IndexError" in old.stock("stdout", "foo", "1").stderr
    done = old("stdout", "foo", "1")
    assert printed(done, status=2) == ""
    assert "there is no component 1 in map foo, which has 1" in done.stderr


def test_stdout_that_is_not_there_in_time(old: CommandLine) -> None:
    old.map("foo", "IDLE")
    assert "Traceback" in old.stock("stdout", "foo", "0", "--timeout", "0").stderr
    done = old("stdout", "foo", "0", "--timeout", "0")
    assert printed(done, status=1) == ""
    assert "htmap-exec: error: Timeout while waiting for" in done.stderr


def test_stdout_that_is_no_text(old: CommandLine) -> None:
    directory = old.map("foo", "COMPLETED")
    (directory / "logs/0.stdout").write_bytes(b"\xff\xfe is no UTF-8\n")
    assert "UnicodeDecodeError" in old.stock("stdout", "foo", "0").stderr
    command = [old.python, "-m", "htmap_exec", "stdout", "foo", "0"]
    assert subprocess.check_output(command, env=old.environment) == b"\xff\xfe is no UTF-8\n\n"


def test_settings_keep_their_types(old: CommandLine) -> None:
    printed(old.stock("set", "CLI.SPINNERS_ON", "false"))
    assert 'SPINNERS_ON = "false"' in (old.home / ".htmaprc").read_text()
    printed(old("set", "CLI.SPINNERS_ON", "false"))
    assert "SPINNERS_ON = false" in (old.home / ".htmaprc").read_text()
    for setting, value, why in (
        ("CLI.SPINNERS_ON", "perhaps", "is `true` or `false`"),
        ("WAIT_TIME", "soon", "is a number"),
        ("CLI", "true", "is a group of settings: CLI.IS_CLI, CLI.SPINNERS_ON"),
    ):
        done = old("set", setting, value)
        assert printed(done, status=2) == ""
        assert why in done.stderr


def test_settings_that_no_map_could_be_submitted_with(old: CommandLine) -> None:
    """htmap-exec's own and the delivery method: HTMap saves whatever it is given."""
    for setting, value, why in (
        ("EXEC.TIMEOUT", "soon", "`EXEC.TIMEOUT` takes a number of seconds, not 'soon'"),
        ("EXEC.BINRAY", "/x", "there is no setting `EXEC.BINRAY`: did you mean EXEC.BINARY?"),
        ("EXEC", "fast", "EXEC is a section of settings"),
    ):
        printed(old.stock("set", setting, value))
        (old.home / ".htmaprc").unlink()
        done = old("set", setting, value)
        assert printed(done, status=2) == ""
        assert why in done.stderr
        assert not (old.home / ".htmaprc").exists()
    printed(old("set", "EXEC.EXCLUDE", "**/tests,*.a"))
    printed(old("set", "DELIVERY_METHOD", "transplant"))
    text = (old.home / ".htmaprc").read_text()
    assert 'EXCLUDE = "**/tests,*.a"' in text and 'DELIVERY_METHOD = "transplant"' in text
    # A script may register one of its own.
    for name, why in (("transplnt", "did you mean `transplant`?"), ("by-pigeon", "they are assume, shared, ")):
        done = old("set", "DELIVERY_METHOD", name)
        assert done.returncode == 0
        assert f"WARNING: there is no delivery method `{name}` of HTMap's and htmap-exec's: {why}" in done.stderr


def test_transplants_before_the_first_one(old: CommandLine) -> None:
    assert "FileNotFoundError" in old.stock("transplants", "info").stderr
    assert printed(old("transplants", "info")) == "\n"


def test_rerun_of_what_cannot_be_rerun(old: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTMap asks for a scheduler first; a stub of one is enough, since nothing is submitted."""
    old.map("foo", "IDLE")
    stub = old.home / "stub"
    stub.mkdir()
    (stub / "sitecustomize.py").write_text("import htcondor\nhtcondor.Schedd = lambda *_: None\n")
    path = f"{old.environment['PYTHONPATH']}:{stub}"
    stock = old.stock("rerun", "components", "foo", "0", PYTHONPATH=path)
    assert stock.returncode == 0
    assert "Reran components" in stock.stderr
    done = old("rerun", "components", "foo", "0", PYTHONPATH=path)
    assert printed(done, status=1) == ""
    assert "htmap-exec: error: Cannot rerun components [0] of map foo" in done.stderr
    assert "Reran" not in done.stderr
    assert "Missing argument" in old("rerun", "components", "foo").stderr


@pytest.mark.parametrize("arguments", [["components", "foo", "0"], ["map", "foo"]])
def test_rerun_without_a_scheduler_keeps_the_results(old: CommandLine, arguments: list[str]) -> None:
    output = old.map("foo", "COMPLETED") / "outputs/0.out"
    assert printed(old("rerun", *arguments), status=1) == ""
    assert output.exists()
    assert old.stock("rerun", *arguments).returncode == 1
    assert not output.exists()


def test_patterns_on_a_terminal(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    status, screen = old.on_terminal("hold", "-p", "f*", module="htmap")
    assert (status, "can only concatenate tuple" in screen.replace("\x1b[0m", "")) == (1, True)
    status, screen = old.on_terminal("hold", "-p", "f*")
    assert status == 0
    assert "Held map foo" in screen


def test_all_maps_without_the_end_of_stdin(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    read, write = os.pipe()
    try:
        for module, waits in (("htmap", True), ("htmap_exec", False)):
            command = [str(old.python), "-m", module, "hold", "--all"]
            with subprocess.Popen(command, stdin=read, env=old.environment, stderr=subprocess.DEVNULL) as process:
                try:
                    process.wait(timeout=4 if waits else 60)
                except subprocess.TimeoutExpired:
                    process.kill()
            assert (process.returncode < 0) == waits
    finally:
        os.close(read)
        os.close(write)


def test_spinners_only_on_terminals(old: CommandLine) -> None:
    old.map("foo", "COMPLETED")
    assert "Loading map foo..." in old.stock("hold", "foo").stderr
    assert old("hold", "foo").stderr == "Held map foo\n"
    assert "\x1b[?25h" in old.on_terminal("hold", "foo")[1]


def test_live_status_in_a_pipe(newest: CommandLine) -> None:
    newest.map("foo", "IDLE")
    command = f"{newest.python} -m htmap_exec status --live | head -n 4"
    lines = printed(newest.run(["bash", "-c", f"set -o pipefail; {command}"])).splitlines()
    assert [line.split()[:1] for line in lines] == [["Tag"], ["foo"], [], ["Tag"]]
    assert "\x1b" not in "".join(lines)


def test_live_status_on_a_terminal(htmap: CommandLine) -> None:
    htmap.map("foo", "IDLE")
    status, screen = htmap.on_terminal("status", "--live", until="\x1b[2A")
    assert status == 0
    assert "foo" in screen


def test_waiting_for_a_map_that_has_failed(old: CommandLine) -> None:
    old.map("foo", "COMPLETED", "ERRORED", "REMOVED")
    with pytest.raises(subprocess.TimeoutExpired):
        old.stock("wait", "foo", timeout=4)
    done = old("wait", "foo")
    assert printed(done, status=1) == ""
    assert done.stderr == "ERROR: map foo has ended without all of its results: 1 ERRORED, 1 REMOVED\n"


def test_waiting_says_what_is_held_and_goes_on(newest: CommandLine) -> None:
    directory = newest.map("foo", "HELD")
    command = [str(newest.python), "-m", "htmap_exec", "wait", "foo"]
    with subprocess.Popen(command, env=newest.environment, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "WARNING: map foo has held components: htmap reasons foo\n"
        # It looks once a second.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)
        event_log.comes_to(directory, 0, "COMPLETED")
        assert process.wait(timeout=30) == 0


def test_waiting_on_a_terminal(htmap: CommandLine) -> None:
    htmap.map("foo", "COMPLETED", "IDLE")
    htmap.map("longer", "RUNNING")
    status, screen = htmap.on_terminal("wait", "foo", "longer", until="\x1b[2A")
    assert status == 130
    bars = screen.partition("\x1b[2A")[0]
    assert bars.count("█") == 2 * (80 - len("longer "))
    assert "Traceback" not in screen


def test_completion_is_enabled_where_no_file_is_yet(old: CommandLine) -> None:
    assert "FileNotFoundError" in old.stock("autocompletion", "--shell", "fish").stderr
    printed(old("autocompletion", "--shell", "fish"))
    assert (old.home / ".config/fish/completions/htmap-exec.fish").exists()


class TestEndings:
    def test_a_closed_pipe(self, newest: CommandLine) -> None:
        directory = newest.map("foo", "COMPLETED")
        (directory / "logs/0.stdout").write_text("a line\n" * 100_000)
        command = f"{newest.python} -m htmap_exec stdout foo 0 | head -n 1"
        done = newest.run(["bash", "-c", f"set -o pipefail; {command}"])
        assert printed(done) == "a line\n"
        assert done.stderr == ""

    def test_an_interrupt(self, newest: CommandLine) -> None:
        newest.map("foo", "IDLE")
        status, screen = newest.on_terminal("wait", "foo", until="foo ")
        assert status == 130
        assert "Aborted" not in screen

    def test_settings_that_cannot_be_read(self, newest: CommandLine) -> None:
        (newest.home / ".htmaprc").write_text("this is = = no TOML")
        done = newest("tags")
        assert printed(done, status=1) == ""
        assert "htmap-exec: error: cannot read your settings" in done.stderr
        assert "hint: mend or remove ~/.htmaprc" in done.stderr

    def test_a_directory_that_cannot_be_made(self, newest: CommandLine) -> None:
        (newest.home / "file").touch()
        done = newest("tags", HTMAP_DIR=str(newest.home / "file/htmap"))
        assert printed(done, status=1) == ""
        assert "htmap-exec: error: " in done.stderr

    @pytest.mark.parametrize(
        ("module", "text"),
        [
            ("htmap", "HTMap is not installed: pip install 'htmap-exec[htmap]'"),
            ("htcondor", "bindings"),
            ("click", "lacks a module that HTMap needs"),
        ],
    )
    def test_what_is_not_installed(self, newest: CommandLine, module: str, text: str) -> None:
        hide = newest.home / "hide"
        hide.mkdir()
        (hide / "sitecustomize.py").write_text(
            "import sys\n"
            "class Hide:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        hidden = [{module!r}] + [{module!r} + '2'] * ({module!r} == 'htcondor')\n"
            "        if name in hidden:\n"
            "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, Hide())\n"
        )
        done = newest("tags", PYTHONPATH=f"{newest.environment['PYTHONPATH']}:{hide}")
        assert printed(done, status=1) == ""
        assert text in done.stderr
        assert str(newest.python) in done.stderr
        assert done.stderr.startswith("htmap-exec: error: ")
        assert "pip install" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("hint: ")


def test_click_is_as_before_afterwards(htmap: CommandLine) -> None:
    code = (
        "import click; before = dict(vars(click))\n"
        "from htmap_exec import command_line\n"
        "assert command_line.main(['tags']) == 0 == command_line.main(['tags'])\n"
        "assert dict(vars(click))['argument'] is before['argument']\n"
        "assert command_line.main(['nope']) == 2\n"
    )
    printed(htmap.run([htmap.python, "-c", code]))


def test_explain(newest: CommandLine) -> None:
    code = (
        "import htmap_exec; from htmap_exec.command_line import main\n"
        "htmap_exec.explain = lambda delivery=None: f'explained {delivery}\\n'\n"
        "assert main(['explain', '--delivery', 'shared']) == 0 == main(['explain'])\n"
    )
    assert printed(newest.run([newest.python, "-c", code])) == "explained shared\nexplained None\n"
    done = newest("explain", "--delivery", "pigeon")
    assert printed(done, status=1) == ""
    assert "htmap-exec: error: there is no delivery method 'pigeon'" in done.stderr
