"""Rectangles of few colours as a palette and indices: text takes less than what zstd makes of its pixels.

The number of colours less one, in one byte; B, G and R of each; then an index for each pixel, in 0, 1, 2, 4 or 8 bits,
as few as the colours need. The first pixel of a byte is in its highest bits, and each row begins with a byte. The
indices are plain, which their length shows, or one shorter zstd frame (RFC 8878) that states the size of its content.
See docs/picture-protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.errors import CodecError
from millrace.pixels.convert import Plane

COLOURS_MAX = 256
SORTED_MAX = 1024
"""So many are sorted at most. Of more pixels, so many or twice that are looked at first: a photo's colours are too many
already."""
SLOTS = 1 << 16
_HASH = np.uint32(0x9E3779B1)
"""2³² divided by the golden ratio: its product's high bits spread similar colours."""
_COLOUR = np.uint32(0xFFFFFF)


def bits_of(colours: int) -> int:
    """Bits of an index into so many colours."""
    return next(bits for bits in (0, 1, 2, 4, 8) if colours <= 1 << bits)


# Most pixels are like the one before, so only the ends of runs are looked at. Few of them are sorted: to sort many
# would take longer than to compress them. Two colours with the same hash are told from each other by comparing all with
# their colours in the end, and such a rectangle is left to zstd.
class Palettes:
    """Encodes rectangles; `compress` makes a zstd frame. It belongs to one thread."""

    def __init__(self, compress: Callable[[bytes], bytes]) -> None:
        self._compress = compress
        self._slots = np.zeros(SLOTS, np.uint32)

    def encode(self, part: Plane) -> bytes | None:
        """BGRX rows, as part type PALETTE of the picture protocol; None if there are too many colours."""
        rows = np.ascontiguousarray(part).view("<u4")[:, :, 0]
        words = rows.reshape(-1)
        step = len(words) // SORTED_MAX
        if step > 1 and len(np.unique(words[::step] & _COLOUR)) > COLOURS_MAX:
            return None
        ends = np.append(np.flatnonzero(words[1:] != words[:-1]), len(words) - 1)
        found = self._found(words[ends] & _COLOUR)
        if found is None:
            return None
        colours, indices = found
        lengths = ends.copy()
        lengths[1:] -= ends[:-1]
        lengths[0] += 1
        each = np.repeat(indices.astype(np.uint8), lengths)
        plain = _pack(each.reshape(rows.shape), bits_of(len(colours)))
        packed = self._compress(plain) if plain else plain
        head = bytes((len(colours) - 1,)) + colours.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        return head + min(plain, packed, key=len)

    def _found(self, words: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[Any]] | None:
        """The colours, and the index of each word."""
        if len(words) <= SORTED_MAX:
            sorted_, inverse = np.unique(words, return_inverse=True)
            return (sorted_, inverse) if len(sorted_) <= COLOURS_MAX else None
        slots, numbers = self._slots, np.arange(len(words), dtype=np.uint32)
        hashes = ((words * _HASH) >> np.uint32(16)).astype(np.intp)
        slots[hashes] = numbers
        # The word that has the slot of its colour, of each colour one.
        named = np.flatnonzero(slots[hashes] == numbers)
        if len(named) > COLOURS_MAX:
            return None
        colours = words[named]
        slots[hashes[named]] = numbers[: len(named)]
        indices = slots[hashes]
        return None if (colours[indices] != words).any() else (colours, indices)


def _pack(indices: NDArray[np.uint8], bits: int) -> bytes:
    if bits in (0, 8):
        return indices.tobytes() if bits else b""
    if bits == 1:
        return np.packbits(indices, axis=1).tobytes()
    (height, width), each = indices.shape, 8 // bits
    if width % each:
        wide = np.zeros((height, width + -width % each), np.uint8)
        wide[:, :width] = indices
        indices = wide
    words = indices.view(f"<u{each}")
    if bits == 4:
        return ((words << 4) | (words >> 8)).astype(np.uint8).tobytes()
    pairs = (words << 6) & 0xC0 | (words >> 4) & 0x30 | (words >> 14) & 0x0C | words >> 24
    return pairs.astype(np.uint8).tobytes()


def unpacked(data: bytes | memoryview, width: int, height: int, inflate: Callable[[memoryview, int], bytes]) -> Plane:
    """(rows, columns, 4), BGRX; CodecError if the data is damaged. `inflate` undoes zstd, to so many bytes."""
    colours = data[0] + 1
    head, bits = 1 + 3 * colours, bits_of(colours)
    row = -(-width * bits // 8)
    rest = memoryview(data)[head:]
    if len(data) < head:
        raise CodecError(f"a palette of {colours} colours in {len(data)} bytes")
    plain = rest if len(rest) == row * height else inflate(rest, row * height)
    indices = _unpack(np.frombuffer(plain, np.uint8).reshape(height, row), width, bits)
    if indices.max() >= colours:
        raise CodecError(f"colour {indices.max()} of a palette of {colours}")
    table = np.zeros((colours, 4), np.uint8)
    table[:, :3] = np.frombuffer(data, np.uint8, 3 * colours, 1).reshape(-1, 3)
    out: Plane = table.view("<u4")[:, 0][indices].view(np.uint8).reshape(height, width, 4)
    return out


def _unpack(rows: NDArray[np.uint8], width: int, bits: int) -> NDArray[np.uint8]:
    """(rows, width) indices."""
    if bits in (0, 8):
        return rows if bits else np.zeros((len(rows), width), np.uint8)
    if bits == 1:
        return np.unpackbits(rows, axis=1, count=width)
    out = np.empty((*rows.shape, 8 // bits), np.uint8)
    for at in range(8 // bits):
        out[:, :, at] = (rows >> (8 - bits * (at + 1))) & ((1 << bits) - 1)
    return out.reshape(len(rows), -1)[:, :width]
