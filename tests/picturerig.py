"""A screen with one picture encoder on virtual time, and viewers that draw what they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace.budget import Budget
from millrace.codec.picturesettings import PictureSettings
from millrace.graph.pictures import KeyPress, Mode, Move
from millrace.graph.screen import Screen
from millrace.graph.seat import Seat
from millrace.outlets.encoded import EncodedPicture
from millrace.outlets.picturechoice import Formats
from millrace.outlets.pictures import PictureEncoder
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Point, Rect, Size
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.pictures import PartType, check_part
from tests.gops import WATCHER
from tests.painting import Canvas, blank_screen, glyphs, photo, steps

SIZE = Size(640, 400)
WHOLE = Rect(0, 0, 640, 400)
STEP_NS: HostNs = NS_PER_S // 30


class Machine:
    """A source that paints; requests are ignored."""

    def key(self, press: KeyPress) -> None: ...

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        return True

    def pointer(self, at: Point, buttons: int, relative: bool) -> None: ...

    def size_wish(self, size: Size) -> None: ...

    def paint(self, tracks: frozenset[str]) -> None: ...

    def watched(self, interval_ns: int | None) -> None: ...


class View:
    """A viewer, which draws what it is sent."""

    def __init__(self, codec: str = "avc1") -> None:
        self.codec, self.open = codec, True
        self.sparing = False
        self.room: int | None = None
        """The most bytes of a picture that it takes; None: any number."""
        self.canvas: Canvas | None = None
        self.pictures: list[EncodedPicture] = []
        self.times_ns: list[HostNs] = []
        self.clock: Callable[[], HostNs] = int

    def ready(self, now_ns: HostNs) -> bool:
        return self.open

    def resized(self, size: Size) -> None:
        self.canvas = Canvas(size, self.codec)

    def push(self, picture: EncodedPicture) -> bool:
        if self.room is not None and picture.size > self.room:
            self.open = False
            return False
        assert self.canvas is not None
        for part in picture.parts:
            check_part(part, Rect(0, 0, self.canvas.size.width, self.canvas.size.height))
        assert picture.size == sum(len(part.data) for part in picture.parts)
        assert not self.pictures or picture.serial > self.pictures[-1].serial
        self.canvas.apply(picture.parts)
        self.pictures.append(picture)
        self.times_ns.append(self.clock())
        return True

    def types(self, since: int = 0) -> set[PartType]:
        return {PartType(part.type) for picture in self.pictures[since:] for part in picture.parts}

    def bytes(self, since: int = 0) -> int:
        return sum(picture.size for picture in self.pictures[since:])


class Lane:
    """Work that waits until it is told to run."""

    def __init__(self) -> None:
        self.crowded = False
        self.at_once = False
        """Small work is done at once."""
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.running = False

    def __call__(self, work: Callable[[], Any], done: Callable[[Any], None], small: bool = False) -> None:
        assert not self.waiting, "one piece of work at a time"
        if small and self.at_once:
            done(work())
        else:
            self.waiting.append((work, done))

    def begin(self) -> tuple[Callable[[], Any], Callable[[Any], None]]:
        """Take out the work, and what it is to be told to when it is done."""
        work, done = self.waiting.pop()
        self.running = True

        def finished(result: Any) -> None:
            self.running = False
            done(result)

        return work, finished

    def withdraw(self) -> bool:
        """See `Offload`."""
        self.waiting.clear()
        return not self.running


class Rig:
    """A screen with one encoder; work runs when it is told to, in no time."""

    def __init__(self, size: Size = SIZE, formats: Formats | None = None, **settings: Any) -> None:
        self.now_ns: HostNs = NS_PER_S
        self.budget = Budget()
        self.screen = Screen("screen/0", Machine(), Seat("default"), self.budget)
        self.picture: Plane = blank_screen(size)
        self.freed: list[int] = []
        self.mode(self.picture)
        self.lane, self.told = Lane(), list[tuple[str, HostNs, Any]]()
        self.waiting = self.lane.waiting
        self.failures: list[Exception] = []
        self.wakes = 0
        self.encoder = PictureEncoder(
            self.screen, PictureSettings(**settings), WATCHER, self.woken, lane=self.lane, clock=lambda: self.now_ns,
            budget=self.budget, formats=formats or Formats(), failed=self.failures.append,
            computed=lambda: 0, told=lambda *told: self.told.append(told),
        )  # fmt: skip

    def woken(self) -> None:
        self.wakes += 1

    def mode(self, picture: Plane) -> None:
        high, wide = picture.shape[:2]
        self.picture = picture
        number = len(self.freed)
        pixels = memoryview(picture).cast("B")
        self.screen.set_mode(Mode(wide, high, wide * 4), pixels, self.now_ns, lambda: self.freed.append(number))

    def work(self) -> None:
        while self.waiting:
            work, done = self.lane.begin()
            try:
                result = work()
            except Exception as error:
                result = error
            done(result)
        for _ in self.encoder.deliver():
            pass

    def join(self, view: View) -> View:
        view.clock = lambda: self.now_ns
        self.encoder.join(view)
        return view

    def run(self, until_ns: HostNs) -> None:
        """Let time pass: each deadline is met."""
        for _ in range(1000):
            due_ns = self.encoder.next_timeout()
            if due_ns is None or due_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, due_ns)
            self.encoder.handle_timeout(self.now_ns)
            self.work()
        else:
            raise AssertionError("deadlines that never pass")
        self.now_ns = max(self.now_ns, until_ns)

    def paint(self, rects: list[Rect], moves: list[Move] | None = None, step_ns: HostNs = STEP_NS) -> None:
        """Report what was painted, and let one thirtieth of a second pass."""
        self.screen.painted(rects, self.now_ns, moves or [])
        self.run(self.now_ns + step_ns)

    def settle(self, seconds: float = 3) -> None:
        self.run(self.now_ns + round(seconds * NS_PER_S))

    def play(self, kind: str, number: int, seed: int = 1) -> None:
        for rects in steps(kind, self.picture, seed, number):
            self.paint(rects)


def shown(view: View, rig: Rig) -> bool:
    return view.canvas is not None and view.canvas.exact(rig.picture)


def desktop(picture: Plane) -> None:
    glyphs(picture, Rect(0, 0, 400, 200), 3)
    photo(picture, Rect(400, 200, 240, 200), 4)


def started(size: Size = SIZE, formats: Formats | None = None, **settings: Any) -> tuple[Rig, View]:
    """A viewer that has the first picture."""
    rig = Rig(size, formats, **settings)
    desktop(rig.picture)
    view = rig.join(View((formats or Formats()).video or "avc1"))
    rig.settle()
    assert shown(view, rig)
    return rig, view
