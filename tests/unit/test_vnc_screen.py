"""A VNC server's screen in its guest: pictures, moves, the cursor, and what its readers send back."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.budget import Budget
from millrace.doors.vnc.door import VncDoor
from millrace.doors.vnc.screen import VncScreen
from millrace.graph.model import Ids
from millrace.graph.pictures import Characters, KeyPress, Move
from millrace.graph.screens import Screens
from millrace.pixels.convert import Plane
from millrace.pixels.rects import RECTS_MAX, Point, Rect, Size, few
from millrace.sim.rig import Rig
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import ask_for
from millrace.wire.vnc.work import Work
from tests.fuzz import vncserver
from tests.fuzz.vncserver import noise, update
from tests.gops import WATCHER
from tests.unit.test_vnc_pictures import CHANGES, HEIGHT, PIXEL, WHOLE, WIDTH, client, passed

PHOTO = noise(90, 70)


class Hall:
    """A guest with one VNC server, which has just let us in."""

    def __init__(self, limit: int = 64 * 1024 * 1024, name: bytes = b"") -> None:
        self.rig, self.budget = Rig(), Budget(limit=limit)
        self.screens = Screens("alice", Ids(), self.budget)
        self.wire: VncClient = client(name=name)
        self.woken = 0
        self.door = VncDoor(self.rig.graph, self.wire, screen=VncScreen(self.screens, self.wire, "door/3", self._wake))

    def _wake(self) -> None:
        self.woken += 1

    def says(self, *rects: bytes, now_ns: int = 0) -> None:
        passed(self.door, update(*rects), now_ns)

    @property
    def shown(self) -> Plane:
        listed = self.screens.first
        assert listed is not None and listed.screen.memory is not None
        return listed.screen.memory.picture


def hall(limit: int = 64 * 1024 * 1024) -> Hall:
    one = Hall(limit)
    one.says(vncserver.rect(0, 0, WIDTH, HEIGHT, -223))
    return one


def test_screen_is_there_with_the_servers_size_and_goes_with_the_session() -> None:
    one = hall()
    listed = one.screens.first
    assert listed is not None and (listed.label, listed.door) == ("VNC", "door/3")
    assert one.shown.shape == (HEIGHT, WIDTH, 4)
    one.says(vncserver.rect(0, 0, 64, 48, -223))
    assert one.shown.shape == (48, 64, 4) and len(one.screens) == 1
    one.door.close()
    one.door.close()
    assert len(one.screens) == 0 and one.budget.held == 0


def test_update_is_one_picture_and_leading_copies_are_moves() -> None:
    one = hall()
    listed = one.screens.first
    assert listed is not None
    reader = listed.screen.read(WATCHER)
    one.says(vncserver.raw(0, 0, PHOTO), now_ns=7)
    picture = reader.take(7)
    assert picture is not None and picture.painted_ns == 7 and np.array_equal(one.shown[:70, :90], PHOTO)
    picture.release()
    one.says(vncserver.copied(10, 5, 80, 60, 0, 0), vncserver.raw(0, 0, PHOTO), vncserver.copied(200, 0, 9, 9, 1, 1))
    picture = reader.take(8)
    assert picture is not None and picture.moves == (Move(Rect(10, 5, 80, 60), 10, 5),)
    assert set(picture.damage) == {Rect(0, 0, 90, 70), Rect(200, 0, 9, 9)}
    assert np.array_equal(one.shown[:9, 200:209], PHOTO[1:10, 1:10])


def test_rectangle_of_one_colour_is_filled() -> None:
    one = hall()
    one.says(vncserver.rect(5, 6, 30, 20, 7, b"\x80\x01\x02\x03"))
    assert (one.shown[6:26, 5:35] == (3, 2, 1, 0)).all() and np.count_nonzero(one.shown) == 30 * 20 * 3


def test_overlapping_copy_takes_what_was_there_before() -> None:
    one = hall()
    one.says(vncserver.raw(0, 0, PHOTO))
    one.says(vncserver.copied(0, 3, 90, 60, 0, 0))
    assert np.array_equal(one.shown[3:63, :90], PHOTO[:60])


def test_cursor_is_shown_where_the_pointer_was_sent() -> None:
    one = hall()
    listed = one.screens.first
    assert listed is not None
    screen, shape = listed.screen, noise(8, 2)
    one.says(vncserver.cursor(shape, b"\xff\xff"))
    assert screen.cursor.shown and screen.cursor.hot == Point(1, 2)
    known = screen.shape(screen.cursor.shape)
    assert known is not None and known.size == Size(8, 2)
    reader = screen.read(WATCHER)
    one.screens.seat.take(WATCHER)
    reader.pointer(Point(30, 40), 1, False)
    assert screen.cursor.at == Point(30, 40) and one.woken == 2
    one.says(vncserver.rect(9, 8, 0, 0, -232))
    assert screen.cursor.at == Point(9, 8) and screen.cursor.shown
    one.says(vncserver.rect(0, 0, 0, 0, -239))
    assert not screen.cursor.shown


def test_readers_decide_whether_pictures_are_asked_for_and_type() -> None:
    one = hall()
    listed = one.screens.first
    assert listed is not None
    one.wire.data_to_send()
    reader = listed.screen.read(WATCHER)
    assert one.wire.data_to_send() == WHOLE and one.woken == 1
    one.says()
    assert one.wire.data_to_send() == CHANGES
    one.screens.seat.take(WATCHER)
    reader.key(KeyPress(0x1E, True))
    assert one.wire.data_to_send()[-1:] == b"a"
    reader.wish_size(Size(320, 200))
    assert one.wire.data_to_send() == b"", "this server can't be asked"
    assert reader.next_timeout() is None, "nothing was painted yet"
    one.says(vncserver.raw(0, 0, PHOTO))
    assert reader.next_timeout() == 0
    reader.end()
    one.says()
    one.wire.data_to_send()
    one.says()
    assert one.wire.data_to_send() == b""
    reader = listed.screen.read(WATCHER)
    assert one.wire.data_to_send() == CHANGES + PIXEL
    assert reader.next_timeout() is None, "something may have been painted while nobody watched"
    one.says(vncserver.raw(0, 0, PHOTO))
    assert reader.next_timeout() == 0


@pytest.mark.parametrize(("name", "takes"), [(b"QEMU (vm)", False), (b"x11vnc: desk", True)])
def test_any_character_is_taken_by_servers_that_go_by_symbols(name: bytes, takes: bool) -> None:
    one = Hall(name=name)
    one.says(vncserver.rect(0, 0, WIDTH, HEIGHT, -223))
    assert one.screens.first is not None and one.screens.first.screen.characters is (
        Characters.OTHERS if takes else Characters.NONE
    )


def test_size_without_room_leaves_the_picture_before_and_the_session_until_there_is_another_size() -> None:
    one = hall(limit=1_000_000)
    before, screen = one.shown, one.door.screen
    assert screen is not None
    one.says(vncserver.rect(0, 0, 1000, 1000, -223))
    one.says(vncserver.raw(0, 0, PHOTO))
    assert one.shown is before and not before.any()
    assert "no room for its 1000 × 1000: this guest holds" in screen.trouble
    one.says(vncserver.rect(0, 0, 120, 80, -223))
    one.says(vncserver.raw(0, 0, PHOTO))
    assert one.shown.shape == (80, 120, 4) and one.shown.any() and not screen.trouble


def test_size_without_room_is_shown_once_there_is_room_and_all_of_it_is_asked_for() -> None:
    one = hall(limit=1_000_000)
    screen, size = one.door.screen, Size(1000, 1000)
    assert screen is not None
    one.wire.send_watch(0)
    one.says(vncserver.rect(0, 0, 1000, 1000, -223))
    # The server answers, and is asked for what changes from then on.
    one.says(vncserver.raw(0, 0, PHOTO))
    one.wire.data_to_send()
    one.budget.open("film").may_spare(lambda: pytest.fail("a question is no demand"))
    screen.fit(5)
    assert screen.trouble and not one.wire.data_to_send() and one.budget.refusals == 1 and not one.woken
    one.budget.limit = 64 * 1024 * 1024
    screen.fit(6)
    assert not screen.trouble and one.shown.shape == (1000, 1000, 4) and one.woken
    assert ask_for(size, whole=True) in one.wire.data_to_send()
    one.says(vncserver.raw(0, 0, PHOTO))
    assert np.array_equal(one.shown[:70, :90], PHOTO)
    screen.fit(7)
    assert not one.wire.data_to_send().startswith(ask_for(size, whole=True))


def test_many_rectangles_are_covered_by_few() -> None:
    rects = [Rect(n % 40, n // 40, 1, 1) for n in range(1200)]
    joined = few(rects)
    assert len(joined) <= RECTS_MAX and all(any(one.holds(rect) for one in joined) for rect in rects)
    assert few(rects[:5]) == rects[:5] and sum(rect.area for rect in joined) < 3 * 1200


class Asked(Work):
    """Whether a step has to end, and how often that was asked: it does at the hundredth time."""

    times = 0

    @property
    def over(self) -> bool:
        self.times += 1
        return self.times >= 100


def test_door_that_is_closed_does_nothing_with_what_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, work = hall(), Asked()
    one.door.close()
    one.wire.receive(update(vncserver.raw(0, 0, PHOTO)), 0)
    monkeypatch.setattr(one.wire, "work", work)
    one.door.receive(0)
    assert one.wire.waiting and not work.times and not len(one.screens)
