"""`millrace incidents`: what went wrong, where, and why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from millrace.cli.columns import say_folded
from millrace.cli.console import show_json, warn
from millrace.text import show_measured

INDENT = 13
"""The column where the text begins, after the time of day."""


def incidents(
    guest: Annotated[str | None, typer.Option(help="Only this guest.")] = None,
    about: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Only this object, such as stream/7 or listener/9.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing incidents as they happen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one incident per line.")] = False,
) -> None:
    """Show every dropout, stall, loss and refusal, with its cause.

    The one that happened last is at the end.

    Examples:

      millrace incidents

      millrace incidents --about listener/9 --follow

      millrace incidents --json | jq 'select(.stage == "network")'
    """
    from millrace.cli.api import call, query_of

    if follow:
        from millrace.cli.run import run_until_stopped

        run_until_stopped(_follow(guest, about, as_json))
        return
    found = call("GET", query_of("/api/v1/incidents", guest=guest, subject=about))
    for shown in found:
        _print(shown, as_json)
    if not found and not as_json:
        warn("no incidents")


async def _follow(guest: str | None, about: str | None, as_json: bool) -> None:
    from millrace.client.bus import connect

    async with connect(name="millrace incidents") as bus:
        async for change in bus.watch(kinds=["incident"]):
            if change.what != "added" or change.object is None:
                continue
            shown = change.object.props
            if guest in (None, shown["guest"]) and about in (None, shown["subject"]):
                _print(shown, as_json)


def _print(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(shown, None)
        return
    say_folded(line(shown), INDENT)


def line(shown: dict[str, Any]) -> str:
    """One incident as text."""
    when = f"{_clock(shown['at'])}.{int(shown['at'] * 1000) % 1000:03d}"
    where = " ".join(part for part in (shown["guest"], shown["subject"]) if part) or "the daemon"
    times = f" (× {shown['count']}{_until(shown)})" if shown["count"] > 1 else ""
    evidence = _evidence(shown["evidence"], shown.get("varied", ()))
    return f"{when} {where}: {shown['stage']}, {shown['cause']}{times}: {shown['text']}" + (
        f" [{evidence}]" if evidence else ""
    )


def _evidence(evidence: dict[str, Any], varied: Sequence[str]) -> str:
    """What was the same each time, and then what was so only the first time."""
    same = show_measured({name: value for name, value in evidence.items() if name not in varied})
    first = show_measured({name: value for name, value in evidence.items() if name in varied})
    return "; ".join(filter(None, (same, first and f"at first {first}")))


def _until(shown: dict[str, Any]) -> str:
    """When it last happened, if that is in another second. A daemon older than this command does not report it."""
    last = _clock(shown.get("last", shown["at"]))
    return "" if last == _clock(shown["at"]) else f" until {last}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
