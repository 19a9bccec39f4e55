"""Whether a machine has room for what a viewer types and points at, which waits with the viewer until it has."""

from __future__ import annotations

from collections.abc import Callable

from millrace.absent import never, nothing

AT_ONCE = 8
"""Presses and releases of keys that are sent at once. A guest's keyboard holds 16 that the guest has not read (QEMU,
hw/input/ps2.c, hw/input/hid.c) and drops more; so there is room for one more as often as `pace` is called."""
AHEAD_MAX = 4
"""Releases and the rest of a character are sent without room, and later paces make up for that: for so many keys at
most, or whoever types next would wait for all that another held down."""


# QEMU's keyboards say nothing of how many keys the guest has read. Its own VNC server gives them one each 10 ms
# (ui/vnc.c, key-delay-ms) and drops what its queue of some hundreds has no room for (ui/input.c); over D-Bus and SPICE
# it gives them all at once. So whoever sends keys to QEMU does it in that pace, and calls `used` for each.
class InputRoom:
    """Of one keyboard and pointer. While the machine has not taken what it was sent (`full`), nothing fits.

    `tell` must be called when it may be full no more, and `pace` every 10 ms while `pacing`.
    """

    def __init__(self, full: Callable[[], bool] = never) -> None:
        self._full = full
        self._left = AT_ONCE
        """Room for keys."""
        self._again, self._key = nothing, False
        """Called when there is room, and whether for a key."""

    def takes(self, key: bool, again: Callable[[], None]) -> bool:
        """See `ScreenSource`."""
        takes = self._has(key)
        if not takes:
            self._again, self._key = again, key
        return takes

    def _has(self, key: bool) -> bool:
        return not self._full() and (self._left > 0 or not key)

    def used(self) -> None:
        """A key was pressed or released, with or without room."""
        self._left = max(-AHEAD_MAX, self._left - 1)

    @property
    def pacing(self) -> bool:
        """Whether `pace` must be called. A machine that is full reads no keys meanwhile."""
        return self._left < AT_ONCE and not self._full()

    def pace(self) -> None:
        """Time has passed: there is room for one more press or release."""
        self._left = min(AT_ONCE, self._left + 1)
        self.tell()

    def tell(self) -> None:
        """Call whoever waits, if there is room."""
        if self._has(self._key):
            self.end()

    def end(self) -> None:
        """Call whoever waits in any case: it finds that the screen has ended."""
        again, self._again = self._again, nothing
        again()

    def open(self, full: Callable[[], bool]) -> None:
        """The machine is there again."""
        self._full = full

    def close(self) -> None:
        """The machine is gone. `full` refers to its connection, which refers to this: a cycle (daemon/collector.py)."""
        self._full = never
        self.end()
