"""Applies the stored settings of sinks and sources (levels, defaults): when a device appears, and on changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.remembered.devices import DEFAULT, RECORDED, Devices, Keep, Key


class Door(Protocol):
    """The part of the door that is needed here."""

    graph: Graph

    def source_name(self, sink: Sink) -> str:
        """The name of a source or monitor."""
        ...

    def set_recorded(self, sink: Sink, gains: tuple[float, ...], mute: bool) -> None:
        """Set the level at which `sink` is recorded."""
        ...

    def set_default_source(self, source: Sink | None) -> None:
        """Set the default source; None withdraws the choice."""
        ...


# A device has two levels, stored under two keys: its own, which is what is heard on a sink, and the one at which it
# is recorded. They are stored by name rather than by number, so a device that is created again finds them. `restore`
# writes them to the node directly, because the graph's observers do not know a device yet that is just being added.
class GuestDevices(Devices):
    """The stored device settings of one guest, applied to its graph."""

    def __init__(self, door: Door, keep: Keep | None) -> None:
        super().__init__(keep)
        self._door = door

    def keep_level(self, mix: Sink, done: Callable[[bool], None]) -> None:
        """A sink's level was set: store it."""
        self.set((mix.kind, mix.name), (mix.gains, mix.mute), done)

    def keep_source_level(self, mix: Sink, done: Callable[[bool], None]) -> None:
        """The level at which a source or monitor is recorded was set: store it."""
        self.set((RECORDED, self._door.source_name(mix)), (mix.recorded.gains, mix.recorded.mute), done)

    def keep_default(self, mix: Sink | None, kind: str, done: Callable[[bool], None]) -> None:
        """Store the choice of a default sink or source, for when the device returns; None withdraws the choice."""
        name = "" if mix is None else mix.name if kind == "sink" else self._door.source_name(mix)
        self.set((DEFAULT, kind), name, done)

    def restore_all(self) -> None:
        """See `Devices`."""
        for mix in list(self._door.graph.mixes()):
            self.restore(mix)

    def restore(self, mix: Sink) -> None:
        names, positions = (mix.name, *mix.aliases), mix.positions
        level = next((found for name in names if (found := self.level((mix.kind, name), positions))), None)
        recorded = self.level((RECORDED, self._door.source_name(mix)), positions)
        for node, kept in ((mix, level), (mix.recorded, recorded)):
            if kept is not None and "volume" in self.restores:
                node.gains = kept[0]
            if kept is not None and "muted" in self.restores:
                node.mute = kept[1]
        if not mix.capture and self.default("sink") in names:
            self._door.graph.set_default(mix)
        if self.default("source") == self._door.source_name(mix):
            self._door.set_default_source(mix)

    def undo(self, key: Key) -> None:
        """A change could not be stored: restore the previous value on the device."""
        what, name = key
        if what == DEFAULT:
            self._undo_default(name)
            return
        for mix in self._door.graph.mixes():
            level = self.level(key, mix.positions) or ((1.0,) * len(mix.positions), False)
            if what == RECORDED and self._door.source_name(mix) == name:
                self._door.set_recorded(mix, *level)
            elif (mix.kind, mix.name) == key:
                self._door.graph.set_gains(mix, level[0])
                self._door.graph.set_mute(mix, level[1])

    def _undo_default(self, kind: str) -> None:
        name = self.default(kind)
        if kind == "sink":
            first = next(iter(self._door.graph.sinks.values()))
            self._door.graph.set_default(next((s for s in self._door.graph.sinks.values() if s.name == name), first))
        else:
            sources = (mix for mix in self._door.graph.mixes() if self._door.source_name(mix) == name)
            self._door.set_default_source(next(sources, None))
