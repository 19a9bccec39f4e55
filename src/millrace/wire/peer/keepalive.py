"""What the sessions over WebSocket share: keepalive, the offset of the peer's clock, and a deadline for its hello."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from millrace.clock.sync import OffsetFilter
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.messages import Ping, Pong, encode_message

PING_NS = 2 * NS_PER_S
SILENT_MAX_NS = 15 * NS_PER_S
HELLO_MAX_NS = 10 * NS_PER_S
PROBES_KEPT = 8
ANSWERS_MAX = 64
"""The most messages that may wait to be sent before pings go unanswered: a peer may keep pinging without reading."""


# Anything received counts as a sign of life, not only pongs. Both sides ping, because each measures the offset of the
# other's clock for itself: the listener every 2 s, for playback, the daemon every 8 s. A peer is given up after 15 s,
# which is several pings of the listener and nearly two of the daemon.
class Keepalive:
    """Sends pings, detects a silent peer, and measures the clock offset from the pongs."""

    def __init__(self, ping_ns: HostNs, now_ns: HostNs) -> None:
        self._ping_ns = ping_ns
        self.heard_ns = now_ns
        """When something was last received."""
        self._next_ping_ns = now_ns
        self.answered_ns: HostNs = 0
        """When the latest ping that was answered was sent: all that was sent before it has arrived."""
        self.clock = OffsetFilter()
        self._probes: deque[HostNs] = deque(maxlen=PROBES_KEPT)
        """When pings were sent that wait behind pictures: their round trips say nothing of the clocks."""

    def rest_until(self, now_ns: HostNs) -> None:
        """Don't ping before `now_ns`."""
        self._next_ping_ns = now_ns

    def heard(self, now_ns: HostNs) -> None:
        """Something has been received."""
        self.heard_ns = now_ns

    def pong(self, pong: Pong, now_ns: HostNs) -> None:
        """Take the answer to a ping."""
        # The time in a pong is our own, returned. One from the future would become a round trip of negative length, the
        # best of all.
        if pong.t > now_ns:
            raise RemoteProtocolError("unexpected pong: no such ping was sent")
        self.answered_ns = max(self.answered_ns, pong.t)
        if pong.t not in self._probes:
            self.clock.add(pong.t, pong.now, now_ns)

    def probing(self, now_ns: HostNs) -> None:
        """A ping is sent now to learn when it arrives, behind what was sent before."""
        self._probes.append(now_ns)

    def next_timeout(self) -> HostNs:
        """The next deadline."""
        return min(self._next_ping_ns, self.heard_ns + SILENT_MAX_NS)

    def due(self, now_ns: HostNs) -> bool:
        """Whether to send a ping now. Raises PeerLost if the peer has been silent for too long."""
        if now_ns - self.heard_ns >= SILENT_MAX_NS:
            raise PeerLost(f"nothing received for {SILENT_MAX_NS // NS_PER_S} s")
        if now_ns < self._next_ping_ns:
            return False
        self._next_ping_ns = now_ns + self._ping_ns
        return True


class KeptSession:
    """What both ends of a session over WebSocket have in common: keepalive, the first message in time, output."""

    _first: ClassVar[str]
    """The peer's first message, for the error text."""

    def __init__(self, now_ns: HostNs, ping_ns: HostNs) -> None:
        self.keepalive = Keepalive(ping_ns, now_ns)
        self._hello_by_ns: HostNs | None = now_ns + HELLO_MAX_NS
        """Deadline for the peer's first message; None once it has arrived."""
        self._out: list[str | bytes] = []

    def next_timeout(self) -> HostNs | None:
        """The next deadline."""
        deadline = self.keepalive.next_timeout()
        return deadline if self._hello_by_ns is None else min(deadline, self._hello_by_ns)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Ping if it is time. Raises PeerLost if the peer is silent, or its first message is overdue."""
        if self._hello_by_ns is not None and now_ns >= self._hello_by_ns:
            raise PeerLost(f"no {self._first}")
        if self.keepalive.due(now_ns):
            self._out.append(encode_message(Ping(now_ns)))

    def send_probe(self, now_ns: HostNs) -> None:
        """Ping at once, to learn when all that was sent before has arrived (`Keepalive.answered_ns`)."""
        self.keepalive.probing(now_ns)
        self._out.append(encode_message(Ping(now_ns)))

    def data_to_send(self) -> list[str | bytes]:
        """See `Sender`."""
        out, self._out = self._out, []
        return out

    def _answered(self, message: object, now_ns: HostNs) -> bool:
        """Handle pings and pongs, for both ends."""
        if isinstance(message, Ping):
            if len(self._out) < ANSWERS_MAX:
                self._out.append(encode_message(Pong(message.t, now_ns)))
            return True
        if isinstance(message, Pong):
            self.keepalive.pong(message, now_ns)
            return True
        return False
