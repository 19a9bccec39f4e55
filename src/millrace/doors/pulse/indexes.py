"""The indexes by which programs for PulseAudio know the objects of a guest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from millrace.graph.model import Node, Stream, Tap
from millrace.wire.pulse.constants import NO_INDEX


class Counter:
    """Counts from 0 what one guest has of a kind; never gives an index twice."""

    def __init__(self) -> None:
        self.next = 0

    def take(self) -> int:
        """The next index."""
        self.next += 1
        return self.next - 1

    def pass_by(self, index: int) -> int:
        """`index`, which is in use already: what comes next has another one."""
        self.next = max(self.next, index + 1)
        return index


class IndexesState(msgspec.Struct, frozen=True):
    """The indexes in use, by the number of what has them, and the next one."""

    of: dict[int, int]
    next: int


# Scripts take it that the first sink is 0. The daemon's own numbers can't be shown: they count the objects of all
# guests, so a guest's first sink could have any, and would tell how much goes on in the others.
class Indexes:
    """Counts the nodes of one kind in one guest from 0, in the order in which they appear, and none twice."""

    def __init__(self, there: Iterable[Node] = ()) -> None:
        self._of: dict[int, int] = {}
        self._at: dict[int, int] = {}
        self._counter = Counter()
        for node in there:
            self.add(node)

    def __contains__(self, node: Node) -> bool:
        return node.id in self._of

    def add(self, node: Node) -> None:
        """Give `node` the next index."""
        self._set(node.id, self._counter.take())

    def forget(self, node: Node) -> None:
        """`node` is gone."""
        self._at.pop(self._of.pop(node.id, NO_INDEX), None)

    def of(self, node: Node) -> int:
        """Its index; that of nothing once it is gone."""
        return self._of.get(node.id, NO_INDEX)

    def id_at(self, index: int) -> int:
        """The daemon's number of what has this index; -1, which nothing has, if there is none."""
        return self._at.get(index, -1)

    def freeze(self) -> IndexesState:
        """The indexes as a value."""
        return IndexesState(dict(self._of), self._counter.next)

    def resume(self, state: IndexesState) -> None:
        """Continue from a value."""
        self._of.clear()
        self._at.clear()
        for id_, index in state.of.items():
            self._set(id_, index)
        self._counter.next = state.next

    def keep(self, there: Mapping[int, Node]) -> None:
        """Forget what is not there any more."""
        for id_ in self._of.keys() - there.keys():
            self._at.pop(self._of.pop(id_), None)

    def _set(self, id_: int, index: int) -> None:
        self._of[id_], self._at[index] = index, id_


class ObjectsState(msgspec.Struct, frozen=True):
    """The indexes of streams and recorders, and the next ones of what carries its index itself."""

    inputs: IndexesState
    outputs: IndexesState
    clients: int
    modules: int
    samples: int


class Objects:
    """The indexes of what is not a device."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        self.inputs = Indexes(stream for stream in streams if not stream.feeds_source)
        """Streams that play to sinks, of all doors. PulseAudio has no streams that feed a source."""
        self.outputs = Indexes()
        """Recorders of PulseAudio clients and modules."""
        self.clients, self.modules, self.samples = Counter(), Counter(), Counter()

    def freeze(self) -> ObjectsState:
        """The indexes as a value."""
        return ObjectsState(
            self.inputs.freeze(), self.outputs.freeze(), self.clients.next, self.modules.next, self.samples.next
        )

    # What the graph lost meanwhile no observer has seen.
    def resume(self, state: ObjectsState, streams: Mapping[int, Stream], taps: Mapping[int, Tap]) -> None:
        """Continue from a value, with those that are still there."""
        self.inputs.resume(state.inputs)
        self.inputs.keep(streams)
        self.outputs.resume(state.outputs)
        self.outputs.keep(taps)
        self.clients.next, self.modules.next, self.samples.next = state.clients, state.modules, state.samples


def as_numbered(nodes: Iterable[Node]) -> IndexesState:
    """The indexes that were in use before these were counted in each guest: the daemon's own numbers."""
    ids = [node.id for node in nodes]
    return IndexesState({id_: id_ for id_ in ids}, max(ids, default=-1) + 1)


def objects_as_numbered(
    streams: Iterable[Stream], taps: Iterable[Tap], modules: Iterable[int], samples: Iterable[int]
) -> ObjectsState:
    """The same for what is not a device. Clients that continue are passed by when they do."""
    shown = [stream for stream in streams if not stream.feeds_source]
    return ObjectsState(
        as_numbered(shown), as_numbered(taps), 0, max(modules, default=-1) + 1, max(samples, default=-1) + 1
    )
