"""Keys of an X display that mean nothing: they are given the keysyms that no other key has, for a while."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs
from millrace.wire.x11 import requests
from millrace.wire.x11.keymap import Keymap
from millrace.wire.x11.marks import Marks, is_real

KEPT_NS: HostNs = 3 * NS_PER_S
IDLE_NS: HostNs = 5 * NS_PER_S
"""A key that was not used for so long means nothing again."""
_NEVER: HostNs = 1 << 62


# A program that has got a key asks the server what it means, and does so later. So a key keeps its meaning for a while
# after it was pressed; only when all keys have one, that of the key which was pressed longest ago is replaced.
#
# A daemon that is killed can't give them back. So the display itself lists them (`Marks`), from before a key is given
# its meaning until after all have lost it; whoever attaches next takes them for its own, which it no longer uses. A key
# that the list does not have, or that means something else by now, is somebody else's.
class Spares:
    """Which keys mean what."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._given: dict[int, int] = {}
        """Keys by their keysyms; the one that was pressed last is the last."""
        self._kept_ns: dict[int, HostNs] = {}
        """Until when the keys keep their meaning."""
        self.marks = Marks()

    def learn(self, keymap: Keymap) -> None:
        """The layout is another one: what it has given up is given no more."""
        given = self.marks.take_left() | self._given
        self._given = {symbol: key for symbol, key in given.items() if keymap.means_only(key, symbol)}
        self._kept_ns = {key: self._kept_ns.get(key, 0) for key in self._given.values()}
        # Keys of real keyboards are the last to be taken.
        self._free = sorted(keymap.free, key=_last_if_real)

    @property
    def keys(self) -> frozenset[int]:
        """The keys that were given a meaning."""
        return frozenset(self._kept_ns)

    def means(self, symbol: int) -> bool:
        """Whether a key was given this meaning."""
        return symbol in self._given

    def has_room(self, now_ns: HostNs) -> bool:
        """Whether the next keysym has a key at once; also if there is no such key at all."""
        return bool(self._free) or not self._given or self._oldest_ns <= now_ns

    @property
    def _oldest_ns(self) -> HostNs:
        return self._kept_ns[next(iter(self._given.values()))]

    def take(self, symbol: int, now_ns: HostNs) -> tuple[int, list[bytes]] | None:
        """A key that means this, to be pressed, and what makes it mean that; None if there is none."""
        key, said = self._given.pop(symbol, 0), []
        if not key:
            before = dict(self._given)
            found = self._replaced(now_ns)
            if found is None:
                return None
            key, said = found, [self.marks.write(before | {symbol: found}), requests.change_keysyms(found, symbol)]
        self._given[symbol], self._kept_ns[key] = key, _NEVER
        return key, said

    def _replaced(self, now_ns: HostNs) -> int | None:
        if not self.marks.own:
            return None
        if self._free:
            return self._free.pop(self._place())
        if not self._given or not self.has_room(now_ns):
            return None
        return self._given.pop(next(iter(self._given)))

    # Daemons that type at once know nothing yet of the keys that another takes. So each begins elsewhere, two of them
    # at opposite ends.
    def _place(self) -> int:
        """Where in the list of free keys the next one is."""
        made = sum(not is_real(key) for key in self._free) or len(self._free)
        return (made - 1, 0, made // 3, made * 2 // 3)[self.marks.number]

    def pressed(self, key: int, now_ns: HostNs) -> None:
        """The server has pressed it."""
        if key in self._kept_ns:
            self._kept_ns[key] = now_ns + KEPT_NS

    def due_ns(self, now_ns: HostNs) -> HostNs | None:
        """When there is room again, or when the keys are to mean nothing again."""
        if not self._given:
            return None
        idle_ns = max(self._kept_ns.values()) + IDLE_NS - KEPT_NS
        due_ns = idle_ns if self.has_room(now_ns) else self._oldest_ns
        return due_ns if due_ns < _NEVER else None

    def handle_timeout(self, now_ns: HostNs) -> list[bytes]:
        """See `Timed`."""
        due_ns = self.due_ns(now_ns)
        return self.end() if due_ns is not None and due_ns <= now_ns else []

    def end(self) -> list[bytes]:
        """The keys mean nothing again."""
        said = [requests.change_keysyms(key, 0) for key in self._given.values()]
        self._free = sorted([*self._free, *self._given.values()], key=_last_if_real)
        self._given, self._kept_ns = {}, {}
        return said + self.marks.delete()


def _last_if_real(key: int) -> tuple[bool, int]:
    return is_real(key), key
