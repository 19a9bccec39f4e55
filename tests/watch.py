"""A guest with screens and its viewers, in virtual time: what each viewer sees, and what the machine is typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from millrace.codec.picturesettings import PictureSettings
from millrace.errors import MillraceError
from millrace.graph.pictures import Cursor, KeyPress, Mode, Shape
from millrace.graph.screen import Screen
from millrace.graph.screens import Listed, Screens
from millrace.graph.seat import Watcher
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewergroup import Group
from millrace.guest.viewers import Viewers
from millrace.media.clip import ClipText, clip_text
from millrace.outlets.encoded import MakePictures
from millrace.outlets.picturechoice import Formats
from millrace.outlets.pictures import PictureEncoder
from millrace.outlets.queue import Passed
from millrace.pixels.rects import Point, Rect, Size
from millrace.rights.model import OWNER, Principal
from millrace.sim.net import NetEmulator, Path
from millrace.symptoms import Evidence, Symptom
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.clips import Clip
from millrace.wire.peer.pictures import (
    FromViewer,
    Gone,
    KeyboardHeld,
    ModeChanged,
    PartType,
    Piece,
    ToViewer,
    Watch,
    encode_picture_message,
)
from millrace.wire.peer.viewing import ViewClient
from tests.painting import Canvas
from tests.plainpictures import PlainPictures
from tests.turning import HandTurned
from tests.unit.test_guest_home import House


def clip(number: int, data: bytes, refused: bool = False) -> Clip:
    """An answer with this text, or why there is none."""
    return Clip(number, None, data.decode()) if refused else Clip(number, clip_text(data))


def words(text: str) -> ClipText:
    """This text."""
    return clip_text(text.encode())


STEP_NS = 5 * NS_PER_MS
FAST = Path(delay_ns=NS_PER_MS)
UNSENT_MAX = 48 * 1024
SPOT = Rect(3, 4, 10, 8)


class Painter:
    """A machine's screen that is painted in one colour a rectangle."""

    def __init__(self) -> None:
        self.typed: list[Any] = []
        self.interval_ns: HostNs | None = None
        self.screen: Screen

    def key(self, press: KeyPress) -> None:
        self.typed.append((press.code, press.down, *filter(None, [press.meaning])))

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        return True

    def pointer(self, at: Point, buttons: int, relative: bool) -> None:
        self.typed.append((at.x, at.y, buttons, relative))

    def size_wish(self, size: Size) -> None:
        self.typed.append((size.width, size.height))

    def paint(self, tracks: frozenset[str]) -> None:
        pass

    def watched(self, interval_ns: HostNs | None) -> None:
        self.interval_ns = interval_ns

    def show(self, width: int, height: int, now_ns: HostNs) -> None:
        """Another size, black."""
        memory = bytearray(width * height * 4)
        self.pixels = np.frombuffer(memory, np.uint8).reshape(height, width, 4)
        self.screen.set_mode(Mode(width, height, width * 4), memoryview(memory), now_ns)

    def fill(self, rect: Rect, colour: int, now_ns: HostNs) -> None:
        """Paint a rectangle."""
        self.pixels[rect.y : rect.bottom, rect.x : rect.right] = (colour, colour // 2, 255 - colour, 0)
        self.screen.painted([rect], now_ns)

    def point(self, x: int, y: int, number: int = 1) -> None:
        """Move the pointer; it is a small square."""
        if self.screen.shape(number) is None:
            self.screen.define_shape(Shape(number, Size(2, 2), bytes([number] * 16)))
        self.screen.set_cursor(Cursor(number, Point(1, 1), Point(x, y), True))


class Remote:
    """A viewer at the end of a line; `acks` pictures when they have arrived, and `speaks` by itself."""

    def __init__(
        self, desk: Desk, watch: Watch | None = None, path: Path = FAST, principal: Principal = OWNER,
        acks: bool = True, speaks: bool = True, draws: bool = True,
    ) -> None:  # fmt: skip
        """Without `draws` it acknowledges pictures that it does not decode, which saves time."""
        self.desk, self.acks, self.speaks, self.draws = desk, acks, speaks, draws
        self.slow_ns = self.off_ns = 0
        """How long it takes to draw a picture, and how wrong the times are that it tells."""
        self.skew_ns: HostNs | None = None
        self._drawing: list[tuple[HostNs, int]] = []
        self.wire = ViewClient(watch or Watch(formats=["raw"]), desk.now_ns)
        self.down: NetEmulator[str | bytes] = NetEmulator(path, 1, lambda message: False)
        self.up: NetEmulator[str | bytes] = NetEmulator(Path(path.delay_ns), 1, lambda message: False)
        self.reads = True
        self.told: list[ToViewer] = []
        self.clips: list[Clip] = []
        self.pieces: list[Piece] = []
        self.arrived: list[HostNs] = []
        """When each of them was there."""
        self.ages: list[HostNs] = []
        self.bytes = 0
        self.drawn = Canvas(Size(1, 1))
        self.shapes: dict[int, bytes] = {}
        self.cursor: Any = None
        self.ended: MillraceError | None = None
        desk.id += 1
        self.unread = 0
        self._ways: list[tuple[HostNs, int]] = []
        """When what was written arrives at the viewer's machine, and its size."""
        self.session = ViewerSession(
            desk.viewers, desk.id, f"10.0.0.{desk.id}", self._write, self._room, desk.now_ns, principal, self._passed
        )
        desk.remotes.append(self)
        self.pump()

    def _write(self, messages: Sequence[str | bytes]) -> None:
        for message in messages:
            self.bytes += len(message)
            self.unread += len(message)
            self.down.send(message, self.desk.now_ns, len(message))
            self._ways.append((round(self.down.arrives_ns), len(message)))

    # A line passes the bytes of a message one by one, although the emulator delivers it as a whole.
    def _passed(self) -> Passed:
        now, rate = self.desk.now_ns, self.down.path.rate_bps
        waiting = 0
        self._ways = [one for one in self._ways if one[0] > now]
        for arrives_ns, size in self._ways:
            late = (arrives_ns - now) * rate // (8 * NS_PER_S) if rate else size
            waiting += min(size, late)
        return Passed(self.bytes, self.bytes - waiting)

    def _room(self) -> bool:
        return self.reads or self.unread < UNSENT_MAX

    def say(self, message: FromViewer) -> None:
        """Send a message, which arrives at once."""
        self.session.receive(encode_picture_message(message), self.desk.now_ns)

    def leave(self) -> None:
        """Close the connection."""
        self.session.closed()
        self.desk.remotes.remove(self)

    def pump(self) -> None:
        """What has arrived by now, both ways."""
        now = self.desk.now_ns
        for message in self.wire.data_to_send():
            if self.speaks:
                self.up.send(message, now, len(message))
        try:
            for message in self.up.receive(now):
                self.session.receive(message, now)
            due = self.session.next_timeout()
            if due is not None and due <= now and not self.session.closing:
                self.session.handle_timeout(now)
        except MillraceError as error:
            self.ended = error
            self.session.closed()
        for message in self.down.receive(now) if self.reads else ():
            self.unread = 0
            self.wire.receive(message, now)
            for event in self.wire.events():
                self._take(event, now)
        for due_ns, serial in [one for one in self._drawing if one[0] <= now]:
            self._drawing.remove((due_ns, serial))
            self.wire.send_shown(serial, now + self.off_ns, now + self.off_ns, self.skew_ns)
        due = self.wire.next_timeout()
        if due is not None and due <= now and self.reads:
            self.wire.handle_timeout(now)

    def _take(self, event: ToViewer | Piece | Clip, now: HostNs) -> None:
        if isinstance(event, Clip):
            self.clips.append(event)
            return
        if isinstance(event, Piece):
            self._draw(event, now)
            return
        self.told.append(event)
        if isinstance(event, ModeChanged) and event.generation != getattr(self, "generation", None):
            self.generation = event.generation
            self.drawn = Canvas(Size(event.width, event.height))
        if type(event).__name__ == "CursorChanged":
            self.cursor = event

    def _draw(self, piece: Piece, now: HostNs) -> None:
        self.pieces.append(piece)
        self.arrived.append(now)
        self.shapes |= {part.dx: bytes(part.data) for part in piece.parts if part.type == PartType.SHAPE}
        if self.draws:
            self.drawn.apply(part for part in piece.parts if part.type != PartType.SHAPE)
        if piece.last and piece.serial:
            self.ages.append(now - piece.painted_ns)
            if self.acks:
                self._drawing.append((now + self.slow_ns, piece.serial))

    @property
    def canvas(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The picture that it shows."""
        return self.drawn.pixels

    def news(self, kind: type) -> list[Any]:
        """The messages of a kind since the last call of this."""
        found = [one for one in self.told if isinstance(one, kind)]
        self.told = [one for one in self.told if not isinstance(one, kind)]
        return found

    @property
    def keyboard(self) -> tuple[bool, str] | None:
        """The last that it was told of the keyboard."""
        held = [one for one in self.told if isinstance(one, KeyboardHeld)]
        return (held[-1].mine, held[-1].who) if held else None

    @property
    def gone(self) -> list[str]:
        """Why screens have gone."""
        return [one.why for one in self.told if isinstance(one, Gone)]


def hybrid(desk: Desk) -> MakePictures:
    """The daemon's encoders, which take no time of the virtual clock unless `desk.threads` says so."""

    def make(
        screen: Screen, settings: PictureSettings, formats: Formats, who: Watcher, wake: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> PictureEncoder:  # fmt: skip
        def told(cause: str, at_ns: HostNs, evidence: Evidence) -> None:
            desk.home.report(Symptom("picture", cause, desk.home.name, screen.key, evidence, at_ns))

        desk.made += 1
        return PictureEncoder(
            screen, settings, who, wake, lane=Lane(desk.threads), formats=formats, failed=failed, told=told,
            clock=desk.threads.clock, computed=desk.threads.computed, budget=desk.home.admission.budget,
        )  # fmt: skip

    return make


class Threads:
    """The threads that encode, in virtual time: how long work waits for one, takes there, and computes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.waits_ns = self.takes_ns = self.computes_ns = 0
        self.crowded = self.hangs = False
        self.works = 0
        self._shift_ns = self._computed_ns = 0
        self._done: list[tuple[HostNs, Callable[[], None]]] = []

    def clock(self) -> HostNs:
        """The time, which goes on while work runs."""
        return self._desk.now_ns + self._shift_ns

    def computed(self) -> HostNs:
        """Processor time of a thread."""
        return self._computed_ns

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None], small: bool = False) -> None:
        self.works += 1
        self._shift_ns = self.waits_ns
        try:
            result: Any = work()
        except Exception as error:
            result = error
        self._shift_ns = 0
        took_ns = self.waits_ns + self.takes_ns
        if not took_ns and not self.hangs:
            done(result)
        else:
            due_ns = self._desk.now_ns + took_ns + (NS_PER_S * 3600 if self.hangs else 0)
            self._done.append((due_ns, lambda: done(result)))

    def spend(self) -> None:
        """For work: it takes its time now."""
        self._shift_ns += self.takes_ns
        self._computed_ns += self.computes_ns

    def run(self) -> None:
        """Hand over what is done by now."""
        due = [done for due_ns, done in self._done if due_ns <= self._desk.now_ns]
        self._done = [one for one in self._done if one[0] > self._desk.now_ns]
        for done in due:
            done()


class Lane:
    """The threads as one encoder sees them. What it asks for has begun at once."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._busy = False

    @property
    def crowded(self) -> bool:
        """See `Offload`."""
        return self._threads.crowded

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None], small: bool = False) -> None:
        def finished(result: Any) -> None:
            self._busy = False
            done(result)

        self._busy = True
        self._threads(work, finished, small)

    def withdraw(self) -> bool:
        """See `Offload`."""
        return not self._busy


class _Untimed:
    def rearm(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Desk:
    """A guest's screens and viewers."""

    def __init__(self, encodes: bool = False) -> None:
        """Its encoders are the daemon's, or else send pixels as they are."""
        self.house = House()
        self.now_ns: HostNs = 5 * NS_PER_S
        self.id = 100
        self.home = self.house.home
        self.turns = self.home.turns = HandTurned(lambda: 0)
        self.remotes: list[Remote] = []
        self.groups: list[Group] = []
        self.threads, self.made = Threads(self), 0
        self.changes: list[tuple[str, str]] = []
        self.home.screens = Screens(
            "alice", self.house.rig.graph.ids, self.home.admission.budget, self._screen_changed,
            report=lambda symptom: self.home.report(symptom),
        )  # fmt: skip
        self.viewers = Viewers(
            self.home, hybrid(self) if encodes else PlainPictures, self._timer,
            lambda change, session: self.changes.append((change, session.key)),
            lambda: self.now_ns,
        )  # fmt: skip

    def _screen_changed(self, change: str, listed: Listed) -> None:
        self.viewers.screen_changed(change, listed)

    def _timer(self, group: Group) -> _Untimed:
        self.groups.append(group)
        return _Untimed()

    def add(self, label: str = "VGA", door: str = "door/7", width: int = 64, height: int = 48) -> Painter:
        """A machine's screen."""
        painter = Painter()
        painter.screen = self.home.screens.add(painter, label, door)
        if width:
            painter.show(width, height, self.now_ns)
        return painter

    def remove(self, painter: Painter) -> None:
        """The machine is lost."""
        self.home.screens.remove(painter.screen)

    def run(self, ms: int) -> None:
        """Let time pass."""
        end = self.now_ns + ms * NS_PER_MS
        while self.now_ns < end:
            self.now_ns += STEP_NS
            for remote in list(self.remotes):
                remote.pump()
            self.threads.run()
            for group in self.groups:
                due = group.next_timeout() if group.sessions else None
                if due is not None and due <= self.now_ns:
                    group.handle_timeout(self.now_ns)
            self.turns.run()
            if self.now_ns % NS_PER_S < STEP_NS:
                self._tick()

    def _tick(self) -> None:
        self.home.screens.second(self.now_ns)
        for remote in list(self.remotes):
            try:
                if remote.ended is None:
                    remote.session.tick(self.now_ns)
            except MillraceError as error:
                remote.ended = error
                remote.session.closed()
