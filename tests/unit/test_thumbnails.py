"""Thumbnails: what they show, what is sent of a change, and that nothing is read or made without need."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from millrace.errors import BudgetError, Busy, CodecError, RightsError
from millrace.guest.thumbnails import THUMBNAIL_BYTES, Thumbnail, Thumbnails
from millrace.io.turns import Turns
from millrace.outlets.thumbnail import ROOM, Still, ThumbnailWork
from millrace.pixels.rects import Rect, Size
from millrace.rights.model import Principal, Right
from millrace.server.http.wall import LOOKS, Wall
from millrace.units import NS_PER_S
from tests.watch import Desk, Painter

SCREEN, WHOLE = Size(1280, 720), Rect(0, 0, 320, 180)


def pixels(still: Still) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a browser makes of it: (height, width, 3), B, G, R."""
    shown = np.asarray(Image.open(io.BytesIO(still.data)).convert("RGB"))[:, :, ::-1]
    assert shown.shape[:2] == (still.at.height, still.at.width)
    return shown


@pytest.mark.parametrize(
    ("screen", "size"),
    [((1920, 1080), (240, 135)), ((1280, 720), (320, 180)), ((200, 100), (200, 100)), ((1, 16_384), (1, 256)),
     ((16_384, 16), (256, 1)), ((1366, 768), (341, 192)), ((1, 1), (1, 1)), ((3840, 2160), (240, 135))],
)  # fmt: skip
def test_thumbnail_fits_and_keeps_its_shape(screen: tuple[int, int], size: tuple[int, int]) -> None:
    work = ThumbnailWork(Size(*screen))
    assert work.size == Size(*size) and size[0] <= ROOM.width and size[1] <= ROOM.height
    picture = np.full((screen[1], screen[0], 4), 200, np.uint8)
    made = work.make(picture, [Rect(0, 0, *screen)], whole=True)
    assert made.whole is not None and np.abs(pixels(made.whole).astype(int) - 200).max() <= 4


def test_only_what_has_changed_of_a_thumbnail_is_sent() -> None:
    work, picture = ThumbnailWork(SCREEN), np.zeros((720, 1280, 4), np.uint8)
    picture[100:200, 100:200] = 255
    work.make(picture, [Rect(0, 0, 1280, 720)], whole=False)
    assert work.make(picture, [Rect(0, 0, 1280, 720)], whole=False).patch is None, "painted again as it was"
    # 4 × 4 pixels of the screen are one of the thumbnail.
    picture[502:508, 700:720] = (10, 20, 30, 0)
    made = work.make(picture, [Rect(600, 400, 300, 300)], whole=False)
    assert made.whole is None and made.patch is not None and made.patch.at == Rect(175, 125, 5, 2)
    assert len(made.patch.data) < 200
    shown = pixels(made.patch)
    assert np.abs(shown[0].astype(int) - (5, 10, 15)).max() <= 1, "half of the rows are painted"
    assert np.abs(shown[1].astype(int) - (10, 20, 30)).max() <= 1
    whole = work.make(None, [], whole=True).whole
    assert whole is not None and whole.at == Rect(0, 0, 320, 180) and len(whole.data) < 5_000
    assert pixels(whole)[30, 30].min() > 240 and pixels(whole)[60, 60].max() < 10


