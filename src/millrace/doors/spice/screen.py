"""A machine's SPICE screen: its display, its cursor, and its keyboard and pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from millrace.budget import Account
from millrace.doors.pushed import PushedStream
from millrace.doors.spice.canvas import Canvas
from millrace.doors.spice.streams import NewTrack, Streams
from millrace.graph.pictures import PIXEL_BYTES, Cursor, Mode, Move, Overlay, Shape
from millrace.graph.screen import MOVES_MAX, Screen
from millrace.graph.screens import Screens
from millrace.pixels.rects import EMPTY, Point, Rect, Size, few
from millrace.units import HostNs
from millrace.wire.spice.cursor import CursorHide, CursorMove, Look, SpiceCursor
from millrace.wire.spice.display import (
    DisplayEvent,
    Forget,
    Heads,
    Mark,
    ReportWanted,
    SpiceDisplay,
    StreamClip,
    StreamCreate,
    StreamData,
    StreamDestroy,
    SurfaceCreate,
    SurfaceDestroy,
)
from millrace.wire.spice.draws import Copied, Drawing, Unknown
from millrace.wire.spice.images import NotUnderstood
from millrace.wire.spice.inputs import SpiceInputs

LOOKS_MAX = 64
"""Cursors whose numbers are remembered."""


def _nobody() -> None:
    """Wake no connection: there is none."""


class Controls:
    """A machine's keyboard and pointer, which all of its screens share."""

    def __init__(self) -> None:
        self.relative = True
        """Whether the machine has only a mouse, and takes movements instead of places."""
        self._wire: SpiceInputs | None = None
        self._wake: Callable[[], None] = _nobody
        self._pressed: set[int] = set()

    def connect(self, wire: SpiceInputs, wake: Callable[[], None]) -> None:
        """The inputs channel is there."""
        self._wire, self._wake = wire, wake

    def close(self) -> None:
        """The inputs channel is gone."""
        self._wire, self._wake = None, _nobody
        self._pressed.clear()

    def key(self, code: int, down: bool) -> None:
        """Press or release a key; see `ScreenSource`."""
        if self._wire is not None:
            (self._pressed.add if down else self._pressed.discard)(code)
            self._wire.send_key(code, down)
            self._wake()

    def release(self) -> None:
        """Nobody looks any more: release what is pressed, or it would repeat for ever."""
        for code in tuple(self._pressed):
            self.key(code, False)

    def pointer(self, at: Point, buttons: int, relative: bool, display: int) -> None:
        """Move the pointer and press its buttons. What does not suit the machine is only taken for its buttons."""
        if self._wire is None:
            return
        if relative != self.relative:
            at, relative = Point(0, 0), True
        self._wire.send_pointer(at, buttons, relative, display)
        self._wake()


class Painting:
    """What the events of one picture changed, to be published together: moves come first, everything else is damage."""

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self.rects: list[Rect] = []

    def moved(self, parts: list[Rect], origin: Point, box: Rect) -> None:
        """Parts of the screen were copied. A move is valid only before anything else was painted."""
        if self.rects or len(parts) != 1 or len(self.moves) >= MOVES_MAX:
            self.rects += parts
        else:
            self.moves.append(Move(parts[0], box.x - origin.x, box.y - origin.y))


