"""QEMU's console: pictures as copies, what can't be shown, the work that one turn does, and the pointer's shape."""

from __future__ import annotations

import pytest

from millrace.doors.canvas import BAND_PIXELS
from millrace.doors.qemu.screen import SHAPES_KNOWN_MAX, TOLD_MAX, TOLD_NS
from millrace.errors import GraphError
from millrace.graph.pictures import Mode
from millrace.graph.screen import Screen
from millrace.pixels.rects import Point, Rect, Size
from millrace.sim.qemuscreen import ARGB, RGB565, XRGB, exchange
from millrace.wire.qemu.display import MAP
from millrace.wire.qemu.values import Writer
from tests.qemuconsole import MIB, Rig, always, noise, numbers

# -- copies -------------------------------------------------------------------------------------------


def test_listener_offers_shared_memory_and_answers_before_all_else() -> None:
    rig = Rig()
    assert rig.console.properties == {"Interfaces": [MAP]}
    serial = rig.console.call("GetAll", "s", Writer().text("s", MAP), "org.freedesktop.DBus.Properties")
    exchange(rig.console, rig.peer, rig.run)
    assert rig.console.answered == [serial]


@pytest.mark.parametrize("format_", [XRGB, ARGB])
def test_picture_of_copies_is_the_one_painted(format_: int) -> None:
    rig = Rig()
    rig.watch()
    picture = noise(200, 150)
    rig.console.scanout(picture, format_)
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(0, 0, 200, 150),)
    picture[10:26, 9:18] = noise(9, 16, 2)
    rig.console.update(9, 10, picture[10:26, 9:18], format_)
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(9, 10, 9, 16),)


def test_scanout_of_same_size_is_no_new_mode_and_only_what_differs_is_damage() -> None:
    rig = Rig()
    rig.watch()
    picture = noise(320, 200)
    rig.console.scanout(picture)
    rig.step()
    memory = rig.screen.memory
    rig.taken()
    picture[50:60, 100:140] ^= 255
    rig.console.scanout(picture)
    rig.step()
    assert rig.screen.memory is memory and (rig.shown() == picture).all()
    assert rig.taken().damage == (Rect(100, 50, 40, 10),)
    serial = rig.screen.serial
    rig.console.scanout(picture)
    rig.step()
    assert rig.screen.serial == serial, "nothing has changed"


def test_whole_lines_that_changed_in_part_are_damage_only_there() -> None:
    """A VGA card reports whole lines."""
    rig = Rig(label="VGA")
    rig.watch()
    picture = noise(640, 480)
    rig.console.scanout(picture)
    rig.step()
    rig.taken()
    picture[100:140, 320:340] ^= 1
    rig.console.update(0, 90, picture[90:150])
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(320, 100, 20, 40),)


def test_many_small_updates_are_one_picture() -> None:
    rig = Rig()
    rig.watch()
    picture = noise(720, 400)
    rig.console.scanout(picture)
    rig.step()
    rig.taken()
    before = rig.screen.serial
    for row in range(25):
        picture[row * 16 : row * 16 + 16, :9] = noise(9, 16, row)
        rig.console.update(0, row * 16, picture[row * 16 : row * 16 + 16, :9])
    rig.step()
    assert rig.screen.serial == before + 1 and (rig.shown() == picture).all()


def test_hundreds_of_small_updates_are_a_few_rectangles_that_cover_them() -> None:
    rig = Rig()
    rig.watch()
    picture = noise(720, 400)
    rig.console.scanout(picture)
    rig.step()
    seen = rig.shown().copy()
    rig.taken()
    for n in range(500):
        x, y = 9 * (n % 80), 16 * (n * 7 % 25)
        picture[y : y + 16, x : x + 9] = noise(9, 16, n)
        rig.console.update(x, y, picture[y : y + 16, x : x + 9])
    rig.step()
    damage = rig.taken().damage
    for rect in damage:
        seen[rect.y : rect.bottom, rect.x : rect.right] = rig.shown()[rect.y : rect.bottom, rect.x : rect.right]
    assert (seen == picture).all() and len(damage) < 64


def test_caret_that_did_not_change_is_no_picture() -> None:
    rig = Rig()
    rig.watch()
    rig.console.scanout(noise(64, 64))
    rig.step()
    serial = rig.screen.serial
    rig.console.update(9, 16, noise(64, 64)[16:32, 9:18])
    rig.step()
    assert rig.screen.serial == serial


def test_size_changes_at_any_time_and_held_picture_stays() -> None:
    rig = Rig()
    reader = rig.watch()
    for size in ((640, 480), (720, 400), (64, 64), (1280, 800)):
        picture = noise(*size)
        rig.console.scanout(picture)
        rig.step()
        assert rig.screen.memory is not None and rig.screen.memory.mode.width == size[0]
        assert (rig.shown() == picture).all() and rig.input.size == Size(*size)
    held = reader.take(rig.now_ns)
    assert held is not None
    rig.console.scanout(noise(8, 8))
    rig.step()
    assert bytes(held.pixels[:8]) == picture.tobytes()[:8]
    held.release()
    rig.door.close()
    reader.end()
    assert rig.budget.held == 0


