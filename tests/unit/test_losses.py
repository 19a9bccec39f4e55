"""Which errors of a door are logged: of millrace.guest.machines.losses."""

from __future__ import annotations

from millrace.errors import PeerLost, RemoteProtocolError
from millrace.guest.machines.losses import KINDS_MAX, QUIET_NS, Losses
from millrace.units import NS_PER_S

LOST, BROKE = PeerLost(""), RemoteProtocolError("")


def test_figures_in_a_text_make_no_other_error_of_it() -> None:
    losses = Losses()
    told = [losses.logged(BROKE, f"a message of {600_000 + number} bytes", 0) for number in range(100)]
    assert [times for times in told if times] == [1, 2, 4, 8, 16, 32, 64]


def test_errors_that_take_turns_are_each_logged_ever_more_seldom() -> None:
    losses = Losses()
    told = [losses.logged(error, text, 0) for _ in range(8) for error, text in ((LOST, "a"), (LOST, "b"), (BROKE, "a"))]
    assert [times for times in told if times] == [1] * 3 + [2] * 3 + [4] * 3 + [8] * 3


def test_words_without_end_are_one_kind_in_the_end() -> None:
    losses = Losses()
    told = [losses.logged(LOST, "x" * number, 0) for number in range(KINDS_MAX + 256)]
    assert sum(times > 0 for times in told) == KINDS_MAX + 9 and len(losses._seen) == KINDS_MAX + 1


def test_error_that_was_not_seen_for_long_is_news() -> None:
    losses = Losses()
    told = [losses.logged(LOST, "gone", at_ns) for at_ns in (0, 1, NS_PER_S, QUIET_NS + NS_PER_S, QUIET_NS + NS_PER_S)]
    assert told == [1, 2, 0, 1, 2]
