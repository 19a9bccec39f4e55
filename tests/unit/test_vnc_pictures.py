"""RFB's pictures: each encoding gives the picture that was painted, and a wrong server ends its connection."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.doors.vnc.door import VncDoor
from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import Point, Rect, Size
from millrace.units import NS_PER_S
from millrace.wire.keys import LightsTold
from millrace.wire.vnc import cursors, gradient, inflate, tight, zrle
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.login import VncLogin
from millrace.wire.vnc.messages import (
    COMPRESSED,
    Copied,
    CursorAt,
    CursorShape,
    Filled,
    Painted,
    Resized,
    Update,
)
from millrace.wire.vnc.pictures import DROPPED_AT_ONCE, HELD_MAX, PIXELS_MAX, Pictures
from millrace.wire.vnc.work import WORK_MAX, Work
from tests.fuzz import vncserver
from tests.fuzz.vncserver import Picture, Streams, noise, update
from tests.received import received

WIDTH, HEIGHT = 300, 200


def client(width: int = WIDTH, height: int = HEIGHT, name: bytes = b"") -> VncClient:
    vnc = VncClient(48_000, 2, "", lambda challenge, text: b"", 0, COMPRESSED)
    said(vnc, b"RFB 003.008\n\1\1" + bytes(4) + struct.pack(">HH16xI", width, height, len(name)) + name)
    vnc.events()
    vnc.data_to_send()
    return vnc


def said(vnc: VncClient, data: bytes) -> VncClient:
    received(vnc, data, 0)
    return vnc


def passed(door: VncDoor, data: bytes, now_ns: int = 0) -> int:
    """As `said`, with the door that paints; returns the number of steps."""
    steps, more = 0, True
    while more:
        door.wire.receive(data, now_ns)
        door.receive(now_ns)
        data, steps, more = b"", steps + 1, door.wire.unfinished
    return steps


class Canvas:
    """What a viewer that applies the updates shows."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.picture = np.zeros((height, width, 4), np.uint8)
        self.serial = 0

    def take(self, vnc: VncClient) -> None:
        for event in vnc.events():
            if isinstance(event, Update):
                self.serial += 1
                for part in event.parts:
                    self.apply(part)

    def apply(self, part: Painted | Filled | Copied) -> None:
        rect = part.rect
        place = self.picture[rect.y : rect.bottom, rect.x : rect.right]
        if isinstance(part, Copied):
            x, y = part.origin.x, part.origin.y
            place[:] = self.picture[y : y + rect.height, x : x + rect.width].copy()
        elif isinstance(part, Filled):
            place[:] = np.frombuffer(part.pixel, np.uint8)
        else:
            place[:] = np.frombuffer(part.pixels, np.uint8).reshape(place.shape)


TEXT, PHOTO, TWO = noise(150, 130, 4, 7), noise(90, 70, 5), noise(131, 66, 6, 2)
MANY, FLAT = noise(70, 60, 7, 100), np.full((70, 80, 4), (9, 8, 7, 0), np.uint8)
Paint = Callable[[Streams], bytes]
PAINTS: dict[str, tuple[Picture, Paint]] = {
    "raw": (PHOTO, lambda to: vncserver.raw(5, 6, PHOTO)),
    "zlib": (TEXT, lambda to: to.zlib(5, 6, TEXT)),
    "zrle raw": (PHOTO, lambda to: to.zrle(5, 6, PHOTO)),
    "zrle two colours": (TWO, lambda to: to.zrle(5, 6, TWO)),
    "zrle four colours": (TEXT & 0x40, lambda to: to.zrle(5, 6, TEXT & 0x40)),
    "zrle packed": (TEXT, lambda to: to.zrle(5, 6, TEXT)),
    "zrle one colour": (FLAT, lambda to: to.zrle(5, 6, FLAT)),
    "zrle runs": (TEXT, lambda to: to.zrle(5, 6, TEXT, ["runs"])),
    "zrle one run": (FLAT, lambda to: to.zrle(5, 6, FLAT, ["runs"])),
    "zrle palette runs": (MANY, lambda to: to.zrle(5, 6, MANY, ["palette runs"])),
    "tight fill": (FLAT, lambda to: to.tight(5, 6, FLAT, "fill")),
    "tight copy": (PHOTO, lambda to: to.tight(5, 6, PHOTO, "copy", 2)),
    "tight three pixels": (PHOTO[:1, :3], lambda to: to.tight(5, 6, PHOTO[:1, :3])),
    "tight palette": (MANY, lambda to: to.tight(5, 6, MANY, "palette", 1)),
    "tight two colours": (TWO, lambda to: to.tight(5, 6, TWO, "palette", 3)),
    "tight gradient": (PHOTO, lambda to: to.tight(5, 6, PHOTO, "gradient")),
    "tight gradient, one column": (PHOTO[:, :1], lambda to: to.tight(5, 6, PHOTO[:, :1], "gradient")),
    "tight gradient, one row": (PHOTO[:1], lambda to: to.tight(5, 6, PHOTO[:1], "gradient")),
}


