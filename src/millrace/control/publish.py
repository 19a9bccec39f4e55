"""Publishes changed objects in the registry: those of guests, grants and tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from millrace.control.registry import Registry, View
from millrace.control.results import GrantView
from millrace.control.tokens import token_view
from millrace.doors.ingress import Program, recorder_of
from millrace.graph.model import Node, Sink, Stream, Tap
from millrace.graph.screens import Listed
from millrace.guest.guest import Guest
from millrace.observe.views import (
    client_view,
    guest_summary,
    listener_view,
    recorder_view,
    screen_view,
    sink_view,
    stream_view,
    viewer_view,
)
from millrace.rights.grants import Grants, Permission, Verdict
from millrace.rights.tokens import Token

if TYPE_CHECKING:
    from millrace.guest.home import Machine
    from millrace.guest.listener import ListenerSession
    from millrace.guest.viewer import ViewerSession


# What is passed to the registry is not the object's state but a function that makes it, called when the state is
# sent: a hundred changes within one pass of the event loop cost one view.
class Publisher:
    """Publishes the objects of one guest."""

    def __init__(self, registry: Registry, guest: Guest) -> None:
        self._registry, self._guest = registry, guest

    def _put(self, id_: int, kind: str, view: View) -> None:
        self._registry.put(id_, kind, self._guest.name, view)

    def node_changed(self, change: str, node: Node) -> None:
        """See `nodes.Observer`."""
        guest = self._guest
        if change == "remove":
            self._registry.drop(node.id)
        elif change == "default":
            self._put(guest.id, "guest", lambda: guest_summary(guest))
            for sink in guest.graph.sinks.values():
                self._put(sink.id, "sink", partial(sink_view, guest, sink))
        elif isinstance(node, Sink):
            self._put(node.id, node.kind, lambda: sink_view(guest, node))
        elif isinstance(node, Stream):
            self._put(node.id, "stream", lambda: stream_view(guest, node))
        elif isinstance(node, Tap) and recorder_of(node) is not None:
            self._put(node.id, "recorder", lambda: recorder_view(node))

    def client_changed(self, change: str, client: Program) -> None:
        """A program's connection came, changed or went."""
        if change == "remove":
            self._registry.drop(client.index)
        else:
            self._put(client.index, "client", lambda: client_view(client))

    def listener_changed(self, change: str, session: ListenerSession) -> None:
        """A listener came, changed or went."""
        if change == "remove":
            self._registry.drop(session.outlet.id)
        else:
            self._put(session.outlet.id, "listener", lambda: listener_view(session))

    def door_changed(self, change: str, door: Machine) -> None:
        """A machine's door came, changed or went."""
        if change == "remove":
            self._registry.drop(door.id)
        else:
            self._put(door.id, "door", door.view)

    def screen_changed(self, change: str, listed: Listed) -> None:
        """A screen came, changed or went."""
        if change == "remove":
            self._registry.drop(listed.id)
        else:
            self._put(listed.id, "screen", lambda: screen_view(self._guest, listed))

    def viewer_changed(self, change: str, session: ViewerSession) -> None:
        """A viewer came, changed or went."""
        if change == "remove":
            self._registry.drop(session.id)
        else:
            self._put(session.id, "viewer", lambda: viewer_view(session))


def grant_view(guest: str, what: Permission, program: str, verdict: Verdict, note: str = "") -> GrantView:
    """A grant as shown to clients."""
    return GrantView(guest, what.value, program, verdict.as_json(), note or UNSET)


class GrantPublisher:
    """Publishes the rules of all guests. Each rule keeps one number for as long as it exists."""

    def __init__(self, registry: Registry, take_id: Callable[[], int]) -> None:
        self._registry, self._take_id = registry, take_id
        self._known: dict[str, dict[tuple[Permission, str], tuple[int, Verdict]]] = {}

    def publish(self, guest: str, grants: Grants) -> None:
        """Publish what has changed in a guest's rules."""
        known = self._known.setdefault(guest, {})
        rules = {(what, program): verdict for what, program, verdict in grants}
        for key in known.keys() - rules.keys():
            self._registry.drop(known.pop(key)[0])
        for key, verdict in rules.items():
            id_, before = known.get(key) or (self._take_id(), None)
            if verdict is not before:
                known[key] = id_, verdict
                self._registry.put(id_, "grant", guest, partial(grant_view, guest, *key, verdict))

    def forget(self, guest: str) -> None:
        """A guest and its objects are gone."""
        self._known.pop(guest, None)


class TokenPublisher:
    """Publishes the tokens."""

    def __init__(self, registry: Registry, take_id: Callable[[], int]) -> None:
        self._registry, self._take_id = registry, take_id
        self._known: dict[int, int] = {}

    def changed(self, change: str, token: Token) -> None:
        """See `TokenBook`."""
        if change == "remove":
            self._registry.drop(self._known.pop(token.id))
        else:
            id_ = self._known[token.id] = self._take_id()
            self._registry.put(id_, "token", "", partial(token_view, token))
