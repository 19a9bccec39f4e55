"""What a SPICE server sends on its display, cursor and inputs channels, with encoders of its pictures and video."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from millrace.pixels.rects import Rect

Pixels = NDArray[np.uint8]


def message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<HI", kind, len(body)) + body


def rect(box: Rect) -> bytes:
    return struct.pack("<4i", box.y, box.x, box.bottom, box.right)


def clip(parts: Iterable[Rect] | None) -> bytes:
    if parts is None:
        return b"\0"
    rects = list(parts)
    return struct.pack("<BI", 1, len(rects)) + b"".join(map(rect, rects))


def base(box: Rect, parts: Iterable[Rect] | None = None, surface: int = 0) -> bytes:
    return struct.pack("<I", surface) + rect(box) + clip(parts)


def surface(width: int, height: int, number: int = 0, form: int = 32) -> bytes:
    return message(314, struct.pack("<5I", number, width, height, form, int(number == 0)))


def destroy(number: int = 0) -> bytes:
    return message(315, struct.pack("<I", number))


def heads(*places: Rect) -> bytes:
    body = b"".join(
        struct.pack("<7I", n, 0, place.width, place.height, place.x, place.y, 0) for n, place in enumerate(places)
    )
    return message(317, struct.pack("<HH", len(places), 4) + body)


def image(kind: int, width: int, height: int, rest: bytes = b"", name: int = 1, flags: int = 0) -> bytes:
    return struct.pack("<QBBII", name, kind, flags, width, height) + rest


def bitmap(pixels: Pixels, name: int = 1, flags: int = 0, top_down: bool = True) -> bytes:
    height, width = pixels.shape[:2]
    rows = pixels if top_down else pixels[::-1]
    rest = struct.pack("<BBIIII", 8, 4 if top_down else 0, width, height, width * 4, 0) + rows.tobytes()
    return image(0, width, height, rest, name, flags)


def paletted(form: int, rows: bytes, width: int, height: int, stride: int, colours: Iterable[int], at: int) -> bytes:
    """A bitmap with a palette; `at` is where it begins in its message."""
    table = list(colours)
    offset = at + 36 + len(rows)
    rest = struct.pack("<BBIIII", form, 4, width, height, stride, offset) + rows
    return image(0, width, height, rest) + struct.pack(f"<QH{len(table)}I", 7, len(table), *table)


def lz(pixels: Pixels, alpha: bool = False, top_down: bool = True) -> bytes:
    """An LZ picture."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels if top_down else pixels[::-1])
    head = struct.pack(">7I", 0x20205A4C, 0x10001, 9 if alpha else 8, width, height, width * 4, int(top_down))
    data = head + packed([bytes(pixel[:3]) for pixel in rows.reshape(-1, 4)], 1)
    return data + packed([bytes((pixel[3],)) for pixel in rows.reshape(-1, 4)], 3) if alpha else data


def lz_image(pixels: Pixels, name: int = 1, flags: int = 0, top_down: bool = True) -> bytes:
    data = lz(pixels, top_down=top_down)
    return image(101, pixels.shape[1], pixels.shape[0], struct.pack("<I", len(data)) + data, name, flags)


def packed(pixels: list[bytes], least: int) -> bytes:
    """LZ codes for pixels: matches where the last three pixels have occurred before, and literals."""
    out, literals, seen, at = bytearray(), list[bytes](), dict[bytes, int](), 0

    def flush() -> None:
        for n in range(0, len(literals), 32):
            part = literals[n : n + 32]
            out.append(len(part) - 1)
            out.extend(b"".join(part))
        literals.clear()

    while at < len(pixels):
        key = b"".join(pixels[at : at + 3])
        found = seen.get(key)
        seen[key] = at
        length = 0
        if found is not None and at - found <= 65_535 + 8191:
            while at + length < len(pixels) and pixels[found + length] == pixels[at + length]:
                length += 1
        if found is None or length < least + 1:
            literals.append(pixels[at])
            at += 1
            continue
        flush()
        out += match(length - least, at - found - 1)
        at += length
    flush()
    return bytes(out)


