"""One SPICE channel from the client's side: link, ticket, then messages. Sans-IO.

"Spice protocol" of the SPICE project (spice-protocol: protocol.h, enums.h): link messages with
capabilities, the mini header (u16 type, u32 size), SET_ACK, PING. All little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from millrace.dsp.convert import Buffer
from millrace.errors import PasswordRefused, PeerLost, RemoteProtocolError
from millrace.units import NS_PER_S, HostNs
from millrace.wire.contract import AnswerDue

MESSAGE_MAX = 1024 * 1024
PICTURE_MAX = 64 * 1024 * 1024
"""On the display channel: an uncompressed picture of 4096 × 4096."""
LINK_MAX = 4096
AT_ONCE = 16
"""Messages processed in one call of `receive`."""
ANSWER_NS = 10 * NS_PER_S
KEY_BYTES, TICKET_BYTES = 162, 128
MAGIC = b"REDQ"
_PERMISSION_DENIED = 7
_AUTH_SELECTION, _AUTH_SPICE, _MINI_HEADER = 1 << 0, 1 << 1, 1 << 3
_SET_ACK, _PING = 3, 4
_ACK_SYNC, _ACK, _PONG = 1, 2, 3
LINK_ERRORS = {
    1: "it gives no reason", 2: "it received no SPICE link message", 3: "the link message is invalid",
    4: "it speaks another version of SPICE", 5: "it needs TLS: attach its TLS port with --tls",
    6: "this port has no TLS: attach without --tls",
    8: "it does not know the session", 9: "it has no such channel",
}  # fmt: skip
Encrypt = Callable[[bytes, str], bytes]
"""(RSA public key in DER, password) to the 128-byte ticket."""


class ChannelKind(IntEnum):
    """The channel types used here."""

    MAIN = 1
    DISPLAY = 2
    INPUTS = 3
    CURSOR = 4
    PLAYBACK = 5
    RECORD = 6


# Each message of sound may begin a stream, each cursor may have a megabyte of pixels, and each message of the main
# channel thousands of the guest's agent.
FEWER_AT_ONCE = {ChannelKind.MAIN: 1, ChannelKind.PLAYBACK: 2, ChannelKind.RECORD: 2, ChannelKind.CURSOR: 1}


class LinkRefused(RemoteProtocolError):
    """The server refused the channel's link."""


@dataclass(frozen=True, slots=True)
class SpiceMessage:
    """A message specific to the channel's type."""

    kind: int
    body: bytes


