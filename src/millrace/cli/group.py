"""Groups of commands, as `--help` lists them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

WHOLE = 1000


class Group(TyperGroup):
    """Lists each command with its whole first sentence, folded if it has to be: click's own cuts it at the margin."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """See click."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(WHOLE)) for name, one in found if one is not None and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