@pytest.mark.parametrize("kind", PAINTS)
def test_each_encoding_gives_the_picture_that_was_painted(kind: str) -> None:
    """Twice, because its streams go on."""
    vnc, canvas, streams, (picture, paint) = client(), Canvas(), Streams(), PAINTS[kind]
    high, wide = picture.shape[:2]
    for serial in (1, 2):
        canvas.picture[:] = 99
        canvas.take(said(vnc, update(paint(streams))))
        assert canvas.serial == serial
        assert np.array_equal(canvas.picture[6 : 6 + high, 5 : 5 + wide, :3], picture[:, :, :3])
        canvas.picture[6 : 6 + high, 5 : 5 + wide] = 99
        assert (canvas.picture == 99).all(), "painted beyond its rectangle"


@pytest.mark.parametrize("kind", [kind for kind in PAINTS if kind.startswith(("tight", "zrle")) and "fill" not in kind])
def test_memory_of_a_rectangle_is_not_cleared_but_painted_whole(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """To clear a large one may take 10 ms, in one step."""
    picture, paint = PAINTS[kind]
    high, wide = picture.shape[:2]
    used, (vnc, canvas) = list[Any](), (client(), Canvas())

    def dirty(shape: Any, dtype: Any) -> Any:
        used.append(shape)
        return np.full(shape, 0xA5A5A5A5, dtype)

    monkeypatch.setattr(np, "empty", dirty)
    said(vnc, update(paint(Streams())))
    monkeypatch.undo()
    canvas.take(vnc)
    assert (high, wide) in used
    shown = canvas.picture[6 : 6 + high, 5 : 5 + wide]
    assert np.array_equal(shown[:, :, :3], picture[:, :, :3]) and not shown[:, :, 3].any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 140), st.integers(1, 140), st.sampled_from((0, 1, 2, 3, 5, 16, 17, 120)), st.integers(0, 99),
    st.sampled_from(("zlib", "packed", "runs", "palette runs", "copy", "palette", "gradient")),
)  # fmt: skip
def test_any_picture_survives_any_encoding(wide: int, high: int, colours: int, seed: int, kind: str) -> None:
    picture, streams = noise(wide, high, seed, colours), Streams(seed % 10)
    if kind == "palette" and not 0 < colours < 257:
        kind = "copy"
    if kind in ("copy", "palette", "gradient"):
        told = streams.tight(0, 0, picture, kind, seed % 4, seed % 16)
    else:
        told = streams.zlib(0, 0, picture) if kind == "zlib" else streams.zrle(0, 0, picture, [kind])
    canvas = Canvas()
    canvas.take(said(client(), update(told)))
    assert np.array_equal(canvas.picture[:high, :wide], picture)