def match(length: int, back: int) -> bytes:
    """One match; both are as they are coded: less the least length, and less 1."""
    far = back >= 8191
    high = 31 if far else back >> 8
    extended = length + 1 >= 7
    out = bytearray(((7 if extended else length + 1) << 5 | high,))
    if extended:
        rest = length - 6
        out += b"\xff" * (rest // 255) + bytes((rest % 255,))
    out.append(255 if far else back & 255)
    return bytes(out + struct.pack(">H", back - 8191) if far else out)


def draw_copy(
    box: Rect,
    made: bytes,
    source: Rect | None = None,
    parts: Iterable[Rect] | None = None,
    rop: int = 8,
    surface: int = 0,
    kind: int = 304,
) -> bytes:
    head = base(box, parts, surface)
    source = Rect(0, 0, box.width, box.height) if source is None else source
    after = rect(source) + struct.pack("<HB", rop, 0) + struct.pack("<BiiI", 0, 0, 0, 0)
    offset = len(head) + 4 + len(after)
    return message(kind, head + struct.pack("<I", offset) + after + made)


def draw_fill(box: Rect, colour: int, rop: int = 8, parts: Iterable[Rect] | None = None) -> bytes:
    body = struct.pack("<BI", 1, colour) + struct.pack("<H", rop) + struct.pack("<BiiI", 0, 0, 0, 0)
    return message(302, base(box, parts) + body)


def draw_blended(box: Rect, made: bytes, alpha: int) -> bytes:
    head = base(box) + struct.pack("<BB", 0, alpha)
    offset = struct.pack("<I", len(head) + 20)
    return message(313, head + offset + rect(Rect(0, 0, box.width, box.height)) + made)


def draw_keyed(box: Rect, made: bytes, colour: int) -> bytes:
    head = base(box)
    after = rect(Rect(0, 0, box.width, box.height)) + struct.pack("<II", colour, 0)
    return message(312, head + struct.pack("<I", len(head) + 4 + len(after)) + after + made)


def plain(kind: int, box: Rect) -> bytes:
    return message(kind, base(box) + struct.pack("<BiiI", 0, 0, 0, 0))


def copy_bits(box: Rect, x: int, y: int) -> bytes:
    return message(104, base(box) + struct.pack("<ii", x, y))


def stream_create(
    number: int,
    at: Rect,
    codec: int = 1,
    parts: Iterable[Rect] | None = None,
    size: Rect | None = None,
    surface: int = 0,
) -> bytes:
    width, height = (at.width, at.height) if size is None else (size.width, size.height)
    head = struct.pack("<IIBBQ4I", surface, number, 1, codec, 0, width, height, width, height)
    return message(122, head + rect(at) + clip(parts))


def stream_data(number: int, mm_time: int, data: bytes) -> bytes:
    return message(123, struct.pack("<III", number, mm_time & 0xFFFFFFFF, len(data)) + data)


def stream_data_sized(number: int, mm_time: int, at: Rect, size: Rect, data: bytes) -> bytes:
    head = struct.pack("<4I", number, mm_time & 0xFFFFFFFF, size.width, size.height)
    return message(316, head + rect(at) + struct.pack("<I", len(data)) + data)


def cursor_set(
    x: int, y: int, pixels: bytes, width: int, height: int, kind: int = 0, name: int = 1, flags: int = 0, shown: int = 1
) -> bytes:
    head = struct.pack("<hhBH", x, y, shown, flags)
    return message(103, head + struct.pack("<QB4H", name, kind, width, height, 1, 2) + pixels)


# -- video -----------------------------------------------------------------------------------------


def jpeg(picture: Pixels) -> bytes:
    """A picture as JPEG, with colours as fine as its brightness."""
    return _encoded("mjpeg", "yuvj444p", [picture], {"qmin": "1", "qmax": "1"})[0]


def vp8(picture: Pixels, count: int) -> list[bytes]:
    """A picture that shifts by a column each time, as video."""
    pictures = [np.roll(picture, n, axis=1) for n in range(count)]
    return _encoded("libvpx", "yuv420p", pictures, {"deadline": "realtime", "lag-in-frames": "0", "crf": "4"})


def _encoded(codec: str, form: str, pictures: list[Pixels], options: dict[str, str]) -> list[bytes]:
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.options, encoder.thread_count = form, Fraction(1, 25), options, 1
    out = []
    for n, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgra")
        frame.pts = n
        out += [bytes(packet) for packet in encoder.encode(frame)]
    return out + [bytes(packet) for packet in encoder.encode(None)]
