"""What shows a viewer's picture: a window, a file. And the least of them, which shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from millrace.client.canvas import Canvas
from millrace.client.clipboard import SharedClipboard
from millrace.pixels.rects import Rect
from millrace.units import MediaNs
from millrace.wire.peer.pictures import CursorChanged, KeyboardHeld


class Face(Protocol):
    """Called by a viewer, in the loop. OutputLost from any of these ends the viewer."""

    clipboard: SharedClipboard | None
    """Shared with the machine; None: not at all."""

    def resized(self, canvas: Canvas) -> None:
        """The canvas has another size, and is black."""
        ...

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """These rectangles of the canvas have changed: show them before returning."""
        ...

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        """The screen's pointer has moved, or looks otherwise."""
        ...

    def keyboard(self, held: KeyboardHeld) -> None:
        """Somebody has taken the keyboard."""
        ...

    def old(self, why: str) -> None:
        """What is shown is out of date, for this reason; with an empty reason it no longer is."""
        ...


class Unseen:
    """Shows nothing."""

    clipboard: SharedClipboard | None = None

    def resized(self, canvas: Canvas) -> None:
        """See `Face`."""

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        """See `Face`."""

    def keyboard(self, held: KeyboardHeld) -> None:
        """See `Face`."""

    def old(self, why: str) -> None:
        """See `Face`."""
