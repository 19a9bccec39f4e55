"""SPICE's display, cursor and inputs channels: what is understood, refused, or said to be unknown."""

from __future__ import annotations

import random
import struct
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import CodecError, PeerLost, RemoteProtocolError
from millrace.pixels.rects import Point, Rect
from millrace.units import NS_PER_MS
from millrace.wire.spice.channel import ANSWER_NS, PICTURE_MAX, ChannelKind, SpiceChannel, SpiceMessage
from millrace.wire.spice.cursor import SpiceCursor
from millrace.wire.spice.display import (
    PICTURE_NS,
    SETTLED_NS,
    Forget,
    Heads,
    Mark,
    ReportWanted,
    SpiceDisplay,
    StreamClip,
    StreamCreate,
    StreamData,
    StreamDestroy,
    StreamReport,
    SurfaceCreate,
    SurfaceDestroy,
    display_event,
)
from millrace.wire.spice.draws import PATTERN, SOURCE, THERE, Blended, Clip, Copied, Keyed, Raster, Unknown, rop3_of
from millrace.wire.spice.images import Image, NotUnderstood, decoding, read_image
from millrace.wire.spice.inputs import SpiceInputs
from millrace.wire.spice.lz import CODE_COST, CODES, PIECE_BYTES, LzDecoder
from tests.fuzz import seeds
from tests.fuzz import spiceserver as server
from tests.spicewire import BOX, display, event_of, linked, noise, reply, sent, ticket


def decode_lz(data: bytes, width: int, height: int) -> server.Pixels:
    decoder = LzDecoder(data, width, height)
    while decoder.step():
        pass
    return decoder.pixels()


# -- LZ ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 4, 256])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("top_down", [False, True])
def test_lz_pictures_are_decoded(levels: int, alpha: bool, top_down: bool) -> None:
    picture = noise(61, 23, levels, levels)
    if alpha:
        picture[:, :, 3] = np.arange(61)
    assert (decode_lz(server.lz(picture, alpha, top_down), 61, 23) == picture).all()


def test_lz_matches_of_every_length_and_distance_are_decoded() -> None:
    rng = random.Random(4)
    first = noise(20_000, 1, 5)
    pixels = [bytes(pixel[:3]) for pixel in first[0]]
    codes = bytearray(server.packed(pixels, 1))
    for length, back in ((0, 0), (5, 1), (6, 2), (260, 0), (261, 8190), (516, 8191), (3, 19_000), (1000, 255 << 5)):
        codes += server.match(length, back)
        begin = len(pixels) - back - 1
        for n in range(length + 1):
            pixels.append(pixels[begin + n])
    pixels += [bytes(rng.randrange(256) for _ in range(3)) for _ in range(7)]
    codes += bytes((6,)) + b"".join(pixels[-7:])
    head = struct.pack(">7I", 0x20205A4C, 0x10001, 8, len(pixels), 1, 0, 1)
    out = decode_lz(head + bytes(codes), len(pixels), 1)
    assert out[0, :, :3].tobytes() == b"".join(pixels)


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        (b"", "truncated"),
        (b"\x03" + bytes(11), "truncated|fewer"),
        (b"\x20\x00", "outside of it"),
        (b"\x00abc\x20\x01", "outside of it"),
        (b"\x00abc\xe0" + b"\xff" * 8, "outside of it"),
        (b"\x00abc\xe0", "truncated"),
        (b"\x00abc\xe0\xff\xff\x00\x00", "outside of it"),
        (b"\x0f" + bytes(48), "more pixels"),
    ],
)
def test_lz_pictures_that_are_damaged_are_refused(codes: bytes, why: str) -> None:
    head = struct.pack(">7I", 0x20205A4C, 0x10001, 8, 4, 2, 16, 1)
    with pytest.raises(RemoteProtocolError, match=why):
        decode_lz(head + codes, 4, 2)


