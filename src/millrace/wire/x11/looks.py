"""What the cursor of an X display looks like.

fixesproto 5, "GetCursorImage"; X Window System Protocol, "QueryPointer".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import CURSOR_SIDE_MAX, Point, Size
from millrace.wire.x11 import requests
from millrace.wire.x11.events import CursorShape
from millrace.wire.x11.numbered import PACKET

ANSWER_MAX = PACKET + 4 * CURSOR_SIDE_MAX * CURSOR_SIDE_MAX
"""Bytes of an answer that are taken; of a longer one the head."""

Then: TypeAlias = "Callable[[Looks, bytes], list[Said]]"
Said: TypeAlias = "tuple[bytes, Then, Then | None]"
"""A request, what becomes of its answer, and of a refusal."""


# A cursor may change more often than it is told. Servers refuse the one of a program that has ended (`xsetroot
# -cursor_name left_ptr`) with BadAccess: then, and where one is larger than viewers take, an arrow is shown instead.
class Looks:
    """Asks for the cursor whenever it has changed; `events` tells what it looks like."""

    def __init__(self) -> None:
        self.events: list[CursorShape] = []
        self._fixes = self._root = 0
        self._asked = self._again = False

    def begin(self, fixes: int, root: int) -> list[Said]:
        """Ask for the first one."""
        self._fixes, self._root = fixes, root
        return self.changed()

    def changed(self) -> list[Said]:
        """It looks different."""
        self._again, asked, self._asked = self._asked, self._asked, True
        return [] if asked else [(requests.get_cursor(self._fixes), Looks._told, Looks._refused)]

    def _told(self, part: bytes) -> list[Said]:
        self.events.append(_shape(part))
        return self._done()

    def _refused(self, part: bytes) -> list[Said]:
        return [(requests.query_pointer(self._root), Looks._at, None)]

    def _at(self, part: bytes) -> list[Said]:
        self.events.append(_arrow(Point(*struct.unpack_from("<hh", part, 16))))
        return self._done()

    def _done(self) -> list[Said]:
        self._asked = False
        return self.changed() if self._again else []


def _shape(part: bytes) -> CursorShape:
    """RemoteProtocolError if an answer has fewer pixels than it says, or so many that only its head was taken."""
    x, y, width, height, hot_x, hot_y = struct.unpack_from("<8xhhHHHH", part)
    told, need = PACKET + 4 * int.from_bytes(part[4:8], "little"), PACKET + width * height * 4
    large = max(width, height) > CURSOR_SIDE_MAX
    if told < need or (len(part) < need and not large):
        raise RemoteProtocolError(f"the X server sent a cursor of {width} × {height} in {told} bytes")
    if large:
        return _arrow(Point(x, y))
    return CursorShape(
        Point(x, y), Point(hot_x, hot_y), Size(width, height), part[PACKET : PACKET + width * height * 4]
    )


def _arrow(at: Point) -> CursorShape:
    return CursorShape(at, Point(0, 0), ARROW_SIZE, ARROW)
