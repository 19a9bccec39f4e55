"""Commands and groups of commands, and how `--help` shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

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


class App(typer.Typer):
    """A group whose commands are all of class `Command`. Its help ends with `examples`, one command a line."""

    def __init__(self, *examples: str, **options: Any) -> None:
        options.setdefault("no_args_is_help", True)
        # Click does not fold the lines of a paragraph that begins with \b.
        told = "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples)))
        options["epilog"] = "\n\n".join(part for part in (told if examples else "", options.get("epilog")) if part)
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """See typer."""
        return super().command(name, cls=Command, **options)


class Group(TyperGroup):
    """Lists each command with its whole first sentence, folded if necessary. Click would truncate it at the margin."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See click."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(WHOLE)) for name, one in found if one is not None and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