def test_copy_comes_as_a_move_in_the_order_told() -> None:
    vnc, canvas = client(), Canvas()
    canvas.take(said(vnc, update(vncserver.raw(0, 0, PHOTO))))
    vnc.receive(update(vncserver.copied(10, 10, 80, 60, 0, 0), vncserver.raw(0, 0, FLAT)), 0)
    events = vnc.events()
    (told,) = [event for event in events if isinstance(event, Update)]
    assert told.parts[0] == Copied(Rect(10, 10, 80, 60), Point(0, 0))
    for part in told.parts:
        canvas.apply(part)
    expected = np.zeros_like(canvas.picture)
    expected[:70, :90] = PHOTO
    expected[10:70, 10:90] = PHOTO[:60, :80]
    expected[:70, :80] = FLAT
    assert np.array_equal(canvas.picture, expected)


def test_one_update_is_one_picture_even_without_an_end_told_before() -> None:
    vnc, canvas = client(), Canvas()
    data = update(vncserver.raw(0, 0, FLAT), vncserver.raw(100, 0, FLAT))
    vnc.receive(data[:-1], 0)
    assert vnc.events() == [] and vnc.partial_bytes > FLAT.nbytes
    canvas.take(said(vnc, data[-1:]))
    assert canvas.serial == 1 and vnc.partial_bytes == 0
    last = vncserver.rect(0, 0, 0, 0, -224)
    canvas.take(said(vnc, struct.pack(">BxH", 0, 0xFFFF) + vncserver.raw(0, 0, FLAT) * 3 + last))
    assert canvas.serial == 2


def test_sizes_cursors_lights_and_types_are_told() -> None:
    vnc = client()
    photo, mask = noise(10, 3), bytes((0xFF, 0xC0, 0, 0, 0x80, 0))
    said(vnc, update(vncserver.extended_size(WIDTH, HEIGHT), vncserver.cursor(photo, mask)))
    (shape,) = vnc.events()
    assert isinstance(shape, CursorShape) and (shape.hot, shape.size) == (Point(1, 2), Size(10, 3))
    pixels = np.frombuffer(shape.pixels, np.uint8).reshape(3, 10, 4)
    assert np.array_equal(pixels[0, :, :3], photo[0, :, :3]) and (pixels[0, :, 3] == 255).all()
    assert not pixels[1].any() and pixels[2, 0, 3] == 255 and not pixels[2, 1:].any()
    two = bytes((1, 2, 3, 9, 8, 7)) + bytes((0x80,)) + bytes((0xC0,))
    alpha = bytes(4) + bytes((50, 25, 0, 128)) + bytes(4)
    said(
        vnc,
        update(
            vncserver.rect(0, 0, 3, 1, -240, two), vncserver.rect(0, 0, 2, 1, -314, alpha),
            vncserver.rect(7, 8, 0, 0, -232), vncserver.rect(0, 0, 0, 0, -239), vncserver.rect(0, 0, 64, 48, -223),
            vncserver.rect(0, 0, 0, 0, -261, b"\6"),
        ),
    )  # fmt: skip
    coloured, straight, at, hidden, lights, size = vnc.events()
    assert lights == LightsTold(6)
    assert isinstance(coloured, CursorShape) and coloured.pixels == bytes((3, 2, 1, 255, 7, 8, 9, 255, 0, 0, 0, 0))
    assert isinstance(straight, CursorShape) and straight.pixels == bytes((0, 50, 100, 128, 0, 0, 0, 0))
    assert at == CursorAt(Point(7, 8)) and size == Resized(Size(64, 48))
    assert isinstance(hidden, CursorShape) and hidden.size == Size(0, 0)


@pytest.mark.parametrize("data", [
    vncserver.rect(9, 9, 600, 520, -239, bytes(600 * 520 * 4 + 75 * 520)),
    vncserver.rect(9, 9, 4096, 3, -240, bytes(6 + 2 * 512 * 3)),
    vncserver.rect(9, 9, 3, 4096, -314, bytes(4 + 3 * 4096 * 4)),
])  # fmt: skip
def test_cursor_that_is_too_large_is_an_arrow_and_takes_no_memory(data: bytes) -> None:
    vnc = client()
    whole, most = update(data, vncserver.rect(7, 8, 0, 0, -232)), 0
    for n in range(0, len(whole), 1000):
        received(vnc, whole[n : n + 1000], 0)
        most = max(most, vnc.partial_bytes)
    assert vnc.events() == [CursorShape(Point(0, 0), ARROW_SIZE, ARROW), CursorAt(Point(7, 8))]
    assert most <= DROPPED_AT_ONCE + 1000