class SpiceScreen:
    """One display channel with its cursor, as a screen of the guest. The screen exists once the server has made it."""

    recording = False
    streams: Sequence[PushedStream] = ()

    def __init__(
        self,
        screens: Screens,
        display: SpiceDisplay,
        controls: Controls,
        account: Account,
        label: str,
        door: str,
        number: int = 0,
        new_track: NewTrack | None = None,
        missed: Callable[[str], None] = lambda why: None,
    ) -> None:
        """`missed` is called with what the server has drawn that can't be drawn here: it must be asked for again."""
        self.display = display
        self.screen: Screen | None = None
        self._screens, self._controls, self._account = screens, controls, account
        self._label, self._door, self._number = label, door, number
        self._new_track, self._missed = new_track, missed
        self._canvas = Canvas(account)
        self._videos = Streams(self._canvas, account, new_track, display.send_report)
        self._heads: tuple[Rect, ...] = ()
        self._view = EMPTY
        self._memory = bytearray()
        self._looks: dict[Look, int] = {}
        self._look: Look | None = None
        self._numbers = 0
        self._at, self._shown = Point(0, 0), False

    def restart(self, display: SpiceDisplay) -> None:
        """The channel was opened anew. The screen stays as it is, until the server has sent it again."""
        self._clear()
        self.display = display
        self._videos = Streams(self._canvas, self._account, self._new_track, display.send_report)

    def _clear(self) -> None:
        self._videos.destroy(None)
        self._canvas.close()
        self._heads, self._view = (), EMPTY

    # -- the machine's side --------------------------------------------------------------------------

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        del now_ns
        painting = Painting()
        for event in self.display.events():
            if isinstance(event, SurfaceCreate | SurfaceDestroy | Heads):
                # A picture belongs to one mode.
                self._publish(painting)
                painting = Painting()
            self._event(event, painting)
        self._publish(painting)

    def _event(self, event: DisplayEvent, painting: Painting) -> None:
        if isinstance(event, StreamData):
            surface, parts = self._videos.data(event, self.display.arrived_ns)
            painting.rects += parts if surface == 0 else ()
        elif isinstance(event, SurfaceCreate):
            self._create(event)
        elif isinstance(event, SurfaceDestroy):
            self._canvas.destroy(event.surface)
        elif isinstance(event, Heads):
            self._heads = event.rects
            self._show()
        elif isinstance(event, Forget):
            self._canvas.forget(event.names)
        elif isinstance(event, StreamCreate | StreamClip | StreamDestroy | ReportWanted):
            self._video(event)
        elif not isinstance(event, Mark):
            self._draw(event, painting)

    def _video(self, event: StreamCreate | StreamClip | StreamDestroy | ReportWanted) -> None:
        if isinstance(event, StreamCreate):
            self._videos.create(event)
        elif isinstance(event, StreamClip):
            self._videos.clip(event.stream, event.clip)
        elif isinstance(event, StreamDestroy):
            self._videos.destroy(event.stream)
        else:
            self._videos.wanted(event)

    def _draw(self, drawing: Drawing, painting: Painting) -> None:
        try:
            parts = self._canvas.draw(drawing)
        except NotUnderstood as error:
            self._missed(str(error))
            return
        assert not isinstance(drawing, Unknown) and drawing.base is not None
        if drawing.base.surface != 0:
            return
        if isinstance(drawing, Copied):
            painting.moved(parts, drawing.origin, drawing.base.box)
        else:
            painting.rects += parts

    # -- the screen's mode ---------------------------------------------------------------------------

    def _create(self, event: SurfaceCreate) -> None:
        if event.surface:
            self._canvas.create(event.surface, np.zeros((event.height, event.width, PIXEL_BYTES), np.uint8))
            return
        # One row more than the surface has: the rows of a view that begins within a row end in the next one.
        memory = bytearray((event.height + 1) * event.width * PIXEL_BYTES)
        pixels = np.frombuffer(memory, np.uint8)[: event.height * event.width * PIXEL_BYTES]
        self._canvas.create(0, pixels.reshape(event.height, event.width, PIXEL_BYTES))
        self._memory, self._view = memory, EMPTY
        self._show()

    def _wanted(self) -> Rect:
        """The part of surface 0 that monitors show: all of it, unless the server says otherwise."""
        height, width = self._canvas.surfaces[0].shape[:2]
        whole = Rect(0, 0, width, height)
        seen = EMPTY
        for head in self._heads:
            seen = seen.around(head.common(whole)) if seen.area else head.common(whole)
        return seen if seen.area else whole

    def _show(self) -> None:
        """Give the screen the part of surface 0 that is to be seen, if that has changed."""
        if 0 not in self._canvas.surfaces or (view := self._wanted()) == self._view:
            return
        if self.screen is None:
            self.screen = self._screens.add(self, self._label, self._door)
            self.screen.set_relative(self._controls.relative)
        stride = self._canvas.surfaces[0].shape[1] * PIXEL_BYTES
        begin = view.y * stride + view.x * PIXEL_BYTES
        mode = Mode(view.width, view.height, stride)
        self.screen.set_mode(mode, memoryview(self._memory)[begin : begin + mode.bytes], self.display.arrived_ns)
        self._view = view
        self._point()

    # The time at which a drawing was made is not sent, so a picture has the time of its arrival.
    def _publish(self, painting: Painting) -> None:
        if self.screen is None or self.screen.memory is None:
            return
        dx, dy = -self._view.x, -self._view.y
        rects = [rect.moved(dx, dy) for rect in few(painting.rects)]
        moves = [Move(move.to.moved(dx, dy), move.dx, move.dy) for move in painting.moves]
        overlays = [_lying(overlay, dx, dy) for overlay in self._videos.overlays]
        self.screen.painted(rects, self.display.arrived_ns, moves, overlays)

    # -- the cursor ----------------------------------------------------------------------------------

    def receive_cursor(self, cursor: SpiceCursor) -> None:
        """Process what the cursor channel has received. Without a screen, the last of it is kept for that."""
        for event in cursor.events():
            if isinstance(event, CursorHide):
                self._shown = False
            elif isinstance(event, CursorMove):
                self._at, self._shown = event.at, True
            else:
                self._at, self._shown, self._look = event.at, event.shown, event.look
        self._point()

    def _point(self) -> None:
        if self.screen is None:
            return
        if self._look is None or not self._shown:
            self.screen.set_cursor(msgspec.structs.replace(self.screen.cursor, shown=False))
            return
        number = self._looks.get(self._look)
        if number is None or self.screen.shape(number) is None:
            number = self._define(self._look)
        at = Point(self._at.x - self._view.x, self._at.y - self._view.y)
        self.screen.set_cursor(Cursor(number, self._look.hot, at, True))

    # A number is never used again: viewers ask for its pixels once.
    def _define(self, look: Look) -> int:
        assert self.screen is not None
        self._numbers += 1
        self._looks.pop(look, None)
        while len(self._looks) >= LOOKS_MAX:
            del self._looks[next(iter(self._looks))]
        self._looks[look] = self._numbers
        self.screen.define_shape(Shape(self._numbers, look.size, look.pixels))
        return self._numbers

    # -- the viewers' side ---------------------------------------------------------------------------

    def set_relative(self) -> None:
        """The way in which the machine takes the pointer has changed."""
        if self.screen is not None:
            self.screen.set_relative(self._controls.relative)

    def key(self, code: int, down: bool) -> None:
        """See `ScreenSource`."""
        self._controls.key(code, down)

    # A machine with a tablet leaves the drawing of the pointer to the viewer who moves it, so nothing comes back.
    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """See `ScreenSource`."""
        there = at if relative else Point(at.x + self._view.x, at.y + self._view.y)
        self._controls.pointer(there, buttons, relative, self._number)
        if not relative and not self._controls.relative:
            self._at = there
            self._point()

    def size_wish(self, size: Size) -> None:
        """See `ScreenSource`: only a guest with SPICE's agent could be asked."""

    def paint(self, tracks: frozenset[str]) -> None:
        """See `ScreenSource`."""
        self._videos.paint(tracks)

    def watched(self, interval_ns: HostNs | None) -> None:
        """See `ScreenSource`: the server can't be slowed down, but what is pressed must not stay so."""
        if interval_ns is None:
            self._controls.release()

    def close(self) -> None:
        """See `MachineDoor`."""
        self._clear()
        if self.screen is not None:
            self._screens.remove(self.screen)
            self.screen = None
        self._account.close()


def _lying(overlay: Overlay, dx: int, dy: int) -> Overlay:
    """An overlay in a view that begins elsewhere."""
    clip = tuple(rect.moved(dx, dy) for rect in overlay.clip)
    return msgspec.structs.replace(overlay, at=overlay.at.moved(dx, dy), clip=clip)
