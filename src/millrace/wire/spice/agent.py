"""The agent in a SPICE guest (spice-vdagent), as far as the clipboard goes: what it says over the main channel.

spice-protocol: vd_agent.h; spice.proto of spice-common, "MainChannel". The agent's messages travel in pieces, each as
one message of the channel. The server gives tokens, one for each piece that it has room for.
"""

from __future__ import annotations

import struct
from collections import deque

from millrace.errors import ConfigError, RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, check_size, clip_text
from millrace.wire.clips import ClipEvent, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.spice.channel import SpiceChannel, SpiceMessage, unpack

PIECE_BYTES = 2048
MESSAGE_MAX = 2 * CLIP_BYTES_MAX + 64
"""The longest message that is read; a longer one is skipped."""
UNSENT_MAX = 4 * CLIP_BYTES_MAX // PIECE_BYTES
"""Pieces that may wait for tokens."""
ASKS_MAX = 16
TOKENS_MAX = 1 << 20
INIT, _CONNECTED, _DISCONNECTED, _DATA, _TOKEN, _CONNECTED_TOKENS = 103, 107, 108, 109, 110, 115
_START, _SEND_DATA = 106, 107
_ALL_TOKENS = 0xFFFFFFFF
"""We take whatever comes, as it is read at once."""
_PROTOCOL = 1
_CLIPBOARD, _CAPABILITIES, _GRAB, _REQUEST, _RELEASE = 4, 6, 7, 8, 9
_NONE, _UTF8 = 0, 1
# Bits: clipboard, by demand, selections; the guest's lines end with CR LF.
_CAPS = 1 << 3 | 1 << 5 | 1 << 6
_BY_DEMAND, _SELECTION, _CRLF = 1 << 5, 1 << 6, 1 << 9
_HEAD = struct.Struct("<IIQI")