# -- asking ----------------------------------------------------------------------------------------

WHOLE = struct.pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
CHANGES = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)
PIXEL = struct.pack(">BBHHHH", 3, 0, 0, 0, 1, 1)


def test_pictures_are_asked_for_while_somebody_watches_and_one_at_a_time() -> None:
    vnc = client()
    said(vnc, update())
    assert vnc.data_to_send() == b""
    vnc.send_watch(0)
    assert vnc.data_to_send() == WHOLE
    vnc.receive(b"\0", 5)
    assert vnc.data_to_send() == CHANGES, "the next one is asked for as soon as one begins"
    vnc.receive(b"\0\0\0", 5)
    assert vnc.data_to_send() == b""
    vnc.send_watch(None)
    said(vnc, update())
    assert vnc.data_to_send() == b"" and vnc.next_timeout() is None
    vnc.send_watch(0)
    assert vnc.data_to_send() == CHANGES + PIXEL, "the server remembers what changed meanwhile"
    vnc.send_watch(None)
    vnc.send_watch(NS_PER_S)
    assert vnc.data_to_send() == PIXEL, "the changes were asked for already"
    said(vnc, update())
    vnc.send_watch(None)
    vnc.send_watch(NS_PER_S)
    assert vnc.data_to_send() == CHANGES + PIXEL, "at once, for who begins to watch"


def test_slow_reader_has_pictures_asked_for_at_its_pace() -> None:
    vnc = client()
    vnc.send_watch(NS_PER_S)
    assert vnc.data_to_send() == WHOLE
    vnc.receive(update(), 5)
    assert vnc.data_to_send() == b"" and vnc.next_timeout() == NS_PER_S
    vnc.handle_timeout(NS_PER_S)
    assert vnc.data_to_send() == CHANGES and vnc.next_timeout() is None


def test_new_size_has_the_whole_picture_asked_for() -> None:
    vnc = client()
    vnc.send_watch(0)
    vnc.data_to_send()
    said(vnc, update(vncserver.rect(0, 0, 64, 48, -223)))
    assert vnc.data_to_send().endswith(struct.pack(">BBHHHH", 3, 0, 0, 0, 64, 48))


# -- input -----------------------------------------------------------------------------------------


def test_keys_are_sent_as_keysyms_or_scan_codes() -> None:
    vnc = client()
    vnc.send_key(0x2A, True)
    vnc.send_key(0x1E, True)
    vnc.send_key(0x400, True)
    assert vnc.data_to_send() == struct.pack(">BBxxI", 4, 1, 0xFFE1) + struct.pack(">BBxxI", 4, 1, ord("A"))
    said(vnc, update(vncserver.rect(0, 0, 0, 0, -258)))
    vnc.send_key(0xC8, True)
    assert vnc.data_to_send() == struct.pack(">BBHII", 255, 0, 1, 0xFF52, 0xC8)
    vnc.send_key(0x15, True, "z")
    assert vnc.data_to_send() == struct.pack(">BBHII", 255, 0, 1, ord("z"), 0x15)
    # A character without a key; the code of a key that it has not.
    vnc.send_key(0, True, "ö")
    assert vnc.data_to_send() == struct.pack(">BBxxI", 4, 1, 0xF6)


