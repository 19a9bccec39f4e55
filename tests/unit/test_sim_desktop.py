"""The synthetic desktop: a reader has its pixels, its code says when, and its click falls on its flash."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.budget import Budget
from millrace.dsp.measure import tone_onsets
from millrace.errors import ConfigError
from millrace.graph.model import Stream
from millrace.graph.pictures import KeyPress
from millrace.graph.screen import Screen
from millrace.graph.seat import Seat
from millrace.pixels import blockcode, digits
from millrace.pixels.rects import Point, Rect, Size
from millrace.sim.desktop import CODE, FLASH, FLASH_NS, SCENES, Desktop
from millrace.sim.painted import CLICK_HZ, CLICK_S, PaintedMachine
from millrace.sim.rig import START_NS, Rig
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S
from tests.gops import WATCHER

SIZE = Size(720, 520)


@pytest.mark.parametrize("scene", SCENES)
def test_all_that_changes_is_told(scene: str) -> None:
    desktop = Desktop(SIZE, scene)
    copy = desktop.picture.copy()
    for step in range(1, 14):
        changed = desktop.paint(START_NS + step * 33 * NS_PER_MS)
        for rect in changed:
            part = np.s_[rect.y : rect.bottom, rect.x : rect.right]
            copy[part] = desktop.picture[part]
        assert np.array_equal(copy, desktop.picture)
        stamp = blockcode.read(copy, CODE)
        assert stamp == blockcode.Stamp(step, START_NS + step * 33 * NS_PER_MS)
    moved = sum(rect.area for rect in changed)
    assert moved > 1_000


def test_each_scene_moves_and_is_the_same_each_time() -> None:
    def ends(scene: str) -> bytes:
        desktop = Desktop(SIZE, scene)
        for step in range(1, 5):
            desktop.paint(START_NS + step * 33 * NS_PER_MS)
        return bytes(desktop.memory)

    assert len({ends(scene) for scene in SCENES}) == len(SCENES)
    assert all(ends(scene) == ends(scene) for scene in SCENES)


def test_the_flash_is_lit_from_each_whole_second_on() -> None:
    desktop = Desktop(SIZE)
    for at, lit in ((0, True), (FLASH_NS - 1, True), (FLASH_NS, False), (NS_PER_S - 1, False), (NS_PER_S, True)):
        rects = desktop.paint(START_NS + at)
        assert desktop.flashed() is lit
        assert bool(desktop.picture[FLASH.y, FLASH.x, 0]) is lit
        assert (FLASH in rects) == (at in (0, FLASH_NS, NS_PER_S))


def test_digits_can_be_read() -> None:
    assert digits.dots("1").shape == (digits.HIGH, digits.WIDE)
    shapes = {digits.dots(char).tobytes() for char in "0123456789:.-"}
    assert len(shapes) == 13 and digits.dots("x").sum() == 0
    picture = np.zeros((40, 60, 4), np.uint8)
    rect = digits.write(picture, Point(4, 2), "12", 2, (1, 2, 3), 9)
    assert rect == Rect(4, 2, 24, 16)
    inked = (picture[2:18, 4:28, :3] == (1, 2, 3)).all(axis=2)
    assert np.array_equal(inked, digits.dots("12").repeat(2, 0).repeat(2, 1).astype(bool))
    assert picture.sum() == inked.sum() * 6 + (~inked).sum() * 27


@pytest.mark.parametrize(("size", "scene"), [(Size(100, 100), "still"), (Size(9000, 720), "still"), (SIZE, "opera")])
def test_what_cannot_be_painted_is_refused(size: Size, scene: str) -> None:
    with pytest.raises(ConfigError):
        Desktop(size, scene)


class Watching:
    """A painted machine with a screen and, if wanted, a reader of it."""

    def __init__(self) -> None:
        self.poked = 0
        self.machine = PaintedMachine(Desktop(SIZE), 30, self.poke)
        self.seat = Seat("default")
        self.screen = Screen("screen/0", self.machine, self.seat, Budget())
        self.machine.show(self.screen, START_NS)

    def poke(self) -> None:
        self.poked += 1


def test_it_paints_only_while_watched_and_on_whole_seconds() -> None:
    here = Watching()
    assert here.machine.next_timeout() is None
    reader = here.screen.read(WATCHER)
    assert here.poked == 1
    times = []
    for _ in range(60):
        due = here.machine.next_timeout()
        assert due is not None
        here.machine.handle_timeout(due)
        times.append(due)
    assert START_NS + NS_PER_S in times and START_NS + 2 * NS_PER_S in times
    assert len(set(times)) == 60 and max(np.diff(times)) <= 34 * NS_PER_MS
    picture = reader.take(times[-1])
    assert picture is not None and bytes(picture.pixels) == bytes(here.machine.desktop.memory)
    picture.release()
    reader.end()
    assert here.machine.next_timeout() is None
    here.machine.always = True
    assert here.machine.next_timeout() is not None
    here.screen.end()
    assert here.machine.next_timeout() is None
    here.machine.handle_timeout(times[-1] + NS_PER_S)


def test_a_key_is_answered_by_a_picture_with_its_mark_at_once() -> None:
    here = Watching()
    reader = here.screen.read(WATCHER)
    here.seat.take(WATCHER)
    reader.key(KeyPress(0x1E, True))
    reader.pointer(Point(3, 4), 1, False)
    assert here.machine.next_timeout() == 0
    here.machine.handle_timeout(START_NS + 5 * NS_PER_MS)
    stamp = blockcode.read(here.machine.desktop.picture, CODE)
    assert stamp is not None and (stamp.mark, stamp.time_ns) == (0x801E, START_NS + 5 * NS_PER_MS)
    assert here.machine.keys == [(0x1E, True)] and here.machine.pointers == [(Point(3, 4), 1, False)]


def test_clicks_fall_on_whole_seconds_to_the_frame_beside_other_sound() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    rig.run(0.25)
    stream = PaintedMachine(Desktop(SIZE)).clicks(rig.graph)
    assert isinstance(stream, Stream)
    rig.run(4.0)
    sound = heard.sound[:, 0] + 0.5 * sine(len(heard.sound) / 48_000, 440.0)[: len(heard.sound), 0]
    found = tone_onsets(sound, 48_000, CLICK_HZ, round(CLICK_S * 48_000))
    positions = [heard.positions[0] + int(at) for at in found]
    assert len(positions) == 4
    assert all(abs((at + 24_000) % 48_000 - 24_000) <= 2 for at in positions)
    assert len(tone_onsets(sound[:100], 48_000, CLICK_HZ, 240)) == 0
