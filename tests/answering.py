"""A daemon that answers commands as a test says, and what commands print."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import typer

from millrace.cli.main import app

COMMAND = typer.main.get_command(app)


class Daemon:
    """Answers by method and path; repeated requests get the answers of a list in turn."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self.asked.append((f"{method} {path}", body))
        answer = self.answers.get(f"{method} {path}", {"ok": True})
        if isinstance(answer, list) and answer and isinstance(answer[0], Turn):
            return answer[0].value if len(answer) == 1 else answer.pop(0).value
        return answer


class Turn:
    """One answer of several."""

    def __init__(self, value: Any) -> None:
        self.value = value


def said(*words: str) -> str:
    """What a command prints on stdout and stderr; its errors are raised."""
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        assert not COMMAND.main(list(words), standalone_mode=False)
    return shown.getvalue()
