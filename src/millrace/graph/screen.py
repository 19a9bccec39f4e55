"""Screen ports: the newest picture of one screen, and for each reader what changed since it last took one.

A screen is state, not a queue. Its source paints into memory and reports what it painted; readers take a picture when
they are ready. The rules:

- Damage is per reader: it covers all that changed since that reader last took a picture, and may cover more.
- A move is valid only from one serial to the next. A reader gets moves only if it took the picture directly before.
  Otherwise they become damage, as they do if the reader was still holding its last picture when the move was painted,
  or when painting began, or lacks some of the pixels that moved.
- Overlays are part of the picture and come with its serial. A reader leaves out those that its viewer composes from
  their tracks: what is painted there is no damage for it until the overlay is gone from that place. The source is told
  which overlays it must paint because some viewer can't compose them.
- A picture is a lease: until it is released, its memory stays mapped and its mode valid, whatever the source does. A
  reader holds one at a time, so one that never releases keeps the memory of one mode, and gets no other picture.
- Paint that arrives while a picture is held may show in it. It is damage of the next picture, which repairs the tear.
- What a source last painted may be old, if it paints only while somebody watches, or be half painted over, if it takes
  more steps. It says so, and then nobody gets a picture until it has painted.
- A picture is converted once for all readers that want the same format, and only where it changed.
- Of a source that makes too many modes (screenfacts.py), readers are shown the newest one ten times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from millrace.absent import nothing
from millrace.budget import VIEWERS, Account, Budget
from millrace.errors import GraphError
from millrace.graph.lights import Lights
from millrace.graph.pictures import (
    GONE,
    Characters,
    Cursor,
    KeyPress,
    Memory,
    Mode,
    Move,
    Overlay,
    ScreenSource,
    Shape,
    check_mode,
    check_shape,
    sorted_moves,
    touched,
    visible,
)
from millrace.graph.screenfacts import Found, ScreenFacts, ShownModes, none_unanswered, withheld
from millrace.graph.seat import Seat, Watcher
from millrace.pixels.convert import Convert, PixelFormat, Plane, Planes, convert
from millrace.pixels.rects import Damage, Point, Rect, Size, beyond
from millrace.units import HostNs

READERS_MAX = 256
SCREEN_BYTES, READER_BYTES = 8 * 1024, 8 * 1024
OVERLAYS_MAX = 64
CATCH_UP = 8
"""A reader that takes every picture takes each earlier by this part of its interval, until it takes them at once."""
SHAPES_MAX = 64
"""Cursors kept; beyond that, the one shown longest ago is discarded."""


class Picture:
    """A lease of the newest picture, and what changed since this reader's last."""

    __slots__ = ("_memory", "_reader", "cursor", "damage", "mode", "moves", "overlays", "painted_ns", "serial")

    def __init__(self, reader: Reader, memory: Memory, damage: tuple[Rect, ...], moves: tuple[Move, ...]) -> None:
        screen = reader.screen
        self._reader, self._memory = reader, memory
        self.serial, self.mode, self.painted_ns = screen.serial, memory.mode, screen.painted_ns
        self.cursor, self.overlays = screen.cursor, screen.overlays
        self.damage, self.moves = damage, moves

    @property
    def pixels(self) -> memoryview:
        """Rows of `mode.stride` bytes; read-only."""
        return self._memory.pixels

    @property
    def plane(self) -> Plane:
        """The same as an array of (height, width, 4)."""
        return self._memory.picture

    def converted(self, to: PixelFormat) -> Planes:
        """Its pixels in another format, shared by all readers of that format."""
        assert self._reader.held is self, "a picture that was released"
        return self._memory.converted(to, self._reader.screen.convert)

    def release(self) -> None:
        """End the lease. A second call does nothing."""
        if self._reader.held is self:
            self._reader.held = None
            self._memory.release()


