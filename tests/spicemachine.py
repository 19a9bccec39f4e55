"""A SPICE server whose screen is read in a test."""

from __future__ import annotations

from typing import Any

import numpy as np

from millrace.budget import Budget
from millrace.doors.spice.screen import Controls, SpiceScreen
from millrace.graph.model import Ids
from millrace.graph.pictures import Move
from millrace.graph.screen import Reader
from millrace.graph.screens import Screens
from millrace.graph.tracks import Tracks
from millrace.media.packet import Item, Kind
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.spice.cursor import SpiceCursor
from millrace.wire.spice.display import SETTLED_NS, SpiceDisplay
from millrace.wire.spice.inputs import SpiceInputs
from tests.fuzz import spiceserver as server
from tests.gops import WATCHER
from tests.paintedscreen import update
from tests.received import received
from tests.spicewire import linked, noise, sent, ticket

WIDTH, HEIGHT = 96, 64


WHOLE = Rect(0, 0, WIDTH, HEIGHT)


LIMIT = 64 * 1024 * 1024


class Sink:
    """Keeps what a track gives it."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def begin(self, items: tuple[Item, ...]) -> None:
        self.items += items

    def push(self, item: Item) -> None:
        self.items.append(item)


class Machine:
    """A SPICE server's screen with the door that shows it, and a viewer that applies what it gets."""

    def __init__(self, limit: int = LIMIT, tracks: bool = True) -> None:
        self.budget, ids = Budget(limit=limit), Ids()
        self.changed: list[tuple[str, str]] = []
        self.screens = Screens(
            "alice", ids, self.budget, lambda change, listed: self.changed.append((change, listed.key))
        )
        self.tracks = Tracks("alice", ids, self.screens.seat, self.budget)
        self.inputs: SpiceInputs = linked(SpiceInputs(7, "", ticket, 0))
        self.cursor: SpiceCursor = linked(SpiceCursor(7, 0, "", ticket, 0))
        self.wire: SpiceDisplay = linked(SpiceDisplay(7, 0, "", ticket, 0))
        self.controls, self.missed, self.woken = Controls(), list[str](), 0
        self.controls.connect(self.inputs, self._woken)
        new_track = (lambda: self.tracks.add(Kind.VIDEO)) if tracks else None
        account = self.budget.open("connection")
        self.door = SpiceScreen(
            self.screens, self.wire, self.controls, account, "SPICE", "door/1", 0, new_track, self.missed.append
        )
        self.now_ns = 10 * NS_PER_S
        self.reader: Reader | None = None
        self.canvas = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self.moves: tuple[Move, ...] = ()
        sent(self.wire), sent(self.inputs)

    def _woken(self) -> None:
        self.woken += 1

    def says(self, *messages: bytes) -> int:
        """The server sends these at once, and then nothing for a while. Returns in how many steps they were painted."""
        self.now_ns += 20 * NS_PER_MS
        received(self.wire, b"".join(messages), self.now_ns, lambda: self.door.receive(self.now_ns))
        self.now_ns += SETTLED_NS
        self.wire.handle_timeout(self.now_ns)
        self.door.receive(self.now_ns)
        steps = 1
        while self.wire.unfinished:
            self.looks()
            self.wire.receive(b"", self.now_ns)
            self.door.receive(self.now_ns)
            steps += 1
        return steps

    def looks(self) -> None:
        """Called between two steps of a picture."""

    def points(self, *messages: bytes) -> None:
        received(self.cursor, b"".join(messages), self.now_ns)
        self.door.receive_cursor(self.cursor)

    @property
    def painted(self) -> server.Pixels:
        """The picture in the screen's memory."""
        assert self.door.screen is not None and self.door.screen.memory is not None
        return self.door.screen.memory.picture.copy()

    def watch(self) -> server.Pixels:
        """What a viewer has after the next picture."""
        assert self.door.screen is not None
        if self.reader is None:
            self.reader = self.door.screen.read(WATCHER)
        picture = self.reader.take(self.now_ns)
        if picture is not None:
            mode = picture.mode
            rows = np.ndarray((mode.height, mode.width, 4), np.uint8, picture.pixels, strides=(mode.stride, 4, 1))
            if self.canvas.shape != rows.shape:
                self.canvas = np.zeros((mode.height, mode.width, 4), np.uint8)
            self.moves = picture.moves
            update(self.canvas, picture, rows)
            picture.release()
        return self.canvas


def machine(**options: Any) -> Machine:
    made = Machine(**options)
    made.says(server.surface(WIDTH, HEIGHT), server.draw_copy(WHOLE, server.bitmap(noise(WIDTH, HEIGHT))))
    return made
