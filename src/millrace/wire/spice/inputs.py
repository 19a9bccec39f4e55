"""The client's side of SPICE's inputs channel: keys and pointer (spice-protocol: enums.h; the layouts of spice.proto).

Keys are scan codes of set 1, as they come from a keyboard: an extended one after 0xE0, a release with bit 7.
"""

from __future__ import annotations

import struct

from millrace.dsp.convert import Buffer
from millrace.pixels.rects import Point
from millrace.units import HostNs
from millrace.wire.keys import LightsTold
from millrace.wire.spice.channel import ChannelKind, Encrypt, SpiceChannel, unpack

_KEY_DOWN, _KEY_UP = 101, 102
_MOTION, _POSITION, _PRESS, _RELEASE = 111, 112, 113, 114
_MOTION_ACK, _LIGHTS = 111, (101, 102)
ACKNOWLEDGED = 4
"""The server acknowledges every fourth movement."""
UNACKNOWLEDGED_MAX = 16
"""Movements on their way; what comes after them is joined until some have been taken."""
BUTTONS = 7
"""It has none for a wheel that turns sideways."""
_LIMIT = (1 << 31) - 1


class SpiceInputs:
    """The inputs channel. What is sent before the link is accepted is dropped: nobody saw a picture yet."""

    def __init__(self, session: int, password: str, encrypt: Encrypt, now_ns: HostNs) -> None:
        self._channel = SpiceChannel(ChannelKind.INPUTS, session, 0, password, encrypt, now_ns)
        self._buttons = 0
        self._unacknowledged = 0
        self._joined: tuple[Point, bool, int] | None = None
        self._at: tuple[Point, int] | None = None
        self._events: list[LightsTold] = []

    @property
    def unfinished(self) -> bool:
        """See `SpiceChannel`."""
        return self._channel.unfinished

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, or were not processed."""
        return self._channel.partial_bytes

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the channel. While `unfinished`, it must be called again."""
        self._channel.receive(data, now_ns)
        for message in self._channel.events():
            if message.kind == _MOTION_ACK:
                self._unacknowledged = max(0, self._unacknowledged - ACKNOWLEDGED)
                self._send_joined()
            elif message.kind in _LIGHTS:
                (bits,) = unpack("<H", message.body)
                self._events.append(LightsTold(bits))

    def events(self) -> list[LightsTold]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def send_key(self, code: int, down: bool) -> None:
        """Queue a key: a scan code of set 1, with 0x80 added for an extended one."""
        if self._channel.open:
            self._send_joined()
            plain = code & 0x7F | (0 if down else 0x80)
            wire = plain << 8 | 0xE0 if code & 0x80 else plain
            self._channel.send_message(_KEY_DOWN if down else _KEY_UP, struct.pack("<I", wire))

    # A click is where the pointer is then, so what was joined goes before it.
    def send_pointer(self, at: Point, buttons: int, relative: bool, display: int = 0) -> None:
        """Queue the pointer's place on a display, or its movement, then the buttons that were pressed or released."""
        if not self._channel.open:
            return
        changed = (buttons ^ self._buttons) & (1 << BUTTONS) - 1
        if relative and self._joined is not None and self._joined[1]:
            at = Point(self._joined[0].x + at.x, self._joined[0].y + at.y)
        moves = at != Point(0, 0) if relative else self._at != (at, display)
        if moves:
            self._joined = at, relative, display
        if changed or self._unacknowledged < UNACKNOWLEDGED_MAX:
            self._send_joined()
        for number in range(BUTTONS):
            if changed >> number & 1:
                self._buttons ^= 1 << number
                kind = _PRESS if self._buttons >> number & 1 else _RELEASE
                self._channel.send_message(kind, struct.pack("<BH", number + 1, self._buttons))

    def _send_joined(self) -> None:
        if self._joined is None:
            return
        (at, relative, display), self._joined = self._joined, None
        self._unacknowledged += 1
        x, y = (max(-_LIMIT, min(_LIMIT, value)) for value in (at.x, at.y))
        if relative:
            self._channel.send_message(_MOTION, struct.pack("<iiH", x, y, self._buttons))
        else:
            self._at = at, display
            self._channel.send_message(
                _POSITION, struct.pack("<IIHB", max(0, x), max(0, y), self._buttons, display & 0xFF)
            )

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        return self._channel.data_to_send()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: when the link must have been accepted."""
        return self._channel.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        self._channel.handle_timeout(now_ns)
