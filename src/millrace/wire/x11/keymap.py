"""What the keys of an X display mean: its layout, as XKB tells it.

The X Keyboard Extension, protocol 1.0, "GetMap" (XKBproto.h); X Keyboard Extension: Library Specification, 15, for how
a key, the group of the layout and the modifiers become a keysym.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millrace.errors import RemoteProtocolError
from millrace.wire.keysyms import char_of, keysym_of
from millrace.wire.x11.requests import KEYCODE_MAX
from millrace.wire.x11.xkb import LOCK, KeyState

ANSWER_MAX = 48 * 1024
"""Bytes of a map: 248 keys with four groups of eight levels take 34 KiB, and their types a few. More would take longer
to read than other guests can wait."""
PLACES_MAX, ENTRIES_MAX = 8, 64
"""So many places of a keysym, and combinations of modifiers of a type of keys, are considered, as
that is done for each key that is typed. The types of xkeyboard-config have some 30."""
GROUPS = 4
_HEAD, _WRAP, _CLAMP = 40, 0x00, 0x40
_LEVELS = (0xFFE1, 0xFFE2, 0xFE03, 0xFE11, 0xFF7E)
"""Keysyms of keys that choose the level of others: Shift, AltGr, the fifth level's, Mode_switch."""
_STATE = ((0xFE01, 0xFE13), (0xFF7E, 0xFF7F), (0xFFE1, 0xFFEE))
"""Keysyms of keys that change modifiers or the group: from, to."""


class Place(NamedTuple):
    """Where a keysym is: with this group locked, and of the modifiers `among` only `mods`."""

    keycode: int
    group: int
    among: int = 0
    mods: int = 0


class _Type(NamedTuple):
    """Which modifiers count for a kind of keys, and the level of each combination of them."""

    among: int
    entries: bytes

    def level(self, mods: int) -> int:
        """The level with these modifiers."""
        return next((level for on, level in self._active() if on == mods & self.among), 0)

    def mods(self, level: int) -> int | None:
        """Modifiers with which there is this level, without the lock if that may be; None if there are none."""
        found = [0] if not level and self.level(0) == 0 else [on for on, at in self._active() if at == level]
        return min(found, key=lambda on: (on & LOCK, on.bit_count()), default=None)

    def _active(self) -> Iterator[tuple[int, int]]:
        entries = self.entries
        return ((entries[at + 1], entries[at + 2]) for at in range(0, len(entries), 8) if entries[at])


_NO_TYPE = _Type(0, b"")


class _Key(NamedTuple):
    """A key: its keysyms, how many levels each group has, and the types of its groups."""

    first: int
    end: int
    width: int
    info: int
    types: bytes

    @property
    def groups(self) -> int:
        return min(self.info & 0xF, GROUPS)

    def group(self, wanted: int) -> int:
        """The group that it has in the place of one that it may not have."""
        groups, out_of_range, redirect = self.groups, self.info & 0xC0, self.info >> 4 & 3
        if wanted < groups:
            return wanted
        if out_of_range == _WRAP:
            return wanted % groups
        return groups - 1 if out_of_range == _CLAMP else redirect if redirect < groups else 0