def test_time_of_a_picture_is_its_first_call_less_what_the_card_takes() -> None:
    for label, delay_ms in (("virtio-vga", 2), ("VGA", 15), ("qxl-vga", 30)):
        rig = Rig(label=label)
        rig.console.scanout(noise(8, 8))
        rig.step()
        assert rig.screen.painted_ns == rig.now_ns - delay_ms * 10**6


def test_picture_that_follows_another_at_once_has_its_own_time() -> None:
    rig = Rig()
    rig.console.scanout(noise(8, 8))
    rig.step()
    for _ in range(3):
        rig.console.update(0, 0, noise(2, 2, rig.now_ns))
        rig.peer.receive(rig.console.data_to_send(), 0)
        rig.door.publish()
        rig.now_ns += 10**9
        rig.door.receive(rig.now_ns)
        assert rig.door.due, "it was painted after the one before was published"
    rig.publish()
    assert rig.screen.painted_ns == rig.now_ns - 2 * 10**6


def test_disabled_console_is_black_until_next_picture() -> None:
    rig = Rig()
    rig.console.scanout(noise(32, 32))
    rig.console.disable()
    rig.step()
    assert not rig.shown().any()
    rig.console.scanout(noise(32, 32))
    rig.step()
    assert (rig.shown() == noise(32, 32)).all()


# -- what can't be shown ------------------------------------------------------------------------------


def test_unknown_format_is_told_and_sound_goes_on() -> None:
    rig = Rig()
    rig.console.scanout(noise(8, 8), RGB565)
    rig.step()
    assert "0x10020565 is not supported" in rig.door.trouble and rig.screen.memory is None
    rig.console.update(0, 0, noise(4, 4), XRGB)
    rig.step()
    assert rig.screen.memory is None
    rig.console.scanout(noise(8, 8))
    rig.step()
    assert not rig.door.trouble and rig.screen.memory is not None


def test_opengl_is_refused_and_told() -> None:
    rig = Rig()
    rig.console.call("ScanoutDMABUF", "", Writer())
    rig.console.call("UpdateDMABUF", "", Writer())
    rig.step()
    assert len(rig.console.refused) == 2 and "gl=on" in rig.door.trouble


def test_picture_without_room_is_told_and_a_smaller_one_shown() -> None:
    rig = Rig(limit=MIB)
    rig.console.scanout(noise(640, 480))
    rig.step()
    assert "no room for its 640 × 480" in rig.door.trouble and rig.screen.memory is None
    rig.budget.open("film").may_spare(lambda: pytest.fail("a question is no demand"))
    rig.door.fit(rig.now_ns)
    assert not rig.door.busy, "there is still none"
    rig.console.scanout(noise(64, 48))
    rig.step()
    assert not rig.door.trouble and (rig.shown() == noise(64, 48)).all()
    rig.budget.limit = 8 * MIB
    rig.door.fit(rig.now_ns)
    assert not rig.door.busy, "what had no room is not what QEMU shows any more"
    rig.door.close()
    rig.door.close()
    assert rig.budget.held == 0 and len(rig.screens) == 0


def test_listener_ends_once_there_is_room_for_what_it_had_none_for() -> None:
    rig = Rig(limit=MIB)
    rig.console.scanout(noise(640, 480))
    rig.console.call("ScanoutDMABUF", "", Writer())
    rig.step()
    rig.budget.limit = 8 * MIB
    rig.door.fit(rig.now_ns)
    assert rig.door.trouble and not rig.door.busy, "that is not for want of room"
    rig.budget.limit = MIB
    rig.console.scanout(noise(640, 480))
    rig.step()
    rig.budget.limit = 8 * MIB
    rig.door.fit(rig.now_ns)
    with pytest.raises(GraphError, match="there is room"):
        rig.run()
    rig.door.close()
    assert not rig.door.busy and rig.budget.held == 0


# -- work and memory ------------------------------------------------------------------------------------


def test_each_turn_does_little_of_what_qemu_sends() -> None:
    """A turn that is over ends after one step, be it a call or a band of a picture."""
    rig = Rig(over=always)
    reader = rig.watch()
    for n in range(400):
        rig.console.mouse(n, n, True)
    rig.peer.receive(rig.console.data_to_send(), 0)
    assert rig.run() >= 400
    rig.console.scanout(noise(1024, 1024))
    rig.peer.receive(rig.console.data_to_send(), 0)
    rig.door.receive(rig.now_ns)
    rig.door.publish()
    rig.door.receive(rig.now_ns)
    assert rig.peer.partial_bytes > 4 * MIB, "it is still charged"
    assert rig.door.busy and reader.take(10**10) is None, "no part of a picture is shown"
    assert rig.run() >= 1024 * 1024 // BAND_PIXELS - 2
    assert rig.peer.partial_bytes == 0 and reader.take(10**10) is not None
    rig.console.disable()
    rig.peer.receive(rig.console.data_to_send(), 0)
    assert rig.run() >= 1024 * 1024 // BAND_PIXELS and not rig.shown().any()


