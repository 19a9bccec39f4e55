"""The state of one PulseAudio connection, as a value: with it, the connection can continue in another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from millrace.budget import Account, size_of
from millrace.doors.pulse.samples import Upload
from millrace.doors.pulse.subscriptions import SubscriptionState
from millrace.rights.grants import Subject
from millrace.wire.pulse.session import PulseState, Request
from millrace.wire.pulse.tagstruct import Props


def weigh_props(account: Account, props: Props) -> None:
    """Charge for properties beyond those paid with the connection, which let a client in a full guest name itself."""
    account.hold("props", max(0, size_of(props) - account.part("paid props")))


class Asked(NamedTuple):
    """A request that waits for a permission, and its size on the wire. A connection that continues asks again."""

    request: Request
    bytes: int


@dataclass(slots=True)
class ClientState:
    """A connection between two requests, without its streams, which belong to the graph.

    The guest assigns `index` once; it stays the same when the connection continues elsewhere.
    """

    index: int
    subject: Subject
    wire: PulseState = field(default_factory=PulseState)
    known: bool = False
    """Whether it has authenticated to this door."""
    ready: bool = False
    """Whether its login is complete."""
    props: Props = field(default_factory=dict)
    subscribed: SubscriptionState = field(default_factory=SubscriptionState)
    extensions: set[str] = field(default_factory=set)
    """Modules to whose changes it has subscribed."""
    next_channel: int = 0
    next_asked: int = 1
    asked: dict[int, Asked] = field(default_factory=dict)
    told_sinks: dict[int, int] = field(default_factory=dict)
    """The sink or source last reported to the client for each of its streams, by node."""
    uploads: dict[int, Upload] = field(default_factory=dict)
