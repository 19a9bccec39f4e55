"""What commands say of themselves and of how far they are: help, numbers, progress."""

from __future__ import annotations

import sys
from io import StringIO
from typing import Annotated, Any

import pytest
import typer

from millrace.cli.group import App
from millrace.cli.progress import progress
from millrace.cli.values import decimal, whole
from millrace.errors import ConfigError

# -- progress ------------------------------------------------------------------------------------


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("cells", 3) as step:
        step("one")
    assert capsys.readouterr() == ("", ""), "nothing for a file or a pipe"
    did: list[Any] = []

    class Shown:
        def __init__(self, *columns: Any, console: Any, transient: bool) -> None:
            did.append(("made", transient, console.file is sys.stderr))

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            did.append("gone")

        def add_task(self, what: str, total: int) -> int:
            did.append((what, total))
            return 7

        def update(self, task: int, completed: int, description: str) -> None:
            did.append((task, completed, description))

    monkeypatch.setattr("rich.progress.Progress", Shown)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("cells", 3) as step:
        step("one")
        step("two")
    assert did == [("made", True, True), ("cells", 3), (7, 0, "cells: one"), (7, 1, "cells: two"), "gone"]


# -- options and help ----------------------------------------------------------------------------


def made_app() -> tuple[Any, list[Any]]:
    app, got = App(help="Try."), list[Any]()

    @app.command("try")
    def attempt(
        target: Annotated[str, typer.Argument(help="What.")],
        words: Annotated[list[str], typer.Argument(metavar="NAME=VALUE")],
        guest: Annotated[str | None, typer.Argument()] = None,
        count: Annotated[int, whole("--count", 1, 9, "How often.")] = 3,
        share: Annotated[float, decimal("--share", 0.5, 2, "How much.")] = 1.0,
        loud: Annotated[bool, typer.Option("--loud", help="Loud.")] = False,
    ) -> None:
        """Do it once. And more of it.

        At length.
        """
        got.append((target, words, guest, count, share, loud))

    @app.command()
    def other() -> None:
        """A sentence that is longer than what click would leave of it in the forty cells of a narrow terminal."""

    return typer.main.get_command(app), got


def test_help_names_all_options_uniformly_and_truncates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command, _ = made_app()
    command.main(["try", "--help"], prog_name="x", standalone_mode=False, terminal_width=80)
    text = capsys.readouterr().out
    assert "Usage: x try [OPTIONS] TARGET NAME=VALUE... [GUEST]" in text
    arguments, options = text.partition("Arguments:")[2].split("Options:")
    assert [line.split()[0] for line in arguments.strip().splitlines()] == ["TARGET", "NAME=VALUE", "GUEST"]
    assert "What." in arguments and "How often." in options
    assert [line.strip().split("  ")[0] for line in options.strip().splitlines()] == [
        "--count N", "--share N", "--loud", "--help",
    ]  # fmt: skip
    with pytest.raises(Exception, match="Usage: x") as bare:
        command.main([], prog_name="x", standalone_mode=False)
    assert type(bare.value).__name__ == "NoArgsIsHelpError"
    command.main(["--help"], prog_name="x", standalone_mode=False, terminal_width=40)
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert "..." not in listed and "narrow terminal." in " ".join(listed.split())
    assert "Do it once." in listed and "more of it" not in listed


def test_numbers_are_parsed_by_shared_parsers() -> None:
    command, got = made_app()
    command.main(["try", "t", "a=b", "g", "--count", "9", "--share", "0.5", "--loud"], standalone_mode=False)
    command.main(["try", "t", "a=b", "g"], standalone_mode=False)
    assert got == [("t", ["a=b"], "g", 9, 0.5, True), ("t", ["a=b"], "g", 3, 1.0, False)]
    counts, shares = ("0", "10", "1_0", "x"), ("nan", "0.49", "2.01", "inf")
    for option, wrong in [*(("--count", text) for text in counts), *(("--share", text) for text in shares)]:
        with pytest.raises(ConfigError, match=option):
            command.main(["try", "t", "a=b", "g", option, wrong], standalone_mode=False)
