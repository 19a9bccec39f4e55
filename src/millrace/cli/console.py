"""All output of the command line, so that untrusted names can't send escape sequences to the terminal.

`say` prints a command's result: if it can't be written, the command fails. Output of `tell` (standard output) and
`warn` (standard error) is optional: a daemon whose terminal is gone keeps running. `show_json` is for programs,
`screen` for live displays. `guard` makes the standard streams usable, however the process was started. It also filters
output that does not come through here: usage errors, warnings, tracebacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from millrace.errors import OutputLost
from millrace.text import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
PIPE_CLOSED = 141
"""The exit status that a shell reports for SIGPIPE."""


class OutputClosed(OutputLost):
    """The reader of standard output has closed it."""

    exit_code = PIPE_CLOSED


# Names of programs and guests come from strangers, and a terminal obeys what it is sent. Whatever the caller did,
# text is made printable here, at the stream, so that no message can be forgotten, nor the traceback of a bug that has
# a hostile name in it.
class Guarded:
    """A text stream that escapes terminal control characters, except for line ends and tabs."""

    def __init__(self, raw: TextIO, courtesy: bool) -> None:
        self.raw, self._courtesy = raw, courtesy

    def write(self, text: str) -> int:
        """See `io.TextIOBase`. On a `courtesy` stream, errors are ignored."""
        with contextlib.suppress(*((OSError, ValueError) if self._courtesy else ())):
            self.raw.write(printable_lines(text))
        return len(text)

    def flush(self) -> None:
        """See `write`."""
        with contextlib.suppress(*((OSError, ValueError) if self._courtesy else ())):
            self.raw.flush()

    @property
    def encoding(self) -> str:
        """The underlying stream's encoding. ASCII is reported as UTF-8: typer would take ASCII for a misconfiguration
        and bypass this class."""
        return "utf-8" if self.raw.encoding.lower() in ("ascii", "ansi_x3.4-1968", "us-ascii") else self.raw.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def guard() -> None:
    """Make the standard descriptors and streams usable: open, safe for any text, and free of control characters."""
    open_descriptors()
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
        if number and not isinstance(stream, Guarded):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            stream = Guarded(stream, courtesy=number == 2)
        setattr(sys, name, stream)


def open_descriptors() -> None:
    """Open closed standard descriptors. Otherwise the next socket would get that number, and be printed into.

    They are opened read-only on /dev/null: reading returns end of file, and writing fails as on a closed descriptor.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            made = os.open(os.devnull, os.O_RDONLY)
            if made != number:
                os.dup2(made, number)
                os.close(made)


def say(text: object = "") -> None:
    """Print one line of a command's result."""
    whole = str(text)
    _write(printable(whole, len(whole)))


def say_lines(lines: Iterable[str]) -> None:
    """Print several lines of a command's result."""
    for line in lines:
        say(line)


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON for programs, in ASCII."""
    _write(ascii_json(value, indent))


def ascii_json(value: Any, indent: int | None = None) -> str:
    """JSON without control characters. Python's encoder does not escape DEL."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise OutputClosed("standard output was closed") from None
    except OSError as error:
        raise OutputLost(f"standard output can't be written: {error.strerror}") from None


def tell(text: object = "") -> None:
    """Print an optional line on standard output; errors are ignored."""
    with contextlib.suppress(OutputLost):
        say(text)


def warn(text: object) -> None:
    """Print one line on standard error."""
    whole = str(text)
    print(printable(whole, len(whole)), file=sys.stderr, flush=True)


def flush_stdout() -> None:
    """Flush at exit. If that fails, drop the rest, so that the interpreter doesn't try again and report the error."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def screen(error: bool = False) -> Console:
    """A rich console for tables and live displays, on standard output or error. Its text is made printable."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Screen(Console):
        """Passes every piece of text through `printable_lines`."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """See `rich.console.Console`."""
            for piece in super().render(renderable, options):
                yield piece if piece.control else Segment(printable_lines(piece.text), piece.style)

    stream = sys.stderr if error else sys.stdout
    raw = stream.raw if isinstance(stream, Guarded) else stream
    return Screen(file=raw, markup=False, emoji=False, highlight=False)
