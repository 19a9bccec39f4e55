"""`millrace-policy`: the session manager as a separate program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millrace.cli.group import Command
from millrace.cli.logs import set_up
from millrace.cli.run import main_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=Command)
def policy(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Configuration (TOML); default $XDG_CONFIG_HOME/millrace/policy.toml."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The daemon's socket, if not the default.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take over from the policy that is running.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run the session manager: routing, volumes and permissions; see docs/policy.md.

    `millrace serve` runs this by itself. A policy of one's own, or this one with another configuration, takes over with
    --replace, and hands control back when it ends. Sound is not interrupted.

    Examples:

      millrace-policy --replace --config office.toml

      millrace serve --no-policy & millrace-policy
    """
    from millrace.cli.run import run_until_stopped
    from millrace.io.paths import NATIVE_SOCKET, policy_path, runtime_dir
    from millrace.policy.config import load
    from millrace.policy.program import Program

    set_up("text", verbose)
    made = Program(socket or runtime_dir() / NATIVE_SOCKET, load(config, policy_path()), replace)
    run_until_stopped(made.run())


def main() -> None:
    """Entry point."""
    main_of(app, "millrace-policy")


if __name__ == "__main__":
    main()