class SpiceAgent:
    """A `ClipSession` over a main channel."""

    clip_eager = False

    def __init__(self, channel: SpiceChannel) -> None:
        self._channel = channel
        self.clip_there = False
        """Whether there is an agent that shares the clipboard."""
        self._events: list[ClipEvent] = []
        self._tokens = 0
        self._unsent: deque[bytes] = deque()
        self._forget()

    def _forget(self) -> None:
        """What belongs to one run of the agent."""
        self.clip_there = False
        self._caps = 0
        self._data = bytearray()
        self._skipped = 0
        """Bytes to come of a message that is too long."""
        self._asks = 0
        self._unsent.clear()

    def events(self) -> list[ClipEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    # -- in --------------------------------------------------------------------------------------

    def take(self, message: SpiceMessage) -> None:
        """Take a message of the main channel; RemoteProtocolError for one that is wrong."""
        kind, body = message.kind, message.body
        if kind == INIT:
            connected, self._tokens = unpack("<II", body, 16)
            if connected:
                self._connect()
        elif kind in (_CONNECTED, _CONNECTED_TOKENS):
            if kind == _CONNECTED_TOKENS:
                (self._tokens,) = unpack("<I", body)
            self._connect()
        elif kind == _DISCONNECTED:
            self._forget()
        elif kind == _TOKEN:
            self._tokens = min(self._tokens + unpack("<I", body)[0], TOKENS_MAX)
            self._pump()
        elif kind == _DATA:
            self._piece(body)

    def _connect(self) -> None:
        self._forget()
        self._channel.send_message(_START, struct.pack("<I", _ALL_TOKENS))
        self._send(_CAPABILITIES, struct.pack("<II", 1, _CAPS))

    def _piece(self, body: bytes) -> None:
        skipped = min(self._skipped, len(body))
        self._skipped -= skipped
        self._data += body[skipped:]
        while len(self._data) >= _HEAD.size:
            protocol, kind, _, size = _HEAD.unpack_from(self._data)
            if protocol != _PROTOCOL:
                raise RemoteProtocolError(f"the SPICE guest's agent speaks protocol {protocol}")
            end = _HEAD.size + size
            if size > MESSAGE_MAX:
                self._skip(kind, end)
                return
            if len(self._data) < end:
                return
            content = bytes(self._data[_HEAD.size : end])
            del self._data[:end]
            self._said(kind, content)

    def _skip(self, kind: int, size: int) -> None:
        self._skipped = size - len(self._data)
        self._data.clear()
        if kind == _CLIPBOARD:
            self._events.append(_refused(size))

    def _said(self, kind: int, body: bytes) -> None:
        if kind == _CAPABILITIES:
            self._announced(body)
            return
        if kind not in (_CLIPBOARD, _GRAB, _REQUEST, _RELEASE) or not self.clip_there:
            return
        if self._caps & _SELECTION:
            # Of X11's selections, the one that is numbered 0 is the clipboard.
            if unpack("<B", body)[0]:
                return
            body = body[4:]
        if kind == _GRAB:
            count = len(body) // 4
            self._events.append(ClipOffered(_UTF8 in struct.unpack_from(f"<{count}I", body)))
        elif kind == _RELEASE:
            self._events.append(ClipOffered(False))
        elif kind == _REQUEST:
            self._asked(unpack("<I", body)[0])
        else:
            self._supplied(unpack("<I", body)[0], body[4:])

    def _announced(self, body: bytes) -> None:
        asks, self._caps = unpack("<II", body)
        self.clip_there = bool(self._caps & _BY_DEMAND)
        if asks:
            self._send(_CAPABILITIES, struct.pack("<II", 0, _CAPS))

    def _asked(self, kind: int) -> None:
        if kind != _UTF8 or self._asks >= ASKS_MAX:
            self._send_clip(_CLIPBOARD, struct.pack("<I", _NONE))
            return
        self._asks += 1
        if self._asks == 1:
            self._events.append(ClipWanted())

    def _supplied(self, kind: int, data: bytes) -> None:
        if kind != _UTF8:
            self._events.append(ClipSupplied(refused="what is on the machine's clipboard is no text"))
            return
        try:
            self._events.append(ClipSupplied(clip_text(data)))
        except ConfigError as error:
            self._events.append(ClipSupplied(refused=str(error)))

    # -- out -------------------------------------------------------------------------------------

    def send_clip_offer(self, there: bool) -> None:
        """See `ClipWire`."""
        self._send_clip(_GRAB if there else _RELEASE, struct.pack("<I", _UTF8) if there else b"")

    def send_clip_request(self) -> None:
        """See `ClipWire`."""
        self._send_clip(_REQUEST, struct.pack("<I", _UTF8))

    def send_clip_text(self, text: str | None) -> None:
        """See `ClipWire`."""
        asks, self._asks = self._asks, 0
        if text is not None and self._caps & _CRLF:
            text = text.replace("\n", "\r\n")
        data = struct.pack("<I", _NONE) if text is None else struct.pack("<I", _UTF8) + text.encode()
        for _ in range(asks):
            self._send_clip(_CLIPBOARD, data)

    def _send_clip(self, kind: int, body: bytes) -> None:
        if self.clip_there:
            self._send(kind, (bytes(4) if self._caps & _SELECTION else b"") + body)

    # An agent that does not read gets no more, but whole messages: it could make nothing of the rest of one.
    def _send(self, kind: int, body: bytes) -> None:
        data = _HEAD.pack(_PROTOCOL, kind, 0, len(body)) + body
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        if len(self._unsent) + len(pieces) <= UNSENT_MAX:
            self._unsent += pieces
            self._pump()

    def _pump(self) -> None:
        while self._unsent and self._tokens:
            self._tokens -= 1
            self._channel.send_message(_SEND_DATA, self._unsent.popleft())


def _refused(size: int) -> ClipSupplied:
    try:
        check_size(size)
    except ConfigError as error:
        return ClipSupplied(refused=str(error))
    raise AssertionError
