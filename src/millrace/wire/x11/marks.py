"""Where an X display lists its keys that were given a meaning: for whoever attaches after a daemon that was killed.

"Inter-Client Communication Conventions Manual", version 2.0, 2.1: a selection has no owner once that has gone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial

from millrace.wire.keys import BY_EVDEV
from millrace.wire.x11 import requests
from millrace.wire.x11.numbered import PACKET
from millrace.wire.x11.requests import KEYCODE_MAX, KEYCODE_OFFSET
from millrace.wire.x11.said import Said, Then, no_more

NAMES = (b"MILLRACE_KEYS", *(b"MILLRACE_KEYS_%d" % number for number in range(2, 5)))
"""Each names a selection, and a property of the root window: pairs of keycode and keysym. One for each daemon."""
MARK_MAX = 8 * 256
FUNCTIONS = range(0xFE00, 0xFE50), range(0xFF00, 0x10000)
"""Keysyms that are not characters: those that change the level or group, and of editing, moving and functions
(keysymdef.h)."""
_CARDINAL, _BITS, _PAIR = 6, 32, struct.Struct("<II")


# Several daemons may be attached to a display, each with keys of its own. Whoever owns a selection lives, and its list
# is nobody else's. The first without an owner is our own from then on; others without one that list keys were left, and
# are taken over too. If all have owners, no key is given a meaning.
class Marks:
    """The list of one connection's keys, and those that it has taken over."""

    def __init__(self) -> None:
        self.own = 0
        """The name of our own list; 0 before there is one."""
        self.number = 0
        """Which of all lists that is."""
        self._root = self._window = 0
        self._due = 0
        self._left: dict[int, int] = {}
        self._written: set[int] = set()
        """The lists that are to be deleted when the keys mean nothing again."""

    @property
    def due(self) -> bool:
        """Whether the server has not answered all that was asked."""
        return self._due > 0

    @property
    def has_left(self) -> bool:
        """Whether there is something to `take_left`."""
        return bool(self._left)

    def look(self, root: int, window: int) -> list[Said]:
        """Look for lists, and have one. `window` is a new number."""
        self._root, self._window = root, window
        names = [self._step(requests.intern_atom(name), partial(self._named, at)) for at, name in enumerate(NAMES)]
        return [Said(requests.create_window(window, root)), *names]

    def take_left(self) -> dict[int, int]:
        """The keys by their keysyms that a daemon has listed which was killed; once."""
        left, self._left = self._left, {}
        return left

    def write(self, given: dict[int, int]) -> bytes:
        """List these keys by their keysyms, and no others."""
        self._written.add(self.own)
        data = b"".join(_PAIR.pack(key, symbol) for symbol, key in given.items())
        return requests.change_property(self._root, self.own, _CARDINAL, _BITS, data)

    def delete(self) -> list[bytes]:
        """Delete the lists: the keys on them mean nothing again. Those that were left do, once they were taken."""
        if self._left:
            return []
        written, self._written = sorted(self._written), set()
        return [requests.delete_property(self._root, mark) for mark in written]

    # -- step by step ----------------------------------------------------------------------------

    def _step(self, request: bytes, then: Then, bytes_max: int = PACKET) -> Said:
        self._due += 1
        return Said(request, partial(self._answered, then), partial(self._answered, no_more), bytes_max)

    def _answered(self, then: Then, part: bytes) -> Sequence[Said]:
        self._due -= 1
        return then(part)

    def _named(self, number: int, part: bytes) -> list[Said]:
        (mark,) = struct.unpack_from("<I", part, 8)
        return [self._step(requests.get_owner(mark), partial(self._owned, number, mark))]

    def _owned(self, number: int, mark: int, part: bytes) -> list[Said]:
        if struct.unpack_from("<I", part, 8)[0]:
            return []
        listed = requests.read_property(self._root, mark, MARK_MAX)
        return [self._step(listed, partial(self._read, number, mark), PACKET + MARK_MAX)]

    def _read(self, number: int, mark: int, part: bytes) -> list[Said]:
        listed = _listed(part)
        if self.own and not listed:
            return []
        if not self.own:
            self.own, self.number = mark, number
        owner = self._step(requests.get_owner(mark), partial(self._claimed, mark, listed))
        return [Said(requests.set_owner(self._window, mark)), owner]

    # Another daemon may have looked at the same time, and then one of both has it.
    def _claimed(self, mark: int, listed: dict[int, int], part: bytes) -> list[Said]:
        if struct.unpack_from("<I", part, 8)[0] == self._window:
            self._left |= listed
            self._written |= {mark} if listed else set()
        elif self.own == mark:
            self.own = 0
        return []


def _listed(part: bytes) -> dict[int, int]:
    """The keys of a list by their keysyms."""
    kind, count = struct.unpack_from("<I4xI", part, 8)
    if (part[1], kind) != (_BITS, _CARDINAL):
        return {}
    data = part[PACKET : PACKET + 4 * count]
    pairs = _PAIR.iter_unpack(data[: len(data) // _PAIR.size * _PAIR.size])
    return {symbol: key for key, symbol in pairs if KEYCODE_OFFSET <= key <= KEYCODE_MAX and _is_ours(key, symbol)}


# Any program may write a list. What it names is taken from the keys, in our name: so nothing is believed of a key that
# somebody has before him, nor of a meaning that is no character's.
def _is_ours(key: int, symbol: int) -> bool:
    """Whether this key may have been given this meaning by a daemon."""
    return symbol > 0 and not any(symbol in keysyms for keysyms in FUNCTIONS) and not is_real(key)


def is_real(key: int) -> bool:
    """Whether keyboards have such a key, which somebody may press."""
    return key - KEYCODE_OFFSET in BY_EVDEV