class Keymap:
    """One layout, read from the answer to `GetMap`; RemoteProtocolError if that is not whole."""

    def __init__(self, part: bytes) -> None:
        self._types: list[_Type] = []
        self._cheapest: dict[tuple[int, int], int | None] = {}
        """What `_Type.mods` has found, by type and level."""
        self._keys: dict[int, _Key] = {}
        self.free: list[int] = []
        """Keys that mean nothing."""
        try:
            modifiers = self._read(part)
        except (struct.error, ValueError, IndexError):
            raise RemoteProtocolError("the X server sent an incomplete keyboard map") from None
        self.modifiers = modifiers | self._with(*_STATE)
        """Keys that change the state of the keyboard."""
        self.levels = self._with(*((one, one) for one in _LEVELS))
        """Those of them that choose the level of other keys, as Shift does."""

    def _read(self, part: bytes) -> set[int]:
        """Returns the keys of modifiers."""
        types, first, count = struct.unpack_from("<15xBxBxxB", part)
        keys = range(first, first + count)
        if keys and not 8 <= keys[0] <= keys[-1] <= KEYCODE_MAX:
            raise IndexError
        at = self._read_keys(part, self._read_types(part, types), keys)
        pairs = part[at : at + 2 * part[33]]
        modifiers = {keycode for keycode, mods in zip(pairs[::2], pairs[1::2], strict=True) if mods}
        self.free = [keycode for keycode in keys if keycode not in self._keys and keycode not in modifiers]
        return modifiers

    def _read_types(self, part: bytes, count: int) -> int:
        at = _HEAD
        for _ in range(count):
            among, entries, preserve = struct.unpack_from("<B4xBBx", part, at)
            at += 8
            self._types.append(_Type(among, part[at : at + 8 * min(entries, ENTRIES_MAX)]))
            at += entries * (12 if preserve else 8)
        if at > len(part):
            raise IndexError
        return at

    def _read_keys(self, part: bytes, at: int, keys: range) -> int:
        found, first = [np.zeros(0, "<u4")], 0
        for keycode in keys:
            types, info, width, size = struct.unpack_from("<4sBBH", part, at)
            key = _Key(first, first + size, width, info, types)
            # What lies beyond the levels of its groups means nothing.
            if size and width and key.groups:
                found.append(np.frombuffer(part, "<u4", size, at + 8))
                self._keys[keycode] = key
                first += size
            at += 8 + 4 * size
        if at > len(part):
            raise IndexError
        self._symbols: NDArray[np.uint32] = np.concatenate(found)
        sizes = [key.end - key.first for key in self._keys.values()]
        self._owners: NDArray[np.uint8] = np.repeat(np.array(list(self._keys), np.uint8), sizes)
        """The key of each keysym."""
        meaning = np.cumsum(np.append(0, self._symbols != 0))
        self._keys = {code: key for code, key in self._keys.items() if meaning[key.first] < meaning[key.end]}
        return at

    def _with(self, *runs: tuple[int, int]) -> set[int]:
        """The keys that have one of these keysyms."""
        found = np.zeros(len(self._symbols), bool)
        for low, high in runs:
            found |= (self._symbols >= low) & (self._symbols <= high)
        return set(np.unique(self._owners[found]).tolist())

    def means_only(self, keycode: int, symbol: int) -> bool:
        """Whether a key has no other keysym, with Shift and without."""
        key = self._keys.get(keycode)
        return key is not None and bool((self._symbols[key.first : key.end] == symbol).all())

    def means(self, keycode: int, state: KeyState) -> int:
        """The keysym of a key as it is now; 0 if it has none."""
        key = self._keys.get(keycode)
        if key is None:
            return 0
        group = key.group(state.group)
        kind = self._type(key, group)
        at = key.first + group * key.width + kind.level(state.mods)
        symbol = int(self._symbols[at]) if at < key.end else 0
        # Whoever is told such a key makes a capital of it.
        return capital(symbol) if state.mods & LOCK & ~kind.among else symbol

    def find(self, symbols: Sequence[int], state: KeyState) -> Place | None:
        """Where one of these keysyms is, with as little to be changed as may be; None if it is nowhere."""
        at = np.flatnonzero(np.isin(self._symbols, symbols))[:PLACES_MAX]
        return min(self._places(at, state), key=lambda place: _changes(place, state), default=None)

    def _places(self, found: Iterable[int], state: KeyState) -> Iterator[Place]:
        for at in found:
            keycode = int(self._owners[at])
            key = self._keys[keycode]
            group, level = divmod(int(at) - key.first, key.width)
            if group >= key.groups:
                continue
            mods = self._mods(key.types[group], level)
            if mods is not None:
                lock = state.group if key.group(state.group) == group else group
                yield Place(keycode, lock, self._type(key, group).among | LOCK, mods)

    # A type may have 255 combinations, and is asked for with each key that is typed.
    def _mods(self, number: int, level: int) -> int | None:
        if (number, level) not in self._cheapest:
            kind = self._types[number] if number < len(self._types) else _NO_TYPE
            self._cheapest[number, level] = kind.mods(level)
        return self._cheapest[number, level]

    def _type(self, key: _Key, group: int) -> _Type:
        number = key.types[group]
        return self._types[number] if number < len(self._types) else _NO_TYPE


def _changes(place: Place, state: KeyState) -> tuple[bool, int]:
    return place.group != state.group, ((state.mods ^ place.mods) & place.among).bit_count()


def capital(symbol: int) -> int:
    """The keysym of the capital of a letter, or the same one."""
    char = char_of(symbol)
    return keysym_of(char.upper()) if len(char.upper()) == 1 and char.upper() != char else symbol
