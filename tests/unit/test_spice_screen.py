"""A SPICE screen: what its server draws is what readers get, and what viewers do reaches the server."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from millrace.budget import PROGRAMS
from millrace.doors.inputroom import AT_ONCE
from millrace.doors.machine import MachineDoor
from millrace.doors.spice.canvas import OBJECT_BYTES, PART_COST, raster
from millrace.doors.spice.screen import LOOKS_MAX, STEP_COST
from millrace.errors import RemoteProtocolError
from millrace.graph.lights import CAPS, CODES
from millrace.graph.pictures import KeyPress, Move
from millrace.pixels.rects import Point, Rect, Size
from millrace.wire.spice.display import SETTLED_NS, SpiceDisplay
from tests.fuzz import seeds
from tests.fuzz import spiceserver as server
from tests.gops import WATCHER
from tests.spicemachine import HEIGHT, WHOLE, WIDTH, Machine, machine
from tests.spicewire import linked, noise, sent, ticket

MISSED = "which the machine draws with, are not understood; the picture is asked for again"


def test_screen_appears_with_its_surface_and_goes_with_its_door() -> None:
    made = Machine()
    door: MachineDoor = made.door
    assert not door.streams and not door.recording and not len(made.screens)
    held = made.budget.held
    made.says(server.surface(WIDTH, HEIGHT), server.draw_copy(WHOLE, server.bitmap(noise(WIDTH, HEIGHT))))
    (listed,) = made.screens
    assert (listed.label, listed.door, listed.screen) == ("SPICE", "door/1", made.door.screen)
    assert (made.watch() == noise(WIDTH, HEIGHT)).all() and made.budget.held > held + WIDTH * HEIGHT * 4
    for _ in range(2):
        door.close()
        assert not len(made.screens) and made.budget.held == held and made.door.screen is None


def test_columns_of_a_picture_are_one_picture() -> None:
    made, picture = machine(), noise(WIDTH, HEIGHT, 7)
    made.watch()
    assert made.door.screen is not None
    serial = made.door.screen.serial
    columns = [Rect(x, 0, 32, HEIGHT) for x in range(0, WIDTH, 32)]
    made.says(*(server.draw_copy(at, server.lz_image(picture[:, at.x : at.right])) for at in columns))
    assert made.door.screen.serial == serial + 1 and (made.watch() == picture).all()
    assert made.door.screen.painted_ns == made.now_ns - SETTLED_NS


def test_what_a_server_draws_is_what_is_seen() -> None:
    made, rng, at = machine(), random.Random(8), Rect(10, 6, 40, 30)
    part = (slice(6, 36), slice(10, 50))
    wanted, picture = made.watch().copy(), noise(40, 30, 3)
    clip = [Rect(0, 0, 20, 10), Rect(30, 20, 500, 500)]
    made.says(server.draw_copy(at, server.bitmap(picture), parts=clip))
    wanted[6:10, 10:20], wanted[20:36, 30:50] = picture[:4, :10], picture[14:, 20:]
    assert (made.watch() == wanted).all()
    made.says(server.draw_fill(at, 0x112233, parts=[Rect(10, 6, 3, 3)]))
    wanted[6:9, 10:13] = (0x33, 0x22, 0x11, 0)
    assert (made.watch()[:, :, :3] == wanted[:, :, :3]).all()
    for rop, does in ((64, np.bitwise_xor), (16, np.bitwise_or), (32, np.bitwise_and)):
        made.says(server.draw_copy(at, server.bitmap(picture), rop=rop))
        wanted[part] = does(wanted[part], picture)
        assert (made.watch()[:, :, :3] == wanted[:, :, :3]).all()
    made.says(*(server.plain(kind, Rect(x, 0, 9, 9)) for kind, x in ((308, 0), (307, 20), (306, 60))))
    wanted[:9, :9] ^= 255
    wanted[:9, 20:29], wanted[:9, 60:69] = 255, 0
    assert (made.watch()[:, :, :3] == wanted[:, :, :3]).all()
    twice = picture.repeat(2, axis=0).repeat(2, axis=1)[: HEIGHT - 10, : WIDTH - 20]
    made.says(server.draw_copy(Rect(20, 10, 80, 60), server.bitmap(picture), Rect(0, 0, 40, 30)))
    wanted[10:, 20:] = twice
    assert (made.watch()[:, :, :3] == wanted[:, :, :3]).all()
    keyed = picture.copy()
    keyed[rng.randrange(30), :, :3] = (3, 2, 1)
    made.says(server.draw_keyed(at, server.bitmap(keyed), 0x010203))
    stays = (keyed[:, :, :3] == (3, 2, 1)).all(axis=2)
    wanted[part] = np.where(stays[:, :, None], wanted[part], keyed)
    assert (made.watch()[:, :, :3] == wanted[:, :, :3]).all()


def test_pictures_with_alpha_are_laid_over() -> None:
    made = machine()
    made.says(server.draw_fill(WHOLE, 0x808080))
    half = np.full((30, 40, 4), 64, np.uint8)
    half[:, :, 3] = 128
    made.says(server.draw_blended(Rect(0, 0, 40, 30), server.bitmap(half), 255))
    assert abs(int(made.painted[5, 5, 0]) - (64 + 128 * 127 // 255)) <= 1 and made.painted[40, 5, 0] == 128


def test_truth_tables_are_those_of_their_operands() -> None:
    rng = np.random.default_rng(1)
    pattern, source, there = (rng.integers(0, 1 << 32, (5, 5), np.uint32) for _ in range(3))
    assert (raster(0xCC, pattern, source, there) == source).all()
    assert (raster(0xF0, pattern, source, there) == pattern).all()
    assert (raster(0xAA, pattern, source, there) == there).all()
    assert (raster(0xB8, pattern, source, there) == ((pattern ^ there) & source ^ pattern)).all()


def test_scroll_is_a_move_and_later_ones_are_damage() -> None:
    made = machine()
    wanted = made.watch().copy()
    line = noise(WIDTH, 8, 5)
    scroll = server.copy_bits(Rect(0, 0, WIDTH, HEIGHT - 8), 0, 8)
    for _ in range(3):
        made.says(scroll, server.draw_copy(Rect(0, HEIGHT - 8, WIDTH, 8), server.bitmap(line)))
        wanted[: HEIGHT - 8] = wanted[8:].copy()
        wanted[HEIGHT - 8 :] = line
        assert (made.watch() == wanted).all() and made.moves == (Move(Rect(0, 0, WIDTH, HEIGHT - 8), 0, -8),)
    made.says(scroll, scroll, server.draw_fill(Rect(0, 0, 5, 5), 0xFFFFFF), scroll)
    assert (made.watch() == made.painted).all() and len(made.moves) == 2
    with pytest.raises(RemoteProtocolError, match="outside its surface"):
        made.says(server.copy_bits(Rect(0, 0, WIDTH, HEIGHT), 0, 8))


class Glancing(Machine):
    """A viewer that looks between the steps of a picture, too."""

    def looks(self) -> None:
        if self.door.screen is not None and self.door.screen.memory is not None and self.now_ns % 3:
            self.watch()


def any_drawings(made: Machine, seed: int) -> None:
    """Draw at random, and compare with what a viewer has that looks now and then."""
    made.says(server.surface(WIDTH, HEIGHT), server.draw_copy(WHOLE, server.bitmap(noise(WIDTH, HEIGHT))))
    rng = random.Random(seed)
    for _ in range(60):
        drawn = []
        for _ in range(rng.randint(1, 4)):
            at = Rect(rng.randrange(WIDTH - 9), rng.randrange(HEIGHT - 9), rng.randint(1, 9), rng.randint(1, 9))
            x, y = rng.randrange(WIDTH - 9), rng.randrange(HEIGHT - 9)
            picture, source = server.bitmap(noise(at.width, at.height, rng.randrange(99))), at.moved(-at.x, -at.y)
            drawn.append(
                rng.choice(
                    (
                        server.copy_bits(at, x, y), server.draw_copy(at, picture), server.draw_fill(at, seed),
                        server.draw_copy(at, picture, rop=64), server.draw_copy(WHOLE, picture, source),
                        server.draw_keyed(at, picture, 0x10203), server.draw_blended(at, picture, 99),
                        server.draw_copy(at, server.lz_image(noise(at.width, at.height, seed))),
                    )
                )
            )  # fmt: skip
        made.says(*drawn)
        if rng.random() < 0.6:
            assert (made.watch() == made.painted).all()


@pytest.mark.parametrize("seed", range(4))
def test_any_drawings_reach_a_viewer_that_looks_now_and_then(seed: int) -> None:
    any_drawings(Machine(), seed)


@pytest.mark.parametrize("seed", range(4))
def test_any_drawings_are_the_same_in_small_steps(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, divided = Machine(), Glancing()
    any_drawings(whole, seed)
    monkeypatch.setattr("millrace.doors.spice.screen.STEP_COST", 1)
    monkeypatch.setattr("millrace.doors.spice.canvas.PIECE_COST", 700)
    monkeypatch.setattr("millrace.doors.spice.canvas.MOVED_MAX", 20)
    monkeypatch.setattr("millrace.wire.spice.lz.CODES", 2)
    monkeypatch.setattr("millrace.wire.spice.lz.PIECE_PIXELS", 5)
    any_drawings(divided, seed)
    assert (divided.painted == whole.painted).all()


def test_a_clip_of_many_rectangles_is_painted_in_steps() -> None:
    """A rectangle takes longer than its pixel."""
    made, parts = machine(), [Rect(n % 64, n // 64, 1, 1) for n in range(4096)]
    for rop in (8, 64):
        steps = made.says(server.draw_fill(Rect(0, 0, 64, 64), 0xFF00FF, rop, parts=parts))
        assert steps >= 4096 * PART_COST // STEP_COST
    assert (made.painted[:, :64, :3] == 0).all() and (made.painted[:, 64:] == noise(WIDTH, HEIGHT)[:, 64:]).all()


def test_a_drawing_of_a_whole_screen_is_painted_in_steps_by_what_it_costs() -> None:
    made, side = Machine(), 1024
    whole = Rect(0, 0, side, side)
    made.says(server.surface(side, side))
    assert made.says(server.draw_fill(whole, 1)) <= 2 < made.says(server.draw_fill(whole, 1, rop=64))
    small = server.bitmap(np.zeros((2, 2, 4), np.uint8))
    assert made.says(server.draw_copy(whole, small, Rect(0, 0, 2, 2))) > 10, "stretched"


def test_rectangles_that_lie_upon_each_other_are_painted_in_steps_and_not_copied() -> None:
    made, box = machine(), Rect(0, 0, 1 << 20, 1 << 20)
    assert made.says(server.draw_fill(box, 7, parts=[WHOLE] * 2000)) > 2000 * PART_COST // STEP_COST
    with pytest.raises(RemoteProtocolError, match="overlap"):
        made.says(server.message(104, server.base(box, [WHOLE] * 2) + struct.pack("<ii", 0, 0)))


def test_a_drawing_from_its_own_surface_sees_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.doors.spice.canvas.PIECE_COST", WIDTH)
    made = machine()
    itself = server.image(104, WIDTH, HEIGHT, struct.pack("<I", 0))
    made.says(server.draw_copy(WHOLE.moved(0, 1), itself))
    assert (made.painted[1:] == noise(WIDTH, HEIGHT)[:-1]).all()


def test_images_are_kept_until_they_are_to_be_forgotten() -> None:
    made, picture, at = machine(), noise(20, 10, 6), Rect(0, 0, 20, 10)
    made.says(server.draw_copy(at, server.lz_image(picture, name=77, flags=1)))
    again = server.draw_copy(at.moved(30, 20), server.image(103, 20, 10, name=77))
    made.says(again)
    assert (made.painted[20:30, 30:50] == picture).all() and not made.missed
    with pytest.raises(RemoteProtocolError, match="another size"):
        made.says(server.draw_copy(at, server.image(103, 20, 20, name=77), Rect(0, 0, 20, 10)))
    made.says(server.message(105, struct.pack("<HBQ", 1, 1, 77)), again)
    assert made.missed == [f"images that were sent before, {MISSED}"]


def test_other_surfaces_are_drawn_on_and_from() -> None:
    made, picture = machine(), noise(20, 10, 6)
    before = made.budget.held
    made.says(server.surface(20, 10, 3), server.draw_copy(Rect(0, 0, 20, 10), server.bitmap(picture), surface=3))
    assert made.budget.held == before + 800 + OBJECT_BYTES
    made.says(server.draw_copy(Rect(5, 5, 20, 10), server.image(104, 20, 10, struct.pack("<I", 3))))
    assert (made.painted[5:15, 5:25] == picture).all()
    made.says(server.destroy(3))
    assert made.budget.held == before
    with pytest.raises(RemoteProtocolError, match="does not exist"):
        made.says(server.draw_fill(WHOLE.moved(0, 0), 1)[:6] + struct.pack("<I", 3) + server.draw_fill(WHOLE, 1)[10:])


def test_what_is_not_understood_is_told_and_changes_nothing() -> None:
    made = machine()
    before = made.painted
    made.says(
        server.draw_copy(WHOLE, server.image(1, WIDTH, HEIGHT, bytes(99))), server.message(311, server.base(WHOLE))
    )
    assert made.missed == [f"images compressed as QUIC, {MISSED}", f"text, {MISSED}"] and (made.painted == before).all()


def test_mode_changes_and_a_channel_that_is_opened_anew() -> None:
    made = machine()
    made.watch()
    held = made.budget.held
    picture = noise(50, 40, 9)
    made.says(server.destroy(), server.surface(50, 40), server.draw_copy(Rect(0, 0, 50, 40), server.bitmap(picture)))
    assert (made.watch() == picture).all() and made.budget.held == held - WIDTH * (HEIGHT + 1) * 4 + 50 * 41 * 4
    screen, made.wire = made.door.screen, linked(SpiceDisplay(7, 0, "", ticket, 0))
    made.door.restart(made.wire)
    assert (made.watch() == picture).all() and made.door.screen is screen
    made.says(server.surface(50, 40), server.draw_copy(Rect(0, 0, 50, 40), server.bitmap(picture[::-1])))
    assert (made.watch() == picture[::-1]).all() and len(made.screens) == 1


def test_only_what_monitors_show_is_the_screen() -> None:
    made = machine()
    picture = made.painted
    made.says(server.heads(Rect(16, 8, 40, 30)))
    assert (made.watch() == picture[8:38, 16:56]).all()
    made.says(server.copy_bits(Rect(16, 8, 40, 20), 16, 18), server.draw_fill(Rect(16, 8, 4, 4), 0x010203))
    assert (made.watch() == made.painted).all() and made.painted[0, 0].tolist()[:3] == [3, 2, 1]
    assert made.moves == (Move(Rect(0, 0, 40, 20), 0, -10),)
    made.watch()
    assert made.reader is not None
    made.screens.seat.take(WATCHER)
    made.controls.relative = False
    made.reader.pointer(Point(2, 3), 0, False)
    assert sent(made.inputs) == [(112, struct.pack("<IIHB", 18, 11, 0, 0))]
    made.says(server.heads(Rect(500, 500, 40, 30)))
    assert made.painted.shape == (HEIGHT, WIDTH, 4)


def test_screens_and_surfaces_are_charged_to_the_guest() -> None:
    for said in ([server.surface(1024, 1024)], [server.surface(64, 64), server.surface(1024, 1024, 4)]):
        made = Machine(limit=1 << 20)
        made.says(*said)
        (why,) = made.missed
        assert "no room for its 1024 × 1024: " in why and not made.door.has_room()
        held = made.budget.held
        # It goes on, and whatever the server draws until it is asked for all again is dropped.
        made.says(server.draw_fill(Rect(0, 0, 9, 9), 1), server.surface(64, 64), server.heads(Rect(0, 0, 9, 9)))
        assert made.budget.held == held and len(made.missed) == 1
        made.budget.limit = 1 << 25
        assert made.door.has_room() and made.budget.held == held
        made.wire = linked(SpiceDisplay(7, 0, "", ticket, 0))
        made.door.restart(made.wire)
        made.says(server.surface(1024, 1024), server.draw_fill(Rect(0, 0, 1024, 1024), 0x102030))
        assert made.painted.shape == (1024, 1024, 4) and (made.painted[:, :, :3] == (0x30, 0x20, 0x10)).all()
        made.door.close()
    with pytest.raises(RemoteProtocolError, match="surfaces"):
        Machine().says(*(server.surface(1, 1, number) for number in range(1, 1100)))


def test_part_of_a_surface_that_there_is_no_room_to_show_leaves_the_picture_before() -> None:
    made = Machine(limit=1 << 21)
    made.says(server.heads(Rect(0, 0, 40, 30)), server.surface(400, 300), server.draw_fill(Rect(0, 0, 40, 30), 5))
    made.watch()
    other = made.budget.open("other", {"all": int(made.budget.limit * PROGRAMS) - made.budget.held})
    made.says(server.heads(Rect(0, 0, 400, 300)))
    assert made.missed and "no room for its 400 × 300: " in made.missed[0] and made.painted.shape == (30, 40, 4)
    made.budget.open("film").may_spare(lambda: pytest.fail("a question is no demand"))
    assert not made.door.has_room()
    other.close()
    assert made.door.has_room()
    made.door.close()
    assert not made.budget.shares().get("screen")


def test_a_surface_of_which_little_is_seen_is_charged_whole_until_nobody_uses_it() -> None:
    made, size = Machine(limit=1 << 20), 400 * 401 * 4
    before = made.budget.held
    made.says(server.heads(Rect(0, 0, 1, 1)), server.surface(400, 400), server.draw_fill(Rect(0, 0, 400, 400), 1))
    assert made.budget.held >= before + size and made.painted.shape == (1, 1, 4)
    made.says(server.heads(Rect(0, 0, 400, 300)))
    held = made.budget.held
    assert before + size <= held < before + size + 100_000
    made.says(server.destroy())
    assert made.budget.held == held, "its screen still shows it"
    made.says(server.surface(400, 400))
    assert "no room for its 400 × 400" in made.missed[0]
    made.door.close()
    assert made.budget.held < before + 2000


def test_many_small_images_are_charged_as_objects_and_wide_rows_are_not_kept() -> None:
    made, dot = machine(), noise(1, 1)
    before = made.budget.held
    made.says(*(server.draw_copy(Rect(0, 0, 1, 1), server.bitmap(dot, name=n, flags=1)) for n in range(300)))
    assert made.budget.held == before + 300 * (4 + OBJECT_BYTES)
    made.says(*(server.draw_copy(Rect(0, 0, 1, 1), server.bitmap(dot, name=n, flags=1)) for n in range(300)))
    assert made.budget.held == before + 300 * (4 + OBJECT_BYTES), "the same again"
    made.says(server.message(106))
    assert made.budget.held == before
    wide = server.image(0, 1, 2, struct.pack("<BBIIII", 8, 4, 1, 2, 4000, 0) + bytes(8000), 5, 1)
    made.says(server.draw_copy(Rect(0, 0, 1, 2), wide))
    (kept,) = made.door._canvas._kept.values()
    assert kept.base is None and kept.nbytes == 8


# -- the cursor --------------------------------------------------------------------------------------


def test_cursor_is_shown_where_it_is_and_defined_once() -> None:
    made, pixels = Machine(), bytes(range(64))
    made.points(server.cursor_set(3, 4, pixels, 4, 4))
    made.says(server.surface(WIDTH, HEIGHT))
    screen = made.door.screen
    assert screen is not None and screen.cursor.shown and screen.cursor.at == Point(3, 4)
    shape = screen.shape(screen.cursor.shape)
    assert shape is not None and (shape.size, shape.pixels, screen.cursor.hot) == (Size(4, 4), pixels, Point(1, 2))
    made.points(server.message(104, struct.pack("<hh", 7, 8)))
    assert screen.cursor.at == Point(7, 8) and screen.cursor.shape == shape.number
    made.points(server.message(105))
    assert not screen.cursor.shown
    made.points(server.cursor_set(1, 1, pixels, 4, 4))
    assert screen.cursor.shown and screen.cursor.shape == shape.number
    for n in range(2 * LOOKS_MAX):
        made.points(server.cursor_set(1, 1, n.to_bytes(64, "little"), 4, 4))
    made.points(server.cursor_set(1, 1, pixels, 4, 4))
    assert screen.cursor.shape > shape.number and screen.shape(screen.cursor.shape) is not None


# -- keys and pointer --------------------------------------------------------------------------------


def test_keys_and_pointer_reach_the_machine_that_takes_them() -> None:
    made = machine()
    made.points(server.cursor_set(3, 4, bytes(64), 4, 4))
    made.watch()
    made.screens.seat.take(WATCHER)
    assert made.reader is not None and made.door.screen is not None and made.door.screen.relative
    made.reader.key(KeyPress(0x1E, True))
    made.reader.pointer(Point(2, 2), 0, True)
    made.reader.pointer(Point(50, 60), 0, False)
    assert sent(made.inputs) == [(101, b"\x1e\0\0\0"), (111, struct.pack("<iiH", 2, 2, 0))] and made.woken == 3
    made.controls.relative = False
    made.door.set_relative()
    assert not made.door.screen.relative
    made.reader.pointer(Point(50, 60), 1, False)
    made.reader.pointer(Point(50, 60), 0, False)
    assert [kind for kind, _ in sent(made.inputs)] == [112, 113, 114]
    assert made.door.screen.cursor.at == Point(50, 60)
    made.reader.wish_size(Size(800, 600))
    assert not sent(made.inputs)


def test_lights_that_were_told_before_there_was_a_screen_are_known() -> None:
    made = Machine()
    made.controls.lights = CAPS
    made.says(server.surface(WIDTH, HEIGHT), server.draw_copy(WHOLE, server.bitmap(noise(WIDTH, HEIGHT))))
    assert made.door.screen is not None and made.door.screen.lights.wrong(0x1E, 0) == [CODES[CAPS]]
    made.controls.lights = 0
    made.door.lit()
    assert made.door.screen.lights.wrong(0x1E, 0) == []


def test_pressed_keys_are_released_when_nobody_looks_any_more() -> None:
    made = machine()
    made.watch()
    made.screens.seat.take(WATCHER)
    assert made.reader is not None
    for code, down in ((0x1D, True), (0x1E, True), (0x1E, False)):
        made.reader.key(KeyPress(code, down))
    sent(made.inputs)
    made.reader.end()
    assert sent(made.inputs) == [(102, b"\x9d\0\0\0")]
    made.controls.close()
    made.controls.key(KeyPress(0x1E, True))
    made.controls.pointer(Point(1, 1), 0, False, 0)
    assert not sent(made.inputs)


def test_keys_are_sent_in_the_pace_of_a_guests_keyboard_and_the_pointer_needs_none() -> None:
    made = machine()
    for _ in range(AT_ONCE):
        assert made.door.takes(True, lambda: None)
        made.door.key(KeyPress(0x1E, True))
    told = list[str]()
    assert not made.door.takes(True, lambda: told.append("room")) and made.door.takes(False, lambda: None)
    made.controls.room.pace()
    assert told == ["room"]


def test_nothing_is_sent_to_a_server_that_does_not_read_and_who_waits_is_told_of_its_end() -> None:
    made, told = machine(), list[bool]()
    made.controls.connect(made.inputs, lambda: None, lambda: True)
    screen = made.door.screen
    assert screen is not None
    assert not made.door.takes(False, lambda: told.append(screen.ended))
    made.door.close()
    assert told == [True]


def test_a_whole_session_of_the_seeds_is_shown() -> None:
    for session in seeds.spice_display():
        made = Machine()
        for part in session:
            made.says(part)
        assert made.door.screen is not None and set(made.missed) <= {f"images compressed as QUIC, {MISSED}"}
        made.watch()
