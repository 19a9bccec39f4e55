"""Numbers as options, by the product's own parsers: `nan`, `1_000` and what is out of bounds end in a sentence."""

from __future__ import annotations

from typing import Any

import typer

from millrace.text import parse_decimal, parse_int


def whole(option: str, low: int, high: int, help: str) -> Any:
    """An option that is a whole number."""
    return typer.Option(option, parser=lambda text: parse_int(str(text), option, low, high), metavar="N", help=help)


def decimal(option: str, low: float, high: float, help: str) -> Any:
    """An option that is a number."""
    return typer.Option(option, parser=lambda text: parse_decimal(str(text), option, low, high), metavar="N", help=help)
