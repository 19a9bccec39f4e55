"""Encoders of pictures: what other decoders make of them is the picture, exactly where it has to be."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from backports.zstd import decompress, get_frame_info
from bench.encoder_memory import resident
from numpy.typing import NDArray
from PIL import Image

from millrace.budget import MIB
from millrace.codec import avvideo, x264, yuv
from millrace.codec.avvideo import AvEncoder, video_bytes, video_encoder
from millrace.codec.library import found
from millrace.codec.stills import GOOD, ZstdStills, encode_jpeg
from millrace.codec.videoencoder import GREY, VideoEncoder
from millrace.codec.x264 import X264Encoder, libx264
from millrace.errors import CodecError
from millrace.pixels.convert import Convert, PixelFormat, Plane, blank
from millrace.pixels.convert import convert as by_numpy
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect, Size
from millrace.wire.peer.pictures import Part, PartType
from tests.painting import Canvas, blank_screen, glyphs, photo
from tests.places import lack

SIZE = Size(320, 192)
WHOLE = Rect(0, 0, 320, 192)


def desktop(size: Size = SIZE) -> Plane:
    picture = blank_screen(size)
    glyphs(picture, Rect(0, 0, size.width, size.height // 2), 1)
    photo(picture, Rect(0, size.height // 2, size.width, size.height - size.height // 2), 1)
    return picture


def shown(canvas: Canvas, video: VideoEncoder, picture: Plane, rects: list[Rect], key: bool = False) -> int:
    """Encode and show; the bytes it took."""
    made = video.encode(picture, rects, key, 20)
    canvas.apply([Part(PartType.VIDEO, rects[0], made.data, flags=int(made.key))])
    canvas.apply(Part(PartType.DRAW, rect) for rect in rects[1:])
    return len(made.data)


def flicker(picture: Plane, step: int) -> Rect:
    """Nothing of it was there before."""
    blocks = np.random.default_rng(step).integers(0, 256, (24, 40, 4), np.uint8)
    picture[:] = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    return WHOLE


def luma(picture: Plane) -> NDArray[np.float64]:
    """Chroma of every second pixel says little of coloured text."""
    return picture[:, :, :3] @ np.array([0.114, 0.587, 0.299])


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(one.astype(float) - other).mean())))


def test_zstd_gives_the_same_pixels_and_states_their_size() -> None:
    picture, still = desktop(), ZstdStills()
    for rect in (WHOLE, Rect(3, 5, 17, 31), Rect(319, 191, 1, 1)):
        made = still.encode(part_of(picture, rect))
        assert decompress(made) == part_of(picture, rect).tobytes()
        assert get_frame_info(made).decompressed_size == rect.area * 4


def test_jpeg_keeps_the_colour_of_single_pixels() -> None:
    picture = blank_screen(Size(40, 30), 0)
    picture[10:20, 11] = (0, 0, 255, 0)
    shown_ = Image.open(io.BytesIO(encode_jpeg(picture, 95)))
    pixels = np.asarray(shown_.convert("RGB"))
    assert shown_.size == (40, 30) and (abs(pixels[12:18, 11].astype(int) - (255, 0, 0)) < 60).all()
    photo(picture, Rect(0, 0, 40, 30), 1)
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(picture, GOOD))))
    assert psnr(decoded[:, :, ::-1], picture[:, :, :3]) > 35
    with pytest.raises(CodecError, match="JPEG can't hold 1 × 70000"):
        encode_jpeg(np.zeros((70_000, 1, 4), np.uint8), GOOD)


@pytest.mark.parametrize("by", [yuv._by_libyuv, yuv._by_swscale], ids=["libyuv", "swscale"])
def test_fast_conversion_agrees_with_numpy(by: Convert) -> None:
    if by is yuv._by_libyuv and yuv.libyuv() is None:
        lack("libyuv")
    for size, rects in (
        (SIZE, [WHOLE, Rect(31, 33, 101, 77)]),
        (SIZE, [Rect(3, 5, 1, 1), Rect(300, 180, 20, 12)]),
        (Size(131, 75), [Rect(0, 0, 131, 75)]),
    ):
        picture = desktop(size)
        ours, theirs = blank(PixelFormat.NV12, size), blank(PixelFormat.NV12, size)
        by(picture, ours, rects)
        by_numpy(picture, theirs, rects)
        for one, other in zip(ours.planes, theirs.planes, strict=True):
            # swscale looks at the chroma of more than two pixels by two.
            assert abs(one.astype(int) - other).max() <= (3 if one.ndim == 2 or by is yuv._by_libyuv else 40)
            assert abs(one.astype(int) - other).mean() < 1.5
            assert ((one != 0) == (other != 0)).all(), "another place was converted"
    grey = blank(PixelFormat.GREY, SIZE)
    yuv.convert(desktop(), grey, [WHOLE])
    assert grey.planes[0].max() > 200


def test_smaller_pictures_are_means_with_and_without_libyuv(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = desktop()
    mean = picture.reshape(96, 2, 160, 2, 4).mean(axis=(1, 3))
    for lib in (yuv.libyuv(), None):
        monkeypatch.setattr(yuv, "libyuv", lambda lib=lib: lib)
        out = np.zeros((96, 160, 4), np.uint8)
        yuv.scale(picture, out)
        assert psnr(out[:, :, :3], mean[:, :, :3]) > 30


ENCODERS = {
    "x264": lambda size, rate: X264Encoder(size, rate, yuv.convert),
    "av-h264": lambda size, rate: AvEncoder("avc1", size, rate, yuv.convert),
    "vp8": lambda size, rate: AvEncoder("vp8", size, rate, yuv.convert),
}


# Small screens take more a pixel: buffers that grow little with the size, and borders around each picture.
@pytest.mark.parametrize(("codec", "width", "height"), [
    ("avc1", 64, 64), ("avc1", 480, 360), ("avc1", 64, 1080), ("vp8", 64, 64), ("vp8", 640, 480),
])  # fmt: skip
def test_encoder_takes_no_more_memory_than_its_guest_is_charged(codec: str, width: int, height: int) -> None:
    """Measured as the kernel counts it, in a new process: another libx264, libvpx or libc may take another amount.

    If it is more, the charge is wrong there.
    """
    took, charged = resident(codec, width, height, None), video_bytes(codec, Size(width, height))
    assert 12 * width * height < took <= charged < took + 4 * MIB


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("rate", [None, 2_000_000])
def test_other_decoders_show_the_picture(name: str, rate: int | None) -> None:
    video = ENCODERS[name](SIZE, rate)
    canvas, picture = Canvas(SIZE, video.codec), desktop()
    photo(picture, WHOLE, 1)
    shown(canvas, video, picture, [WHOLE])
    for step in range(1, 8):
        photo(picture, Rect(100, 40, 99, 75), 2, step)
        shown(canvas, video, picture, [Rect(100, 40, 99, 75)])
    assert canvas.error(picture) > 28
    assert len(canvas.seen) == 8
    video.close()
    video.close()


def test_only_damage_is_coded_and_keys_are_grey_outside() -> None:
    video, canvas = X264Encoder(SIZE, None, yuv.convert), Canvas(SIZE)
    picture = desktop()
    whole = shown(canvas, video, picture, [WHOLE])
    idle = len(video.encode(picture, []).data)
    small = shown(canvas, video, picture, [photo(picture, Rect(32, 32, 16, 16), 3)])
    assert idle < 100 and small < whole / 5
    rect = Rect(64, 96, 64, 48)
    made = video.encode(picture, [rect], key=True)
    assert made.key and len(made.data) < whole / 2
    canvas.apply([Part(PartType.VIDEO, rect, made.data, flags=1)])
    assert canvas._video is not None and abs(canvas._video[:60, :, :3].astype(int) - GREY).max() < 6
    # The next one adds what was grey: it is coded from there.
    shown(canvas, video, picture, [Rect(0, 0, 320, 96)])
    assert psnr(luma(canvas._video[:96]), luma(picture[:96])) > 30


def test_each_picture_has_its_own_quality() -> None:
    sizes = []
    for qp in (14, 24, 40):
        picture = blank_screen(SIZE)
        photo(picture, WHOLE, 1)
        video = X264Encoder(SIZE, None, yuv.convert)
        video.encode(picture, [WHOLE], qp=24)
        photo(picture, WHOLE, 1, 9)
        sizes.append(len(video.encode(picture, [WHOLE], qp=qp).data))
    assert sizes[0] > 1.5 * sizes[1] > 3 * sizes[2]


@pytest.mark.parametrize("name", ENCODERS)
def test_rate_is_kept_and_can_be_changed(name: str) -> None:
    video, picture = ENCODERS[name](SIZE, 4_000_000), blank_screen(SIZE)
    spent: dict[int, int] = {}
    for rate in (4_000_000, 500_000):
        assert video.set_rate(rate) or name != "x264", "libx264 keeps to any rate"
        video = video if video.set_rate(rate) else ENCODERS[name](SIZE, rate)
        sizes = [len(video.encode(picture, [flicker(picture, step)]).data) for step in range(30)]
        spent[rate] = sum(sizes[10:]) * 8 * 30 // 20
    assert spent[500_000] < 900_000 and spent[4_000_000] < 5_500_000 and spent[4_000_000] > 2 * spent[500_000]
    fixed = X264Encoder(SIZE, None, yuv.convert)
    assert not fixed.set_rate(500_000) and fixed.rate is None


def test_odd_sizes_are_coded() -> None:
    for size in (Size(131, 75), Size(17, 1), Size(1, 1)):
        picture, whole = desktop(size), Rect(0, 0, size.width, size.height)
        video = X264Encoder(size, None, yuv.convert)
        made = video.encode(picture, [whole])
        decoder = av.CodecContext.create("h264", "r")
        frames = [*decoder.decode(av.Packet(made.data)), *decoder.decode(None)]
        assert [(frame.width, frame.height) for frame in frames] == [(size.width + 1 & ~1, size.height + 1 & ~1)]


def test_another_build_of_x264_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's is build 164: its structures differ, and PyAV's encoder is taken instead."""
    assert isinstance(video_encoder("avc1", SIZE, None, yuv.convert), X264Encoder)
    assert isinstance(video_encoder("vp8", SIZE, None, yuv.convert), AvEncoder)
    libx264.cache_clear()
    monkeypatch.setattr(x264, "_OPEN", "x264_encoder_open_1")
    try:
        assert libx264() is None and list(found("x264"))
        monkeypatch.setattr(avvideo, "libx264", libx264)
        assert isinstance(video_encoder("avc1", SIZE, None, yuv.convert), AvEncoder)
        with pytest.raises(CodecError, match="no libx264 of build"):
            X264Encoder(SIZE, None, yuv.convert)
    finally:
        libx264.cache_clear()


def test_structures_that_are_not_as_expected_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x264, "_CSP", 40)
    with pytest.raises(CodecError, match="other structures"):
        X264Encoder(SIZE, None, yuv.convert)


def test_refusal_of_the_library_is_a_codec_error() -> None:
    with pytest.raises(CodecError):
        AvEncoder("vp8", Size(20_000, 2), None, yuv.convert).encode(blank_screen(Size(20_000, 2)), [WHOLE])
