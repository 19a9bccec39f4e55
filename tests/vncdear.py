"""What a VNC server can say that is dear to work off."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from millrace.media.clip import CLIP_BYTES_MAX
from millrace.pixels.rects import Rect
from tests.fuzz import vncserver
from tests.fuzz.vncserver import noise

WIDTH, HEIGHT = 1600, 1200
AREA = WIDTH * HEIGHT
PROVIDED = 1 << 28 | 1


def updated(*rects: bytes) -> bytes:
    """An update of any number of rectangles."""
    return struct.pack(">BxH", 0, 0xFFFF) + b"".join(rects) + vncserver.rect(0, 0, 0, 0, -224)


def tight(head: bytes, data: bytes, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    packed = zlib.compress(data, 9)
    return vncserver.rect(0, 0, width, height, 7, head + vncserver.compact(len(packed)) + packed)


def zipped(encoding: int, packed: bytes) -> bytes:
    return vncserver.rect(0, 0, WIDTH, HEIGHT, encoding, struct.pack(">I", len(packed)) + packed)


def tiles(each: Callable[[int], bytes]) -> bytes:
    sizes = [min(64, WIDTH - x) * min(64, HEIGHT - y) for y in range(0, HEIGHT, 64) for x in range(0, WIDTH, 64)]
    return zipped(16, zlib.compress(b"".join(map(each, sizes)), 9))


# RFC 1951, 3.2.7. All 288 codes of literals and 30 of distances are described, in as few bytes as that takes, and only
# the end of the block is used. Eight of such blocks are whole bytes.
def tables() -> bytes:
    """Blocks that inflate to nothing, of which each has the longest tables of codes."""
    bits: list[int] = []

    def put(value: int, count: int) -> None:
        bits.extend(value >> place & 1 for place in range(count))

    def code(value: int, count: int) -> None:
        bits.extend(value >> place & 1 for place in range(count - 1, -1, -1))

    for _ in range(8):
        for value, count in ((0, 1), (2, 2), (0, 5), (0, 5), (15, 4)):
            put(value, count)
        for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15):
            put(4 if 1 <= symbol <= 15 or symbol == 18 else 0, 3)
        for length in (15, 15, *range(14, 1, -1)):
            code(length - 1, 4)
        for zeros in (138, 103):
            code(15, 4)
            put(zeros - 11, 7)
        for _ in range(2):
            code(0, 4)
        code(0, 1)
    return bytes(sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


TABLES = tables()


def stuffed(data: bytes, size: int) -> bytes:
    """A zlib stream of this data, with tables for nothing before it: so many bytes."""
    plain = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = plain.compress(data) + plain.flush()
    return b"\x78\x9c" + size // len(TABLES) * TABLES + packed + struct.pack(">I", zlib.adler32(data))


def cut(body: bytes, extended: bool = False) -> bytes:
    """A ServerCutText."""
    return struct.pack(">Bxxxi", 3, -len(body) if extended else len(body)) + body


def provided(packed: bytes) -> bytes:
    """A text that was asked for."""
    return cut(struct.pack(">I", PROVIDED) + packed, extended=True)


def text(data: bytes) -> bytes:
    """The same, before it is compressed."""
    return struct.pack(">I", len(data)) + data


FILL = b"\x80abc"
SPOTS = [Rect(n % WIDTH, n // WIDTH * 9, 1, 1) for n in range(6000)]
MIB = CLIP_BYTES_MAX
# What a server paints, and the steps that it must take at least.
PAINTED: dict[str, tuple[int, Callable[[], bytes]]] = {
    "tight": (20, lambda: tight(b"\0", bytes(AREA * 3))),
    "tight two colours": (10, lambda: tight(b"\x40\1\1" + bytes(6), bytes(AREA // 8))),
    "tight palette": (20, lambda: tight(b"\x40\1\2" + bytes(9), bytes(AREA))),
    "tight gradient": (50, lambda: tight(b"\x40\2", bytes(AREA * 3))),
    "tight gradient, two rows": (20, lambda: tight(b"\x40\2", bytes(WIDTH * 6), WIDTH, 2)),
    "tight fills": (50, lambda: vncserver.rect(0, 0, WIDTH, HEIGHT, 7, FILL) * 20),
    "tight fills of a pixel": (50, lambda: b"".join(vncserver.rect(s.x, s.y, 1, 1, 7, FILL) for s in SPOTS)),
    "zlib": (20, lambda: zipped(6, zlib.compress(bytes(AREA * 4), 9))),
    "zlib, tables for nothing": (50, lambda: zipped(6, stuffed(bytes(AREA * 4), 1_000_000))),
    "zrle solid": (10, lambda: tiles(lambda size: b"\1abc")),
    "zrle a run a pixel": (300, lambda: tiles(lambda size: b"\x80" + b"abc\0" * size)),
    "zrle a palette run a pixel": (300, lambda: tiles(lambda size: b"\x82abcdef" + bytes(size))),
    "raw": (4, lambda: vncserver.rect(0, 0, WIDTH, HEIGHT, 0, bytes(AREA * 4))),
    "raw pixels": (50, lambda: b"".join(vncserver.rect(s.x, s.y, 1, 1, 0, b"abcd") for s in SPOTS)),
    "copies": (50, lambda: vncserver.copied(0, 1, WIDTH, HEIGHT - 1, 0, 0) * 20),
    "copies of a pixel": (50, lambda: b"".join(vncserver.copied(s.x, s.y, 1, 1, 5, 5) for s in SPOTS)),
    "columns": (20, lambda: vncserver.copied(1, 1, 1, HEIGHT - 1, 0, 0) * 200),
    "sizes": (20, lambda: (vncserver.rect(0, 0, 90, 90, -223) + vncserver.rect(0, 0, 1, 1, 0, b"abcd")) * 20),
    "cursors": (12, lambda: vncserver.rect(0, 0, 512, 512, -314, bytes(4) + noise(512, 512).tobytes()) * 2),
    "cursors with a mask": (12, lambda: vncserver.cursor(noise(512, 512), bytes(64 * 512)) * 2),
    "cursors of two colours": (12, lambda: vncserver.rect(0, 0, 512, 512, -240, bytes(6 + 128 * 512)) * 2),
    "small cursors": (20, lambda: vncserver.rect(0, 0, 1, 1, -240, bytes(6) + b"\xaa\xaa") * 1000),
    "places of the pointer": (20, lambda: vncserver.rect(7, 8, 0, 0, -232) * 2000),
    "lights": (20, lambda: vncserver.rect(0, 0, 0, 0, -261, b"\1") * 6000),
}  # fmt: skip
# The same for its clipboard.
CUT: dict[str, tuple[int, Callable[[], bytes]]] = {
    "text of tables for nothing": (100, lambda: provided(stuffed(text(bytes(2 * MIB)), 2 * MIB - 50_000))),
    "text of ends of lines": (30, lambda: provided(zlib.compress(text(b"\r\n" * MIB)))),
    "text of three bytes a character": (20, lambda: provided(zlib.compress(text("日".encode() * (MIB // 3))))),
    "text in Latin-1": (12, lambda: cut(b"\xe9" * (MIB // 2))),
    "text in Latin-1 of ends of lines": (30, lambda: cut(b"\r\n" * MIB)),
}  # fmt: skip
DEAR: dict[str, tuple[int, Callable[[], bytes]]] = {
    **{kind: (least, lambda say=say: updated(say())) for kind, (least, say) in PAINTED.items()},  # type: ignore[misc]
    **CUT,
}
"""Whole messages to a client whose screen is `WIDTH` by `HEIGHT`."""
