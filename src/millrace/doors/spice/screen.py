"""A machine's SPICE screen: its display, its cursor, and its keyboard and pointer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
import numpy as np

from millrace.absent import never, nothing
from millrace.budget import Account
from millrace.doors.inputroom import InputRoom
from millrace.doors.pushed import PushedStream
from millrace.doors.spice.canvas import MOVED_MAX, Canvas
from millrace.doors.spice.streams import NewTrack, Streams
from millrace.errors import BudgetError, GraphError
from millrace.graph.pictures import MOVES_MAX, PIXEL_BYTES, Cursor, KeyPress, Mode, Move, Shape
from millrace.graph.screen import Screen
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
STEP_COST, EVENT_COST, VIDEO_COST = 2 * 1024 * 1024, 8 * 1024, 512 * 1024
"""What is painted in one step, what an event takes besides, and one that begins, moves or ends a video, in pixels that
could be copied."""
MODE_COST = STEP_COST
"""What an event takes that may give the screen another mode, of which each reader is told."""


class Controls:
    """A machine's keyboard and pointer, which all of its screens share."""

    def __init__(self) -> None:
        self.relative = True
        """Whether the machine has only a mouse, and takes movements instead of places."""
        self.lights: int | None = None
        """Those of its keyboard, once it has told."""
        self._wire: SpiceInputs | None = None
        self._wake: Callable[[], None] = nothing
        self.room = InputRoom()
        self._pressed: set[int] = set()

    def connect(self, wire: SpiceInputs, wake: Callable[[], None], full: Callable[[], bool] = never) -> None:
        """The inputs channel is there; `full` says whether the server leaves unread what it was sent."""
        self._wire, self._wake = wire, wake
        self.room.open(full)

    def close(self) -> None:
        """The inputs channel is gone."""
        self._wire, self._wake = None, nothing
        self._pressed.clear()
        self.room.close()

    def key(self, press: KeyPress) -> None:
        """Press or release a key; see `ScreenSource`."""
        if self._wire is not None:
            (self._pressed.add if press.down else self._pressed.discard)(press.code)
            self._wire.send_key(press.code, press.down)
            self.room.used()
            self._wake()

    def release(self) -> None:
        """Nobody looks any more: release what is pressed, or it would repeat for ever."""
        for code in tuple(self._pressed):
            self.key(KeyPress(code, False))

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
        one = len(parts) == 1 and parts[0].area <= MOVED_MAX
        if self.rects or not one or len(self.moves) >= MOVES_MAX:
            self.rects += parts
        else:
            self.moves.append(Move(parts[0], box.x - origin.x, box.y - origin.y))


class SurfaceMemory:
    """The memory of surface 0: charged to `account` as long as it is used, less what its screen is charged for.

    A screen is charged for what it shows, which may be a small part.
    """

    def __init__(self, account: Account, width: int, height: int) -> None:
        """BudgetError if there is no room."""
        # One row more than the surface has: the rows of a view that begins within a row end in the next one.
        self._bytes = (height + 1) * width * PIXEL_BYTES
        self._account, self._part, self._used = account, object(), True
        self._views: list[int] = []
        self._charge()
        # Nothing of it is resident before it is painted.
        memory = np.zeros(self._bytes, np.uint8)
        self.bytes = memory.data
        self.pixels = memory[: height * width * PIXEL_BYTES].reshape(height, width, PIXEL_BYTES)

    def _charge(self) -> None:
        used = self._used or self._views
        self._account.hold(self._part, max(0, self._bytes - sum(self._views)) if used else 0)

    def show(self, size: int) -> Callable[[], None]:
        """A screen is about to be charged for so many bytes; returns what to call when it is not any more."""
        self._views.append(size)
        self._charge()

        def gone() -> None:
            self._views.remove(size)
            self._charge()

        return gone

    def close(self) -> None:
        """The surface is gone; some of it may still be shown."""
        self._used = False
        self._charge()


