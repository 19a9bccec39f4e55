"""Text in the width of a terminal: folded under a hanging indent, names shortened in the middle.

What goes into a file or a pipe is left as it is, a line a thing: programs read it, and no width was asked for.
"""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence

from millrace.cli.console import say
from millrace.text import printable

COLUMN_MIN = 8
"""A column is not made narrower than that."""
ROOMY = 100
"""From that width on there are two cells between columns, not one."""
_WORDS = re.compile(r"\s*(?:[+-]?\d[\d.]* (?:ns|us|ms|s|ppm|dB|Hz|kb/s|ch|%)(?!\w)\S*|\S+)")
"""A figure and its unit are one word."""


def terminal_width() -> int | None:
    """How many cells a line of standard output has; None where that is no terminal."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    except ValueError:
        return None


def cells(text: str) -> int:
    """How many cells `text` takes: letters of East Asia take two, accents that go on top of others none."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _start(text: str, room: int) -> str:
    """As much of the beginning of `text` as fits."""
    for at, char in enumerate(text):
        room -= _cells_of(char)
        if room < 0:
            return text[:at]
    return text


def shortened(text: str, room: int) -> str:
    """`text` in at most `room` cells: what is in the middle goes, as names differ at their ends."""
    if cells(text) <= room:
        return text
    end = _start(text[::-1], (room - 1) // 2)[::-1]
    return f"{_start(text, room - 1 - cells(end))}…{end}"


def column(text: str, width: int) -> str:
    """A foreign name as a column: of that width at a terminal, at least that anywhere else."""
    shown = printable(text, max(len(text), 1))
    if terminal_width() is not None:
        shown = shortened(shown, width)
    return shown + " " * max(0, width - cells(shown))


def folded(text: str, indent: int, width: int) -> Iterator[str]:
    """Lines of at most `width` cells, broken between words; all but the first are indented."""
    indent = indent if indent <= width // 2 else 4
    line, empty = "", True
    for word in _WORDS.findall(text):
        bare = word.lstrip()
        while cells(line) + cells(word) > width:
            if not empty:
                yield line
                line, word, empty = " " * indent, bare, True
                continue
            part = _start(word, max(1, width - cells(line)))
            yield line + part
            line, word = " " * indent, word[len(part) :]
        line, empty = line + word, False
    yield line


def say_folded(text: str, indent: int) -> None:
    """Print what is one line for programs, and several in a terminal that is not wide enough."""
    width, shown = terminal_width(), printable(text, max(len(text), 1))
    for line in [shown] if width is None else folded(shown, indent, width):
        say(line)


def table(rows: Sequence[Sequence[str]], shrinking: Sequence[int], width: int | None) -> list[str]:
    """Rows in columns, heads first. Where they are too wide those of `shrinking` give way; the last one is folded."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)][:-1]
    gap = "  " if width is None or width >= ROOMY else " "
    taken = len(gap) * len(widths) + cells(rows[0][-1])
    while width is not None and sum(widths) + taken > width:
        widest = max(shrinking, key=lambda number: widths[number])
        if widths[widest] <= COLUMN_MIN:
            break
        widths[widest] -= 1
    lines: list[str] = []
    for *row, last in rows:
        shown = [shortened(cell, room) for cell, room in zip(row, widths, strict=True)]
        padded = [cell + " " * (room - cells(cell)) for cell, room in zip(shown, widths, strict=True)]
        indent = widths[0] + len(gap)
        line = gap.join([*padded, last]).rstrip()
        if width is not None and cells(line) > width:
            lines += folded(gap.join(padded).rstrip(), indent, width)
            line = " " * indent + last
        lines += [line] if width is None else folded(line, indent, width)
    return lines
