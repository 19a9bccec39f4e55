"""What a daemon may send in each protocol, and how it may end a connection. A verdict is a sentence, or empty.

| wire | a client that violates it, or is disconnected, gets |
|---|---|
| PulseAudio | an ERROR for a request that can't be served; a violation ends the connection, as in PulseAudio |
| native | a Fault with serial 0, and nothing after it |
| HTTP | a 4xx answer with a message, 503 or 507; never an end without an answer |
| WebSocket | the peer protocol's fatal fault or bye, or a Close frame with the reason; Close comes last in any case |
| attach.sock | one line of JSON |

SPICE, VNC, QMP and D-Bus have no message for this: there, `door` checks what a machine's door shows.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from millrace.errors import RemoteProtocolError
from millrace.wire.native.messages import Fault
from millrace.wire.native.session import NativeWire
from millrace.wire.pulse.constants import Command, Err
from millrace.wire.pulse.layouts import NOTICES
from millrace.wire.pulse.session import HEADER

NOBODY = 0xFFFFFFFF
NATIVE_ENDS = ("protocol", "limit", "rights", "busy")
OURS = re.compile(r"Traceback|object at 0x|internal error|\w(Error|Exception)\b|\w+\.pyx?\b|_ssl\.c")
"""Internals that must not appear in messages to clients."""
CLOSE, TEXT = 8, 1
CLOSE_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011)


@dataclass
class Heard:
    """What came back. After a reset some of it may be lost, as usual with TCP."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False

    @property
    def closed(self) -> bool:
        """Whether the daemon ended the connection, and everything that it sent has arrived."""
        return self.ended and not self.reset


def pulse(heard: Heard) -> str:
    """PulseAudio's server to client."""
    data = bytes(heard.data)
    while len(data) >= HEADER.size:
        size, channel, _, _, flags = HEADER.unpack_from(data)
        if size > 2**24 or flags:
            return f"a frame of {size} bytes with flags {flags:#x}"
        payload, whole = data[HEADER.size : HEADER.size + size], len(data) >= HEADER.size + size
        data = data[HEADER.size + size :]
        if whole and channel == NOBODY and (wrong := _pulse_command(payload)):
            return wrong
        if not whole:
            return "it ended within a message" if heard.closed else ""
    return "it ended within a message's header" if data and heard.closed else ""


def _pulse_command(payload: bytes) -> str:
    if len(payload) < 10 or payload[0:1] != b"L" or payload[5:6] != b"L":
        return f"a command that is none: {payload[:20]!r}"
    (number,) = struct.unpack_from(">I", payload, 1)
    if number == Command.ERROR:
        if len(payload) != 15:
            return "an error without one code"
        (code,) = struct.unpack_from(">I", payload, 11)
        return "" if code in set(Err) and code not in (Err.INTERNAL, Err.UNKNOWN) else f"error {code}"
    return "" if number == Command.REPLY or number in NOTICES else f"command {number}, which only clients say"


def native(heard: Heard) -> str:
    """The native protocol's daemon to client."""
    wire = NativeWire(daemon=False)
    wire.receive_fds([-1] * 10_000)
    try:
        wire.receive(heard.data, 0)
    except RemoteProtocolError as error:
        return str(error)
    said = [message for message, _ in wire.events()]
    if any(isinstance(one, Fault) and one.code == "internal" for one in said):
        return "an internal error"
    ends = [one for one in said if isinstance(one, Fault) and one.serial == 0]
    if ends and (said[-1] is not ends[0] or wire.partial_bytes):
        return "something came after the last Fault"
    if ends and (ends[0].code not in NATIVE_ENDS or not _readable(ends[0].message)):
        return f"it ended with {ends[0]!r:.300}"
    if heard.ended and not ends:
        return f"the connection ended after {said[-1:]!r:.200}, without a Fault ({wire.partial_bytes} bytes of another)"
    return ""


def answers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(status, body) of each HTTP answer; the last body may be truncated."""
    while data.startswith(b"HTTP/") and b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else len(rest) if b"101" in head[:12] else 0
        yield int(head[9:12]), rest[:size]
        data = rest[size:]


def http(heard: Heard) -> str:
    """HTTP answers."""
    data, any_ = bytes(heard.data), False
    for status, body in answers(data):
        any_ = True
        if status >= 500 and status not in (503, 507):
            return f"HTTP {status}: {body[:200]!r}"
        if status >= 400 and (not body.strip() or not _readable(body.decode("utf-8", "replace"))) and not heard.reset:
            return f"HTTP {status} without words to read: {body[:200]!r}"
    if heard.closed and not any_:
        return f"it ended without an answer: {data[:100]!r}"
    return ""


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(opcode, payload) of a server's WebSocket frames; a truncated last one is (-1, its bytes)."""
    while data:
        size, head = data[1] & 0x7F if len(data) > 1 else 0, 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[2:head], "big")
        if len(data) < head + size:
            yield -1, data
            return
        yield data[0] & 0x0F, data[head : head + size]
        data = data[head + size :]


def websocket(heard: Heard) -> str:
    """The peer protocol's daemon to listener, after the handshake."""
    said = list(frames(bytes(heard.data)))
    for opcode, payload in said:
        if opcode not in (-1, TEXT, 2, CLOSE, 9, 10):
            return f"a frame of kind {opcode}"
        if opcode == TEXT and not _readable(payload.decode()):
            return f"it said {payload[:300]!r}"
    if not heard.closed:
        return ""
    if not said or said[-1][0] != CLOSE:
        return f"it ended without Close, after {said[-1:]!r:.200}"
    code = int.from_bytes(said[-1][1][:2], "big") if said[-1][1] else 1000
    return "" if code in CLOSE_CODES and code != 1011 else f"it closed with {code}: {said[-1][1][2:]!r:.200}"


def handed(heard: Heard) -> str:
    """The one answer on attach.sock."""
    if not heard.data:
        return "it ended without an answer" if heard.ended else ""
    try:
        answer = msgspec.json.decode(bytes(heard.data), type=dict[str, Any])
    except msgspec.MsgspecError:
        return f"this is no answer: {bytes(heard.data[:200])!r}"
    error = answer.get("error", "")
    return "" if _readable(error) and bool(error) is ("id" not in answer) else f"it said {answer!r}"


def door(view: dict[str, Any]) -> str:
    """A machine's door as the state shows it."""
    error = view["error"]
    if view["state"] != "attached" and not error and view["sessions"]:
        return f"{view['door']}: {view['state']}, and it does not say why"
    return "" if not error or _readable(error) else f"{view['door']}: it says {error!r}"


def _readable(text: str) -> bool:
    """Whether it is no internal error, and nothing in it acts on a terminal; blanks of all kinds don't."""
    shown = (char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs" for char in text)
    return not OURS.search(text) and all(shown)
