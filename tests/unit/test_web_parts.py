"""Parts of the HTTP side: when listeners' deadlines come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from millrace.guest.listener import ListenerSession
from millrace.server.http.attend import DEADLINE_GRID_NS, Deadlines
from millrace.units import NS_PER_MS, NS_PER_S


@dataclass
class Listener:
    """A session that has a deadline."""

    at_ns: int | None
    closing: bool = False

    def next_timeout(self) -> int | None:
        return self.at_ns


def deadline(session: Listener) -> int | None:
    return Deadlines(cast(ListenerSession, session), lambda error: None).next_timeout()


def test_listener_deadlines_are_aligned_and_never_early() -> None:
    asked = [NS_PER_S + n * 7 * NS_PER_MS + 1 for n in range(140)]
    given = [deadline(Listener(at_ns)) for at_ns in asked]
    assert len(set(given)) <= 5, "the deadlines of one second fall on a few moments"
    assert all(
        at_ns <= got < at_ns + DEADLINE_GRID_NS for at_ns, got in zip(asked, given, strict=True) if got is not None
    )


def test_listener_leaving_or_not_waiting_has_no_deadline() -> None:
    assert deadline(Listener(None)) is None
    assert deadline(Listener(NS_PER_S, closing=True)) is None
