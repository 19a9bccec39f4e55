"""A viewer's pixels: every kind of part gives the picture that was sent; damage asks for a key picture."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from backports import zstd
from PIL import Image

from millrace.client.canvas import Canvas, Decoder, blend
from millrace.client.incoming import is_quick
from millrace.client.steps import CursorShape, Undecodable, step_bytes
from millrace.codec import yuv
from millrace.codec.avvideo import video_encoder
from millrace.codec.palette import Palettes
from millrace.pixels.rects import Rect, Size
from millrace.sim.desktop import Desktop
from millrace.wire.peer.pictures import Part, PartType

SIZE = Size(720, 520)
WHOLE = Rect(0, 0, 720, 520)
AT = Rect(33, 21, 150, 99)
SECOND = 400 * 86_400 * 10**9


def desktop(scene: str = "film") -> Desktop:
    made = Desktop(SIZE, scene)
    made.paint(SECOND)
    return made


def cut(picture: np.ndarray, at: Rect) -> np.ndarray:
    return np.ascontiguousarray(picture[at.y : at.bottom, at.x : at.right])


def still(kind: str, pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[:, :, 2::-1])).save(out, kind, **options)
    return out.getvalue()


class Encoder:
    """libx264 or libvpx as a daemon might run them."""

    def __init__(self, codec: str) -> None:
        self.codec: Any = av.CodecContext.create(codec, "w")
        self.codec.width, self.codec.height, self.codec.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
        self.codec.time_base, self.codec.thread_count = Fraction(1, 30), 1
        slow = {"preset": "ultrafast", "tune": "zerolatency", "qp": "8"}
        fast = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "crf": "4", "b": "20M"}
        self.codec.options = slow if codec == "libx264" else fast
        self.count = 0

    def encode(self, picture: np.ndarray) -> bytes:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgra").reformat(format="yuv420p")
        frame.pts, self.count = self.count, self.count + 1
        (packet,) = self.codec.encode(frame)
        return bytes(packet)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one[:, :, :3].astype(int) - other[:, :, :3]).mean())


def of_few_colours(pixels: np.ndarray) -> bytes:
    data = Palettes(zstd.compress).encode(pixels)
    assert data is not None
    return data


FOUR = bytes((3, *range(12)))
EXACT = {
    PartType.RAW: lambda pixels: pixels.tobytes(),
    PartType.ZSTD: lambda pixels: zstd.compress(pixels.tobytes()),
    PartType.PNG: lambda pixels: still("PNG", pixels),
    PartType.PALETTE: lambda pixels: of_few_colours(pixels),
}


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_rectangles_arrive_exactly_and_nothing_beside_them(kind: PartType) -> None:
    picture, canvas, decoder = desktop().picture, Canvas(), Decoder()
    canvas.resize(SIZE)
    decoder.resize(SIZE)
    steps = decoder.steps([Part(kind, AT, EXACT[kind](cut(picture, AT)))])
    assert step_bytes(steps) == AT.area * 4
    assert canvas.apply(steps) == [AT]
    assert np.array_equal(cut(canvas.pixels, AT)[:, :, :3], cut(picture, AT)[:, :, :3])
    canvas.pixels[AT.y : AT.bottom, AT.x : AT.right] = 0
    assert not canvas.pixels.any()


def test_a_jpeg_is_near() -> None:
    picture, canvas = desktop().picture, Canvas()
    canvas.resize(SIZE)
    at = Rect(100, 200, 200, 100)
    canvas.apply(Decoder().steps([Part(PartType.JPEG, at, still("JPEG", cut(picture, at), quality=90))]))
    assert difference(cut(canvas.pixels, at), cut(picture, at)) < 4


@pytest.mark.parametrize(("dx", "dy"), [(0, 18), (0, -18), (7, 0), (-7, 3)])
def test_a_move_may_overlap_itself(dx: int, dy: int) -> None:
    picture, canvas = desktop("scroll").picture, Canvas()
    canvas.resize(SIZE)
    canvas.pixels[:] = picture
    at = Rect(40, 130, 300, 200)
    canvas.apply(Decoder().steps([Part(PartType.MOVE, at, b"", dx, dy)]))
    assert np.array_equal(cut(canvas.pixels, at), cut(picture, at.moved(-dx, -dy)))


@pytest.mark.parametrize("codec", ["libx264", "libvpx"])
def test_video_is_drawn_only_where_it_is_to_be(codec: str) -> None:
    source, encoder, canvas, decoder = desktop(), Encoder(codec), Canvas(), Decoder()
    canvas.resize(SIZE)
    decoder.resize(SIZE)
    odd, rest = Rect(17, 113, 101, 55), Rect(300, 200, 64, 64)
    for step in range(4):
        source.paint(SECOND + step * 33_000_000)
        data = encoder.encode(source.picture)
        parts = [Part(PartType.VIDEO, WHOLE if not step else odd, data), Part(PartType.DRAW, rest)]
        steps = decoder.steps(parts)
        before = canvas.pixels.copy()
        canvas.apply(steps)
        for at in (odd, rest):
            assert difference(cut(canvas.pixels, at), cut(source.picture, at)) < 6
            before[at.y : at.bottom, at.x : at.right] = canvas.pixels[at.y : at.bottom, at.x : at.right]
        assert not step or np.array_equal(before, canvas.pixels)


@pytest.mark.parametrize(
    "part",
    [
        Part(PartType.ZSTD, AT, b"nonsense"),
        Part(PartType.ZSTD, AT, zstd.compress(bytes(AT.area * 4 - 1))),
        Part(PartType.ZSTD, AT, zstd.compress(bytes(AT.area * 4 + 1))),
        Part(PartType.ZSTD, AT, zstd.compress(bytes(AT.area * 4))[:-2]),
        Part(PartType.ZSTD, AT, zstd.compress(bytes(1 << 28))),
        Part(PartType.PALETTE, AT, FOUR[:-1]),
        Part(PartType.PALETTE, AT, FOUR),
        Part(PartType.PALETTE, AT, FOUR + b"nonsense"),
        Part(PartType.PALETTE, AT, FOUR + zstd.compress(bytes(99 * 38 + 1))),
        Part(PartType.PALETTE, AT, FOUR + zstd.compress(bytes(1 << 28))),
        Part(PartType.PALETTE, AT, bytes((2, *range(9))) + zstd.compress(b"\xff" * 99 * 38)),
        Part(PartType.JPEG, AT, still("JPEG", np.zeros((99, 151, 4), np.uint8))),
        Part(PartType.JPEG, AT, still("PNG", np.zeros((99, 150, 4), np.uint8))),
        Part(PartType.PNG, AT, still("PNG", np.zeros((99, 150, 4), np.uint8))[:40]),
        Part(PartType.JPEG, AT, b""),
        Part(PartType.VIDEO, WHOLE, b"\0\0\0\1\x65nonsense"),
        Part(PartType.VIDEO, WHOLE, b"nonsense"),
        Part(PartType.DRAW, AT),
    ],
)
def test_damage_is_told_and_the_next_picture_decodes(part: Part) -> None:
    decoder = Decoder()
    decoder.resize(SIZE)
    with pytest.raises(Undecodable):
        decoder.steps([part])
    assert decoder.steps([Part(PartType.RAW, AT, bytes(AT.area * 4))])


def test_video_of_a_part_of_the_screen_is_drawn_in_its_place() -> None:
    source, canvas, decoder = desktop(), Canvas(), Decoder()
    canvas.resize(SIZE)
    decoder.resize(SIZE)
    # The second stream begins with a key picture of another size, in another place.
    for area in (Rect(16, 112, 128, 64), Rect(304, 208, 96, 80)):
        encoder = video_encoder("avc1", Size(area.width, area.height), None, yuv.convert)
        data = encoder.encode(cut(source.picture, area), [Rect(0, 0, area.width, area.height)]).data
        inner = Rect(area.x + 3, area.y + 5, 60, 40)
        rest = Rect(area.right - 8, area.bottom - 8, 8, 8)
        video = Part(PartType.VIDEO, inner, data, area.x, area.y)
        canvas.apply(decoder.steps([video, Part(PartType.DRAW, rest, dx=area.x, dy=area.y)]))
        for at in (inner, rest):
            assert difference(cut(canvas.pixels, at), cut(source.picture, at)) < 8
    with pytest.raises(Undecodable, match="outside"):
        decoder.steps([Part(PartType.DRAW, Rect(300, 208, 8, 8), dx=304, dy=208)])


def test_a_video_smaller_than_the_picture_is_damage() -> None:
    decoder, data = Decoder(), Encoder("libx264").encode(desktop().picture)
    decoder.resize(Size(1440, 520))
    with pytest.raises(Undecodable, match="larger"):
        decoder.steps([Part(PartType.VIDEO, Rect(0, 0, 1440, 520), data)])
    with pytest.raises(Undecodable):
        decoder.steps([Part(PartType.DRAW, Rect(0, 0, 720, 520))])


def test_cursors_are_kept_bounded_and_drawn_over_the_picture() -> None:
    canvas = Canvas()
    canvas.resize(Size(20, 20))
    arrow = np.zeros((8, 6, 4), np.uint8)
    arrow[:, :3] = (10, 20, 30, 255)
    arrow[:, 3] = (200, 200, 200, 128)
    (step,) = Decoder().steps([Part(PartType.SHAPE, Rect(1, 2, 6, 8), arrow.tobytes(), dx=7)])
    assert isinstance(step, CursorShape) and canvas.apply([step]) == []
    drawn = canvas.pixels.copy()
    blend(drawn, canvas.shapes[7], 16, -3)
    assert (drawn[:5, 16:19, :3] == (10, 20, 30)).all() and (drawn[:5, 19, :3] == 100).all()
    assert not drawn[5:].any() and not drawn[:, :16].any() and not canvas.pixels.any()
    blend(canvas.pixels, canvas.shapes.get(8), 0, 0)
    assert not canvas.pixels.any()
    for number in range(100):
        canvas.apply([CursorShape(number, arrow)])
    assert len(canvas.shapes) == 64 and 99 in canvas.shapes
    blend(drawn, arrow, 400, 400)


@pytest.mark.parametrize("kind", ["h264", "vp8", "zstd", "palette", "JPEG", "PNG"])
def test_mutated_parts_are_decoded_or_refused(kind: str) -> None:
    """Whatever a daemon sends, the viewer has pixels of the right size or asks for a key picture."""
    source, random = desktop(), np.random.default_rng(7)
    at, good = (WHOLE if kind in ("h264", "vp8") else AT), []
    if kind in ("h264", "vp8"):
        encoder = Encoder("libx264" if kind == "h264" else "libvpx")
        good = [Part(PartType.VIDEO, at, encoder.encode(source.picture)) for _ in range(3)]
    elif kind == "zstd":
        good = [Part(PartType.ZSTD, at, zstd.compress(cut(source.picture, at).tobytes()))]
    elif kind == "palette":
        good = [Part(PartType.PALETTE, at, of_few_colours(cut(source.picture, at)))]
    else:
        good = [Part(PartType[kind], at, still(kind, cut(source.picture, at)))]
    decoder, refused = Decoder(), 0
    decoder.resize(SIZE)
    for _ in range(60):
        for part in good:
            data = bytearray(part.data)
            for _ in range(random.integers(1, 6)):
                data[random.integers(len(data))] = random.integers(256)
            cut_at = random.integers(1, len(data) + 1) if random.random() < 0.2 else len(data)
            try:
                for step in decoder.steps([part._replace(data=bytes(data[:cut_at]))]):
                    assert step.pixels.shape == (at.height, at.width, 4)  # type: ignore[union-attr]
            except Undecodable:
                refused += 1
    assert refused > 5


@pytest.mark.parametrize(("kind", "width", "quick"), [
    (PartType.ZSTD, 256, True), (PartType.ZSTD, 257, False), (PartType.MOVE, 2000, True), (PartType.VIDEO, 16, False),
])  # fmt: skip
def test_small_exact_parts_are_decoded_without_a_change_of_thread(kind: PartType, width: int, quick: bool) -> None:
    assert is_quick((Part(kind, Rect(0, 0, width, 256), b""),)) == quick
