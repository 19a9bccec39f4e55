"""SPICE's cursor and inputs channels: what is understood, what is refused, and what is sent."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import Point, Size
from millrace.wire.keys import LightsTold
from millrace.wire.spice.cursor import (
    BAND_PIXELS,
    LOOK_BYTES,
    CursorHide,
    CursorMove,
    CursorSet,
    Look,
    Source,
    SpiceCursor,
)
from millrace.wire.spice.inputs import UNACKNOWLEDGED_MAX, SpiceInputs
from millrace.wire.spice.main import SpiceMain
from tests.fuzz import spiceserver as server
from tests.received import received
from tests.spicewire import linked, sent, ticket

# -- the cursor --------------------------------------------------------------------------------------


def cursor() -> SpiceCursor:
    made: SpiceCursor = linked(SpiceCursor(7, 0, "", ticket, 0))
    return made


def test_cursor_is_set_moved_hidden_and_kept() -> None:
    wire, pixels = cursor(), bytes(range(64))
    received(wire, server.cursor_set(3, -4, pixels, 4, 4, flags=2, name=9), 0)
    look = Look(Size(4, 4), Point(1, 2), pixels)
    assert wire.events() == [CursorSet(Point(3, -4), True, look)] and wire.partial_bytes == 64 + LOOK_BYTES
    received(wire, server.message(104, struct.pack("<hh", 7, 8)) + server.message(105), 0)
    assert wire.events() == [CursorMove(Point(7, 8)), CursorHide()]
    received(wire, server.cursor_set(0, 0, b"", 0, 0, flags=4, name=9), 0)
    received(wire, server.message(107, struct.pack("<Q", 9)) + server.cursor_set(0, 0, b"", 0, 0, flags=4, name=9), 0)
    known, gone = wire.events()
    assert known == CursorSet(Point(0, 0), True, look) and gone == CursorSet(Point(0, 0), True, None)
    received(wire, server.message(101, struct.pack("<hhHHBH", 1, 2, 0, 0, 1, 1)), 0)
    assert wire.events() == [CursorSet(Point(1, 2), True, None)] and not wire.partial_bytes


def test_cursors_without_alpha_get_it_from_their_mask() -> None:
    wire = cursor()
    # Four pixels: black, white, transparent, inverting.
    received(wire, server.cursor_set(0, 0, bytes((0b0011_0000, 0b0101_0000)), 4, 1, kind=1), 0)
    (mono,) = wire.events()
    assert isinstance(mono, CursorSet) and mono.look is not None
    black, white, clear = b"\0\0\0\xff", b"\xff\xff\xff\xff", bytes(4)
    assert mono.look.pixels == black + white + clear + white
    for kind, colours in (
        (6, b"\1\2\3\0" + bytes(4)), (5, b"\1\2\3" + bytes(3)), (4, struct.pack("<HH", 1 << 10 | 1 << 5 | 1, 0))
    ):  # fmt: skip
        received(wire, server.cursor_set(0, 0, colours + bytes((0b0100_0000,)), 2, 1, kind=kind), 0)
        (deep,) = wire.events()
        assert isinstance(deep, CursorSet) and deep.look is not None
        assert deep.look.pixels == (b"\1\2\3\xff" if kind != 4 else b"\x08\x08\x08\xff") + clear


def test_kept_cursors_are_bounded_and_damaged_ones_refused() -> None:
    wire = cursor()
    for name in range(20):
        received(wire, server.cursor_set(0, 0, bytes(500 * 500 * 4), 500, 500, flags=2, name=name), 0)
        wire.events()
    assert wire.partial_bytes <= 4 << 20
    for name in range(1000):
        received(wire, server.cursor_set(0, 0, bytes(4), 1, 1, flags=2, name=name), 0)
    assert 1000 * LOOK_BYTES < wire.partial_bytes <= 4 << 20
    for data in (
        server.cursor_set(0, 0, bytes(63), 4, 4),
        server.cursor_set(0, 0, b"", 0, 1),
        server.message(103, b"abc"), server.message(104), server.message(107),
    ):  # fmt: skip
        with pytest.raises(RemoteProtocolError):
            received(cursor(), data, 0)


def test_pixels_are_made_in_steps_of_one_cursor_and_what_follows_waits() -> None:
    data = np.random.default_rng(1).integers(0, 256, (450 * 4 + 57) * 450, np.uint8).tobytes()
    for kind in (0, 1, 4, 5, 6):
        wire, whole = cursor(), Source(kind, Size(450, 450), data).rows(range(450))
        message = server.cursor_set(3, 4, data, 450, 450, kind=kind, flags=2, name=9)
        wire.receive(message * 2 + server.message(105), 0)
        steps, told, most = 1, wire.events(), 0
        while wire.unfinished:
            most = max(most, wire.partial_bytes)
            wire.receive(b"", 0)
            steps, told = steps + 1, told + wire.events()
        shown = CursorSet(Point(3, 4), True, Look(Size(450, 450), Point(1, 2), whole))
        assert told == [shown, shown, CursorHide()], kind
        assert steps > 2 * 450 * 450 // BAND_PIXELS and most > len(data) + len(whole)
        assert wire.partial_bytes == len(whole) + LOOK_BYTES


@pytest.mark.parametrize("flags", [0, 2])
@pytest.mark.parametrize(("width", "kind"), [(513, 0), (512, 2), (16, 77)])
def test_cursor_that_is_too_large_or_of_an_unknown_kind_is_an_arrow(width: int, kind: int, flags: int) -> None:
    wire = cursor()
    received(wire, server.cursor_set(3, 4, b"", width, 1, kind=kind, flags=flags, name=9), 0)
    (told,) = wire.events()
    assert told == CursorSet(Point(3, 4), True, Look(ARROW_SIZE, Point(0, 0), ARROW))
    assert wire.partial_bytes == (len(ARROW) + LOOK_BYTES if flags else 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(101, 108), st.binary(max_size=60))
def test_any_cursor_message_is_understood_or_refused(kind: int, body: bytes) -> None:
    try:
        received(cursor(), server.message(kind, body), 0)
    except RemoteProtocolError:
        return


# -- keys and pointer --------------------------------------------------------------------------------


def inputs() -> SpiceInputs:
    made: SpiceInputs = linked(SpiceInputs(7, "", ticket, 0))
    sent(made)
    return made


def test_keys_are_sent_as_scan_codes() -> None:
    wire = inputs()
    wire.send_key(0x1E, True)
    wire.send_key(0x1E, False)
    wire.send_key(0xC8, True)
    wire.send_key(0xC8, False)
    assert sent(wire) == [
        (101, b"\x1e\0\0\0"), (102, b"\x9e\0\0\0"), (101, b"\xe0\x48\0\0"), (102, b"\xe0\xc8\0\0")
    ]  # fmt: skip
    closed = SpiceInputs(7, "", ticket, 0)
    closed.data_to_send()
    closed.send_key(0x1E, True)
    closed.send_pointer(Point(1, 1), 1, False)
    assert not closed.data_to_send()


def test_pointer_goes_to_a_place_or_moves_and_presses() -> None:
    wire = inputs()
    wire.send_pointer(Point(10, 20), 0, False, 1)
    wire.send_pointer(Point(10, 20), 0, False, 1)
    wire.send_pointer(Point(-5, 20), 0b1001, False, 1)
    wire.send_pointer(Point(-5, 20), 0b0001, False, 1)
    assert sent(wire) == [
        (112, struct.pack("<IIHB", 10, 20, 0, 1)), (112, struct.pack("<IIHB", 0, 20, 0, 1)),
        (113, struct.pack("<BH", 1, 1)), (113, struct.pack("<BH", 4, 9)), (114, struct.pack("<BH", 4, 1)),
    ]  # fmt: skip
    wire.send_pointer(Point(-3, 4), 1, True)
    wire.send_pointer(Point(0, 0), 0, True)
    assert sent(wire) == [(111, struct.pack("<iiH", -3, 4, 1)), (114, struct.pack("<BH", 1, 0))]
    # It has no wheel that turns sideways.
    wire.send_pointer(Point(0, 0), 0x180, True)
    assert not sent(wire)


@pytest.mark.parametrize("relative", [False, True])
def test_movements_that_the_server_has_not_taken_are_joined(relative: bool) -> None:
    wire = inputs()
    for n in range(UNACKNOWLEDGED_MAX + 10):
        wire.send_pointer(Point(1 if relative else n + 1, 0), 0, relative)
    assert len(sent(wire)) == UNACKNOWLEDGED_MAX
    wire.receive(server.message(111), 0)
    kind, body = sent(wire)[0]
    assert (kind, body[:4]) == ((111, struct.pack("<i", 10)) if relative else (112, struct.pack("<I", 26)))
    wire.send_pointer(Point(1 if relative else 99, 0), 1, relative)
    assert [kind for kind, _ in sent(wire)] == [111 if relative else 112, 113], "a click is not held back"
    wire.receive(server.message(102, b"\6\0"), 0)
    assert wire.events() == [LightsTold(6)] and not wire.events() and not wire.partial_bytes


def test_a_machine_with_a_tablet_is_asked_for_absolute_places() -> None:
    main = SpiceMain("", ticket, 0)
    linked(main)
    sent(main)
    main.receive(server.message(103, struct.pack("<8I", 7, 0, 1, 1, 0, 0, 0, 0)), 0)
    assert [kind for kind, _ in sent(main)] == [104]
    main.receive(server.message(105, struct.pack("<HH", 3, 1)), 0)
    assert sent(main) == [(105, struct.pack("<H", 2))]
    main.receive(server.message(105, struct.pack("<HH", 3, 2)), 0)
    assert not sent(main) and len(main.events()) == 3
