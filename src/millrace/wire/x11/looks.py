"""What the cursor of an X display looks like.

fixesproto 5, "GetCursorImage"; X Window System Protocol, "QueryPointer".
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from millrace.errors import RemoteProtocolError
from millrace.pixels.cursors import ARROW, ARROW_SIZE
from millrace.pixels.rects import CURSOR_SIDE_MAX, Point, Size
from millrace.wire.x11 import requests
from millrace.wire.x11.events import CursorShape
from millrace.wire.x11.numbered import PACKET
from millrace.wire.x11.said import Said

ANSWER_MAX = PACKET + 4 * CURSOR_SIDE_MAX * CURSOR_SIDE_MAX
"""Bytes of an answer that are taken; of a longer one the head."""


# A cursor may change more often than it is told. Servers refuse the one of a program that has ended (`xsetroot
# -cursor_name left_ptr`) with BadAccess: then, and where one is larger than viewers take, an arrow is shown instead.
class Looks:
    """Asks for the cursor whenever it has changed, and tells what it looks like."""

    def __init__(self, tell: Callable[[CursorShape], None]) -> None:
        self._tell = tell
        self._fixes = self._root = 0
        self._asked = self._again = False

    def begin(self, fixes: int, root: int) -> list[Said]:
        """Ask for the first one."""
        self._fixes, self._root = fixes, root
        return self.changed()

    def changed(self) -> list[Said]:
        """It looks different."""
        self._again, asked, self._asked = self._asked, self._asked, True
        cursor = requests.get_cursor(self._fixes)
        return [] if asked else [Said(cursor, self._told, self._refused, ANSWER_MAX, head_only=True)]

    def _told(self, part: bytes) -> list[Said]:
        self._tell(_shape(part))
        return self._done()

    def _refused(self, part: bytes) -> list[Said]:
        return [Said(requests.query_pointer(self._root), self._at)]

    def _at(self, part: bytes) -> list[Said]:
        self._tell(_arrow(Point(*struct.unpack_from("<hh", part, 16))))
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
