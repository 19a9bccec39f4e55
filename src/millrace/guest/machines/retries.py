"""How long a door waits after a session before it looks for its machine again."""

from __future__ import annotations

from millrace.errors import MillraceError, PeerLost, RemoteProtocolError
from millrace.units import NS_PER_S, HostNs

RETRY_FIRST_S, RETRY_MAX_S = 0.25, 1.0
BROKEN_MAX_S, SAID_S = 30.0, 2.0
LASTED_NS: HostNs = 60 * NS_PER_S
"""After a session that was up for so long, what was wrong before no longer counts."""


# A machine may be started at any time, so one that is not there is looked for each second, which costs next to nothing.
# A session that ends by what the machine sends costs its whole beginning, up to megabytes and a line in the list of
# incidents, and the machine most likely sends the same again.
class Retries:
    """The waits of one door: those for a machine that is not there, and those for one that is no use."""

    def __init__(self) -> None:
        self._absent_s = self._useless_s = RETRY_FIRST_S

    def after(self, error: Exception, up_ns: HostNs | None) -> float:
        """The wait, in seconds, after a session that ended by this and was up for so long; None: it never was."""
        if up_ns is not None and up_ns >= LASTED_NS:
            self._useless_s = RETRY_FIRST_S
        if _by_what_it_sent(error, up_ns is not None):
            self._useless_s = min(self._useless_s * 2, BROKEN_MAX_S)
            return self._useless_s
        self._absent_s = RETRY_FIRST_S if up_ns is not None else min(self._absent_s * 2, RETRY_MAX_S)
        return self._absent_s


# What is up may also fail for want of room. An error of ours is brought about by something that the machine sends.
def _by_what_it_sent(error: Exception, up: bool) -> bool:
    if isinstance(error, RemoteProtocolError) or not isinstance(error, (MillraceError, OSError, EOFError)):
        return True
    return up and not isinstance(error, (PeerLost, OSError, EOFError))


def said(wait_s: float) -> str:
    """What users are told of a wait; nothing of a short one."""
    return f"; retrying after {wait_s:.0f} s, or at once if you attach again" if wait_s >= SAID_S else ""
