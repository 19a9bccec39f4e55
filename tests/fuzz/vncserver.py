"""A VNC server's side of each encoding, written from the specification: rectangles for seeds and tests."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""Rows, columns; B, G, R and 0."""


def update(*rects: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rects)) + b"".join(rects)


def rect(x: int, y: int, width: int, height: int, encoding: int, body: bytes = b"") -> bytes:
    return struct.pack(">HHHHi", x, y, width, height, encoding) + body


def at(x: int, y: int, picture: Picture, encoding: int, body: bytes) -> bytes:
    return rect(x, y, picture.shape[1], picture.shape[0], encoding, body)


def raw(x: int, y: int, picture: Picture) -> bytes:
    return at(x, y, picture, 0, picture.tobytes())


def copied(x: int, y: int, width: int, height: int, from_x: int, from_y: int) -> bytes:
    return rect(x, y, width, height, 1, struct.pack(">HH", from_x, from_y))


class Streams:
    """The zlib streams of one connection."""

    def __init__(self, level: int = 6) -> None:
        self._level = level
        self._streams: dict[object, zlib._Compress] = {}

    def reset(self, name: object) -> None:
        self._streams.pop(name, None)

    def packed(self, name: object, data: bytes) -> bytes:
        stream = self._streams.setdefault(name, zlib.compressobj(self._level))
        return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)

    def zlib(self, x: int, y: int, picture: Picture) -> bytes:
        data = self.packed("zlib", picture.tobytes())
        return at(x, y, picture, 6, struct.pack(">I", len(data)) + data)

    def zrle(self, x: int, y: int, picture: Picture, kinds: Iterable[str] = ("packed",)) -> bytes:
        wanted = list(kinds)
        tiles = []
        for top in range(0, picture.shape[0], 64):
            for left in range(0, picture.shape[1], 64):
                part = picture[top : top + 64, left : left + 64]
                tiles.append(tile(part, wanted[len(tiles) % len(wanted)]))
        data = self.packed("zrle", b"".join(tiles))
        return at(x, y, picture, 16, struct.pack(">I", len(data)) + data)

    def tight(self, x: int, y: int, picture: Picture, kind: str = "copy", stream: int = 0, fresh: int = 0) -> bytes:
        return at(x, y, picture, 7, self._tight(picture, kind, stream, fresh))

    def _tight(self, picture: Picture, kind: str, stream: int, fresh: int) -> bytes:
        for number in range(4):
            if fresh >> number & 1:
                self.reset(number)
        rgb = picture[:, :, 2::-1]
        if kind == "fill":
            return bytes((0x80 | fresh,)) + rgb[0, 0].tobytes()
        if kind == "copy":
            return bytes((stream << 4 | fresh,)) + self._basic(stream, rgb.tobytes())
        head = bytes(((4 | stream) << 4 | fresh,))
        if kind == "gradient":
            return head + b"\2" + self._basic(stream, gradient(rgb))
        colours, indices = palette(picture)
        if len(colours) <= 2:
            packed = np.packbits(indices.astype(np.uint8), axis=1).tobytes()
        else:
            packed = indices.astype(np.uint8).tobytes()
        told = b"".join(colour[2::-1] for colour in colours)
        return head + b"\1" + bytes((len(colours) - 1,)) + told + self._basic(stream, packed)

    def _basic(self, stream: int, data: bytes) -> bytes:
        if len(data) < 12:
            return data
        packed = self.packed(stream, data)
        return compact(len(packed)) + packed


def compact(size: int) -> bytes:
    """A length in as few bytes as it needs."""
    if size < 1 << 7:
        return bytes((size,))
    if size < 1 << 14:
        return bytes((size & 0x7F | 0x80, size >> 7))
    return bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))


def gradient(rgb: Picture) -> bytes:
    """Each sample less what its neighbours let expect, one by one."""
    high, wide, _ = rgb.shape
    padded = np.zeros((high + 1, wide + 1, 3), np.int32)
    padded[1:, 1:] = rgb
    guess = np.clip(padded[1:, :-1] + padded[:-1, 1:] - padded[:-1, :-1], 0, 255)
    return ((rgb - guess) & 255).astype(np.uint8).tobytes()


def palette(picture: Picture) -> tuple[list[bytes], NDArray[np.intp]]:
    """The colours of a picture, and the number of each pixel's."""
    pixels = np.ascontiguousarray(picture).view("<u4")[:, :, 0]
    colours, indices = np.unique(pixels, return_inverse=True)
    return [struct.pack("<I", colour) for colour in colours], indices.reshape(pixels.shape)


def runs(values: Iterable[int]) -> list[tuple[int, int]]:
    """Values with how often each is repeated."""
    out: list[tuple[int, int]] = []
    for value in values:
        if out and out[-1][0] == value:
            out[-1] = (value, out[-1][1] + 1)
        else:
            out.append((value, 1))
    return out


def length(run: int) -> bytes:
    return b"\xff" * ((run - 1) // 255) + bytes(((run - 1) % 255,))


def tile(picture: Picture, kind: str) -> bytes:
    """A tile of ZRLE, in the way asked for if it has few enough colours for that."""
    colours, indices = palette(picture)
    told = b"".join(colour[:3] for colour in colours)
    numbers = [int(index) for index in indices.reshape(-1)]
    if len(colours) == 1 and kind != "runs":
        return b"\1" + told
    if kind == "packed" and len(colours) <= 16:
        bits = 1 if len(colours) == 2 else 2 if len(colours) <= 4 else 4
        digits = np.zeros((picture.shape[0], -(-picture.shape[1] * bits // 8) * 8), np.uint8)
        for bit in range(bits):
            digits[:, bit : picture.shape[1] * bits : bits] = indices >> (bits - 1 - bit) & 1
        return bytes((len(colours),)) + told + np.packbits(digits, axis=1).tobytes()
    if kind == "palette runs" and len(colours) <= 127:
        body = b"".join(bytes((n,)) if run == 1 else bytes((n | 128,)) + length(run) for n, run in runs(numbers))
        return bytes((128 + len(colours),)) + told + body
    if kind == "runs":
        return b"\x80" + b"".join(colours[n][:3] + length(run) for n, run in runs(numbers))
    return b"\0" + np.ascontiguousarray(picture[:, :, :3]).tobytes()


# -- what else a server says ---------------------------------------------------------------------


def cursor(pixels: Picture, mask: bytes, hot: tuple[int, int] = (1, 2)) -> bytes:
    return at(*hot, pixels, -239, pixels.tobytes() + mask)


def extended_size(width: int, height: int, reason: int = 0, result: int = 0) -> bytes:
    screen = struct.pack(">IHHHHI", 7, 0, 0, width, height, 3)
    return rect(reason, result, width, height, -308, b"\1\0\0\0" + screen)


def noise(width: int, height: int, seed: int = 1, colours: int = 0) -> Picture:
    """Pixels that nobody could guess; of so few colours, and in runs, if asked for."""
    rng = np.random.default_rng(seed)
    if not colours:
        out = rng.integers(0, 256, (height, width, 4), np.uint8)
    else:
        shades = rng.integers(0, 256, (colours, 4), np.uint8)
        numbers = np.repeat(rng.integers(0, colours, width * height), rng.integers(1, 9, width * height))
        out = shades[numbers[: width * height]].reshape(height, width, 4)
    out[:, :, 3] = 0
    return out