class Threads:
    """Other threads: work waits until `run`."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.full = False
        self.runs = False
        """What waits has begun."""

    def lane(self) -> Any:
        return self

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if self.full:
            raise Busy("too many pictures wait to be encoded")
        self.work.append((work, done))

    def withdraw(self) -> bool:
        """See `Lane`."""
        if not self.runs:
            self.work.clear()
        return not self.runs

    def run(self) -> None:
        for work, done in self.work:
            done(work())
        self.work.clear()


class Place:
    """A guest with a screen, and its thumbnails."""

    def __init__(self) -> None:
        self.desk, self.threads = Desk(), Threads()
        self.painter = self.add()
        self.budget = self.desk.home.admission.budget
        self.held = self.budget.held
        self.thumbnails = Thumbnails(self.desk.home.screens, self.threads.lane, self.budget, lambda: self.desk.now_ns)
        self.thumbnails.show(self)

    def add(self) -> Painter:
        painter = self.desk.add(width=SCREEN.width, height=SCREEN.height)
        painter.fill(Rect(0, 0, *(SCREEN.width, SCREEN.height)), 200, self.desk.now_ns)
        return painter

    def after(self, serial: int) -> Thumbnail | None:
        """What a wall is sent that has the thumbnail `serial`, after a second in which it asked for it."""
        self.desk.now_ns += NS_PER_S
        for _ in range(2):
            self.thumbnails.after(serial)
            self.threads.run()
        return self.thumbnails.after(serial)

    def first(self) -> Thumbnail:
        made = self.after(0)
        assert made is not None
        return made


def test_walls_share_one_thumbnail_and_get_it_as_a_patch_or_whole() -> None:
    place = Place()
    first = place.first()
    assert (first.serial, first.size, first.still.at) == (1, Size(320, 180), WHOLE)
    assert place.after(1) is None and not place.threads.work, "nothing was painted"
    place.painter.point(5, 5)
    assert place.after(1) is None, "the pointer is not part of it"
    place.painter.fill(Rect(50, 50, 20, 10), 10, place.desk.now_ns)
    patch = place.after(1)
    assert patch is not None and patch.serial == 2 and patch.still.at == Rect(12, 12, 6, 3)
    whole = place.after(0)
    assert whole is not None and whole.serial == 2 and whole.still.at == first.still.at
    assert place.thumbnails.after(1) is patch and len(place.painter.screen.readers) == 1


def test_one_picture_a_second_is_taken_and_none_without_a_wall() -> None:
    place = Place()
    place.first()
    assert place.painter.interval_ns == NS_PER_S and place.budget.held - place.held >= THUMBNAIL_BYTES
    begun, serial = 0, 1
    for colour in range(25):
        place.painter.fill(Rect(0, 0, 99, 99), colour, place.desk.now_ns)
        made = place.thumbnails.after(serial)
        serial = made.serial if made else serial
        begun += len(place.threads.work)
        place.threads.run()
        place.desk.now_ns += NS_PER_S // 10
    assert begun == 2
    place.thumbnails.hide(place)
    place.thumbnails.hide(place)
    assert not place.painter.screen.readers and place.painter.interval_ns is None and place.budget.held == place.held


def test_nothing_of_a_screen_is_shown_as_the_next_one() -> None:
    place = Place()
    assert place.first().serial == 1
    place.painter.fill(Rect(0, 0, 500, 500), 90, place.desk.now_ns)
    place.desk.now_ns += NS_PER_S
    place.thumbnails.after(1)
    place.threads.runs = True
    place.desk.remove(place.painter)
    assert place.thumbnails.after(1) is None and place.thumbnails.after(0) is None
    # The new screen is black, as what a thumbnail begins with, and the old one's is only made now.
    other = place.desk.add(width=SCREEN.width, height=SCREEN.height)
    place.thumbnails.after(1)
    place.threads.run()
    place.threads.runs = False
    made = place.after(1)
    assert made is not None and made.serial == 2 and made.still.at == WHOLE
    assert pixels(made.still).max() < 5
    other.show(640, 480, place.desk.now_ns)
    made = place.after(2)
    assert made is not None and made.size == Size(320, 240) and made.still.at == Rect(0, 0, 320, 240)


def test_what_waits_for_a_thread_is_withdrawn_with_the_last_wall() -> None:
    place = Place()
    place.thumbnails.after(0)
    assert place.threads.work and [one for one in place.painter.screen.readers if one.held]
    place.thumbnails.hide(place)
    assert not place.threads.work and place.budget.held == place.held and not place.painter.screen.readers
    # Another wall gets the next one.
    place.thumbnails.show(place)
    assert place.first().still.at == WHOLE


def test_failures_are_told_and_end_nothing() -> None:
    place = Place()
    place.threads.full = True
    with pytest.raises(Busy):
        place.after(0)
    place.threads.full = False
    assert place.first().serial == 1
    place.painter.fill(Rect(0, 0, 500, 500), 90, place.desk.now_ns)
    place.desk.now_ns += NS_PER_S
    place.thumbnails.after(1)
    place.threads.work.pop()[1](CodecError("no memory"))
    assert not [one for one in place.painter.screen.readers if one.held]
    made = place.after(1)
    assert made is not None and made.still.at == WHOLE
    place.thumbnails.hide(place)
    place.budget.limit = place.budget.held
    with pytest.raises(BudgetError):
        place.thumbnails.after(0)
    assert cast(list[Any], place.painter.screen.readers) == []


def test_screen_that_stands_still_says_so_until_something_happens() -> None:
    place = Place()
    still = place.thumbnails.still
    assert not still(0), "nobody has asked yet"
    place.first()
    assert still(1) and not still(0), "another wall has nothing yet"
    place.painter.fill(Rect(50, 50, 20, 10), 10, place.desk.now_ns)
    assert not still(1), "it was painted"
    assert place.thumbnails.after(1) is None and not place.threads.work, "too early"
    assert not still(1), "a thumbnail will be due"
    place.desk.now_ns += NS_PER_S
    place.thumbnails.after(1)
    assert not still(1), "it is made"
    place.threads.run()
    assert place.after(1) is not None and place.after(2) is None and still(2)
    place.painter.point(5, 5)
    assert not still(2) and place.after(2) is None and still(2)
    place.painter.show(640, 480, place.desk.now_ns)
    assert not still(2)
    place.after(2)
    place.desk.remove(place.painter)
    assert not still(3)
    assert place.thumbnails.after(3) is None and still(3), "it has no screen"
    place.add()
    assert not still(3)
    place.after(3)
    place.thumbnails.hide(place)
    assert not still(4), "whoever shows it next has it read"


class Guests:
    """Guests with a screen each that may be watched; how often each thumbnail was asked for."""

    def __init__(self, count: int) -> None:
        self.places = {f"g{n}": Place() for n in range(count)}
        self.asked: Counter[str] = Counter()

    def guest(self, principal: Principal, name: str, right: Right) -> Any:
        """See `LocalGuests`."""
        principal.demand(right, name)
        self.asked[name] += 1
        return self.places[name]

    def look(self, wall: Wall, times: int) -> dict[str, int]:
        """What a wall asks for in so many looks, a quarter of a second apart."""
        self.asked.clear()
        for _ in range(times):
            for name in wall._due():
                tile = wall._tiles[name]
                if (newest := wall._newest(name, tile, {})) is not None:
                    tile.sent = newest.serial
            for place in self.places.values():
                place.threads.run()
                place.desk.now_ns += NS_PER_S // LOOKS
        return dict(self.asked)


def test_wall_looks_once_a_second_where_nothing_happens_and_at_once_where_something_does() -> None:
    guests = Guests(3)
    wall = Wall(cast(Any, guests), Principal("owner", Right.WATCH, frozenset({"*"})), Turns())
    wall._show(list(guests.places))
    guests.look(wall, 3 * LOOKS)
    assert guests.look(wall, 5 * LOOKS) == {"g0": 5, "g1": 5, "g2": 5}
    guests.look(wall, LOOKS - 2)
    place = guests.places["g1"]
    place.painter.fill(Rect(50, 50, 20, 10), 10, place.desk.now_ns)
    assert guests.look(wall, 1) == {"g1": 1}
    guests.look(wall, 2)
    assert wall._tiles["g1"].sent == 2
    wall.lose("*")
    with pytest.raises(RightsError):
        guests.look(wall, LOOKS)
