"""What is done for many viewers of a guest takes no more than its slice at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from millrace.errors import CodecError
from millrace.graph.share import SLICE_NS
from millrace.guest.viewers import VIEWERS_MAX
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import ChangeView
from tests.turning import HandTurned
from tests.watch import SPOT, Desk, Remote

WRITE_NS = NS_PER_MS // 20


def costly(viewers: int) -> tuple[Desk, Any, list[Remote], list[int]]:
    """A screen with so many viewers, to each of whom it takes time to write; and the time spent."""
    worked = [0]
    desk = Desk()
    desk.turns = desk.home.turns = HandTurned(lambda: worked[0])
    desk.viewers._following._over = desk.viewers._sharing._leaving._over = desk.turns.over
    screen = desk.add()
    remotes = [Remote(desk) for _ in range(viewers)]

    def slow(write: Any) -> Any:
        def costly(messages: Any) -> None:
            worked[0] += WRITE_NS
            write(messages)

        return costly

    for remote in remotes:
        remote.session.sending._write = slow(remote._write)
    desk.run(100)
    return desk, screen, remotes, worked


def rounds(desk: Desk, worked: list[int]) -> int:
    """How many rounds are made until nothing waits, none of which takes more than the guest's slice."""
    number = 0
    while desk.turns.waiting:
        before = worked[0]
        desk.turns._round()
        number += 1
        assert worked[0] - before <= SLICE_NS + 4 * WRITE_NS
    return number


def test_round_of_many_viewers_takes_no_more_than_the_guests_slice_at_a_time() -> None:
    desk, screen, remotes, worked = costly(VIEWERS_MAX)
    screen.point(9, 9)
    screen.show(50, 40, desk.now_ns)
    screen.fill(SPOT, 5, desk.now_ns)
    desk.now_ns += NS_PER_S // 20
    written = worked[0]
    assert rounds(desk, worked) >= VIEWERS_MAX * WRITE_NS // (2 * SLICE_NS)
    assert worked[0] - written >= VIEWERS_MAX * WRITE_NS
    desk.run(200)
    assert all(np.array_equal(remote.canvas, screen.pixels) for remote in remotes)


def test_viewers_of_an_encoder_that_ends_are_told_no_more_than_the_guests_slice_at_a_time() -> None:
    desk, screen, remotes, worked = costly(VIEWERS_MAX)
    desk.run(1_000)
    before = worked[0]
    desk.viewers._sharing._failed(desk.groups[0], CodecError("no more"))
    assert worked[0] == before and not screen.screen.readers
    # Whoever leaves or changes its mind before it is told is no concern of this any more.
    remotes[-1].leave()
    remotes[-2].say(ChangeView({"fps": "9"}))
    assert rounds(desk, worked) >= VIEWERS_MAX * WRITE_NS // (2 * SLICE_NS)
    desk.run(100)
    assert all(len(remote.news(Fault)) == 1 for remote in remotes[:-1])
    screen.fill(SPOT, 5, desk.now_ns)
    desk.run(6_500)
    assert all(np.array_equal(remote.canvas, screen.pixels) for remote in remotes[:-1])
