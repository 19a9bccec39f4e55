"""Prints the stages of a latency, as `millrace latency` shows them."""

from __future__ import annotations

from typing import Any

from millrace.cli.columns import say_folded


def show(stream: str, way: dict[str, Any]) -> None:
    """Print the latency breakdown of one listener or viewer."""
    say_folded(f"{stream} → {way['listener']} {way['name']}", 4)
    for stage in way["stages"]:
        say_folded(f"  {stage['ms']:8.2f} ms  {stage['stage']:<24} {stage['why']}", 15)
    told = (
        "to the mix; beyond that the listener reports no latency: it writes a file, or is not playing yet"
        if way["reported_ms"] is None
        else f"in total; {way['reported_ms']:.2f} ms by the {way['listener'].partition('/')[0]}'s clock"
    )
    say_folded(f"  {way['sum_ms']:8.2f} ms  {told}", 15)
