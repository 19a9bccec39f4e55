"""The indexes of sinks and of sources, as programs for PulseAudio know them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from millrace.graph.model import Sink
from millrace.wire.pulse.constants import NO_INDEX


class IndexesState(msgspec.Struct, frozen=True):
    """The indexes in use, by the number of the sink or source, and the next one."""

    of: dict[int, int]
    next: int


# Scripts take it that the first sink is 0. The daemon's own numbers can't be shown: they count the objects of all
# guests, so a guest's first sink could have any, and would tell how much goes on in the others.
class Indexes:
    """Counts the sinks or the sources of one guest from 0, in the order in which they appear, and none twice."""

    def __init__(self, there: Iterable[Sink]) -> None:
        self._of: dict[int, int] = {}
        self._at: dict[int, int] = {}
        self._next = 0
        for mix in there:
            self.add(mix)

    def add(self, mix: Sink) -> None:
        """Give `mix` the next index."""
        self._set(mix.id, self._next)
        self._next += 1

    def forget(self, mix: Sink) -> None:
        """`mix` is gone."""
        self._at.pop(self._of.pop(mix.id, NO_INDEX), None)

    def of(self, mix: Sink) -> int:
        """Its index; that of nothing once it is gone."""
        return self._of.get(mix.id, NO_INDEX)

    def id_at(self, index: int) -> int:
        """The daemon's number of what has this index; -1, which nothing has, if there is none."""
        return self._at.get(index, -1)

    def freeze(self) -> IndexesState:
        """The indexes as a value."""
        return IndexesState(dict(self._of), self._next)

    def resume(self, state: IndexesState) -> None:
        """Continue from a value."""
        self._of.clear()
        self._at.clear()
        for id_, index in state.of.items():
            self._set(id_, index)
        self._next = state.next

    def _set(self, id_: int, index: int) -> None:
        self._of[id_], self._at[index] = index, id_


def as_numbered(mixes: Iterable[Sink]) -> IndexesState:
    """The indexes that were in use before these were counted in each guest: the daemon's own numbers."""
    ids = [mix.id for mix in mixes]
    return IndexesState({id_: id_ for id_ in ids}, max(ids, default=-1) + 1)
