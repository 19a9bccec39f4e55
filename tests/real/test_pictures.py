"""ffmpeg decodes what the picture encoder makes, and shows the picture that was painted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from millrace.codec import yuv
from millrace.codec.stills import GOOD, encode_jpeg
from millrace.codec.x264 import X264Encoder
from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Rect, Size
from tests.painting import blank_screen, photo
from tests.places import lack

pytestmark = [pytest.mark.real, pytest.mark.beside]
SIZE = Size(640, 360)
WHOLE = Rect(0, 0, 640, 360)


def decoded(path: Path, size: Size = SIZE) -> Plane:
    """All pictures of a file, by ffmpeg of this machine: (pictures, rows, columns, 4)."""
    if shutil.which("ffmpeg") is None:
        lack("ffmpeg")
    options = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "bgra", "-"]
    command = ["ffmpeg", "-v", "error", "-i", str(path), *options]
    made = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert not made.stderr, made.stderr
    return np.frombuffer(made.stdout, np.uint8).reshape(-1, size.height, size.width, 4)


def psnr(one: Plane, other: Plane) -> float:
    square = np.square(one[:, :, :3].astype(np.float64) - other[:, :, :3]).mean()
    return float(10 * np.log10(255**2 / max(square, 1e-9)))


@pytest.mark.parametrize("rate", [None, 4_000_000])
def test_video_that_codes_only_damage_is_decoded_by_ffmpeg(tmp_path: Path, rate: int | None) -> None:
    """Colours too: it says in the stream that it is BT.601 in limited range."""
    picture, painted, units = blank_screen(SIZE), [], []
    photo(picture, WHOLE, 1)
    video = X264Encoder(SIZE, rate, yuv.convert)
    for step in range(20):
        rects = [WHOLE] if step in (0, 12) else [photo(picture, Rect(100, 60, 211, 131), 2, step)]
        units.append(video.encode(picture, rects, key=step == 12).data)
        painted.append(picture.copy())
    (tmp_path / "screen.h264").write_bytes(b"".join(units))
    shown = decoded(tmp_path / "screen.h264")
    assert len(shown) == len(painted)
    assert min(psnr(one, other) for one, other in zip(shown, painted, strict=True)) > 30
    last = Rect(100, 60, 211, 131)
    assert psnr(part_of(shown[-1], last), part_of(painted[-1], last)) > 30
    assert psnr(part_of(shown[-1], last), part_of(painted[-4], last)) < 28, "an older picture"


def test_photo_is_decoded_by_ffmpeg_with_all_its_chroma(tmp_path: Path) -> None:
    picture = blank_screen(SIZE)
    photo(picture, WHOLE, 3)
    picture[100:200, 301] = (0, 0, 255, 0)
    (tmp_path / "photo.jpg").write_bytes(encode_jpeg(picture, GOOD))
    shown = decoded(tmp_path / "photo.jpg")[0]
    assert psnr(shown, picture) > 33 and abs(shown[110:190, 301, :3].astype(int) - (0, 0, 255)).max() < 70