def test_pointer_is_sent_as_position_or_movement_as_the_server_wants() -> None:
    vnc = client()
    vnc.send_pointer(Point(10, 20), 0b1, False)
    vnc.send_pointer(Point(5, -5), 0b100010, True)
    vnc.send_pointer(Point(9999, -5), 0, False)
    # The wheel to the left and to the right; the button that goes forward has no bit.
    vnc.send_pointer(Point(0, 0), 0x80, False)
    vnc.send_pointer(Point(0, 0), 0x140, False)
    vnc.send_pointer(Point(WIDTH - 1, 0), 0, False)
    events = [(1, 10, 20), (0x82, 15, 15), (0, WIDTH - 1, 0), (0x20, 0, 0), (0x40, 0, 0), (0, WIDTH - 1, 0)]
    assert vnc.data_to_send() == b"".join(struct.pack(">BBHH", 5, *event) for event in events)
    said(vnc, update(vncserver.rect(0, 0, 0, 0, -257)))
    vnc.send_pointer(Point(-3, 4), 0, True)
    vnc.send_pointer(Point(WIDTH - 1, 0), 0, False)
    moved = [(0, 0x7FFF - 3, 0x7FFF + 4), (0, 0x7FFF + 3, 0x7FFF - 4)]
    assert vnc.relative and vnc.data_to_send() == b"".join(struct.pack(">BBHH", 5, *event) for event in moved)


def test_size_is_asked_for_only_of_a_server_that_can_change_it() -> None:
    vnc = client()
    vnc.send_size(Size(640, 480))
    assert vnc.data_to_send() == b""
    said(vnc, update(vncserver.extended_size(WIDTH, HEIGHT), vncserver.extended_size(9, 9, 1, 3)))
    vnc.send_size(Size(640, 480))
    head = struct.pack(">BxHHBx", 251, 640, 480, 1)
    assert vnc.data_to_send() == head + struct.pack(">IHHHHI", 7, 0, 0, 640, 480, 3)
    assert vnc.events() == [], "a refusal is no size"


# -- wrong and hostile servers ---------------------------------------------------------------------


def zipped(encoding: int, width: int, height: int, data: bytes) -> bytes:
    packed = zlib.compress(data)
    return vncserver.rect(0, 0, width, height, encoding, struct.pack(">I", len(packed)) + packed)


