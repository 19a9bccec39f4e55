"""What is done later: once, or as often as a machine's keyboard has room for another key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millrace.doors.inputroom import InputRoom

PACE_S = 0.01
"""Between two keys of a text, as in QEMU's own VNC server (ui/vnc.c, key-delay-ms)."""


class Later:
    """Calls `then` once, a time after `begin` was called last."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._handle: asyncio.TimerHandle | None = None

    @property
    def begun(self) -> bool:
        """Whether it is to call."""
        return self._handle is not None

    def begin(self, seconds: float) -> None:
        """Call then, and not before."""
        self.close()
        self._handle = asyncio.get_running_loop().call_later(seconds, self._due)

    def _due(self) -> None:
        self._handle = None
        self._then()

    def close(self) -> None:
        """Never call, unless it is begun again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Paced:
    """Gives a keyboard's `room` back with time; `go_on` is to be called when keys were sent."""

    def __init__(self, room: InputRoom) -> None:
        self._room, self._later = room, Later(self._pace)

    def go_on(self) -> None:
        """There may be room to give back."""
        if self._room.pacing and not self._later.begun:
            self._later.begin(PACE_S)

    def relieved(self) -> None:
        """The machine may be full no more."""
        self._room.tell()
        self.go_on()

    def _pace(self) -> None:
        self._room.pace()
        self.go_on()

    def close(self) -> None:
        """The machine is gone: nobody waits for it any more."""
        self._later.close()
        self._room.end()
