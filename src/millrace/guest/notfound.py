"""Errors for missing objects. Each names the object as requested and the command that lists what exists."""

from __future__ import annotations

from collections.abc import Iterable

from millrace.errors import GraphError
from millrace.text import printable, quoted

SHOWN_BY = {"request": "millrace grants", "token": "millrace token list"}
"""The command that lists objects of a kind; `millrace ls` lists all others."""

SHOWN_MAX = 10
"""Names of guests in a message."""


class NotFound(GraphError):
    """There is no such object."""

    status = 404


def missing(key: str, guest: str | None = None, why: str = "") -> NotFound:
    """No object has that key, perhaps because of `why`."""
    where = f" in guest {printable(guest)}" if guest else ""
    by = SHOWN_BY.get(key.partition("/")[0], "millrace ls")
    return NotFound(f"there is no {printable(key)}{where}{why}; `{by}` shows what there is")


def ambiguous(key: str, guests: Iterable[str]) -> GraphError:
    """Several guests have an object with that key."""
    names = list(guests)
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    shown = ", ".join(names[:SHOWN_MAX])
    return GraphError(f"guests {shown}{more} have a {printable(key)}: give the guest too (--guest)")


def missing_sink(guest: str, name: str, sinks: Iterable[str]) -> NotFound:
    """The guest has no sink of that name; its sinks are `sinks`."""
    return NotFound(f"guest {guest} has no sink {quoted(name)}; it has {', '.join(sinks)}")


def missing_guest(name: str, guests: Iterable[str]) -> NotFound:
    """There is no such guest among the visible ones."""
    return NotFound(f"there is no guest {quoted(name)}; there are: {', '.join(guests) or 'none'}")