# Painting takes steps, and while a drawing is under way nothing of it is published: a reader may see some of it early,
# and is told all of it in the end. Only a move must not be seen in part, so it is a single step.
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
        """`missed` is called with why the picture is not what the server has drawn: it must be asked for again."""
        self.display = display
        self.screen: Screen | None = None
        self._screens, self._controls, self._account = screens, controls, account
        self._label, self._door, self._number = label, door, number
        self._new_track, self._missed = new_track, missed
        self._canvas = Canvas(account)
        self._videos = Streams(self._canvas, account, new_track, display.send_report)
        self._heads: tuple[Rect, ...] = ()
        self._view = EMPTY
        self._memory: SurfaceMemory | None = None
        self._lacking = 0
        """Bytes of a surface that there was no room for: nothing is drawn until all is asked for again."""
        self._work: Iterator[int] | None = None
        """The rest of an event that takes several steps."""
        self._painting = Painting()
        self._looks: dict[Look, int] = {}
        self._look: Look | None = None
        self._numbers = 0
        self._at, self._shown = Point(0, 0), False

    @property
    def trouble(self) -> str:
        """Why a video of the screen is not shown; empty if all are."""
        return self._videos.trouble

    def restart(self, display: SpiceDisplay) -> None:
        """The channel was opened anew. The screen stays as it is, until the server has sent it again."""
        self._clear()
        self._lacking = 0
        self.display = display
        self._videos = Streams(self._canvas, self._account, self._new_track, display.send_report)

    def _clear(self) -> None:
        self._work = None
        self._videos.close()
        self._destroy(None)
        self._heads, self._view = (), EMPTY

    # -- the machine's side --------------------------------------------------------------------------

    def receive(self, now_ns: HostNs) -> None:
        """See `MachineDoor`."""
        del now_ns
        cost = 0
        while cost < STEP_COST:
            self._work = self._work or self._next()
            if self._work is None:
                break
            step = next(self._work, None)
            if step is None:
                self._work = None
            cost += EVENT_COST if step is None else step
        self.display.painting = self._work is not None
        self._publish()

    def _next(self) -> Iterator[int] | None:
        """The next event's work; None if there is none."""
        event = self.display.take()
        if isinstance(event, SurfaceCreate | SurfaceDestroy | Heads):
            # A picture belongs to one mode.
            self._publish()
        return None if event is None else self._event(event)

    def _event(self, event: DisplayEvent) -> Iterator[int]:
        if self._lacking:
            return
        if isinstance(event, StreamData):
            parts = yield from self._videos.data(event, self.display.arrived_ns)
            self._painting.rects += parts
        elif isinstance(event, SurfaceCreate):
            self._within(event.width, event.height, partial(self._create, event))
            if not event.surface:
                yield MODE_COST
        elif isinstance(event, SurfaceDestroy):
            self._destroy(event.surface)
        elif isinstance(event, Heads):
            self._heads = event.rects
            high, wide = self._canvas.surfaces[0].shape[:2] if self._memory else (0, 0)
            self._within(wide, high, self._show)
            yield MODE_COST
        elif isinstance(event, Forget):
            self._canvas.forget(event.names)
        elif isinstance(event, StreamCreate | StreamClip | StreamDestroy | ReportWanted):
            self._video(event)
            yield VIDEO_COST
        elif not isinstance(event, Mark):
            yield from self._draw(event)
        yield from self._videos.ends()

    def _video(self, event: StreamCreate | StreamClip | StreamDestroy | ReportWanted) -> None:
        if isinstance(event, StreamCreate):
            self._videos.create(event)
        elif isinstance(event, StreamClip):
            self._videos.clip(event.stream, event.clip)
        elif isinstance(event, StreamDestroy):
            self._videos.destroy(event.stream)
        else:
            self._videos.wanted(event)

    def _draw(self, drawing: Drawing) -> Iterator[int]:
        try:
            parts = yield from self._canvas.drawing(drawing)
        except NotUnderstood as error:
            self._missed(f"{error}, which the machine draws with, are not understood; the picture is asked for again")
            return
        assert not isinstance(drawing, Unknown) and drawing.base is not None
        if drawing.base.surface != 0:
            return
        if isinstance(drawing, Copied):
            self._painting.moved(parts, drawing.origin, drawing.base.box)
        else:
            self._painting.rects += parts

    # -- the screen's mode ---------------------------------------------------------------------------

    # The server goes on drawing, and what it draws meanwhile is dropped: the connection and the picture before stay.
    def _within(self, width: int, height: int, change: Callable[[], None]) -> None:
        """Make this change of a surface of that size, if there is room."""
        try:
            change()
        except BudgetError as error:
            self._clear()
            self._lacking = (height + 1) * width * PIXEL_BYTES
            self._missed(f"no room for its {width} × {height}: {error}")

    def has_room(self) -> bool:
        """Whether there is room, as far as is known, for what there was none for."""
        return self._screens.has_room(self._lacking)

    def _create(self, event: SurfaceCreate) -> None:
        if event.surface:
            self._canvas.create(event.surface, np.zeros((event.height, event.width, PIXEL_BYTES), np.uint8))
            return
        self._destroy(0)
        self._memory = SurfaceMemory(self._account, event.width, event.height)
        self._canvas.create(0, self._memory.pixels)
        self._view = EMPTY
        self._show()

    def _destroy(self, number: int | None) -> None:
        """A surface is gone; None: all are."""
        if number is None:
            self._canvas.close()
        else:
            self._videos.leave(number)
            self._canvas.destroy(number)
        if self._memory is not None and not number:
            self._memory.close()
            self._memory = None

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
        memory = self._memory
        if memory is None or (view := self._wanted()) == self._view:
            return
        if self.screen is None:
            self.screen = self._screens.add(self, self._label, self._door)
            self.screen.set_relative(self._controls.relative)
            self.lit()
        stride = self._canvas.surfaces[0].shape[1] * PIXEL_BYTES
        begin = view.y * stride + view.x * PIXEL_BYTES
        mode = Mode(view.width, view.height, stride)
        gone = memory.show(mode.bytes)
        try:
            self.screen.set_mode(mode, memory.bytes[begin : begin + mode.bytes], self.display.arrived_ns, gone)
        except GraphError:
            gone()
            raise
        self._view = view
        self._point()

    # The time at which a drawing was made is not sent, so a picture has the time of its arrival.
    def _publish(self) -> None:
        painting, self._painting = self._painting, Painting()
        if self.screen is None or self.screen.memory is None:
            return
        dx, dy = -self._view.x, -self._view.y
        rects = [rect.moved(dx, dy) for rect in few(painting.rects)]
        moves = [Move(move.to.moved(dx, dy), move.dx, move.dy) for move in painting.moves]
        self.screen.painted(rects, self.display.arrived_ns, moves, self._videos.overlays(dx, dy))

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

    def lit(self) -> None:
        """The machine has set the lights of its keyboard, or had before."""
        if self.screen is not None and self._controls.lights is not None:
            self.screen.lights.told(self._controls.lights)

    def key(self, press: KeyPress) -> None:
        """See `ScreenSource`."""
        self._controls.key(press)

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`."""
        return self._controls.room.takes(key, again)

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
        self._controls.room.end()
