"""Where videos of a machine lie over the picture, on the wire and in the viewer."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from millrace.client.canvas import Canvas, Decoder
from millrace.client.steps import Paint, Undecodable
from millrace.client.videos import Videos
from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import EMPTY, Rect, Size
from millrace.wire.peer.overlays import OVERLAYS_MAX, VISIBLE_MAX, Place, pack_overlays, placeable, unpack_overlays
from millrace.wire.peer.pictures import VIDEO_KEY, Part, PartType, Piece, check_part, pack_piece, unpack_piece
from tests.films import clip

WHOLE = Rect(0, 0, 200, 100)
SIZE = Size(64, 48)
AT = Rect(20, 10, 64, 48)


def frame(data: bytes, number: int = 1) -> Part:
    return Part(PartType.FRAME, EMPTY, data, number, 0, 0 if data[0] & 1 else VIDEO_KEY)


def lying(*places: Place) -> Part:
    return Part(PartType.OVERLAYS, EMPTY, pack_overlays(places))


def test_places_survive_the_wire() -> None:
    places = (
        Place(1, Rect(-30, -8, 90, 40), (Rect(0, 0, 60, 32),)), Place(32_767, AT, ()),
        Place(9, AT, (Rect(20, 10, 4, 4), Rect(30, 20, 1, 1))),
    )  # fmt: skip
    assert unpack_overlays(pack_overlays(places), WHOLE) == places and unpack_overlays(b"", WHOLE) == ()
    piece = Piece(1, 0, (frame(b"\0film", 7), lying(*places), lying()))
    (first, second, third) = unpack_piece(pack_piece(piece)).parts  # type: ignore[union-attr]
    assert (first.dx, bytes(first.data), first.flags) == (7, b"\0film", VIDEO_KEY)
    assert unpack_overlays(second.data, WHOLE) == places and not third.data
    for part in piece.parts:
        check_part(part, WHOLE)
    with pytest.raises(RemoteProtocolError, match="without bytes"):
        check_part(Part(PartType.FRAME, EMPTY), WHOLE)


@pytest.mark.parametrize(
    "data",
    [
        pack_overlays([Place(1, AT, (AT,))])[:-1],
        pack_overlays([Place(1, AT, ())])[:-1],
        pack_overlays([Place(1, Rect(0, 0, 300, 50), (Rect(150, 0, 60, 10),))]),
        pack_overlays([Place(1, AT, (Rect(10, 10, 20, 4),))]),
        pack_overlays([Place(1, AT, (Rect(20, 10, 0, 4),))]),
        pack_overlays([Place(1, Rect(0, 0, 0, 5), ())]),
        pack_overlays([Place(1, Rect(0, 0, 65_535, 65_535), ())]),
        pack_overlays([Place(1, Rect(0, 0, 4_096, 2_049), ())] * 2),
        pack_overlays([Place(1, AT, ())] * (OVERLAYS_MAX + 1)),
        pack_overlays([Place(1, AT, (Rect(20, 10, 1, 1),) * 600)] * 2),
        struct.pack("<HHhhHH", 1, 65_535, 0, 0, 10, 10),
    ],
)
def test_places_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="overlay"):
        unpack_overlays(data, WHOLE)


def test_parts_that_would_be_drawn_again_and_again_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="overlays of 16800000 pixels"):
        unpack_overlays(pack_overlays([Place(1, WHOLE, (WHOLE,) * 840)]), WHOLE)


def test_as_many_as_are_allowed_are_taken() -> None:
    visible = (Rect(20, 10, 1, 1),) * (VISIBLE_MAX // OVERLAYS_MAX)
    places = tuple(Place(n, AT, visible) for n in range(OVERLAYS_MAX))
    assert unpack_overlays(pack_overlays(places), WHOLE) == places
    large = (Place(1, Rect(0, 0, 4_096, 2_048), (WHOLE,)),) * 2
    assert unpack_overlays(pack_overlays(large), WHOLE) == large
    assert placeable(AT) and placeable(Rect(-32_768, 32_767, 4_096, 4_096))
    for at in (Rect(-32_769, 0, 9, 9), Rect(0, 32_768, 9, 9), Rect(0, 0, 70_000, 9), Rect(0, 0, 4_097, 4_096), EMPTY):
        assert not placeable(at)


def drawn(decoder: Decoder, canvas: Canvas, *parts: Part) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    canvas.apply(decoder.steps(parts))
    return canvas.pixels[:, :, :3].copy()


def seeing() -> tuple[Decoder, Canvas]:
    decoder, canvas = Decoder(), Canvas()
    decoder.resize(Size(200, 100))
    canvas.resize(Size(200, 100))
    return decoder, canvas


def test_newest_frame_is_drawn_where_it_is_visible() -> None:
    (decoder, canvas), frames = seeing(), clip(SIZE, 3)
    nothing = drawn(decoder, canvas, frame(frames[0]))
    assert not nothing.any(), "it lies nowhere yet"
    shown = drawn(decoder, canvas, lying(Place(1, AT, (Rect(20, 10, 30, 48),))))
    assert shown[10:58, 20:50].any() and not shown[:, 50:].any() and not shown[:10].any()
    other = drawn(decoder, canvas, frame(frames[1]), frame(frames[2]))
    assert (other[10:58, 20:50] != shown[10:58, 20:50]).any() and not other[:, 50:].any()
    # What is drawn below it does not show through, and what is drawn beside it leaves it alone.
    below = Part(PartType.RAW, Rect(0, 0, 40, 100), bytes([9]) * 40 * 100 * 4)
    after = drawn(decoder, canvas, below)
    assert (after[10:58, 20:50] == other[10:58, 20:50]).all() and (after[:, :20] == 9).all()
    elsewhere = drawn(decoder, canvas, lying(Place(1, AT.moved(100, 0), (AT.moved(100, 0),))))
    assert (elsewhere[10:58, 120:150] == other[10:58, 20:50]).all()
    gone = drawn(decoder, canvas, lying(), frame(frames[0]))
    assert (gone == elsewhere).all()


def test_frame_fills_a_place_of_another_size() -> None:
    (decoder, canvas), (key,) = seeing(), clip(SIZE, 1)
    at = Rect(0, 0, 128, 96)
    large = drawn(decoder, canvas, frame(key), lying(Place(1, at, (at,))))[:96, :128]
    small = drawn(decoder, canvas, lying(Place(1, Rect(0, 0, 64, 48), (Rect(0, 0, 64, 48),))))[:48, :64]
    assert np.abs(large[::2, ::2].astype(int) - small).mean() < 8


def test_damaged_frame_needs_another_key_frame() -> None:
    (decoder, canvas), frames = seeing(), clip(SIZE, 6, keys=4)
    for bad in (frames[1], b"\x10\0\0\x9d\x01\x2a" + b"\xff" * 20):
        with pytest.raises(Undecodable):
            drawn(decoder, canvas, frame(bad))
    with pytest.raises(Undecodable, match="without its beginning"):
        drawn(decoder, canvas, frame(frames[2]))
    assert drawn(decoder, canvas, frame(frames[4]), lying(Place(1, AT, (AT,)))).any()
    with pytest.raises(Undecodable, match="overlay"):
        drawn(decoder, canvas, Part(PartType.OVERLAYS, EMPTY, b"\1"))


def test_another_picture_begins_without_overlays_and_decoders_are_few() -> None:
    videos, frames = Videos(), clip(SIZE, 2)
    videos.resize(Size(400, 200))
    assert videos.steps([frame(frames[0]), lying(Place(1, AT, (AT,)))], [])
    videos.resize(Size(400, 200))
    assert not videos.steps([frame(frames[1])], [])
    for number in range(2, OVERLAYS_MAX + 2):
        videos.steps([frame(frames[0], number)], [])
    with pytest.raises(Undecodable, match="without its beginning"):
        videos.steps([frame(frames[1], 1)], [])
    (step,) = videos.steps([frame(frames[1], 9), lying(Place(9, AT, (AT,)))], [])
    assert isinstance(step, Paint) and step.at == AT


def test_visible_parts_are_copies_that_keep_no_frame() -> None:
    videos, (key,) = Videos(), clip(SIZE, 1)
    videos.resize(Size(200, 100))
    for at in (AT, Rect(0, 0, 200, 100)):
        corner = Rect(at.x, at.y, at.width, 1)
        some, whole = (
            videos.steps([frame(key), lying(Place(1, at, (rect,)))], []) for rect in (corner, at)
        )  # fmt: skip
        for steps, kept in ((some, corner), (whole, at)):
            (step,) = steps
            assert isinstance(step, Paint) and step.at == kept
            base = step.pixels
            while isinstance(base.base, np.ndarray):
                base = base.base
            assert base.nbytes == kept.area * 4, "so a picture that waits is no larger than it is counted"


def test_videos_of_hidden_frames_count_by_their_key_frames() -> None:
    videos, (key,) = Videos(), clip(Size(200, 100), 1)
    hidden = bytes([key[0] & ~16]) + key[1:]
    videos.resize(Size(200, 100))
    for number in range(1, 7):
        assert not videos.steps([frame(hidden, number)], [])
    assert list(videos._videos) == [3, 4, 5, 6]
    # A large frame that is still shown counts, however small the key frames after it are.
    (small,) = clip(Size(16, 16), 1)
    for number in range(1, 7):
        videos.steps([frame(key, number), frame(bytes([small[0] & ~16]) + small[1:], number)], [])
    assert list(videos._videos) == [3, 4, 5, 6]


def test_frames_of_all_videos_together_are_bounded() -> None:
    videos, (key,) = Videos(), clip(Size(200, 100), 1)
    videos.resize(Size(200, 100))
    for number in range(1, 7):
        videos.steps([frame(key, number)], [])
    assert list(videos._videos) == [3, 4, 5, 6]
