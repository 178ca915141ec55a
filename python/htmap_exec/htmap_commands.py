"""HTMap 0.6.1's commands, importable beside any click, and corrected where they fail.

They are corrected in this process and from outside: commands get another callback, functions of `htmap.cli` another
value. That relies on names which HTMap never promised, and can, because 0.6.1 is its last release. Each correction says
what it corrects; docs/command-line.md says it to users.
"""

import collections
import contextlib
import functools
import importlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from . import completion, delivery, exec_settings
from .failures import SettingsError

# Statuses that no component leaves by itself.
_ENDS = {"COMPLETED", "ERRORED", "REMOVED"}


def load(htmap: Any) -> Any:
    """The module `htmap.cli`."""
    if "htmap.cli" in sys.modules:
        return sys.modules["htmap.cli"]
    with _autocompletion():
        cli = importlib.import_module("htmap.cli")
    _Corrections(htmap, cli).apply()
    return cli


@contextlib.contextmanager
def _autocompletion() -> Iterator[None]:
    """Let `click.argument` take `autocompletion=` meanwhile, which click 8.1 removed:
    https://click.palletsprojects.com/en/stable/changes/#version-8-1-0
    """
    # Not the module as mypy sees it: what is assigned below has another signature.
    click: Any = importlib.import_module("click")
    if not _has_shell_complete():
        yield
        return
    original = click.argument

    def argument(*names: str, **attributes: Any) -> Any:
        autocompletion = attributes.pop("autocompletion", None)
        if autocompletion is not None:
            attributes["shell_complete"] = _shell_complete(autocompletion)
        return original(*names, **attributes)

    click.argument = argument
    try:
        yield
    finally:
        click.argument = original


def _has_shell_complete() -> bool:
    """Whether this is click 8 or later."""
    try:
        importlib.import_module("click.shell_completion")
    except ImportError:
        return False
    return True


def _shell_complete(autocompletion: Callable[..., Any]) -> Callable[..., Any]:
    def shell_complete(context: Any, parameter: Any, incomplete: str) -> List[str]:
        # click 7 passed all words before; HTMap looks for tags that are there already.
        before = context.params.get(parameter.name) or ()
        return list(autocompletion(context, list(before), incomplete))

    return shell_complete


