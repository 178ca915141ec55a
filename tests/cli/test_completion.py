"""Completion of `htmap-exec htmap ...` in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from person import CommandLine, printed
from support.environment import binary

SHELLS = ("bash", "zsh", "fish")


def on_path(person: CommandLine) -> None:
    """The binary, under its name, with this person's Python."""
    (person.home / "bin/htmap-exec").symlink_to(binary())
    person.environment["HTMAP_EXEC_PYTHON"] = str(person.python)
    person.environment["SHELL"] = "/bin/sh"


def bash(person: CommandLine, line: str) -> list[str]:
    """As bash calls the function; the last word may be empty."""
    words = line.split(" ")
    code = (
        'eval "$(_HTMAP_COMPLETE=bash_source htmap-exec htmap)"\n'
        'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()\n'
        "_htmap_exec_completion\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    return printed(person.run(["bash", "-c", code, "bash", *words])).split()


def fish(person: CommandLine, line: str) -> list[str]:
    code = "_HTMAP_COMPLETE=fish_source htmap-exec htmap | source; complete -C $argv[1]"
    return [answer.split("\t")[0] for answer in printed(person.run(["fish", "-c", code, line])).splitlines()]


def zsh(person: CommandLine, line: str) -> list[str]:
    """What zsh lists when somebody types the line and asks for more."""
    (person.home / ".zshrc").write_text(
        "PS1='> '; autoload -Uz compinit; compinit -u\nzstyle ':completion:*' list-prompt ''\nsetopt noautomenu\n"
        'eval "$(_HTMAP_COMPLETE=zsh_source htmap-exec htmap)"\n'
        # Answers in a file, since zsh draws its lists as it likes.
        "answered() { : >~/answered }; comppostfuncs=(answered)\n"
        'compadd() { [[ $1 != -- ]] || print -r -- "$2" >>~/answers; builtin compadd "$@" }\n'
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-i"], env=person.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    screen = b""

    def until(condition: Callable[[], bool]) -> None:
        nonlocal screen
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, screen
            if select.select([ours], [], [], 0.1)[0]:
                screen += os.read(ours, 1 << 16)

    try:
        until(lambda: b"> " in screen)
        os.write(ours, line.encode() + b"\t")
        until((person.home / "answered").exists)
        return (person.home / "answers").read_text().split()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


ASK = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        less = os.environ.get("HTMAP_EXEC_TEST_LESS")
        (pytest.skip if less else pytest.fail)(f"there is no {request.param}: scripts/setup installs it")
    return str(request.param)


@pytest.mark.parametrize("called", ["htmap-exec htmap", "htmap"])
def test_shells_complete_commands_and_tags(newest: CommandLine, shell: str, called: str) -> None:
    on_path(newest)
    for tag in ("foo", "fool", "bar"):
        newest.map(tag, "COMPLETED")
    ask = ASK[shell]
    assert sorted(ask(newest, f"{called} hold fo")) == ["foo", "fool"]
    if shell != "zsh":
        assert ask(newest, f"{called} comp") == ["components"]
        assert sorted(ask(newest, f"{called} hold foo ")) == ["bar", "fool"]
        assert ask(newest, f"{called} rerun m") == ["map"]
        assert ask(newest, f"{called} status --form") == ["--format"]


@pytest.mark.parametrize("called", ["htmap-exec htmap", "htmap"])
def test_every_click_from_8_on_completes(htmap: CommandLine, called: str) -> None:
    if htmap.click.startswith("7."):
        pytest.skip("click 7 completes in another way")
    on_path(htmap)
    htmap.map("foo", "COMPLETED")
    htmap.map("bar", "COMPLETED")
    assert sorted(bash(htmap, f"{called} components ")) == ["bar", "foo"]
    assert bash(htmap, f"{called} stdout f") == ["foo"]
    assert sorted(bash(htmap, f"{called} hold foo ")) == ["bar"]
    assert sorted(bash(htmap, f"{called} components --status H")) in (["HELD"], ["held"])
    assert "explain" in bash(htmap, f"{called} e")


def test_the_binarys_own_words(newest: CommandLine) -> None:
    on_path(newest)
    assert bash(newest, "htmap-exec ht") == ["htmap"]
    assert bash(newest, "htmap-exec local fo") == []


def test_errors_complete_nothing(newest: CommandLine) -> None:
    (newest.home / ".htmaprc").write_text("no = = TOML")
    done = newest("x", _HTMAP_COMPLETE="bash_complete", COMP_WORDS="htmap hold", COMP_CWORD="2")
    assert printed(done, status=1) == ""
    assert done.stderr == ""


def test_scripts_need_no_htmap(newest: CommandLine, shell: str) -> None:
    done = newest(_HTMAP_COMPLETE=f"{shell}_source", PYTHONPROFILEIMPORTTIME="1")
    assert "_htmap_exec_completion" in printed(done)
    assert " click" not in done.stderr


def test_enabling(htmap: CommandLine, shell: str) -> None:
    if htmap.click.startswith("7."):
        pytest.skip("HTMap's own command, as it is")
    destination = htmap.home / "some/where/rc"
    for _ in range(2):
        assert str(destination) in printed(htmap("autocompletion", "--shell", shell, "--destination", str(destination)))
    assert destination.read_text().count("htmap-exec htmap)" if shell != "fish" else "htmap-exec htmap |") == 1
    printed(htmap("autocompletion", "--shell", shell, "--destination", str(destination), "--force"))
    assert destination.read_text().count(f"{shell}_source") == 2
    # A shell without htmap-exec starts in silence.
    done = htmap.run([shell, destination])
    assert (done.stdout, done.stderr) == ("", "")


def test_enabled(newest: CommandLine, shell: str) -> None:
    on_path(newest)
    printed(newest("autocompletion", "--shell", shell))
    startup = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/htmap-exec.fish"}[shell]
    show = {
        "bash": "complete -p htmap-exec",
        "zsh": 'print -r -- "$_comps[htmap-exec]"',
        "fish": "complete -c htmap-exec",
    }[shell]
    done = newest.run([shell, "-c", f"source {Path(newest.home / startup)}; {show}"])
    assert "_htmap_exec_completion" in printed(done)