class Reader:
    """Takes pictures at its own pace, with its own damage."""

    def __init__(
        self, screen: Screen, who: Watcher, account: Account, interval_ns: HostNs, leave_out: frozenset[str],
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self.screen, self.who = screen, who
        self.interval_ns = interval_ns
        """The shortest time between two pictures; 0: as soon as there is one."""
        self.leave_out = leave_out
        """Tracks of overlays that its viewer composes."""
        self.wake = wake
        """Called when a picture may be due, or the screen has ended; not the place to take one."""
        self.held: Picture | None = None
        self.ended = False
        self._account, self._damage = account, Damage()
        self._moves: list[Move] = []
        self._serial = 0
        self._cursor: Cursor | None = None
        self._base_ns: HostNs | None = None
        """From when the interval to the next picture counts."""
        self._taken_ns: HostNs = 0
        self._torn = False
        """Painting began while it held its last picture."""
        self._modes = ShownModes(screen.facts)

    def next_timeout(self) -> HostNs | None:
        """When it can take a picture; None: only after a change, or after it releases the picture it holds."""
        if self.ended or self.held is not None or self.screen.memory is None or self.screen.old:
            return None
        if self._serial == self.screen.serial and self._cursor is self.screen.cursor:
            return None
        return 0 if self._base_ns is None else max(self._base_ns + self.interval_ns, self._modes.due_ns)

    def take(self, now_ns: HostNs) -> Picture | None:
        """The newest picture and what changed since the last; None if nothing is new or it is too soon."""
        due_ns, memory = self.next_timeout(), self.screen.memory
        if due_ns is None or now_ns < due_ns or memory is None:
            return None
        memory.lease()
        damage, moves = self._seen(self._damage.take()), tuple(self._moves)
        self._moves = []
        self._base_ns = self._base(now_ns, due_ns)
        self._serial, self._cursor, self._taken_ns = self.screen.serial, self.screen.cursor, now_ns
        self._modes.taken(now_ns)
        self.held = Picture(self, memory, damage, moves)
        return self.held

    # After a pause two pictures may follow each other at once, while the mean rate is kept: a program shows a letter,
    # and then its caret. Pictures of a source at the interval of its reader would all be late once one was, as each is
    # due an interval after the last was. So as long as none is left out, each is due a little earlier.
    def _base(self, now_ns: HostNs, due_ns: HostNs) -> HostNs:
        """From when the interval after the picture that is taken now counts; it was due at `due_ns`."""
        if not due_ns:
            return now_ns
        every = self.screen.serial - self._serial <= 1
        return max(now_ns - self.interval_ns, due_ns - (self.interval_ns // CATCH_UP if every else 0))

    def withheld(self, now_ns: HostNs) -> Found | None:
        """Whether it keeps its picture for too long."""
        held = self.held
        return None if held is None else withheld(self.who.key, self._taken_ns, now_ns, held.mode.bytes)

    def _seen(self, damage: tuple[Rect, ...]) -> tuple[Rect, ...]:
        """Damage without what lies below an overlay that the reader leaves out."""
        places = self._left_out(self.screen.overlays)
        return tuple(rect for rect in damage if not any(place.holds(rect) for place in places))

    def _left_out(self, overlays: Iterable[Overlay]) -> list[Rect]:
        """The places where the reader lacks what the source paints."""
        return [place for overlay in overlays if overlay.track in self.leave_out for place in visible(overlay)]

    # Below an overlay that it leaves out, a reader's pixels are stale: once that goes, what is there must be sent.
    def uncovered(self, gone: Iterable[Overlay], lying: Iterable[Overlay]) -> None:
        """For the screen: overlays go, and others stay; the reader never had what was below those it leaves out."""
        if (memory := self.screen.memory) is not None:
            places = (place.common(memory.mode.whole) for place in self._left_out(gone))
            self._damage.add_all(beyond(places, self._left_out(lying)))

    def changed(self, rects: Iterable[Rect], moves: list[Move], overlays: Iterable[Overlay]) -> None:
        """For the screen: this was just painted, moves first; `overlays` lie over it, or did until now."""
        whole, self._torn = self.held is None and not self._torn, False
        had_all = self._serial == self.screen.serial - 1 and whole and not self._damage
        if had_all and not (moves and touched(moves, self._left_out(overlays))):
            self._moves = moves
        else:
            self._forget_moves()
            for move in moves:
                self._damage.add(move.to)
        self._damage.add_all(rects)

    def tear(self) -> None:
        """For the screen: painting begins, and what is held may show some of it."""
        self._torn = self._torn or self.held is not None

    def _forget_moves(self) -> None:
        """Turn the moves into damage: they no longer lead from the reader's picture to the newest one."""
        for move in self._moves:
            self._damage.add(move.to)
        self._moves = []

    def all_changed(self, whole: Rect) -> None:
        """For the screen: its memory was replaced."""
        self._moves, self._damage = [], Damage([whole])

    def key(self, press: KeyPress) -> None:
        """Press or release a key; RightsError unless the reader has the keyboard, as for the pointer and the size."""
        self.screen.controlled(self.who, "typing").key(press)

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        """Move the pointer, with these buttons down."""
        self.screen.controlled(self.who, "pointing").pointer(at, buttons, relative)

    def wish_size(self, size: Size) -> None:
        """Ask for another size of the screen."""
        self.screen.controlled(self.who, "resizing").size_wish(size)

    def set_interval(self, interval_ns: HostNs) -> None:
        """Take pictures more or less often."""
        self.interval_ns = interval_ns
        self.screen.tell_watched()

    def set_leave_out(self, tracks: frozenset[str]) -> None:
        """The viewer now composes these overlays."""
        lying = self.screen.overlays
        self.uncovered([one for one in lying if one.track not in tracks], [one for one in lying if one.track in tracks])
        self.leave_out = tracks
        # Never the screen's serial: a picture is due, although nothing was painted.
        self._serial = -1
        self.screen.tell_paint()

    def end(self) -> None:
        """Stop reading; a held picture stays valid until it is released. A second call does nothing."""
        if not self.ended:
            self.ended = True
            self._account.close()
            self.screen.leave(self)
            # Whoever is woken has this reader: a cycle, which only a full collection would free.
            wake, self.wake = self.wake, nothing
            wake()


class Screen:
    """One screen of a guest."""

    def __init__(
        self, key: str, source: ScreenSource, seat: Seat, budget: Budget, by: Convert = convert,
        changed: Callable[[], None] = nothing, unanswered: Callable[[], int] = none_unanswered,
    ) -> None:  # fmt: skip
        """`changed` is called when the mode or the number of readers has changed; `unanswered`: see `ScreenFacts`."""
        self.key, self.convert, self._changed = key, by, changed
        self.memory: Memory | None = None
        self.serial = 0
        self.painted_ns: HostNs = 0
        self.painted_pixels = 0
        """Pixels painted or moved since it was added."""
        self.cursor, self.facts, self.lights = Cursor(), ScreenFacts(unanswered), Lights()
        self.relative = False
        """The machine has only a mouse: it takes movements of the pointer, and no positions."""
        self.characters = Characters.NONE
        self.old = False
        """The source is about to paint what it shows now."""
        self.overlays: tuple[Overlay, ...] = ()
        self.readers: list[Reader] = []
        self._source, self._seat, self.budget = source, seat, budget
        self._account = budget.open("screen", {"screen": SCREEN_BYTES})
        self._shapes: dict[int, Shape] = {}
        self._watched: HostNs | None = None
        self._painted: frozenset[str] = frozenset()
        self._ended = self._mode_untold = False

    @property
    def ended(self) -> bool:
        """Whether the source is gone."""
        return self._ended

    # -- the source's side -----------------------------------------------------------------------

    def set_mode(self, mode: Mode, pixels: memoryview, now_ns: HostNs, free: Callable[[], None] = nothing) -> None:
        """Give the screen other memory; `free` is called when nobody uses that any more.

        If the mode is impossible or has no room, raise GraphError and change nothing.
        """
        if self._ended:
            raise GraphError(f"{self.key} has ended")
        check_mode(mode, pixels)
        # First what may fail, then the change. Both memories are charged until the old one is released.
        account = self.budget.open("screen", {"pixels": mode.bytes})
        before, self.memory = self.memory, Memory(mode, pixels, account, free)
        self.facts.mode(now_ns)
        if before is not None:
            before.release()
        self._next_serial(now_ns)
        self.overlays = ()
        for reader in self.readers:
            reader.all_changed(mode.whole)
        self.tell_paint()
        if before is None or before.mode != mode:
            self._mode_untold = True
            if not self.facts.many_modes:
                self._tell_mode()
        self._wake()

    def painted(
        self, rects: Iterable[Rect], now_ns: HostNs, moves: Iterable[Move] = (),
        overlays: Iterable[Overlay] | None = None,
    ) -> None:  # fmt: skip
        """Publish the next picture: first `moves` were applied, then `rects` painted, and `overlays` lie over it."""
        if self.memory is None:
            raise GraphError(f"{self.key} has no mode yet")
        whole = self.memory.mode.whole
        moved, torn = sorted_moves(list(moves), whole)
        changed = [part for rect in chain(rects, torn) if (part := rect.common(whole)).area]
        lying = self.overlays if overlays is None else tuple(overlays)[:OVERLAYS_MAX]
        if not changed and not moved and lying == self.overlays:
            return
        self.old = False
        self._next_serial(now_ns)
        painted = [*changed, *(move.to for move in moved)]
        self.memory.changed(painted)
        self.painted_pixels += sum(rect.area for rect in painted)
        before, self.overlays = self.overlays, lying
        gone = [overlay for overlay in before if overlay not in lying]
        for reader in self.readers:
            # Moves are judged against the overlays of before and after: pixels below either of them may be missing at
            # the reader, and a move would take them elsewhere.
            reader.changed(changed, moved, (*lying, *gone))
            reader.uncovered(gone, lying)
        if lying != before:
            self.tell_paint()
        self._wake()

    def await_paint(self) -> None:
        """What is in the memory is old, nothing yet, or about to change: readers wait for what is painted next."""
        self.old = True
        for reader in self.readers:
            reader.tear()

    def _tell_mode(self) -> None:
        if self._mode_untold:
            self._mode_untold = False
            self._changed()

    def _wake(self) -> None:
        for reader in list(self.readers):
            reader.wake()

    def _next_serial(self, now_ns: HostNs) -> None:
        self.serial += 1
        self.painted_ns = now_ns

    def set_cursor(self, cursor: Cursor) -> None:
        """Change the pointer's shape or position, which causes no damage."""
        if cursor.shown:
            if cursor.shape not in self._shapes:
                raise GraphError(f"{self.key}: cursor {cursor.shape} was never defined")
            # Moved to the end: the dictionary is in order of last use.
            self._shapes[cursor.shape] = self._shapes.pop(cursor.shape)
        if cursor != self.cursor:
            self.cursor = cursor
            self._wake()

    def set_relative(self, relative: bool) -> None:
        """Whether the machine takes movements of the pointer instead of positions."""
        if relative != self.relative:
            self.relative = relative
            self._changed()

    def define_shape(self, shape: Shape) -> None:
        """Define what a cursor looks like, for readers to request by its number."""
        check_shape(shape)
        known = {number: held for number, held in self._shapes.items() if number != shape.number}
        while len(known) >= SHAPES_MAX:
            del known[next(number for number in known if number != self.cursor.shape)]
        known[shape.number] = shape
        self._account.hold("shapes", sum(len(held.pixels) for held in known.values()))
        self._shapes = known

    def shape(self, number: int) -> Shape | None:
        """What a cursor looks like, if that is still known."""
        return self._shapes.get(number)

    def end(self) -> None:
        """The source is gone. Held pictures stay valid until they are released. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        for reader in list(self.readers):
            reader.end()
        if self.memory is not None:
            self.memory.release()
            self.memory = None
        self._shapes.clear()
        self._account.close()
        self._source = GONE

    # -- the readers' side -----------------------------------------------------------------------

    def read(
        self, who: Watcher, interval_ns: HostNs = 0, leave_out: frozenset[str] = frozenset(),
        wake: Callable[[], None] = nothing,
    ) -> Reader:  # fmt: skip
        """Add a reader; if there is no room, raise GraphError and change nothing."""
        if self._ended:
            raise GraphError(f"{self.key} has ended")
        if len(self.readers) >= READERS_MAX:
            raise GraphError(f"{self.key} already has {READERS_MAX} readers, the maximum")
        account = self.budget.open("reader", {"reader": READER_BYTES}, VIEWERS)
        reader = Reader(self, who, account, interval_ns, leave_out, wake)
        if self.memory is not None:
            reader.all_changed(self.memory.mode.whole)
        self.readers.append(reader)
        self._readers_changed()
        return reader

    def second(self, now_ns: HostNs) -> Iterator[Found]:
        """Once a second: what its source or its readers do wrong. And tell its mode, if that was put off."""
        self._tell_mode()
        yield from self.facts.second(0 if self.memory is None else self.memory.mode.whole.area)
        for reader in self.readers:
            if (found := reader.withheld(now_ns)) is not None:
                yield found

    def leave(self, reader: Reader) -> None:
        """For readers: remove one."""
        self.readers.remove(reader)
        self._readers_changed()

    def _readers_changed(self) -> None:
        self.tell_watched()
        self.tell_paint()
        self._changed()

    def controlled(self, who: Watcher, what: str) -> ScreenSource:
        """The source, for the holder of the keyboard; RightsError for others."""
        self._seat.demand(who, what)
        return self._source

    def tell_watched(self) -> None:
        """Tell the source the shortest interval of any reader, if that has changed."""
        interval_ns = min((reader.interval_ns for reader in self.readers), default=None)
        if interval_ns != self._watched:
            self._watched = interval_ns
            self._source.watched(interval_ns)

    def tell_paint(self) -> None:
        """Tell the source which overlays it must paint, if that has changed."""
        tracks, readers = {overlay.track for overlay in self.overlays}, self.readers
        painted = frozenset(track for track in tracks if any(track not in reader.leave_out for reader in readers))
        if painted != self._painted:
            self._painted = painted
            self._source.paint(painted)
