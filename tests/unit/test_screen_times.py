"""When a screen's reader gets a picture: at its interval, soon after a pause, and never an old one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from millrace.graph.pictures import Cursor, Shape
from millrace.graph.screenfacts import MODES_MAX, MODES_SHOWN_NS
from millrace.pixels.rects import Rect, Size
from millrace.units import NS_PER_MS, NS_PER_S
from tests.gops import WATCHER
from tests.paintedscreen import Viewer, painter


def test_thumbnail_is_taken_at_its_interval() -> None:
    own = painter()
    view = Viewer(own.screen.read(WATCHER, interval_ns=NS_PER_S))
    assert view.reader.next_timeout() == 0 and view.take(5)
    assert view.reader.next_timeout() is None
    own.screen.painted([own.fill(Rect(0, 0, 1, 1))], 10)
    assert view.reader.next_timeout() == NS_PER_S + 5 and view.take(NS_PER_S) is None
    assert view.take(NS_PER_S + 5) is not None
    view.reader.set_interval(0)
    own.screen.read(WATCHER, interval_ns=NS_PER_S).end()
    view.reader.end()
    view.reader.end()
    assert own.told == [NS_PER_S, 0, None]


def test_modes_of_a_machine_that_boots_are_shown_at_once_and_of_many_the_newest_ten_times_a_second() -> None:
    own = painter()
    view, now_ns = Viewer(own.screen.read(WATCHER)), NS_PER_S
    for _ in range(MODES_MAX - 2):
        own.mode(now_ns)
        assert view.take(now_ns) is not None
    for at_ns in range(now_ns, now_ns + NS_PER_S, NS_PER_MS):
        own.mode(at_ns)
        own.screen.painted([own.fill(Rect(0, 0, 2, 2))], at_ns)
        view.take(at_ns)
        if view.taken[-1].painted_ns == at_ns:
            assert np.array_equal(view.canvas, own.picture)
    assert len(view.taken) == MODES_MAX - 2 + 10
    due_ns = view.reader.next_timeout()
    assert due_ns is not None and 2 * NS_PER_S <= due_ns <= 2 * NS_PER_S + MODES_SHOWN_NS
    assert view.take(due_ns) is not None and np.array_equal(view.canvas, own.picture)
    for at_ns in range(due_ns, due_ns + 5 * NS_PER_MS, NS_PER_MS):
        own.screen.painted([own.fill(Rect(0, 0, 2, 2))], at_ns)
        assert view.take(at_ns) is not None, "of the mode that it has, it is shown all pictures"
    own.mode(due_ns + NS_PER_S)
    assert view.take(due_ns + NS_PER_S) is not None, "the machine had stopped"


def test_readers_are_woken_when_a_picture_may_be_due() -> None:
    own, woken = painter(), []
    reader = own.screen.read(WATCHER, wake=lambda: woken.append(reader.next_timeout()))
    assert not woken and Viewer(reader).take()
    own.screen.painted([own.fill(Rect(0, 0, 2, 2))], 1)
    Viewer(reader).take()
    own.screen.define_shape(Shape(1, Size(1, 1), bytes(4)))
    own.screen.set_cursor(Cursor(1, shown=True))
    own.mode()
    assert [due is not None for due in woken] == [True, True, True]
    own.screen.end()
    assert woken[-1] is None and reader.ended


def test_old_picture_is_given_to_nobody() -> None:
    own, woken = painter(), []
    reader = own.screen.read(WATCHER, wake=lambda: woken.append(reader.next_timeout()))
    assert Viewer(reader).take()
    own.screen.painted([own.fill(Rect(0, 0, 2, 2))], 1)
    own.screen.await_paint()
    assert reader.next_timeout() is None and reader.take(9) is None
    own.screen.painted([], 2)
    assert reader.next_timeout() is None, "nothing was painted"
    own.screen.painted([own.fill(Rect(4, 0, 2, 2))], 3)
    taken = Viewer(reader).take()
    assert woken[-1] == 0 and taken is not None and taken.damage == (Rect(0, 0, 2, 2), Rect(4, 0, 2, 2))


def waits(interval_ns: int, times: Iterable[int]) -> list[int]:
    """How long each picture painted at these times waits for a reader with this interval, in ns."""
    own = painter()
    reader = own.screen.read(WATCHER, interval_ns)
    waited = []
    for at in times:
        own.screen.painted([own.fill(Rect(0, 0, 2, 2))], at)
        due = reader.next_timeout()
        assert due is not None
        waited.append(max(0, due - at))
        picture = reader.take(max(at, due))
        assert picture is not None
        picture.release()
    return waited


def test_after_a_pause_a_second_picture_follows_at_once_and_no_third() -> None:
    interval = NS_PER_S // 30
    waited = waits(interval, (0, NS_PER_S, NS_PER_S + 4_000_000, NS_PER_S + 8_000_000))
    assert waited[:3] == [0, 0, 0] and waited[3] > interval // 2


def test_a_delay_of_a_source_as_fast_as_its_reader_does_not_stay() -> None:
    interval = NS_PER_S // 30
    # Two pictures more than the interval allows, then one an interval.
    waited = waits(interval, (0, 1_000_000, 2_000_000, *(step * interval for step in range(1, 20))))
    assert max(waited) > interval // 2 and max(waited[-5:]) < 1_000


def test_source_as_fast_as_its_reader_does_not_wait_for_it() -> None:
    """A painter whose pictures come at the reader's interval, some milliseconds early or late."""
    own = painter()
    interval = NS_PER_S // 30
    reader = own.screen.read(WATCHER, interval)
    random, waited, taken = np.random.default_rng(1), [], []
    for step in range(1, 200):
        at = step * interval + int(random.integers(-2_000_000, 2_000_001))
        own.screen.painted([own.fill(Rect(0, 0, 2, 2))], at)
        due = reader.next_timeout()
        assert due is not None
        picture = reader.take(max(at, due))
        assert picture is not None
        picture.release()
        taken.append(max(at, due))
        waited.append(max(0, due - at))
    assert sum(waited[5:]) / len(waited[5:]) < 500_000
    # A source that paints all the time is still read no more often.
    fast = [taken[-1]]
    for _ in range(60):
        for _ in range(2):
            own.screen.painted([own.fill(Rect(0, 0, 2, 2))], fast[-1])
        due = reader.next_timeout()
        assert due is not None
        picture = reader.take(max(fast[-1], due))
        assert picture is not None
        picture.release()
        fast.append(max(fast[-1], due))
    assert fast[-1] - fast[0] >= 59 * interval