BOMB = zlib.compress(bytes(200_000_000))
WRONG = {
    "beyond the right": vncserver.rect(WIDTH - 5, 0, 6, 1, 0),
    "beyond the bottom": vncserver.rect(0, HEIGHT, 1, 1, 0),
    "copy from beyond": vncserver.copied(0, 0, 20, 20, WIDTH - 19, 0),
    "unknown encoding": vncserver.rect(0, 0, 1, 1, 5),
    "screen too large": vncserver.rect(0, 0, 65_535, 65_535, -223),
    "cursor too large": vncserver.rect(0, 0, 5000, 5000, -239),
    "zlib too long": vncserver.rect(0, 0, 10, 10, 6, struct.pack(">I", 1 << 30)),
    "zlib no zlib": vncserver.rect(0, 0, 10, 10, 6, struct.pack(">I", 5) + b"hello"),
    "zlib bomb": vncserver.rect(0, 0, WIDTH, HEIGHT, 6, struct.pack(">I", len(BOMB)) + BOMB),
    "zlib bomb, small": zipped(6, WIDTH, HEIGHT, bytes(30_000_000)),
    "zlib too short": zipped(6, 10, 10, bytes(399)),
    "zlib empty": zipped(6, 0, 10, b""),
    "zrle bomb": zipped(16, 10, 10, bytes(30_000_000)),
    "zrle too long": zipped(16, 10, 10, b"\1abc" + b"x"),
    "zrle too short": zipped(16, 10, 10, b"\1ab"),
    "zrle unused kind": zipped(16, 10, 10, b"\x11" + bytes(500)),
    "zrle beyond palette": zipped(16, 10, 10, b"\x82abcdef" + b"\2" * 100),
    "zrle packed beyond palette": zipped(16, 10, 10, b"\3" + bytes(9) + b"\xff" * 30),
    "zrle run beyond tile": zipped(16, 10, 10, b"\x80abc\x64"),
    "zrle endless run": zipped(16, 10, 10, b"\x80abc" + b"\xff" * 400),
    "tight kind": vncserver.rect(0, 0, 10, 10, 7, b"\xa0"),
    "tight filter": vncserver.rect(0, 0, 10, 10, 7, b"\x40\3"),
    "tight beyond palette": vncserver.rect(0, 0, 2, 2, 7, b"\x40\1\2" + bytes(9) + b"\0\1\2\3"),
    "tight no zlib": vncserver.rect(0, 0, 10, 10, 7, b"\x00\5hello"),
    "tight jpeg": vncserver.rect(0, 0, 10, 10, 7, b"\x90"),
    "alpha cursor": vncserver.rect(0, 0, 1, 1, -314, b"\0\0\0\7" + bytes(4)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_rectangle_ends_the_connection_without_much_memory(kind: str) -> None:
    vnc = client()
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError) as told:
            said(vnc, update(WRONG[kind]))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(told.value).isprintable() and most < 3_000_000


def test_largest_screen_is_bounded_and_what_it_inflates_to_is_booked_before() -> None:
    with pytest.raises(RemoteProtocolError, match="too large"):
        client(16_384, PIXELS_MAX // 16_384 + 1)
    vnc = client(16, 16_384)
    vnc.receive(update(vncserver.rect(0, 0, 16, 16_384, 16))[:-1], 0)
    assert vnc.partial_bytes < 100
    vnc.receive(update(vncserver.rect(0, 0, 16, 16_384, 16))[-1:], 0)
    assert vnc.partial_bytes > 16 * 16_384 * 4


def test_endless_update_is_passed_on_in_parts() -> None:
    """65,535 whole screens in one colour are a megabyte: painted at once, they would take a minute."""
    vnc = client(1920, 1080)
    fill = vncserver.rect(0, 0, 1920, 1080, 7, b"\x80abc")
    vnc.receive(struct.pack(">BxH", 0, 0xFFFF) + fill * 100, 0)
    painted = [
        sum(part.rect.area for part in event.parts) for event in said(vnc, b"").events() if isinstance(event, Update)
    ]
    assert max(painted) * 4 <= HELD_MAX + 1920 * 1080 * 4
    assert sum(painted) > 1920 * 1080 * 80


def test_long_decoding_is_interrupted() -> None:
    vnc = client(400, 400)
    picture = noise(400, 400, 3, 2)
    vnc.receive(update(Streams().zrle(0, 0, picture, ["runs"])), 0)
    calls = 1
    while vnc.unfinished:
        vnc.receive(b"", 0)
        calls += 1
    assert calls > 2


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((0, 1, 6, 7, 16, -239, -240, -314, -308, -224)), st.binary(max_size=80), st.booleans())
def test_any_bytes_of_any_encoding_end_at_most_the_connection(encoding: int, data: bytes, packed: bool) -> None:
    vnc = client(70, 70)
    body = data
    if packed and encoding in (6, 16):
        body = zlib.compress(data)
        body = struct.pack(">I", len(body)) + body
    try:
        said(vnc, update(vncserver.rect(0, 0, 66, 65, encoding, body)))
    except RemoteProtocolError as error:
        assert str(error).isprintable()


def test_parts_can_be_used_alone() -> None:
    work = Work()
    assert issubclass(VncClient, VncLogin) and Pictures(work).size == Size(0, 0)
    assert zrle.inflated_max(1, 1) == 4 + 382 and cursors.mask_bytes(Size(9, 2)) == 4
    stream, packed = inflate.Inflater(work), zlib.compress(b"abc")
    stream.begin(len(packed))
    reading = stream.read(2)
    assert next(reading) == len(packed) and not work.spent
    with pytest.raises(StopIteration) as done:
        reading.send(packed)
    assert done.value.value == b"ab" and 0 < work.spent < WORK_MAX
    with pytest.raises(RemoteProtocolError, match="more"):
        next(stream.end())
    assert min(gradient.undo_gradient(np.zeros((99, 99, 4), np.uint8))) > gradient.DIAGONAL_WORK
    assert tight.STREAMS == 4
