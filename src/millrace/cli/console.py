"""What the command line prints: all of it goes through here, so that nobody's name for a thing commands the terminal.

`say` is what a command is for: where it can't be written the command has failed. `tell` (standard output) and `warn`
(standard error) are courtesies: a daemon whose terminal is gone goes on. `show_json` is for programs, `screen` for what
moves. `guard` makes the process fit to print, whatever it was started with; it also is the net under what does not come
through here (usage errors, warnings, a traceback of ours).
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
"""What the shell makes of SIGPIPE."""


class OutputClosed(OutputLost):
    """What read standard output has closed it."""

    exit_code = PIPE_CLOSED


class Guarded:
    """A text stream that takes nothing a terminal would obey, but line ends and tabs."""

    def __init__(self, raw: TextIO, courtesy: bool) -> None:
        self.raw, self._courtesy = raw, courtesy

    def write(self, text: str) -> int:
        """See `io.TextIOBase`. What nobody needs is dropped where it can't be written."""
        with contextlib.suppress(*((OSError, ValueError) if self._courtesy else ())):
            self.raw.write(printable_lines(text))
        return len(text)

    def flush(self) -> None:
        """See `write`."""
        with contextlib.suppress(*((OSError, ValueError) if self._courtesy else ())):
            self.raw.flush()

    @property
    def encoding(self) -> str:
        """Of the stream below. ASCII is called UTF-8: typer would take that for a mistake, and go round this class."""
        return "utf-8" if self.raw.encoding.lower() in ("ascii", "ansi_x3.4-1968", "us-ascii") else self.raw.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def guard() -> None:
    """Make the standard descriptors and streams fit for use: open, of any encoding, and safe."""
    open_descriptors()
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
        if number and not isinstance(stream, Guarded):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            stream = Guarded(stream, courtesy=number == 2)
        setattr(sys, name, stream)


def open_descriptors() -> None:
    """A descriptor below 3 that is closed would be taken by the next socket, and that be printed into.

    It is opened so that reading meets the end, and writing an error as it would on a closed one.
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
    """Print one line of what was asked for."""
    whole = str(text)
    _write(printable(whole, len(whole)))


def say_lines(lines: Iterable[str]) -> None:
    """Print several."""
    for line in lines:
        say(line)


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print a value for programs: ASCII, whatever is in it."""
    _write(ascii_json(value, indent))


def ascii_json(value: Any, indent: int | None = None) -> str:
    """JSON without a control in it. Python's own leaves DEL as it is."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise OutputClosed("standard output was closed") from None
    except OSError as error:
        raise OutputLost(f"standard output can't be written: {error.strerror}") from None


def tell(text: object = "") -> None:
    """Print one line on standard output that nothing depends on."""
    with contextlib.suppress(OutputLost):
        say(text)


def warn(text: object) -> None:
    """Print one line on standard error."""
    whole = str(text)
    print(printable(whole, len(whole)), file=sys.stderr, flush=True)


def flush_stdout() -> None:
    """At the end: what can't be written has been told, or was a courtesy, and is not tried again by the interpreter."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def screen(error: bool = False) -> Console:
    """A terminal for tables and what moves, on standard output or error: colours are ours, text is made printable."""
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