def test_size_that_qemu_tells_is_taken_in_turns() -> None:
    rig = Rig(over=always)
    picture = noise(640, 480)
    rig.console.scanout(picture)
    rig.step()
    rig.door.set_size(Size(800, 600))
    rig.door.settle_size()
    assert rig.woken and rig.shown().shape == (480, 640, 4) and rig.door.busy
    assert rig.run() >= 640 * 480 // BAND_PIXELS
    assert rig.shown().shape == (600, 800, 4) and (rig.shown()[:480, :640] == picture).all()


def test_parts_at_ever_new_places_allocate_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, modes = Rig(), []
    before = Screen.set_mode

    def set_mode(screen: Screen, mode: Mode, pixels: memoryview, now_ns: int) -> None:
        modes.append(mode)
        before(screen, mode, pixels, now_ns)

    monkeypatch.setattr(Screen, "set_mode", set_mode)
    rig.console.scanout(noise(8, 8))
    rig.step()
    dots = {(7 * n, 5 * n): noise(1, 1, n) for n in range(300)}
    for (x, y), dot in dots.items():
        rig.console.update(x, y, dot)
    rig.step()
    assert len(modes) < 30 and all((rig.shown()[y, x] == dot).all() for (x, y), dot in dots.items())
    last = modes[-1]
    for x, y in ((-1, 0), (0, -5), (-(2**31), 0), (16_384, 0), (0, 2**31 - 1)):
        rig.console.update(x, y, noise(1, 1))
    rig.step()
    assert modes[-1] == last, "no surface of QEMU has such parts"
    assert rig.budget.held < 4 * last.width * last.height + MIB


def test_lines_of_a_larger_picture_are_shown_before_its_size_is_told() -> None:
    rig = Rig()
    rig.console.scanout(noise(640, 480))
    rig.step()
    picture = noise(800, 600, 2)
    for y in range(0, 600, 20):
        rig.console.update(0, y, picture[y : y + 20])
    rig.step()
    assert (rig.shown() == picture).all()


def test_empty_picture_is_none() -> None:
    rig = Rig()
    rig.console.call("Scanout", "uuuuay", numbers("uuuu", 0, 0, 0, XRGB).blob(b""))
    rig.console.update(0, 0, noise(20, 10))
    rig.step()
    rig.console.scanout(noise(20, 10, 3))
    rig.step()
    assert (rig.shown() == noise(20, 10, 3)).all()


def test_troubles_without_end_are_logged_a_few_times(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    for n in range(100):
        rig.console.call(f"Unknown{n}", "", Writer())
        rig.console.scanout(noise(8, 8), 1000 + n)
        rig.console.scanout(noise(8, 8))
    rig.step()
    assert len(caplog.records) == TOLD_MAX and not rig.door.trouble
    rig.now_ns += TOLD_NS
    rig.console.call("Unknown0", "", Writer())
    rig.step()
    assert len(caplog.records) == TOLD_MAX + 1, "an hour later it is logged again"


# -- the pointer's shape --------------------------------------------------------------------------------


def test_cursor_has_shape_hot_spot_and_place() -> None:
    rig = Rig()
    rig.console.mouse(30, 40, True)
    rig.step()
    assert rig.screen.cursor.shape == 0, "no shape yet"
    rig.console.cursor(noise(16, 24), 3, 4)
    rig.step()
    cursor = rig.screen.cursor
    assert cursor.shown and (cursor.hot, cursor.at) == (Point(3, 4), Point(30, 40))
    shape = rig.screen.shape(cursor.shape)
    assert shape is not None and shape.pixels == noise(16, 24).tobytes() and shape.size == Size(16, 24)
    rig.console.mouse(31, 40, False)
    rig.step()
    assert not rig.screen.cursor.shown and rig.screen.cursor.at == Point(31, 40)


def test_shape_that_returns_keeps_its_number_and_many_are_bounded() -> None:
    rig = Rig()
    numbers = []
    for seed in (1, 2, 1):
        rig.console.cursor(noise(8, 8, seed))
        rig.step()
        numbers.append(rig.screen.cursor.shape)
    assert numbers[0] == numbers[2] != numbers[1]
    for seed in range(10, 110):
        rig.console.cursor(noise(8, 8, seed))
    rig.step()
    assert len(rig.door._shapes) == SHAPES_KNOWN_MAX
    last = rig.screen.cursor
    rig.console.cursor(noise(600, 2))
    rig.step()
    assert rig.screen.cursor == last, "nobody points with so much"
