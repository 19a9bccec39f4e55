"""Synthetic pictures, always the same for the same seed, and what a viewer makes of its updates."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import lru_cache

import av
import numpy as np
from backports.zstd import decompress
from numpy.typing import NDArray
from PIL import Image

from millrace.pixels.convert import Plane
from millrace.pixels.difference import part_of
from millrace.pixels.rects import Move, Rect, Size
from millrace.pixels.scroll import apply_move
from millrace.wire.peer.pictures import Part, PartType

PANS = 300
"""Pixels by which a photo pans before it begins anew."""


def blank_screen(size: Size, level: int = 230) -> Plane:
    return np.full((size.height, size.width, 4), level, np.uint8)


def glyphs(picture: Plane, rect: Rect, seed: int, cell: int = 9, line: int = 18) -> Rect:
    """Paint a rectangle as text: glyphs with coloured edges on white, as sub-pixel rendering has them."""
    random = np.random.default_rng(seed)
    font = np.random.default_rng(7).integers(0, 5, (64, line, cell, 3))
    font = np.where(font == 0, np.random.default_rng(8).integers(20, 235, font.shape), np.where(font < 3, 255, 30))
    font[:, :5] = font[:, :, -2:] = 255
    lines, columns = -(-rect.height // line), -(-rect.width // cell)
    # Words, and lines of different lengths: blank cells as on a page.
    chosen = random.integers(0, 64, (lines, columns))
    shown = (random.random((lines, columns)) > 0.15) & (
        np.arange(columns) < random.integers(2, columns + 2, (lines, 1))
    )
    page = np.where(shown[:, :, None, None, None], font[chosen], 255).transpose(0, 2, 1, 3, 4)
    part_of(picture, rect)[:, :, :3] = page.reshape(lines * line, columns * cell, 3)[: rect.height, : rect.width]
    return rect


@lru_cache(maxsize=16)
def _waves(size: Size) -> NDArray[np.int16]:
    y, x = np.mgrid[0 : size.height, 0 : size.width + PANS].astype(np.float32)
    waves = [np.sin(x / (23 + 7 * c) + c) * np.cos(y / (31 - 5 * c)) * 70 for c in range(3)]
    return (np.stack(waves, 2) + (((x // 90 + y // 70) % 2) * 50 + 90)[:, :, None]).astype(np.int16)


@lru_cache(maxsize=64)
def _grain(size: Size, seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-6, 7, (size.height, size.width, 3), np.int16)


def photo(picture: Plane, rect: Rect, seed: int, step: int = 0) -> Rect:
    """Paint a rectangle as a photo that pans by `step`: waves, edges and grain."""
    size, shift = Size(rect.width, rect.height), (101 * seed + 3 * step) % PANS
    pixels = _waves(size)[:, shift : shift + rect.width] + _grain(size, (seed + step) % 5)
    part_of(picture, rect)[:, :, :3] = np.clip(pixels, 0, 255)
    return rect


def coloured(data: bytes, at: Rect) -> Plane:
    """A rectangle of few colours, pixel by pixel as the protocol says it."""
    count = data[0] + 1
    bits = next(bits for bits in (0, 1, 2, 4, 8) if count <= 2**bits)
    row, rest = (at.width * bits + 7) // 8, data[1 + 3 * count :]
    rows = rest if len(rest) == row * at.height else decompress(rest)
    assert len(rows) == row * at.height
    cells = np.unpackbits(np.frombuffer(rows, np.uint8).reshape(at.height, row), axis=1)[:, : at.width * bits]
    indices = cells.reshape(at.height, at.width, bits).astype(int) @ (1 << np.arange(bits)[::-1]) if bits else 0
    table = np.frombuffer(data, np.uint8, 3 * count, 1).reshape(count, 3)
    out = np.zeros((at.height, at.width, 4), np.uint8)
    out[:, :, :3] = table[indices]
    return out


class Canvas:
    """What a viewer shows after the parts that it was sent."""

    def __init__(self, size: Size, codec: str = "avc1") -> None:
        self.size, self.codec = size, codec
        self.pixels: Plane = np.zeros((size.height, size.width, 4), np.uint8)
        self.drawn = np.zeros((size.height, size.width), np.bool_)
        """What was drawn at all."""
        self.seen: list[int] = []
        """Types of the parts."""
        self._decoder: av.VideoCodecContext | None = None
        self._video: Plane | None = None

    def apply(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self.seen.append(part.type)
            if part.type == PartType.MOVE:
                apply_move(self.pixels, Move(part.at, part.dx, part.dy))
            elif part.type in (PartType.VIDEO, PartType.DRAW):
                if part.type == PartType.VIDEO:
                    self._video = self._decoded(bytes(part.data), bool(part.flags & 1))
                assert self._video is not None, "a rectangle of a video that was not sent"
                self._draw(part.at, part_of(self._video, part.at.moved(-part.dx, -part.dy)))
            else:
                self._draw(part.at, self._still(part))

    def _draw(self, at: Rect, pixels: Plane) -> None:
        part_of(self.pixels, at)[:, :, :3] = pixels[:, :, :3]
        self.drawn[at.y : at.bottom, at.x : at.right] = True

    def _still(self, part: Part) -> Plane:
        if part.type == PartType.JPEG:
            return np.asarray(Image.open(io.BytesIO(part.data)).convert("RGB"))[:, :, ::-1]
        if part.type == PartType.PALETTE:
            return coloured(bytes(part.data), part.at)
        rows = decompress(part.data) if part.type == PartType.ZSTD else bytes(part.data)
        return np.frombuffer(rows, np.uint8).reshape(part.at.height, part.at.width, 4)

    def _decoded(self, data: bytes, key: bool) -> Plane:
        if self._decoder is None:
            assert key, "a stream that does not begin with a key picture"
            self._decoder = av.CodecContext.create("h264" if self.codec == "avc1" else "vp8", "r")
            self._decoder.thread_type = "SLICE"
            self._decoder.flags |= 0x80000
        frames = self._decoder.decode(av.Packet(data))
        assert len(frames) == 1, "each access unit is one picture, at once"
        return frames[0].to_ndarray(format="bgra")

    def exact(self, picture: Plane) -> bool:
        return np.array_equal(self.pixels[:, :, :3], picture[:, :, :3])

    def error(self, picture: Plane) -> float:
        """PSNR in dB."""
        square = np.square(self.pixels[:, :, :3].astype(np.float64) - picture[:, :, :3]).mean()
        return 99.0 if not square else float(10 * np.log10(255**2 / square))


def steps(kind: str, picture: Plane, seed: int, number: int) -> Iterator[list[Rect]]:
    """Paint into the picture, step by step; each step is what a source reports: caret, typing, scroll, drag, film."""
    size = Size(picture.shape[1], picture.shape[0])
    page = Rect(size.width // 8, size.height // 8, size.width * 5 // 8, size.height * 3 // 4)
    film = Rect(size.width // 4 & ~1, size.height // 4 & ~1, size.width // 3 & ~1, size.height // 3 & ~1)
    paper = blank_screen(Size(page.width, page.height + 54 * number), 255)
    if kind == "scroll":
        glyphs(paper, Rect(0, 0, page.width, page.height + 54 * number), seed)
    window, at = picture.copy(), film
    for step in range(number):
        if kind == "caret":
            part_of(picture, Rect(page.x, page.y, 2, 18))[:] = 0 if step % 2 else 255
            yield [Rect(page.x, page.y, 2, 18)]
        elif kind == "typing":
            place = Rect(page.x + step * 9 % (page.width - 9), page.y + step * 9 // (page.width - 9) * 18, 9, 18)
            yield [glyphs(picture, place, seed + step)]
        elif kind == "scroll":
            part_of(picture, page)[:] = paper[step * 54 : step * 54 + page.height]
            yield [page]
        elif kind == "drag":
            was, at = at, film.moved(step * 12 % (size.width - film.right), step * 5 % (size.height - film.bottom))
            content = part_of(window, film).copy()
            part_of(picture, was)[:] = part_of(window, was)
            part_of(picture, at)[:] = content
            yield [was, at]
        else:
            yield [photo(picture, film, seed, step)]
