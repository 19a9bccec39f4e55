"""The pace at which a machine's keyboard has room for keys."""

from __future__ import annotations

from millrace.doors.inputroom import InputRoom
from millrace.io.later import Later

PACE_S = 0.01
"""Between two keys of a text, as in QEMU's own VNC server (ui/vnc.c, key-delay-ms)."""


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
        self._room.close()
