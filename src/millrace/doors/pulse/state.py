"""What one PulseAudio connection is, apart from who it works with: a value, with which it can go on elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from millrace.budget import Account, size_of
from millrace.doors.pulse.samples import Upload
from millrace.doors.pulse.subscriptions import SubscriptionState
from millrace.rights.grants import Subject
from millrace.wire.pulse.session import PulseState
from millrace.wire.pulse.tagstruct import Props


def weigh_props(account: Account, props: Props) -> None:
    """A connection has paid for some when it came, so that one that may only mend things can say who it is."""
    account.hold("props", max(0, size_of(props) - account.part("paid props")))


@dataclass(slots=True)
class ClientState:
    """Between two requests, and without its streams, which are the graph's. `index` is the guest's for good."""

    index: int
    subject: Subject
    wire: PulseState = field(default_factory=PulseState)
    known: bool = False
    """It has shown that it may speak to this door."""
    ready: bool = False
    """It is let in."""
    props: Props = field(default_factory=dict)
    subscribed: SubscriptionState = field(default_factory=SubscriptionState)
    extensions: set[str] = field(default_factory=set)
    """Modules whose changes it wants to hear of."""
    next_channel: int = 0
    told_sinks: dict[int, int] = field(default_factory=dict)
    """By node: where the client was last told that each of its streams plays or records."""
    uploads: dict[int, Upload] = field(default_factory=dict)
