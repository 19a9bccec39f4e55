"""What a guest's listeners hold of the places for encoders, and of the memory for listeners; see places.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from millrace.budget import LISTENERS
from millrace.errors import GraphError
from millrace.graph.graph import Graph
from millrace.graph.model import Tap
from millrace.guest.listener import ListenerSession
from millrace.guest.places import Held, Wanted, in_budget, make_room
from millrace.outlets.peer import SharedEncoder
from millrace.outlets.subscribers import Subscribers
from millrace.rights.model import Principal
from millrace.symptoms import Report


class Hearing:
    """Has a guest's listeners make room for others."""

    def __init__(self, graph: Graph, sessions: Sequence[ListenerSession], report: Report) -> None:
        self._graph, self._sessions, self._report = graph, sessions, report
        self._full = f"guest {graph.name} is full"
        self.outlets = Subscribers(graph)
        """Of the guest, once it has some."""

    def encoder(self, who: Principal, tap: Tap, ends: SharedEncoder | None) -> None:
        """See `MakeRoom`: whoever has most encoders gives one up, and then memory is given up."""

        def place(given: int, always: bool) -> bool:
            return self._graph.accounts.has_place(tap, self._graph.taps.values(), given + (ends is not None))

        make_room(Wanted("encoder", who, self._graph.name), place, self._places, self._report)
        leaving = 0 if ends is None else ends.tap.account.held
        tap.always = self.memory("encoder", who, self._graph.accounts.needs(tap), leaving)

    def memory(self, kind: str, who: Principal, more: int, leaving: int = 0) -> bool:
        """Whoever holds most of what listeners may hold gives up something, of whatever kind, for so many bytes more.

        So many of its own are given back for it. Returns what `make_room` does.
        """
        room = in_budget(self._graph.budget, more, LISTENERS, leaving)
        return make_room(Wanted(kind, who, self._graph.name, more - leaving), room, self._held, self._report)

    def _places(self) -> list[Held]:
        """The encoders of sound: each has one place."""
        give_up = self.outlets.give_up
        return [Held("encoder", group.principal, 1, partial(give_up, group)) for group in self.outlets.groups]

    def _held(self) -> list[Held]:
        """All that is charged to listeners."""
        return [*self._encoders(), *self._connections(), *self._microphones()]

    # Memory that is given up ends nobody's sound but the giver's: an encoder is kept that somebody else hears, or whose
    # listeners would have no other. Then one of the giver's connections ends, and with the last of them its encoder.
    #
    # An encoder counts in full for all that share it. If it counted for the first of them only, it would be the next
    # one's as soon as that is gone, and whoever came for that place would have to give it back.
    def _encoders(self) -> Iterator[Held]:
        groups = self.outlets.groups
        alike = Counter((group.sink.id, group.settings.codec) for group in groups if not group.broken)
        for group in groups:
            whose = {one.principal.key: one.principal for one in group.outlets}
            spare = len(whose) == 1 and alike[group.sink.id, group.settings.codec] > 1
            give_up = partial(self.outlets.give_up, group) if spare else None
            for who in whose.values():
                yield Held("encoder", who, group.tap.account.held, give_up)

    def _connections(self) -> Iterator[Held]:
        why = f"{self._full}: this listener made room for another"
        for one in self._sessions:
            yield Held("listener", one.principal, one.account.held, None if one.closing else partial(one.displace, why))

    def _microphones(self) -> Iterator[Held]:
        why = GraphError(f"{self._full}: this microphone made room for another")
        for one in self._sessions:
            if one.microphone is not None:
                size = one.microphone.node.account.held
                yield Held("microphone", one.principal, size, partial(one.refuse_microphone, why))
