"""What is said of what is not there: its name as it was asked for, and what shows those that there are."""

from __future__ import annotations

from collections.abc import Iterable

from millrace.errors import GraphError
from millrace.text import printable, quoted

SHOWN_BY = {"request": "millrace grants", "token": "millrace token list"}
"""What shows the things of a kind; `millrace ls` does all others."""


class NotFound(GraphError):
    """There is no such thing."""

    status = 404


def missing(key: str, guest: str | None = None, why: str = "") -> NotFound:
    """There is nothing of that key, perhaps because of `why`."""
    where = f" in guest {printable(guest)}" if guest else ""
    by = SHOWN_BY.get(key.partition("/")[0], "millrace ls")
    return NotFound(f"there is no {printable(key)}{where}{why}; `{by}` shows what there is")


def missing_sink(guest: str, name: str, sinks: Iterable[str]) -> NotFound:
    """A guest has no sink of that name, but `sinks`."""
    return NotFound(f"guest {guest} has no sink {quoted(name)}; it has {', '.join(sinks)}")


def missing_guest(name: str, guests: Iterable[str]) -> NotFound:
    """There is no such guest, among those that may be seen."""
    return NotFound(f"there is no guest {quoted(name)}; there are: {', '.join(guests) or 'none'}")
