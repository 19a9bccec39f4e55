"""Fits text to the terminal's width: folded with a hanging indent, names shortened in the middle.

Output to a file or a pipe has one object per line, because programs read it. It is not fitted to any width, but a name
that a stranger chose is cut there too, generously: JSON has it whole.
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
"""Columns are not made narrower than this."""
CELL_MAX, LINE_MAX = 64, 2000
"""A name is not shown wider than this, nor a line of text longer, whatever it is written to."""
SPACIOUS_CELLS = 100
"""From this width on, columns are two cells apart instead of one."""
_WORDS = re.compile(r"\s*(?:[+-]?\d[\d.]* (?:ns|us|ms|s|ppm|dB|Hz|kb/s|ch|%)(?!\w)\S*|\S+)")
"""Words for folding; a number and its unit count as one."""


def terminal_width() -> int | None:
    """The width of standard output in cells; None if it is not a terminal."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    except ValueError:
        return None


def cells(text: str) -> int:
    """The width of `text` in cells: wide East Asian characters take two, combining characters none."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _start(text: str, room: int) -> str:
    """The longest beginning of `text` that fits into `room` cells."""
    for at, char in enumerate(text):
        room -= _cells_of(char)
        if room < 0:
            return text[:at]
    return text


def shortened(text: str, room: int) -> str:
    """`text` in at most `room` cells. The middle is left out, because names tend to differ at their ends."""
    if cells(text) <= room:
        return text
    end = _start(text[::-1], (room - 1) // 2)[::-1]
    return f"{_start(text, room - 1 - cells(end))}…{end}"


def column(text: str, width: int) -> str:
    """An untrusted name as a column: exactly `width` cells wide on a terminal, at least that elsewhere."""
    shown = shortened(printable(text, max(len(text), 1)), width if terminal_width() is not None else CELL_MAX)
    return shown + " " * max(0, width - cells(shown))


def folded(text: str, indent: int, width: int) -> Iterator[str]:
    """Fold `text` between words into lines of at most `width` cells; all but the first are indented."""
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
    """Print a line, folded if the terminal is too narrow for it. Programs always get a single line."""
    width, shown = terminal_width(), printable(text, LINE_MAX)
    for line in [shown] if width is None else folded(shown, indent, width):
        say(line)


def table(rows: Sequence[Sequence[str]], shrinking: Sequence[int], width: int | None) -> list[str]:
    """Align rows in columns, headings first. If they are too wide, the `shrinking` columns are narrowed and the last
    column is folded. Those columns contain names."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)][:-1]
    for number in shrinking:
        widths[number] = min(widths[number], CELL_MAX)
    gap = "  " if width is None or width >= SPACIOUS_CELLS else " "
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
