"""Which locks of a display's keyboard are on, as XKB tells: The X Keyboard Extension, protocol 1.0 (XKBproto.h)."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from millrace.wire.keys import CAPS_LED, NUM_LED, LightsTold
from millrace.wire.x11 import requests
from millrace.wire.x11.events import X11Event

NAME = b"XKEYBOARD"
USE, SELECT, GET_STATE = 0, 1, 4
CORE_KEYBOARD, STATE_NOTIFY, LOCKED = 0x100, 2, 8
_LOCK, _NUM = 0x02, 0x10
"""Modifiers: Lock, and Mod2, which is num lock by convention."""


def lights(locked: int) -> int:
    """Lights of locked modifiers: num lock 2, caps lock 4."""
    return (CAPS_LED if locked & _LOCK else 0) | (NUM_LED if locked & _NUM else 0)


def watch(major: int) -> tuple[bytes, bytes, bytes]:
    """Begin; be told when a modifier is locked or no longer; and ask which ones are."""
    select = struct.pack("<8H", CORE_KEYBOARD, 1 << STATE_NOTIFY, 0, 0, 0, 0, LOCKED, LOCKED)
    use, state = struct.pack("<HH", 1, 0), struct.pack("<Hxx", CORE_KEYBOARD)
    return (
        requests.request(major, USE, use),
        requests.request(major, SELECT, select),
        requests.request(major, GET_STATE, state),
    )


def _nothing(client: Any, part: bytes) -> None:
    """It has no consequence."""
    del client, part


class LocksWatched(ABC):
    """The part of a client that is told of them."""

    _events: list[X11Event]
    _locks_asked = False
    _locks_event = -1
    """The kind of XKB's events, once they are asked for."""

    @abstractmethod
    def _send(self, request: bytes) -> None: ...

    @abstractmethod
    def _ask(
        self, request: bytes, answer: Callable[[Any, bytes], None], refused: Callable[[Any, bytes], None] | None = None
    ) -> None: ...

    def send_lights_watch(self) -> None:
        """Be told of the locks from the first call on, once we are let in; not by a server without XKB."""
        if self._locks_asked:
            return
        self._locks_asked = True
        self._ask(requests.query_extension(NAME), LocksWatched._keyboard)

    def _keyboard(self, part: bytes) -> None:
        present, major, first = struct.unpack_from("<BBB", part, 8)
        if present:
            self._locks_event = first
            use, select, state = watch(major)
            self._ask(use, _nothing, _nothing)
            self._send(select)
            self._ask(state, LocksWatched._state, _nothing)

    def _state(self, part: bytes) -> None:
        self._events.append(LightsTold(lights(part[11])))

    def _locks_told(self, part: bytes) -> None:
        if part[1] == STATE_NOTIFY:
            self._events.append(LightsTold(lights(part[12])))
