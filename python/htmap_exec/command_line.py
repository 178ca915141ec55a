"""HTMap's command line beside any click, ended as commands end: a sentence and a status, no traceback.

The group is not run by click's own `main()`, which turns Ctrl-C and a closed pipe into failures like any other: only
completion goes there.
"""

import os
import sys
from typing import Any, List, Optional, Sequence, Tuple

from . import completion, enabling
from .failures import HtmapExecError

INTERRUPTED = 130

_INSTALL = "pip install 'htmap-exec[htmap]'"
_BINDINGS = ("htcondor", "classad", "htcondor2", "classad2")


def main(argv: Optional[Sequence[str]] = None, prog_name: str = "htmap") -> int:
    """Run one of HTMap's commands, or one of ours that stand beside them, and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if completion.print_script():
        return 0
    try:
        return _run(arguments, prog_name)
    except BrokenPipeError:
        # `htmap tags | head`. What is left in the buffer must not fail again when Python ends:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        # An answer to the shell goes into somebody's command line: better none.
        if not completion.asked():
            explained = _explained(error)
            if explained is None:
                raise
            _say(*explained)
        return 1


def _run(arguments: List[str], prog_name: str) -> int:
    group = _group(enabling.load_htmap())
    import click

    if completion.asked():
        group.main(arguments, prog_name=prog_name, complete_var=completion.VARIABLE)
    try:
        with group.make_context(prog_name, arguments) as context:
            group.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ending:
        return int(ending.exit_code)
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
    except click.Abort:
        return INTERRUPTED
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


def _group(htmap: Any) -> Any:
    """HTMap's commands, and ours."""
    from . import htmap_commands

    group = htmap_commands.load(htmap).cli
    if "explain" not in group.commands:
        group.add_command(_explain())
    return group


def _explain() -> Any:
    import click

    @click.command(short_help="Print what a map would be submitted with, and why.")
    @click.option("--delivery", metavar="NAME", help="The delivery method (defaults to the setting DELIVERY_METHOD).")
    def explain(delivery: Optional[str]) -> None:
        """Print what a map would be submitted with, and why."""
        import htmap_exec

        click.echo(htmap_exec.explain(delivery), nl=False)

    return explain


def _explained(error: Exception) -> Optional[Tuple[str, Optional[str]]]:
    """What to say and what to do about it, for errors that are no bugs."""
    text = str(error) or type(error).__name__
    python = sys.executable
    if isinstance(error, HtmapExecError):
        return text, f"this is `{python}`" if isinstance(error, ImportError) else None
    if isinstance(error, ImportError):
        name = (error.name or "").split(".")[0]
        if name in _BINDINGS:
            return f"`{python}` cannot import HTCondor's Python bindings: {text}", _INSTALL
        if isinstance(error, ModuleNotFoundError):
            return f"`{python}` lacks a module that HTMap needs: {text}", _INSTALL
        return None
    if isinstance(error, _class("htcondor", "HTCondorException")):
        return (
            f"HTCondor: {text}",
            "ask the scheduler by `condor_q`; HTMap's settings HTCONDOR.SCHEDULER and HTCONDOR.COLLECTOR name another",
        )
    if isinstance(error, _class("htmap.exceptions", "HTMapException")):
        return text, None
    if isinstance(error, _class("toml", "TomlDecodeError")):
        return f"cannot read your settings: {text}", "mend or remove ~/.htmaprc"
    if isinstance(error, OSError):
        return text, None
    return None


def _class(module: str, name: str) -> Any:
    """For isinstance: nothing is of a class in a module that nobody imported."""
    return getattr(sys.modules.get(module), name, ())


def _say(text: str, hint: Optional[str]) -> None:
    print(f"htmap-exec: error: {text}", file=sys.stderr)
    if hint is not None:
        print(f"hint: {hint}", file=sys.stderr)