# Each step takes exactly the bytes it needs and names the next step; it returns False if they are not there yet, and
# then nothing has been taken. The steps: header, link reply, result of the ticket, and messages from then on.
#
# Flow control: after SET_ACK the server sends at most a window of messages that were not acknowledged, so every message
# counts, those that are not understood too. Without ACKs the server stops sending.
class SpiceChannel(AnswerDue):
    """Bytes ⇄ messages of one channel."""

    def __init__(
        self,
        kind: ChannelKind,
        session: int,
        caps: int,
        password: str,
        encrypt: Encrypt,
        now_ns: HostNs,
        number: int = 0,
    ) -> None:
        """`number` tells channels of the same type apart."""
        self.kind = kind
        self._answer_by_ns = now_ns + ANSWER_NS
        """When the link must have been accepted."""
        self.open = False
        self.caps: tuple[int, ...] = ()
        self.specific: tuple[int, ...] = ()
        """The server's capabilities that belong to this type of channel, 32 a word."""
        self._password, self._encrypt = password, encrypt
        self._buffer = bytearray()
        # The bare function: a bound method would be a cycle, which keeps the buffer until a full collection.
        self._step: Callable[[SpiceChannel], bool] = SpiceChannel._header
        self._reply_bytes = 0
        self._window = self._left = 0
        self._more = False
        self._events: list[SpiceMessage] = []
        body = struct.pack("<IBBIII", session, kind, number, 1, 1, 18) + struct.pack(
            "<II", _AUTH_SELECTION | _AUTH_SPICE | _MINI_HEADER, caps
        )
        self._out = bytearray(MAGIC + struct.pack("<III", 2, 2, len(body)) + body)

    # -- in --------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the channel. While `unfinished`, it must be called again."""
        del now_ns
        self._buffer += data
        most = FEWER_AT_ONCE.get(self.kind, AT_ONCE)
        for _ in range(AT_ONCE):
            self._more = self._step(self)
            if not self._more or len(self._events) >= most:
                break

    @property
    def unfinished(self) -> bool:
        """See `AnswerDue`: it may have whole messages, and stopped so that others may go on."""
        return self._more

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, or were not processed."""
        return len(self._buffer)

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def _header(self) -> bool:
        # Checked by the first bytes: a server of another protocol may send less than a header, and then wait.
        began = bytes(self._buffer[:4])
        if not MAGIC.startswith(began):
            hint = ": it is a VNC server" if began == b"RFB " else ""
            raise RemoteProtocolError(f"this is not a SPICE server{hint}")
        head = self._take(16)
        if head is None:
            return False
        major, _, size = struct.unpack("<4xIII", head)
        # 178 bytes hold the error, the key and the three counts that are read below.
        if major != 2 or not 178 <= size <= LINK_MAX:
            raise RemoteProtocolError(f"unsupported SPICE link: version {major}, reply of {size} bytes")
        self._reply_bytes = size
        self._step = SpiceChannel._reply
        return True

    def _reply(self) -> bool:
        reply = self._take(self._reply_bytes)
        if reply is None:
            return False
        self._demand_welcome(struct.unpack_from("<I", reply)[0])
        common, specific, offset = struct.unpack_from("<III", reply, 4 + KEY_BYTES)
        if common + specific > 64 or offset + 4 * (common + specific) > len(reply):
            raise RemoteProtocolError("SPICE capabilities exceed their message")
        self.caps = struct.unpack_from(f"<{common + specific}I", reply, offset)
        shared, self.specific = self.caps[0] if common else 0, self.caps[common:]
        # Messages have the mini header only if both sides can read it; the long one is not implemented.
        if not shared & _MINI_HEADER:
            raise RemoteProtocolError("this SPICE server is too old: it has no mini headers; update spice-server")
        # With AUTH_SELECTION, the mechanism (1 is AUTH_SPICE) precedes the ticket.
        if shared & _AUTH_SELECTION:
            self._out += struct.pack("<I", 1)
        ticket = self._encrypt(reply[4 : 4 + KEY_BYTES], self._password)
        assert len(ticket) == TICKET_BYTES
        self._out += ticket
        self._step = SpiceChannel._result
        return True

    def _result(self) -> bool:
        raw = self._take(4)
        if raw is None:
            return False
        self._demand_welcome(struct.unpack("<I", raw)[0])
        self.open, self._answer_by_ns = True, None
        self._step = SpiceChannel._message
        return True

    def _demand_welcome(self, result: int) -> None:
        if result == _PERMISSION_DENIED and self._password:
            raise PasswordRefused("the SPICE server rejected the password")
        if result == _PERMISSION_DENIED:
            raise LinkRefused("the SPICE server needs a password: --password-file")
        if result:
            raise LinkRefused(f"the SPICE server refused: {LINK_ERRORS.get(result, result)}")

    def _message(self) -> bool:
        if len(self._buffer) < 6:
            return False
        kind, size = struct.unpack_from("<HI", self._buffer)
        most = PICTURE_MAX if self.kind is ChannelKind.DISPLAY else MESSAGE_MAX
        if size > most:
            raise RemoteProtocolError(f"SPICE message too long: {size} bytes; {most} at most")
        if len(self._buffer) < 6 + size:
            return False
        # A view first: a slice of the bytearray would be copied twice, and a picture has megabytes.
        with memoryview(self._buffer) as whole:
            body = bytes(whole[6 : 6 + size])
        del self._buffer[: 6 + size]
        self._common(kind, body)
        return True

    def _common(self, kind: int, body: bytes) -> None:
        if kind == _SET_ACK:
            generation, self._window = unpack("<II", body)
            self._left = self._window
            self.send_message(_ACK_SYNC, struct.pack("<I", generation))
            return
        if self._window:
            self._left -= 1
            if self._left <= 0:
                self._left = self._window
                self.send_message(_ACK)
        if kind == _PING:
            if len(body) < 12:
                raise RemoteProtocolError("truncated SPICE ping")
            self.send_message(_PONG, body[:12])
        elif kind > 100:
            self._events.append(SpiceMessage(kind, body))

    def events(self) -> list[SpiceMessage]:
        """The channel-specific messages since the last call."""
        out, self._events = self._events, []
        return out

    def _overdue(self) -> PeerLost:
        return PeerLost(f"the SPICE server does not answer on the {self.kind.name.lower()} channel")

    # -- out -------------------------------------------------------------------------------------

    def offers(self, cap: int) -> bool:
        """Whether the server has a capability of this type of channel."""
        return any(word >> (cap - 32 * n) & 1 for n, word in enumerate(self.specific) if 0 <= cap - 32 * n < 32)

    def send_message(self, kind: int, body: bytes = b"") -> None:
        """Queue a message."""
        self._out += struct.pack("<HI", kind, len(body)) + body

    @property
    def unsent_bytes(self) -> int:
        """Bytes that `data_to_send` has yet to return."""
        return len(self._out)

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        out, self._out = bytes(self._out), bytearray()
        return out


def unpack(form: str, body: bytes, at: int = 0) -> tuple[int, ...]:
    """Like struct.unpack_from, but raises RemoteProtocolError if the message is too short."""
    if len(body) < at + struct.calcsize(form):
        raise RemoteProtocolError(f"truncated SPICE message: {len(body)} bytes")
    return struct.unpack_from(form, body, at)
