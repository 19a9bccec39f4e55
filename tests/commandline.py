"""Commands run in this process, and what they print."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import typer

from millrace.cli.lab import app

COMMAND = typer.main.get_command(app)


def said(*words: str) -> str:
    """What a command prints; its errors are raised."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        assert not COMMAND.main(list(words), standalone_mode=False)
    return shown.getvalue()
