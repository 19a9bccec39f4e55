"""What listeners and viewers report of their own trouble: bounded, and only what they can know of."""

from __future__ import annotations

from millrace.guest.home import Home
from millrace.rights.model import Principal
from millrace.symptoms import LISTENERS_CAUSES, VIEWERS_CAUSES, Symptom
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.messages import Trouble

TROUBLE_AGE_MAX_NS = 60 * NS_PER_S
TROUBLE_NS = 100 * NS_PER_MS
"""The sound that a dropout is worth: all listeners of one principal may report 10 a second, and 100 at once."""


def report_trouble(
    home: Home, principal: Principal, key: str, told: Trouble, now_ns: HostNs, views: bool = False
) -> None:  # fmt: skip
    """A listener or viewer reports a perceptible problem and its supposed cause. Time and evidence are bounded here.

    Causes that it can't know of are ignored (it may be newer), and so are reports beyond any rate of dropouts. With
    `views` it is a viewer.
    """
    causes = LISTENERS_CAUSES | VIEWERS_CAUSES if views else LISTENERS_CAUSES
    if (told.stage, told.cause) not in causes or not home.troubles.take(principal.key, TROUBLE_NS, now_ns):
        return
    at = min(now_ns, max(told.at_ns, now_ns - TROUBLE_AGE_MAX_NS)) if told.at_ns else now_ns
    evidence = {key[:40]: value for key, value in list(told.evidence.items())[:8]} | {"heard": told.what[:20]}
    home.report(Symptom(told.stage, told.cause, home.name, key, evidence, at, inferred=True))
