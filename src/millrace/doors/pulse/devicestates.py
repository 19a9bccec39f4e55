"""PulseAudio's device states: which of a guest's sinks are being played to, and which sources are being recorded.

A guest's graph runs or is suspended as a whole, but a device is RUNNING only if something uses that very device.
Clients rely on it: panels show a microphone indicator, and a desktop does not lock its screen while a sink plays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from millrace.graph.model import Sink, Stream, Tap


class InUse(NamedTuple):
    """Indices of the sinks being played to, and of the sources being recorded (for a monitor, its sink's index)."""

    played: frozenset[int] = frozenset()
    recorded: frozenset[int] = frozenset()


# Streams change far more often than devices come into use or fall out of it. So counts are kept up to date with every
# change, which costs little, and the walk over all links (`found`) is made only when a count has left zero or returned
# to it, or a linked device has changed.
class DeviceUse:
    """Counts streams by the sinks they play to, and recorders by what they record."""

    def __init__(self) -> None:
        self._of: dict[int, frozenset[int]] = {}
        """The devices that each stream or recorder uses."""
        self._players: Counter[int] = Counter()
        self._recorders: Counter[int] = Counter()

    def count(self, node: Stream | Tap, gone: bool) -> bool:
        """Update the counts for a changed or removed node; return whether a device came into use or fell out of it."""
        now = frozenset[int]() if gone else _used_by(node)
        before = self._of.pop(node.id, frozenset())
        if now:
            self._of[node.id] = now
        counts = self._players if isinstance(node, Stream) else self._recorders
        counts.update(now - before)
        counts.subtract(before - now)
        return any(counts[one] == 1 for one in now - before) or any(not counts[one] for one in before - now)

    def found(self, mixes: Iterable[Sink]) -> InUse:
        """All devices in use. Links propagate use: to a link's target, and from a derived source to its origins."""
        fed: dict[int, list[int]] = {}
        origins: dict[int, list[int]] = {}
        recorded = [one for one, count in self._recorders.items() if count]
        for mix in mixes:
            for link in mix.links:
                if link.target.capture:
                    origins.setdefault(link.target.id, []).append(mix.id)
                else:
                    fed.setdefault(mix.id, []).append(link.target.id)
                    recorded += [mix.id] if mix.capture else []
        played = [one for one, count in self._players.items() if count]
        return InUse(_reached(played, fed), _reached(recorded, origins))


# A stream that waits for its client (`starved`) still uses its sink. Otherwise each underrun would take the device
# out of use and back, with two events to every panel, and a desktop could lock its screen in between.
def _used_by(node: Stream | Tap) -> frozenset[int]:
    if isinstance(node, Stream):
        return frozenset(link.target.id for link in node.links if node.active or node.starved)
    return frozenset({node.sink.id}) if node.active and node.records and node.sink else frozenset()


def _reached(begin: list[int], ways: Mapping[int, list[int]]) -> frozenset[int]:
    found, ahead = set(begin), list(begin)
    while ahead:
        fresh = set(ways.get(ahead.pop(), ())) - found
        found |= fresh
        ahead += fresh
    return frozenset(found)
