"""Both ends of a peer session, sans-IO."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from millrace.clock.allowance import Allowance
from millrace.codec.parameters import CodecParameters, checked_parameters, packet_fits
from millrace.errors import RemoteProtocolError
from millrace.media.audio import AudioPacket
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.keepalive import HELLO_MAX_NS, PING_NS, SILENT_MAX_NS, KeptSession
from millrace.wire.peer.messages import (
    MESSAGE_MAX,
    FormatChanged,
    FromDaemon,
    FromListener,
    Hello,
    Ping,
    Pong,
    Welcome,
    decode_from_daemon,
    decode_from_listener,
    encode_message,
    unpack_media,
)
from millrace.wire.peer.tracks import TRACK, sound_of, unpack_track

PROBE_NS = NS_PER_S
BEHIND_MAX_NS = 2 * NS_PER_S
"""How much later than it was sent sound may reach a listener: beyond this, no more is written to its connection."""
FORMAT_EVERY_NS = NS_PER_S // 10
"""Each new format creates a decoder and its buffers, so formats may change no more often than this on average."""


_TRACK_KIND = bytes([TRACK])


# On a slow network, seconds of sound are buffered where the daemon does not see them: in kernels, proxies and routers.
# A probe is a ping that is sent among the sound, so its pong shows that all before it has arrived. Probes wait behind
# the sound, so they say nothing good about the clocks and stay out of the offset filter. A peer that has never answered
# a ping is not measured, and a probe without an answer for as long as a silent peer is kept no longer counts.
class Probes:
    """Measures how far behind a peer is."""

    def __init__(self) -> None:
        self._sent: deque[HostNs] = deque()
        self._answers = False

    def send(self, now_ns: HostNs) -> bool:
        """Whether to send a probe now: it then counts as sent."""
        if self._sent and now_ns - self._sent[-1] < PROBE_NS:
            return False
        self._sent.append(now_ns)
        return True

    def answered(self, sent_ns: HostNs) -> bool:
        """Take a pong; whether it answers a probe."""
        self._answers = True
        probe = sent_ns in self._sent
        while probe and self._sent[0] != sent_ns:
            self._sent.popleft()
        if probe:
            self._sent.popleft()
        return probe

    def behind_ns(self, now_ns: HostNs) -> HostNs:
        """For how long the oldest probe has been on its way; 0 if all have been answered."""
        while self._sent and now_ns - self._sent[0] >= SILENT_MAX_NS:
            self._sent.popleft()
        return now_ns - self._sent[0] if self._sent and self._answers else 0


class _Session(KeptSession):
    """What both ends have in common."""

    def __init__(self, now_ns: HostNs, ping_ns: HostNs) -> None:
        super().__init__(now_ns, ping_ns)
        self._formats = Allowance()

    def _new_format(self, fmt: CodecParameters, now_ns: HostNs) -> CodecParameters:
        self._formats.passed(now_ns)
        if not self._formats.take(FORMAT_EVERY_NS):
            raise RemoteProtocolError("the format of the sound changes too often")
        return checked_parameters(fmt)


class PeerServer(_Session):
    """The daemon's end. It expects Hello first, and sends pings from then on."""

    _first = "hello"

    def __init__(self, now_ns: HostNs) -> None:
        super().__init__(now_ns, 4 * PING_NS)
        self.keepalive.rest_until(now_ns + HELLO_MAX_NS)
        self.probes = Probes()
        self.greeted = False
        self._offered = False
        self._speaks: CodecParameters | None = None
        self._events: list[FromListener | AudioPacket] = []

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Take one WebSocket message; RemoteProtocolError ends the session."""
        self.keepalive.heard(now_ns)
        if isinstance(message, bytes):
            self._packet(message)
            return
        parsed = decode_from_listener(message)
        if self._answered(parsed, now_ns):
            return
        if isinstance(parsed, Hello) == self.greeted:
            raise RemoteProtocolError("hello must come first, and only once")
        self.greeted = True
        if isinstance(parsed, Hello):
            self._hello_by_ns = None
            self.keepalive.rest_until(now_ns)
            self._offered = parsed.microphone
        elif isinstance(parsed, FormatChanged):
            if not self._offered:
                raise RemoteProtocolError("unexpected microphone: it was not offered in hello")
            self._speaks = self._new_format(parsed.format, now_ns)
        self._events.append(parsed)

    def probe(self, now_ns: HostNs) -> None:
        """Queue a probe, if one is due. Called while sound is sent and nothing waits before it."""
        if self.greeted and self.probes.send(now_ns):
            self._out.append(encode_message(Ping(now_ns)))

    def _answered(self, message: object, now_ns: HostNs) -> bool:
        if isinstance(message, Pong) and self.probes.answered(message.t):
            return True
        return super()._answered(message, now_ns)

    def _packet(self, message: bytes) -> None:
        if self._speaks is None:
            raise RemoteProtocolError("unexpected media: offer a microphone in hello, then describe its format")
        if len(message) > MESSAGE_MAX:
            raise RemoteProtocolError(f"packet too long: {len(message)} bytes; {MESSAGE_MAX} at most")
        packet = unpack_media(message)
        # Generations travel as 8 bits. Packets of the previous format may still arrive behind the announcement of the
        # next, and are dropped. Formats change 10 times a second at most in the long run, so no packet is on its way
        # long enough for its number to come round.
        if packet is None or packet.generation != self._speaks.generation & 0xFF:
            return
        if not packet_fits(packet, self._speaks):
            raise RemoteProtocolError(
                f"wrong packet length: {packet.frames} frames in {len(packet.payload)} bytes of {self._speaks.codec}"
            )
        self._events.append(packet)

    def events(self) -> list[FromListener | AudioPacket]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def send_message(self, message: FromDaemon) -> None:
        """Queue a control message."""
        self._out.append(encode_message(message))


ListenerEvent: TypeAlias = FromDaemon | AudioPacket


class PeerClient(_Session):
    """The listener's end."""

    _first = "welcome"

    def __init__(self, hello: Hello, now_ns: HostNs) -> None:
        super().__init__(now_ns, PING_NS)
        self.welcome: Welcome | None = None
        self.format: CodecParameters | None = None
        self._events: list[ListenerEvent] = []
        self._out.append(encode_message(hello))

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Take one WebSocket message."""
        self.keepalive.heard(now_ns)
        if isinstance(message, bytes):
            self._packet(message, now_ns)
            return
        parsed = decode_from_daemon(message)
        if self._answered(parsed, now_ns):
            return
        if isinstance(parsed, Welcome):
            self.welcome, self._hello_by_ns = parsed, None
        elif isinstance(parsed, FormatChanged):
            self.format = self._new_format(parsed.format, now_ns)
        self._events.append(parsed)

    def _packet(self, message: bytes, now_ns: HostNs) -> None:
        fmt = self.format
        if message[:1] == _TRACK_KIND:
            tracked = unpack_track(message, now_ns)
            packet = sound_of(tracked, fmt) if tracked is not None and fmt is not None else None
        else:
            packet = unpack_media(message)
        if packet is not None and fmt is not None and packet.generation == fmt.generation & 0xFF:
            self._events.append(packet)

    def events(self) -> list[ListenerEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def send_message(self, message: FromListener) -> None:
        """Queue a control message."""
        self._out.append(encode_message(message))
