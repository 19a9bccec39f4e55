"""Numeric options that use Millrace's own parsers: `nan`, `1_000` and values out of range get a clear error message."""

from __future__ import annotations

from typing import Any

import typer

from millrace.text import parse_decimal, parse_int


def whole(option: str, low: int, high: int, help: str) -> Any:
    """An option whose value is a whole number."""
    return typer.Option(option, parser=lambda text: parse_int(str(text), option, low, high), metavar="N", help=help)


def decimal(option: str, low: float, high: float, help: str) -> Any:
    """An option whose value is a decimal number."""
    return typer.Option(option, parser=lambda text: parse_decimal(str(text), option, low, high), metavar="N", help=help)
