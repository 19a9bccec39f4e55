"""How often a viewer may have a key picture."""

from __future__ import annotations

from millrace.guest.refreshes import REFRESH_NS, Refreshes


def test_first_comes_at_once_and_the_next_when_it_is_due() -> None:
    refreshes = Refreshes()
    assert refreshes.allowed(5) and refreshes.due_ns is None
    for now_ns in (6, REFRESH_NS + 4):
        assert not refreshes.allowed(now_ns) and refreshes.due_ns == REFRESH_NS + 5
    assert refreshes.allowed(REFRESH_NS + 5) and refreshes.due_ns is None
