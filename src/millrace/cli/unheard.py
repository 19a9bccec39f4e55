"""What plays in a guest and is not heard by those that hear one of its sinks, as `listen` and `ls` say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from millrace.text import printable


def unheard(guest: dict[str, Any], heard: str) -> list[dict[str, Any]]:
    """The running streams of a guest's state whose sound does not reach the sink with the key `heard`."""
    onward = {sink["id"]: sink.get("linked_to", ()) for sink in guest["sinks"]}
    return [
        one for one in guest["streams"]
        if one["state"] == "running" and heard not in _reached(onward, _sinks(one))
    ]  # fmt: skip


def _sinks(stream: dict[str, Any]) -> list[str]:
    # A daemon older than this command reports only one sink.
    return list(stream["linked_to"] if "linked_to" in stream else [stream["sink"]])


def _reached(onward: dict[str, Any], first: list[str]) -> set[str]:
    found, left = set[str](), list(first)
    while left:
        sink = left.pop()
        if sink not in found:
            found.add(sink)
            left += onward.get(sink, ())
    return found


def warning(guest: dict[str, Any], wanted: str | None) -> str:
    """What a listener of the sink `wanted`, or of the default one, is told of what it will not hear; else empty."""
    heard = next((sink["id"] for sink in guest["sinks"] if _is(sink, wanted)), None)
    missed = unheard(guest, heard) if heard else []
    if not missed:
        return ""
    names = {sink["id"]: sink["name"] for sink in guest["sinks"]}
    one = missed[0]
    into = " and ".join(names.get(key, key) for key in _sinks(one)) or "no sink"
    more = f", and {len(missed) - 1} more" if len(missed) > 1 else ""
    return printable(
        f"not heard: {one['application'] or one['name']}, which plays into {into}{more}"
        f"; `--sink` hears another sink, `millrace link {one['id']} {heard}` adds it to this one"
    )


def _is(sink: dict[str, Any], wanted: str | None) -> bool:
    return bool(sink["default"]) if wanted is None else wanted in _names(sink)


def _names(sink: dict[str, Any]) -> Iterator[str]:
    yield sink["name"]
    yield from sink.get("aliases", ())
