"""Commands and groups of commands, and how `--help` shows them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from millrace.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
WHOLE = 1000


class Command(TyperCommand):
    """Shows parameters in a uniform style, whatever typer's default: `TARGET NAME=VALUE... [GUEST]`, `--to FILE`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            if not getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = str(param.name).upper()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See click."""
        return ["[OPTIONS]", *(_in_usage(param) for param in self.params if param.param_type_name == "argument")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See click."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            name, text = param.get_help_record(ctx) or ("", "")
            if param.param_type_name == "argument":
                found["Arguments"].append((str(param.metavar), text))
            elif name:
                found["Options"].append((name, text))
        for title, rows in found.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _in_usage(param: Any) -> str:
    name = param.metavar if param.required else f"[{param.metavar}]"
    return f"{name}..." if param.nargs != 1 else name


class Parts(Mapping[str, Any]):
    """The commands of a group by name. Each is made when it is first looked up.

    A command's options come from the annotations of its function, and evaluating those of all commands took a third of
    the time of `millrace --help`, and of every other command. The help of a group needs their first sentences only.
    """

    def __init__(self) -> None:
        self._apps: dict[str, typer.Typer] = {}
        self._made: dict[str, Any] = {}
        self.help: dict[str, str] = {}

    def add(self, name: str, app: typer.Typer, text: str) -> None:
        """Add a command or a group; `text` is its help."""
        self._apps[name], self.help[name] = app, text

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = typer.main.get_command(self._apps[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._apps)

    def __len__(self) -> int:
        return len(self._apps)


class Group(TyperGroup):
    """Lists each command with its whole first sentence, folded if necessary. Click would truncate it at the margin."""

    parts: Parts
    hints: Mapping[str, str]
    """What to do instead, by the name of a command that there is not."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = self.parts

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click. Its own suggestions go by letters; these, by what other programs call it."""
        name = args[0] if args else ""
        if name not in self.parts and name in self.hints:
            raise ConfigError(f"there is no command `{name}`: {self.hints[name]}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See click."""
        found = [(name, TyperCommand(name, help=text)) for name, text in self.parts.help.items()]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(WHOLE)) for name, one in found])


class App(typer.Typer):
    """A group whose commands are all of class `Command`. Its help ends with `examples`, one command a line."""

    def __init__(self, *examples: str, hints: Mapping[str, str] | None = None, **options: Any) -> None:
        options = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None} | options
        # Click does not fold the lines of a paragraph that begins with \b.
        told = "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples)))
        options["epilog"] = "\n\n".join(part for part in (told if examples else "", options.get("epilog")) if part)
        self._parts = Parts()
        made: type[Group] = type("Group", (Group,), {"parts": self._parts, "hints": hints or {}})
        # Typer knows of no commands here; what has a callback is a group nevertheless.
        super().__init__(cls=made, callback=_nothing, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """See typer."""

        def added(function: F) -> F:
            own = typer.Typer(add_completion=False, rich_markup_mode=None)
            own.command(name, cls=Command, **options)(function)
            self._parts.add(name or function.__name__.replace("_", "-"), own, inspect.getdoc(function) or "")
            return function

        return added

    def add_group(self, name: str, app: App) -> None:
        """Add a group under a name."""
        self._parts.add(name, app, str(app.info.help))


def _nothing() -> None:
    pass
