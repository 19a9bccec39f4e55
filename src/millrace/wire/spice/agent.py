"""The agent in a SPICE guest (spice-vdagent), as far as the clipboard goes: what it says over the main channel.

spice-protocol: vd_agent.h; spice.proto of spice-common, "MainChannel". The agent's messages travel in pieces, each as
one message of the channel. The server gives tokens, one for each piece that it has room for.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator

from millrace.errors import ConfigError, RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, ClipReader, ClipText, check_size
from millrace.wire.clips import ClipEvent, ClipGiving, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.spice.channel import SpiceChannel, SpiceMessage, unpack

PIECE_BYTES = 2048
PIECE_MAX = 64 * 1024
"""Bytes of a piece that is taken."""
TEXT_MAX = 2 * CLIP_BYTES_MAX
"""The longest text that is read, whose lines may end with CR LF; a longer one is skipped."""
MESSAGE_MAX = 64 * 1024
"""The longest other message that is read; a longer one is skipped. Unless it is a grab, it has a few bytes."""
UNSENT_MAX = 64
"""Messages that may wait for tokens. Only the newest offer does, and one request."""
AT_ONCE = READ_AT_ONCE = 16
"""Pieces that are sent in one step, and messages that are read."""
UNSENT_BYTES_MAX = 128 * 1024
"""No more of a text is made while so much waits to be handed to the connection."""
ASKS_MAX = 2
"""Programs of the guest that may wait for our text."""
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
        self._unsent: deque[tuple[int, bytes]] = deque()
        """Messages by their kind, the next one first."""
        self.giving = ClipGiving()
        self._forget()

    def _forget(self) -> None:
        """What belongs to one run of the agent."""
        self.clip_there = False
        self._caps = 0
        self._data = bytearray()
        self.behind = False
        """Whether there may be more messages in what has come: nothing else is taken before they are read."""
        self._skipped = 0
        """Bytes to come of a message that is too long."""
        self._text_left = 0
        """Bytes to come of a text that is being read."""
        self._reader: ClipReader | None = None
        """None: what comes is not text, and it was said why."""
        self._in_parts = False
        """A text is half sent: nothing may come within it."""
        self._asks = 0
        self._unsent.clear()
        self._events += self.giving.drop()

    @property
    def held_bytes(self) -> int:
        """Memory of a message or a text that is not complete."""
        return len(self._data) + (0 if self._reader is None else self._reader.held_bytes)

    def events(self) -> list[ClipEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    # -- in --------------------------------------------------------------------------------------

    def take(self, message: SpiceMessage) -> None:
        """Take a message of the main channel; RemoteProtocolError for one that is wrong. See `behind`."""
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
        if len(body) > PIECE_MAX:
            raise RemoteProtocolError(f"the SPICE guest's agent sent a piece of {len(body)} bytes")
        self._data += body
        self.read()

    def read(self) -> None:
        """Read a few messages. While it is `behind`, it must be called again."""
        self.behind = all(self._go_on() for _ in range(READ_AT_ONCE))

    def _go_on(self) -> bool:
        """Take what there is of the next message, or of what is left of one; False if more must come before."""
        if self._skipped:
            self._skipped -= len(self._cut(self._skipped))
            return not self._skipped
        if self._text_left:
            self._text(self._cut(self._text_left))
            return not self._text_left
        if len(self._data) < _HEAD.size:
            return False
        protocol, kind, _, size = _HEAD.unpack_from(self._data)
        if protocol != _PROTOCOL:
            raise RemoteProtocolError(f"the SPICE guest's agent speaks protocol {protocol}")
        return self._begin(kind, size)

    def _cut(self, size: int) -> bytes:
        """Take so many bytes, or what there is."""
        part = bytes(self._data[:size])
        del self._data[:size]
        return part

    def _begin(self, kind: int, size: int) -> bool:
        before = min(size, 4 + 4 * bool(self._caps & _SELECTION)) if kind == _CLIPBOARD else size
        if size > (TEXT_MAX + before if kind == _CLIPBOARD else MESSAGE_MAX):
            self._skipped = _HEAD.size + size
            if kind == _CLIPBOARD:
                self._events.append(_refused(size))
            return True
        if len(self._data) < _HEAD.size + before:
            return False
        self._cut(_HEAD.size)
        self._said(kind, self._cut(before), size - before)
        return True

    def _said(self, kind: int, body: bytes, text_bytes: int) -> None:
        """A message; after the beginning of one with a text, so many bytes follow."""
        self._text_left, self._reader = text_bytes, None
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
            self._supplied(unpack("<I", body)[0])

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
        if self._asks == 1 and not self.giving.begun:
            self._events.append(ClipWanted())

    def _supplied(self, kind: int) -> None:
        if kind != _UTF8:
            self._events.append(ClipSupplied(refused="the machine's clipboard holds no text"))
            return
        self._reader = ClipReader()
        if not self._text_left:
            self._text(b"")

    def _text(self, data: bytes) -> None:
        """The next bytes of a text, or of what is none."""
        self._text_left -= len(data)
        if self._reader is None:
            return
        try:
            self._reader.add(data, not self._text_left)
            if not self._text_left:
                self._events.append(ClipSupplied(self._reader.text()))
        except ConfigError as error:
            self._events.append(ClipSupplied(refused=str(error)))
            self._reader = None
        if not self._text_left:
            self._reader = None

    # -- out -------------------------------------------------------------------------------------

    def send_clip_offer(self, there: bool) -> None:
        """See `ClipWire`. It takes the place of one that waits."""
        self._unsent = deque(one for one in self._unsent if one[0] not in (_GRAB, _RELEASE))
        self._send_clip(_GRAB if there else _RELEASE, struct.pack("<I", _UTF8) if there else b"")

    def send_clip_request(self) -> None:
        """See `ClipWire`. It takes the place of one that waits."""
        self._unsent = deque(one for one in self._unsent if one[0] != _REQUEST)
        self._send_clip(_REQUEST, struct.pack("<I", _UTF8))

    def send_clip_text(self, text: ClipText | None) -> None:
        """See `ClipWire`."""
        asks, self._asks = self._asks, 0
        if text is not None:
            self.giving.begin(text, self._given(text, asks))
            return
        for _ in range(asks):
            self._send_clip(_CLIPBOARD, struct.pack("<I", _NONE))

    def _send_clip(self, kind: int, body: bytes) -> None:
        if self.clip_there:
            self._send(kind, self._selection + body)

    @property
    def _selection(self) -> bytes:
        return bytes(4) if self._caps & _SELECTION else b""

    # An agent that does not read gets no more.
    def _send(self, kind: int, body: bytes) -> None:
        if len(self._unsent) < UNSENT_MAX:
            self._unsent.append((kind, _HEAD.pack(_PROTOCOL, kind, 0, len(body)) + body))
            self._pump()

    def _pump(self) -> None:
        while self._unsent and self._tokens and not self._in_parts:
            self._put(self._unsent.popleft()[1])

    def _put(self, piece: bytes) -> None:
        self._tokens -= 1
        self._channel.send_message(_SEND_DATA, piece)

    @property
    def unfinished(self) -> bool:
        """Whether `go_on` has something to do, or `read`."""
        return self.behind or self._gives

    # Whether the server reads is only known of what has been handed to the connection.
    @property
    def _gives(self) -> bool:
        return self._tokens > 0 and self.giving.due and self._channel.unsent_bytes < UNSENT_BYTES_MAX

    def go_on(self) -> None:
        """Hand over some pieces of a text, as far as there are tokens."""
        for _ in range(AT_ONCE):
            if not self._gives:
                return
            ended = self.giving.step()
            self._events += [*ended, ClipWanted()] if ended and self._asks else ended

    # Each step is begun only with a token.
    def _given(self, text: ClipText, asks: int) -> Iterator[None]:
        """The steps in which a text is sent to all who have asked: each sends a piece of a message."""
        crlf = bool(self._caps & _CRLF)
        size = text.size + text.lines if crlf else text.size
        for _ in range(asks):
            self._in_parts = False
            while self._unsent:
                self._put(self._unsent.popleft()[1])
                yield
            self._in_parts = True
            before = self._selection + struct.pack("<I", _UTF8)
            head = _HEAD.pack(_PROTOCOL, _CLIPBOARD, 0, len(before) + size) + before
            for piece in _cut(head, text.crlf() if crlf else text.pieces):
                self._put(piece)
                yield
        self._in_parts = False
        self._pump()


def _cut(head: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES`, the last of which may be shorter."""
    rest = bytearray(head)
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % PIECE_BYTES
        for at in range(0, whole, PIECE_BYTES):
            yield bytes(rest[at : at + PIECE_BYTES])
        del rest[:whole]
    if rest:
        yield bytes(rest)


def _refused(size: int) -> ClipSupplied:
    try:
        check_size(size)
    except ConfigError as error:
        return ClipSupplied(refused=str(error))
    raise AssertionError
