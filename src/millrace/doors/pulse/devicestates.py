"""Which of a guest's sinks are played to, and which sources and monitors are recorded: PulseAudio's device states.

A guest's graph runs or rests as a whole. That a device is RUNNING says that something uses that very one: panels light
a microphone's lamp by it, and a desktop does not lock its screen while a sink plays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from millrace.graph.model import Sink, Stream, Tap


class InUse(NamedTuple):
    """Sinks by number: those that are played to, and those whose monitor is recorded, or that are recorded sources."""

    played: frozenset[int] = frozenset()
    recorded: frozenset[int] = frozenset()


class DeviceUse:
    """Streams, counted by the sinks that they play to, and recorders, by what they record."""

    def __init__(self) -> None:
        self._of: dict[int, frozenset[int]] = {}
        """By stream or recorder: what it uses."""
        self._players: Counter[int] = Counter()
        self._recorders: Counter[int] = Counter()

    def count(self, node: Stream | Tap, gone: bool) -> bool:
        """A stream or recorder has changed, or is `gone`; whether something is used, or not any more, for that."""
        now = frozenset[int]() if gone else _used_by(node)
        before = self._of.pop(node.id, frozenset())
        if now:
            self._of[node.id] = now
        counts = self._players if isinstance(node, Stream) else self._recorders
        counts.update(now - before)
        counts.subtract(before - now)
        return any(counts[one] == 1 for one in now - before) or any(not counts[one] for one in before - now)

    def found(self, mixes: Iterable[Sink]) -> InUse:
        """What of all sinks and sources is in use: a link passes use on, as does what is made of something else."""
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