@pytest.mark.parametrize(("at", "value"), [(0, 1), (4, 2), (8, 5), (12, 5), (16, 3)])
def test_lz_header_is_checked(at: int, value: int) -> None:
    data = bytearray(server.lz(noise(4, 2)))
    struct.pack_into(">I", data, at, value)
    with pytest.raises(RemoteProtocolError):
        decode_lz(bytes(data), 4, 2)
    with pytest.raises(RemoteProtocolError, match="truncated"):
        decode_lz(bytes(data[:20]), 4, 2)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 9), st.integers(1, 9))
def test_any_lz_codes_are_decoded_or_refused(codes: bytes, width: int, height: int) -> None:
    head = struct.pack(">7I", 0x20205A4C, 0x10001, random.Random(len(codes)).choice((7, 8, 9)), width, height, 0, 1)
    try:
        assert decode_lz(head + codes, width, height).shape == (height, width, 4)
    except RemoteProtocolError:
        return


# -- images ----------------------------------------------------------------------------------------


def decoded(image: Image) -> server.Pixels:
    steps = decoding(image)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast(server.Pixels, done.value)


def image_of(data: bytes) -> server.Pixels:
    image = read_image(b"\0" + data, 1)
    assert image is not None
    return decoded(image)


def test_bitmaps_of_every_depth_are_decoded() -> None:
    colours = (0x112233, 0x445566, 0x778899, 0xAABBCC)
    picture = noise(6, 3)
    assert (image_of(server.bitmap(picture)) == picture).all()
    assert (image_of(server.bitmap(picture, top_down=False)) == picture).all()
    for form, rows in (
        (1, bytes((0b0000_0010, 0b1))), (2, bytes((0b0100_0000, 0b1000_0000))),
        (3, bytes((0x10, 0x00, 0x01, 0x00))), (4, bytes((0x01, 0x00, 0x10, 0x00))),
        (5, bytes((0, 1, 0, 0, 1, 0, 0, 0))),
    ):  # fmt: skip
        out = image_of(server.paletted(form, rows, 4, 2, len(rows) // 2, colours, 1))
        wanted = np.array([[0, 1, 0, 0], [1, 0, 0, 0]])
        assert (out[:, :, 0] == np.where(wanted, 0x66, 0x33)).all() and (
            out[:, :, 2] == np.where(wanted, 0x44, 0x11)
        ).all()
    deep = struct.pack("<BBIIII", 7, 4, 2, 1, 6, 0) + b"abcdef"
    assert image_of(server.image(0, 2, 1, deep))[0, :, :3].tobytes() == b"abcdef"
    words = struct.pack("<BBIIII", 6, 4, 2, 1, 4, 0) + struct.pack("<HH", 0x7FFF, 0x7C00)
    assert image_of(server.image(0, 2, 1, words))[0, :, :3].tolist() == [[255, 255, 255], [0, 0, 255]]
    mask = struct.pack("<BBIIII", 10, 4, 2, 1, 2, 0) + b"\x07\x08"
    assert image_of(server.image(0, 2, 1, mask))[0, :, 3].tolist() == [7, 8]


def test_images_that_are_not_implemented_are_named_and_damaged_ones_refused() -> None:
    for kind, name in ((1, "QUIC"), (102, "GLZ_RGB"), (109, "LZ4"), (55, "55")):
        with pytest.raises(NotUnderstood, match=f"compressed as {name}"):
            image_of(server.image(kind, 2, 2, bytes(20)))
    kept = struct.pack("<BBIIIQ", 5, 6, 2, 1, 2, 9) + b"\0\1"
    with pytest.raises(NotUnderstood, match="palette"):
        image_of(server.image(0, 2, 1, kept))
    whole = server.bitmap(noise(6, 3))
    for damaged in (
        whole[:10], whole[:-1], server.image(0, 0, 5), server.image(0, 1 << 20, 1 << 20),
        server.image(101, 2, 2, b"\xff" * 4),
        server.image(0, 6, 3, struct.pack("<BBIIII", 8, 4, 6, 3, 23, 0) + bytes(999)),
        server.image(0, 6, 3, struct.pack("<BBIIII", 99, 4, 6, 3, 24, 0) + bytes(999)),
    ):  # fmt: skip
        with pytest.raises(RemoteProtocolError):
            image_of(damaged)


# -- drawings --------------------------------------------------------------------------------------


def test_drawings_are_understood() -> None:
    picture = noise(40, 20)
    copy = event_of(server.draw_copy(BOX, server.bitmap(picture), parts=[Rect(0, 0, 10, 10), Rect(30, 10, 50, 50)]))
    assert isinstance(copy, Raster) and copy.rop3 == SOURCE and copy.base.box == BOX
    assert copy.base.parts == (Rect(3, 5, 7, 5), Rect(30, 10, 13, 15))
    assert copy.image is not None and (decoded(copy.image) == picture).all()
    fill = event_of(server.draw_fill(BOX, 0x112233))
    assert isinstance(fill, Raster) and (fill.rop3, fill.colour, fill.image) == (PATTERN, 0x112233, None)
    assert [event_of(server.plain(kind, BOX)).rop3 for kind in (306, 307, 308)] == [0x00, 0xFF, 0x55]
    moved = event_of(server.copy_bits(BOX, 3, 9))
    assert isinstance(moved, Copied) and moved.origin == Point(3, 9)
    over = event_of(server.draw_blended(BOX, server.bitmap(picture), 128))
    assert isinstance(over, Blended) and over.alpha == 128
    seen = event_of(server.draw_keyed(BOX, server.bitmap(picture), 0x123456))
    assert isinstance(seen, Keyed) and seen.colour == 0x123456


def test_rop_descriptors_become_truth_tables() -> None:
    """Those that Windows has names for: SRCPAINT, SRCAND, SRCINVERT, NOTSRCCOPY, SRCERASE, MERGEPAINT and others."""
    known = {16: 0xEE, 32: 0x88, 64: 0x66, 8 | 1: 0x33, 32 | 4: 0x44, 16 | 1: 0xBB, 128: 0x00, 256: 0xFF, 512: 0x55}
    for descriptor, table in known.items():
        assert rop3_of(descriptor, SOURCE, THERE) == table
    assert rop3_of(64, PATTERN, THERE) == 0x5A and rop3_of(8 | 1024, PATTERN, THERE) == 0x0F
    assert rop3_of(64, PATTERN, SOURCE) == PATTERN ^ SOURCE


def test_drawings_that_are_not_implemented_say_what_they_are() -> None:
    picture = server.bitmap(noise(40, 20))
    pattern = server.base(BOX) + b"\2" + bytes(40)
    masked = bytearray(server.draw_copy(BOX, picture)[6:])
    struct.pack_into("<I", masked, 21 + 4 + 16 + 3 + 9, 21)
    for data, why in (
        (server.message(311, server.base(BOX) + bytes(80)), "text"), (server.message(310, server.base(BOX)), "lines"),
        (server.message(302, pattern), "pattern"), (server.message(304, bytes(masked)), "mask"),
        (server.draw_copy(BOX, picture, rop=0), "rop descriptor"),
    ):  # fmt: skip
        event = event_of(data)
        assert isinstance(event, Unknown) and why in event.why and event.base is not None and event.base.box == BOX


def test_invalid_drawings_are_refused() -> None:
    picture = server.bitmap(noise(40, 20))
    for data in (
        server.draw_copy(BOX, picture, Rect(1, 0, 40, 20)), server.draw_copy(BOX, picture, Rect(0, 0, 0, 20)),
        server.draw_copy(BOX, picture)[:-3201], server.draw_copy(BOX, b""), server.draw_fill(BOX, 0, parts=[BOX, BOX]),
        server.message(304, server.base(BOX)[:-1] + b"\7"),
        server.message(302, server.base(BOX)[:-1] + b"\1\xff\xff\xff\xff"),
    ):  # fmt: skip
        with pytest.raises(RemoteProtocolError):
            event_of(data)


# -- the display channel ---------------------------------------------------------------------------


def test_near_server_is_asked_for_plain_pictures_and_a_remote_one_for_lz() -> None:
    for near, asked in ((True, 1), (False, 6)):
        first, init = sent(display(near=near))
        assert first == (103, bytes((asked,))) and init[0] == 101 and len(init[1]) == 14
    assert [kind for kind, _ in sent(linked(SpiceDisplay(7, 0, "", ticket, 0), 0))] == [101]


def test_codecs_are_asked_for_once_the_server_has_begun_with_this_client() -> None:
    # Before that, spice-server 0.15.1 dereferences a null pointer if a video runs (test_tablet.py attaches to one).
    wire = display()
    assert 105 not in {kind for kind, _ in sent(wire)}
    for others in ((105, bytes((2, 2, 1))),), ():
        wire.receive(server.surface(64, 32), 1_000)
        assert tuple(sent(wire)) == others, "once"
    old = linked(SpiceDisplay(7, 0, "", ticket, 0), 0)
    sent(old)
    old.receive(server.surface(64, 32), 1_000)
    assert not sent(old), "an old server doesn't know the message"


def test_link_names_the_display_and_what_it_can_do() -> None:
    link = SpiceDisplay(7, 2, "", ticket, 0).data_to_send()
    assert struct.unpack_from("<IBB", link, 16) == (7, 2, 2)
    caps = struct.unpack_from("<I", link, 38)[0]
    assert caps >> 10 & 1 and caps >> 12 & 1 and not caps >> 2 & 0b11, "VP8, preferred codecs; no composition, no alpha"


def test_events_wait_until_nothing_more_comes() -> None:
    wire = display()
    wire.receive(server.surface(64, 32), 1_000)
    wire.receive(server.draw_copy(BOX, server.bitmap(noise(40, 20))), 2_000)
    assert not wire.events() and wire.partial_bytes > 40 * 20 * 4
    assert wire.next_timeout() == 2_000 + SETTLED_NS
    wire.handle_timeout(1_999 + SETTLED_NS)
    assert not wire.events()
    wire.handle_timeout(2_000 + SETTLED_NS)
    created, drawn = wire.events()
    assert isinstance(created, SurfaceCreate) and created.primary and isinstance(drawn, Raster)
    assert wire.next_timeout() is None and not wire.partial_bytes and wire.arrived_ns == 2_000
    for n in range(20):
        wire.receive(server.draw_fill(BOX, n), n * NS_PER_MS)
        due_ns = wire.next_timeout()
        assert due_ns is not None and due_ns <= PICTURE_NS
    large = server.draw_copy(Rect(0, 0, 2000, 2100), server.bitmap(np.zeros((2100, 2000, 4), np.uint8)))
    wire.receive(large, 20 * NS_PER_MS)
    assert len(wire.events()) == 21 and not wire.unfinished, "much is not withheld"


def test_events_are_taken_one_by_one_and_what_waits_is_charged() -> None:
    wire = display()
    fill = server.draw_fill(Rect(0, 0, 1024, 1024), 7)
    wire.receive(fill * 7, 0)
    waiting = wire.partial_bytes
    wire.handle_timeout(SETTLED_NS)
    for n in range(7):
        due_ns = wire.next_timeout()
        assert due_ns is not None and due_ns > SETTLED_NS
        wire.handle_timeout(due_ns)
        assert isinstance(wire.take(), Raster)
        assert wire.partial_bytes == waiting - waiting // 7 * n, "what was taken last is still in use"
    assert wire.unfinished is False and wire.take() is None and not wire.partial_bytes and wire.next_timeout() is None
    wire.painting = True
    assert wire.unfinished and wire.next_timeout() is not None


def test_clips_and_names_are_charged_as_the_objects_that_they_become() -> None:
    parts = [Rect(n % 64 * 2, n // 64 * 2, 1, 1) for n in range(4096)]
    for message, least in (
        (server.draw_fill(Rect(0, 0, 128, 128), 1, parts=parts), 4096 * 16 * 10),
        (server.message(105, struct.pack("<H", 9000) + bytes(9 * 9000)), 9000 * 48),
    ):
        wire = display()
        wire.receive(message, 0)
        assert wire.partial_bytes > least


def test_a_step_of_an_lz_picture_does_not_depend_on_its_codes() -> None:
    picture = noise(512, 400)
    decoder, costs = LzDecoder(server.lz(picture), 512, 400), list[int]()
    while cost := decoder.step():
        costs.append(cost)
    assert (decoder.pixels() == picture).all()
    assert len(costs) > 512 * 400 // 32 // CODES and max(costs) <= (CODES + 1) * CODE_COST + PIECE_BYTES
    side = 2048
    head = struct.pack(">7I", 0x20205A4C, 0x10001, 8, side, side, 0, 1)
    decoder = LzDecoder(head + b"\0abc" + server.match(side * side - 2, 0), side, side)
    steps = 0
    while decoder.step():
        steps += 1
    assert steps >= side * side * 3 // PIECE_BYTES, "one code asks for the whole picture"
    assert (decoder.pixels()[:, :, :3] == tuple(b"abc")).all()


def test_lz_length_without_end_is_refused_at_once() -> None:
    head = struct.pack(">7I", 0x20205A4C, 0x10001, 8, 64, 64, 0, 1)
    with pytest.raises(RemoteProtocolError, match="outside of it"):
        LzDecoder(head + b"\0abc\xe0" + b"\xff" * (1 << 20), 64, 64).step()


def test_other_messages_of_a_display_are_understood() -> None:
    place = Rect(8, 4, 32, 16)
    assert event_of(server.destroy(3)) == SurfaceDestroy(3)
    assert event_of(server.heads(Rect(0, 0, 640, 480), place)) == Heads((Rect(0, 0, 640, 480), place))
    assert event_of(server.message(102)) == Mark()
    assert event_of(server.message(105, struct.pack("<HBQBQ", 2, 1, 77, 1, 78))) == Forget((77, 78))
    assert event_of(server.message(106, bytes(1))) == Forget(None)
    made = event_of(server.stream_create(5, place, 2, [Rect(0, 0, 20, 8)], Rect(0, 0, 64, 32)))
    assert isinstance(made, StreamCreate)
    assert made == StreamCreate(5, 0, 2, True, 64, 32, place, made.clip)
    assert made.clip.within(place) == (Rect(8, 4, 12, 4),)
    assert event_of(server.stream_data(5, 9, b"abc")) == StreamData(5, 9, b"abc")
    sized = event_of(server.stream_data_sized(5, 9, place, Rect(0, 0, 64, 32), b"abc"))
    assert sized == StreamData(5, 9, b"abc", 64, 32, place)
    assert event_of(server.message(124, struct.pack("<I", 5) + server.clip(None))) == StreamClip(5, Clip())
    clipped = event_of(server.message(124, struct.pack("<I", 5) + server.clip([place])))
    assert isinstance(clipped, StreamClip) and clipped.clip.within(place.around(Rect(0, 0, 99, 99))) == (place,)
    assert Clip().within(place) == (place,) and Clip(b"").within(place) == () == Clip().within(Rect(0, 0, 0, 9))
    assert event_of(server.message(125, struct.pack("<I", 5))) == StreamDestroy(5)
    assert event_of(server.message(126)) == StreamDestroy(None)
    assert event_of(server.message(319, struct.pack("<4I", 5, 6, 7, 8))) == ReportWanted(5, 6, 7, 8)
    assert event_of(server.message(320)) is None
    wire = display()
    sent(wire)
    wire.send_report(StreamReport(5, 6, 100, 200, 7, 0, -3))
    assert sent(wire) == [(102, struct.pack("<IIIIIIiI", 5, 6, 100, 200, 7, 0, -3, 0xFFFFFFFF))]


def test_impossible_surfaces_and_streams_are_refused() -> None:
    for data in (
        server.surface(0, 5), server.surface(1 << 16, 1 << 16), server.message(317, struct.pack("<HH", 99, 99)),
        server.stream_create(1, BOX, size=Rect(0, 0, 1 << 16, 1 << 16)), server.stream_data(1, 0, b"abc")[:-1],
        server.message(123, struct.pack("<III", 1, 0, 99)), server.message(105, b"\xff\xff"),
        server.stream_data_sized(1, 0, BOX, Rect(0, 0, 0, 9), b""),
    ):  # fmt: skip
        with pytest.raises(RemoteProtocolError):
            event_of(data)
    assert isinstance(event_of(server.surface(4, 4, 1, 16)), Unknown)
    with pytest.raises(RemoteProtocolError, match="at most"):
        display().receive(struct.pack("<HI", 304, PICTURE_MAX + 1), 0)


def test_link_must_be_accepted_in_time() -> None:
    for wire in (
        SpiceDisplay(7, 0, "", ticket, 5), SpiceCursor(7, 0, "", ticket, 5), SpiceInputs(7, "", ticket, 5)
    ):  # fmt: skip
        assert wire.next_timeout() == 5 + ANSWER_NS
        with pytest.raises(PeerLost):
            wire.handle_timeout(5 + ANSWER_NS)
        assert linked(wire).next_timeout() is None


def test_offered_capabilities_are_those_of_the_channel() -> None:
    channel = SpiceChannel(ChannelKind.DISPLAY, 1, 0, "", ticket, 0)
    channel.receive(reply(1 << 6), 0)
    assert channel.offers(6) and not channel.offers(0) and not channel.offers(38)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from((*range(101, 127), *range(302, 320))), st.binary(max_size=120))
def test_any_display_message_is_understood_skipped_or_refused(kind: int, body: bytes) -> None:
    try:
        event = display_event(SpiceMessage(kind, body))
        if isinstance(event, Raster) and event.image is not None:
            decoded(event.image)
    except (RemoteProtocolError, NotUnderstood):
        return


# -- keys and pointer --------------------------------------------------------------------------------


def test_codec_names_what_is_no_picture() -> None:
    from millrace.codec.video import PictureDecoder, jpeg_size, vp8_key, vp8_size

    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00", b"GIF89a", b"\xff\xd8\xff\xe0\0\2" * 3):
        with pytest.raises(CodecError):
            jpeg_size(data)
    assert vp8_key(bytes(1)) and not vp8_key(b"\1") and not vp8_key(b"")
    assert vp8_size(b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 360 | 1 << 14)) == (640, 360)
    with pytest.raises(CodecError):
        vp8_size(bytes(10))
    large = b"\xff\xd8\xff\xff\xc0\0\x11\x08" + struct.pack(">HH", 65_500, 65_500) + bytes(9)
    with pytest.raises(CodecError, match="pixels at most"):
        PictureDecoder("jpeg", 1 << 20).decode(large)
    with pytest.raises(CodecError, match="empty"):
        PictureDecoder("vp8", 1 << 20).decode(b"")
    with pytest.raises(CodecError, match="vp8"):
        PictureDecoder("vp8", 1 << 20).decode(b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 64, 64) + b"\xff" * 3)


def test_seeds_of_a_server_are_understood() -> None:
    for session in seeds.spice_display():
        wire = display()
        for part in session:
            wire.receive(part, 0)
        assert wire.next_timeout() is not None
