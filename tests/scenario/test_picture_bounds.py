"""Screens of any size, modes that change all the time, damage that lies: viewers end with the painted picture."""

from __future__ import annotations

import pytest

from millrace.budget import MIB
from millrace.pixels.rects import Rect
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import Watch
from tests.watch import Desk, Painter, Remote

FULL = Watch(formats=["raw", "zstd", "jpeg", "png"], codecs=["avc1"])


def painted(desk: Desk, painter: Painter, width: int, height: int) -> None:
    """A picture of that size with something in all its corners."""
    painter.show(width, height, desk.now_ns)
    side = max(1, min(width, height, 40) // 2)
    for at, (x, y) in enumerate(((0, 0), (width - side, 0), (0, height - side), (width - side, height - side))):
        painter.fill(Rect(x, y, side, side), 40 + 50 * at, desk.now_ns)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (16, 16_384), (16_384, 16)])
def test_screen_of_any_size_is_exact(width: int, height: int) -> None:
    desk = Desk(encodes=True)
    painter = desk.add(width=0)
    painted(desk, painter, width, height)
    remote = Remote(desk, FULL)
    desk.run(500)
    assert remote.drawn.exact(painter.pixels)
    painter.fill(Rect(0, 0, width, min(height, 3)), 7, desk.now_ns)
    desk.run(500)
    assert remote.drawn.exact(painter.pixels) and remote.ended is None


def test_screen_of_8k_is_exact_with_the_memory_for_it_and_refused_without() -> None:
    desk = Desk(encodes=True)
    painter, budget = desk.add(width=0), desk.home.admission.budget
    budget.limit = 200 * MIB
    painter.show(7680, 4320, desk.now_ns)
    remote = Remote(desk, FULL)
    desk.run(100)
    (fault,) = remote.news(Fault)
    assert not fault.fatal and "no room for this picture encoder" in fault.message and remote.ended is None
    budget.limit = 2048 * MIB
    desk.run(6_100)
    painter.fill(Rect(7600, 4300, 80, 20), 99, desk.now_ns)
    desk.run(300)
    assert remote.drawn.exact(painter.pixels)


def test_modes_that_change_20_times_a_second_end_with_the_last_one() -> None:
    desk = Desk(encodes=True)
    painter = desk.add()
    one, slow = Remote(desk, FULL), Remote(desk, FULL, acks=False)
    held = 0
    for number in range(60):
        painted(desk, painter, 20 + number * 7 % 300, 20 + number * 11 % 200)
        desk.run(50)
        held = max(held, desk.home.admission.budget.held)
    desk.run(500)
    assert one.drawn.exact(painter.pixels) and one.ended is None and slow.ended is None
    assert held < 8 * MIB and len(slow.ages) <= 16
    told = [one.cause for one in desk.house.symptoms if one.stage == "screen"]
    assert told == ["too many modes"]


def test_damage_beyond_the_screen_or_without_a_change_harms_nobody() -> None:
    desk = Desk(encodes=True)
    painter = desk.add(width=320, height=200)
    remote = Remote(desk, FULL)
    desk.run(100)
    before = remote.bytes
    lies = [Rect(-5, -5, 10**6, 10**6), Rect(319, 199, 2, 2), Rect(400, 0, 10, 10), Rect(0, 0, 320, 200)]
    for _ in range(30):
        painter.screen.painted(lies, desk.now_ns)
        desk.run(35)
    assert remote.bytes - before < 1_000, "nothing changed, so nothing is sent"
    painter.pixels[50:60, 50:60] = 9
    painter.screen.painted([Rect(-100, -100, 155, 160), Rect(55, 50, 10**6, 10)], desk.now_ns)
    desk.run(100)
    assert remote.drawn.exact(painter.pixels)
