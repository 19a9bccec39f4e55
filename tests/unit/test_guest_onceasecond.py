"""How often a viewer may have a key picture."""

from __future__ import annotations

from millrace.guest.onceasecond import OnceASecond
from millrace.units import NS_PER_S


def test_first_comes_at_once_and_the_next_when_it_is_due() -> None:
    refreshes = OnceASecond()
    assert refreshes.allowed(5) and refreshes.due_ns is None
    for now_ns in (6, NS_PER_S + 4):
        assert not refreshes.allowed(now_ns) and refreshes.due_ns == NS_PER_S + 5
    assert refreshes.allowed(NS_PER_S + 5) and refreshes.due_ns is None
