"""What is asked of a display's keyboard, and what it tells: The X Keyboard Extension, protocol 1.0 (XKBproto.h)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from millrace.wire.keys import CAPS_LED, NUM_LED
from millrace.wire.x11 import requests

NAME = b"XKEYBOARD"
SHIFT, LOCK = 1, 2
"""Modifiers."""
NEW_KEYBOARD, MAP, STATE = 0, 1, 2
"""Events."""
SYMBOLS = 2
"""Of what a map has: its keysyms."""
_USE, _SELECT, _GET_STATE, _LATCH_LOCK, _SET_CONTROLS, _GET_MAP = 0, 1, 4, 5, 7, 8
_CORE_KEYBOARD, _PARTS, _ALL = 0x100, 7, 0xFF
"""Parts of a map: types of keys, keysyms, and the modifiers of keys."""
_REPEAT_KEYS, _ENABLED = 1, 1 << 31
_NUM = 0x10
"""Mod2, which is num lock by convention."""


class KeyState(NamedTuple):
    """Modifiers that are in force, and of them those that are locked; and so the groups of the layout."""

    mods: int
    locked: int
    group: int
    locked_group: int

    @property
    def lights(self) -> int:
        """Lights: num lock 2, caps lock 4."""
        return (CAPS_LED if self.locked & LOCK else 0) | (NUM_LED if self.locked & _NUM else 0)


NO_STATE = KeyState(0, 0, 0, 0)


def begin(major: int) -> bytes:
    """The first request that it takes."""
    return requests.request(major, _USE, struct.pack("<HH", 1, 0))


def watch(major: int) -> bytes:
    """Be told when modifiers or groups are in force or no longer, and when the map is another one."""
    told = 1 << NEW_KEYBOARD | 1 << MAP | 1 << STATE
    select = struct.pack("<6H", _CORE_KEYBOARD, told, 0, 1 << NEW_KEYBOARD, _PARTS, _PARTS)
    return requests.request(major, _SELECT, select + struct.pack("<HH", _ALL, _ALL))


def get_state(major: int) -> bytes:
    """Which modifiers and groups are in force."""
    return requests.request(major, _GET_STATE, struct.pack("<Hxx", _CORE_KEYBOARD))


def get_map(major: int) -> bytes:
    """What each key means."""
    return requests.request(major, _GET_MAP, struct.pack("<HHH18x", _CORE_KEYBOARD, _PARTS, 0))


def lock(major: int, among: int, mods: int, group: int) -> bytes:
    """Lock these of some modifiers, and a group, as their keys would."""
    return requests.request(major, _LATCH_LOCK, struct.pack("<H4B6x", _CORE_KEYBOARD, among, mods, 1, group))


def repeat(major: int, on: bool) -> bytes:
    """Whether the server repeats keys that are pressed from now on (`SetControls`, RepeatKeys)."""
    controls = struct.pack("<H18xIII", _CORE_KEYBOARD, _REPEAT_KEYS, _REPEAT_KEYS * on, _ENABLED)
    return requests.request(major, _SET_CONTROLS, controls.ljust(96, b"\0"))


def state_of_answer(part: bytes) -> KeyState:
    """The answer to `get_state`."""
    mods, _, _, locked, group, locked_group = part[8:14]
    return KeyState(mods, locked, group, locked_group)


def state_of_event(part: bytes) -> KeyState:
    """A `STATE` event."""
    return KeyState(part[9], part[12], part[13], part[18])


def keys_of_event(part: bytes) -> range | None:
    """The keys of which a `MAP` event says that their keysyms have changed; None if more has."""
    changed, first, count = struct.unpack_from("<10xH4xBB", part)
    return range(first, first + count) if changed & _PARTS == SYMBOLS else None