class _Note:
    """In the place of a spinner where nobody looks: of each, only what it leaves behind."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "_Note":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def succeed(self, text: str) -> None:
        print(text, file=sys.stderr)

    def fail(self) -> None:
        pass


class _Corrections:
    """What HTMap's commands do wrong today, each in its own method."""

    def __init__(self, htmap: Any, cli: Any) -> None:
        self.htmap = htmap
        self.cli = cli
        self.click: Any = importlib.import_module("click")

    def apply(self) -> None:
        commands: Dict[str, Any] = self.cli.cli.commands
        for name in ("components", "errors", "path", "set", "status", "stderr", "stdout", "transplants", "wait"):
            command = commands[name]
            command.callback = functools.partial(getattr(self, name), command.callback)
        # Before 8.2 click shows the members of an enumeration by their repr.
        status = _parameter(commands["components"], "status")
        status.type = self.click.Choice([str(each) for each in self.htmap.ComponentStatus], case_sensitive=False)
        rerun = commands["rerun"].commands
        rerun["map"].callback = functools.partial(self.rerun_map, rerun["map"].callback)
        components = rerun["components"]
        components.callback = self.rerun_components
        # Without any, HTMap submits a map of none.
        _parameter(components, "components").required = True
        if _has_shell_complete():
            commands["autocompletion"].callback = self.autocompletion
        self.tags_of_arguments()
        self.directories_of_tags()
        self.spinners()

    def tags_of_arguments(self) -> None:
        """HTMap adds the tags of a pattern to those given, which fails for a tuple: whenever stdin is a terminal. It
        waits for the end of stdin even where `--all` makes that no difference, or a shell only completes.
        """

        def read(context: Any, parameter: Any, given: Sequence[str]) -> List[str]:
            if given or context.resilient_parsing or context.params.get("all") or not sys.stdin or sys.stdin.isatty():
                return list(given)
            return sys.stdin.read().split()

        groups = [self.cli.cli, *(each for each in self.cli.cli.commands.values() if hasattr(each, "commands"))]
        for command in (command for group in groups for command in group.commands.values()):
            for parameter in command.params:
                if parameter.callback is self.cli._read_tags_from_stdin:
                    parameter.callback = read

    def directories_of_tags(self) -> None:
        """For JSON and CSV HTMap looks for a map's directory by its tag, where only its number leads there."""
        by_number = self.htmap.mapping.map_dir_path

        def map_dir_path(uid: Any) -> Path:
            path = Path(by_number(uid))
            return path if path.exists() or not isinstance(uid, str) else Path(self.htmap.mapping.tag_to_map_dir(uid))

        self.htmap.mapping.map_dir_path = map_dir_path

    def spinners(self) -> None:
        """A spinner writes its frames to whatever stderr is, twelve a second."""
        if sys.stderr is None or not sys.stderr.isatty():
            self.cli.make_spinner = _Note

    def status(self, original: Callable[..., None], live: bool, **options: Any) -> None:
        """HTMap moves the cursor in files and pipes, too."""
        if not live or options["format"] != "text" or sys.stdout.isatty():
            return original(live=live, **options)
        try:
            while True:
                original(live=False, **options)
                self.click.echo()
                time.sleep(1)
        except KeyboardInterrupt:
            return None

    def components(self, original: Callable[..., None], tag: str, status: Optional[str], color: bool) -> None:
        """HTMap fails for a status that no component has."""
        if status is None:
            return original(tag=tag, status=status, color=color)
        statuses = enumerate(self.cli._cli_load(tag).component_statuses)
        self.click.echo(" ".join(str(component) for component, each in statuses if str(each) == status))
        return None

    def errors(self, _: Any, tags: Any, pattern: Any, all: bool, limit: int) -> None:  # noqa: A002
        """HTMap stops at the first report that it cannot read, and shows none of those behind it."""
        shown = 0
        unreadable = False
        for tag in self.cli._get_tags(all, pattern, tags):
            m = self.cli._cli_load(tag)
            for component, status in enumerate(m.component_statuses):
                if status is not self.htmap.ComponentStatus.ERRORED:
                    continue
                if 0 < limit <= shown:
                    return
                try:
                    self.click.echo(m.get_err(component, timeout=0).report())
                    shown += 1
                except BrokenPipeError:
                    raise
                except Exception as error:
                    unreadable = True
                    what = f"{type(error).__name__}: {error}"
                    self.click.echo(f"ERROR: component {component} of map {tag} left no report: {what}", err=True)
        if unreadable:
            sys.exit(1)

    def path(self, original: Callable[..., None], tag: str) -> None:
        """HTMap fails for a target that it does not know."""
        targets = ("map", "tag", "events", "logs", "inputs", "outputs")
        _, colon, target = tag.partition(":")
        if colon and ":" not in target and target not in targets:
            raise self.click.UsageError(f"`{target}` is none of the paths of a map: {', '.join(targets)}")
        original(tag=tag)

    def stdout(self, original: Callable[..., None], **arguments: Any) -> None:
        self._stream(original, "_stdout_file_path", **arguments)

    def stderr(self, original: Callable[..., None], **arguments: Any) -> None:
        self._stream(original, "_stderr_file_path", **arguments)

    def _stream(self, original: Callable[..., None], path: str, tag: str, component: int, timeout: Any) -> None:
        """HTMap fails for a component that is not there, and for bytes that are not UTF-8."""
        try:
            original(tag=tag, component=component, timeout=timeout)
        except IndexError:
            m = self.cli._cli_load(tag)
            raise self.click.UsageError(f"there is no component {component} in map {tag}, which has {len(m)}") from None
        except UnicodeDecodeError:
            self.click.echo(getattr(self.cli._cli_load(tag), path)(component).read_bytes())

    def set(self, original: Callable[..., None], setting: str, value: str) -> None:
        """HTMap saves text, so that `false` counts as true and a number of seconds cannot be slept."""
        before = self.htmap.BASE_SETTINGS.get(setting)
        typed: Any = value
        if isinstance(before, bool):
            if value.lower() not in ("true", "false"):
                raise self.click.UsageError(f"{setting} is `true` or `false`, not `{value}`")
            typed = value.lower() == "true"
        elif isinstance(before, (int, float)):
            try:
                typed = float(value) if "." in value else int(value)
            except ValueError:
                raise self.click.UsageError(f"{setting} is a number, not `{value}`") from None
        elif isinstance(before, dict):
            names = ", ".join(f"{setting}.{name}" for name in before)
            raise self.click.UsageError(f"{setting} is a group of settings: {names}")
        self._refuse_nonsense(setting, value)
        original(setting=setting, value=typed)

    def _refuse_nonsense(self, setting: str, value: str) -> None:
        """Now, and not when a map is submitted."""
        section, _, name = setting.partition(".")
        try:
            if setting == "EXEC":
                raise SettingsError("EXEC is a section of settings, such as EXEC.BINARY")
            if section == "EXEC":
                exec_settings.check({name: value})
        except SettingsError as error:
            raise self.click.UsageError(str(error)) from None
        if setting == "DELIVERY_METHOD" and delivery.find(value) is None:
            # A script may register more.
            self.click.echo(
                f"WARNING: there is no delivery method `{value}` of HTMap's and htmap-exec's: {delivery.meant(value)}",
                err=True,
            )

    def transplants(self, original: Callable[..., None]) -> None:
        """HTMap fails before the first transplant is made."""
        Path(self.htmap.settings["TRANSPLANT.DIR"]).mkdir(parents=True, exist_ok=True)
        original()

    def rerun_map(self, original: Callable[..., None], **arguments: Any) -> None:
        """HTMap deletes the outputs before it looks for a scheduler."""
        self.htmap.condor.get_schedd()
        original(**arguments)

    def rerun_components(self, tag: str, components: Any) -> None:
        """HTMap says that it reran what it refused to, and ends with status 0."""
        m = self.cli._cli_load(tag)
        self.htmap.condor.get_schedd()
        which = " ".join(map(str, components))
        with self.cli.make_spinner(f"Rerunning components {which} of map {tag} ...") as spinner:
            m.rerun(components)
            spinner.succeed(f"Reran components {which} of map {tag}")

    def wait(self, _: Any, tags: Any, pattern: Any, all: bool) -> None:  # noqa: A002
        """HTMap waits without end for components that have failed, and draws in files and pipes, too."""
        tags = self.cli._get_tags(all, pattern, tags)
        maps = sorted((self.cli._cli_load(tag) for tag in tags), key=lambda m: (m.is_transient, m.tag))
        drawn = 0
        told: List[str] = []
        while maps:
            counted = [(m.tag, collections.Counter(map(str, m.component_statuses))) for m in maps]
            if drawn:
                # Up to the first bar, and away with them.
                self.click.echo(f"\033[{drawn}A\r\033[J", nl=False)
            for tag, counts in counted:
                if counts["HELD"] and tag not in told:
                    told.append(tag)
                    self.click.echo(f"WARNING: map {tag} has held components: htmap reasons {tag}", err=True)
            if sys.stdout.isatty():
                for bar in self._bars(counted):
                    self.click.echo(bar)
                    drawn = len(counted)
            failed = [(tag, counts) for tag, counts in counted if counts["ERRORED"] or counts["REMOVED"]]
            if not any(set(counts) - _ENDS for _, counts in counted):
                break
            time.sleep(1)
        else:
            return
        for tag, counts in failed:
            text = ", ".join(f"{counts[each]} {each}" for each in ("ERRORED", "REMOVED") if counts[each])
            self.click.echo(f"ERROR: map {tag} has ended without all of its results: {text}", err=True)
        if failed:
            sys.exit(1)

    def _bars(self, counted: Sequence[Tuple[str, Any]]) -> Iterator[str]:
        """As HTMap draws them, but never wider than the terminal: what wraps cannot be drawn over."""
        margin = max(len(tag) for tag, _ in counted) + 1
        width = max(min(shutil.get_terminal_size().columns, self.cli.TOTAL_WIDTH) - margin, 1)
        for tag, counts in counted:
            lengths = {
                str(status): self.cli._calculate_bar_component_len(counts[str(status)], sum(counts.values()), width)
                for status, _ in self.cli.STATUS_AND_COLOR
            }
            lengths["IDLE"] += width - sum(lengths.values())
            parts = (self.click.style("█" * lengths[str(s)], fg=color) for s, color in self.cli.STATUS_AND_COLOR)
            yield tag.ljust(margin) + "".join(parts)

    def autocompletion(self, shell: str, force: bool, destination: Optional[str]) -> None:
        """HTMap's lines are for click 7 and need the file to be there."""
        line, startup = completion.startup(shell)
        path = startup if destination is None else Path(destination)
        if not force and path.exists() and line in path.read_text():
            self.click.secho(f"Completion is enabled for {shell} already, in {path}.", fg="yellow")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"\n# complete `htmap-exec htmap`\n{line}\n")
        self.click.secho(f"Completion is enabled for {shell}, in {path}. Start a new shell to use it.", fg="green")


def _parameter(command: Any, name: str) -> Any:
    return next(parameter for parameter in command.params if parameter.name == name)
