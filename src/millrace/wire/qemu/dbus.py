"""The client end of one D-Bus connection, sans-IO: to a message bus, or to a peer.

D-Bus Specification 0.43: "Authentication Protocol" (EXTERNAL, then unix descriptors), "Message Protocol".
Descriptors are sent with the bytes of their message. How many a received message came with is in its header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.text import printable, quoted
from millrace.units import HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.contract import Untimed
from millrace.wire.qemu.values import Reader, Writer

MESSAGE_MAX = 1024 * 1024
"""Ample for all but pictures: QEMU sends 10 ms of sound at a time."""
LARGE = 64 * 1024
"""A message that is longer is received into memory of its own, and never copied."""
FIELDS_MAX, NAME_MAX = 4 * 1024, 255
"""Bytes of a message's header fields, and characters of each name and of the signature there (D-Bus Specification,
"Valid Names", "Summary of D-Bus Types").

Paths have no bound of their own; those of QEMU are short.
"""
FIELDS_COUNT_MAX = 32
"""Fields of a header; the specification knows nine, and tells us to ignore others."""
HEADERS_KEPT, HEADER_KEPT_MAX = 32, 512
_HEADER_BYTES = 16
_LINE_MAX = 16 * 1024
_ORDERS = {0x6C: "<", 0x42: ">"}
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PROPERTIES = "org.freedesktop.DBus.Properties"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
NO_REPLY = 1
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_TO, _DESTINATION, _SENDER, _SIGNATURE, _FDS = range(1, 10)
_TYPES = {_PATH: "o", _INTERFACE: "s", _MEMBER: "s", _ERROR_NAME: "s", _REPLY_TO: "u", _DESTINATION: "s",
          _SENDER: "s", _SIGNATURE: "g", _FDS: "u"}  # fmt: skip
_KINDS = {code: int if kind == "u" else str for code, kind in _TYPES.items()}
_SHORT = frozenset({_INTERFACE, _MEMBER, _ERROR_NAME, _DESTINATION, _SENDER, _SIGNATURE})


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `body` is decoded only when `values` is called."""

    kind: int
    flags: int
    serial: int
    fields: dict[int, Any]
    body: bytes | memoryview = b""
    order: str = "<"

    @property
    def member(self) -> str:
        """The method or signal."""
        return str(self.fields.get(_MEMBER, ""))

    @property
    def interface(self) -> str:
        """The interface called."""
        return str(self.fields.get(_INTERFACE, ""))

    @property
    def path(self) -> str:
        """The object called."""
        return str(self.fields.get(_PATH, ""))

    @property
    def sender(self) -> str:
        """The sender's own name on a bus."""
        return str(self.fields.get(_SENDER, ""))

    @property
    def reply_to(self) -> int | None:
        """The serial of the call that this answers."""
        return self.fields.get(_REPLY_TO)

    @property
    def error(self) -> str:
        """The error's name."""
        return str(self.fields.get(_ERROR_NAME, ""))

    @property
    def signature(self) -> str:
        """The types of the body."""
        return str(self.fields.get(_SIGNATURE, ""))

    @property
    def fds(self) -> int:
        """How many descriptors came with it."""
        return int(self.fields.get(_FDS, 0))

    @property
    def wants_reply(self) -> bool:
        """Whether it is a call that expects an answer."""
        return self.kind == CALL and not self.flags & NO_REPLY

    def values(self, expected: str | None = None) -> list[Any]:
        """The body's values; RemoteProtocolError if the signature is not the expected one."""
        if expected is not None:
            self._expect(expected)
        return Reader(self.body, self.order).values(self.signature)

    def text_and_bytes(self) -> tuple[str, memoryview]:
        """The values of a body "say", whose bytes stay where they were received; RemoteProtocolError if it is none."""
        self._expect("say")
        reader = Reader(self.body, self.order)
        return str(reader.value("s")), reader.blob()

    def _expect(self, signature: str) -> None:
        if self.signature != signature:
            raise RemoteProtocolError(
                f"{printable(self.member)}: unexpected arguments {quoted(self.signature)}; {signature!r} expected"
            )


class _Large:
    """A message that is being received. Its memory is reserved at once, but resident only as it is received."""

    def __init__(self, head: int, body_size: int) -> None:
        self.head, self.received = head, 0
        self.memory = np.empty(head + body_size, np.uint8).data

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.received == len(self.memory)

    def receive(self, data: Buffer) -> Buffer:
        """Take what belongs to it; returns the rest."""
        size = min(len(data), len(self.memory) - self.received)
        self.memory[self.received : self.received + size] = memoryview(data)[:size]
        self.received += size
        return data[size:]


# Authentication is lock-step: the server's OK, then its AGREE_UNIX_FD, and only after BEGIN has been sent are the bytes
# binary. Calls made before that are held back: until BEGIN the server expects lines of text. The NUL byte in front
# carries the sender's credentials where the kernel attaches them to data.
class DBusWire(Untimed):
    """Bytes ⇄ messages. Calls queue until authentication is done."""

    def __init__(self, uid: int, message_max: int = MESSAGE_MAX, long: Mapping[str, int] | None = None) -> None:
        """`message_max` bounds a received message, in bytes; `long` bounds calls instead, by their signature."""
        self.ready = False
        self._message_max, self._long = message_max, long or {}
        self._headers: dict[tuple[str, bytes], dict[int, Any]] = {}
        """Fields of calls by their encoding."""
        self._buffer = bytearray()
        self._large: _Large | None = None
        """The message that is being received, if it is large. It precedes what is in the buffer."""
        self._serial = 0
        self._steps = [b"OK ", b"AGREE_UNIX_FD"]
        self._out: list[Chunk] = [Chunk(bytearray(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n"))]
        self._held: list[Chunk] = []
        """What follows authentication, or the reply that is sent in parts."""
        self._in_parts = False
        self._taken_bytes = 0

    # -- in --------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes, of which `take` makes messages one by one; RemoteProtocolError ends the connection."""
        del now_ns
        self._buffer += data if self._large is None else self._large.receive(data)
        while not self.ready and self._line():
            pass
        if not self.ready or self._large is not None or len(self._buffer) < _HEADER_BYTES:
            return
        # Before waiting for the rest, so that what is buffered is bounded by what was announced.
        head, body_size = self._sizes()
        if LARGE <= head + body_size > len(self._buffer) >= head:
            self._large, received = _Large(head, body_size), self._buffer
            self._buffer = bytearray()
            self._large.receive(received)

    @property
    def partial_bytes(self) -> int:
        """Bytes received of messages that are still incomplete, wait to be taken, or were taken last."""
        return len(self._buffer) + (0 if self._large is None else self._large.received) + self._taken_bytes

    def _line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _LINE_MAX:
                raise RemoteProtocolError("D-Bus authentication: the line is too long")
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        step = self._steps.pop(0)
        if not line.startswith(step):
            raise RemoteProtocolError(f"D-Bus authentication failed: {quoted(line.decode('utf-8', 'replace'))}")
        if self._steps:
            self._out.append(Chunk(bytearray(b"NEGOTIATE_UNIX_FD\r\n")))
        else:
            self._out.append(Chunk(bytearray(b"BEGIN\r\n")))
            self._out += self._held
            self._held.clear()
            self.ready = True
        return True

    @property
    def waiting(self) -> bool:
        """Whether a whole message has not been taken, or one that `take` refuses."""
        if self._large is not None:
            return self._large.whole
        if not self.ready or len(self._buffer) < _HEADER_BYTES:
            return False
        try:
            return len(self._buffer) >= sum(self._sizes())
        except RemoteProtocolError:
            return True

    def _sizes(self) -> tuple[int, int]:
        """Bytes of the header and of the body of the message that begins here; RemoteProtocolError if that is wrong."""
        order = _ORDERS.get(self._buffer[0])
        if order is None or self._buffer[3] != 1:
            raise RemoteProtocolError("these bytes are not a D-Bus message")
        body_size, fields_size = struct.unpack_from(order + "4xI4xI", self._buffer)
        if fields_size > FIELDS_MAX:
            raise RemoteProtocolError(f"D-Bus header too long: {fields_size} bytes; {FIELDS_MAX} at most")
        head = _HEADER_BYTES + fields_size + -fields_size % 8
        size, most = head + body_size, self._message_max
        if size > most and size > (most := max(most, self._longest(head, order))):
            raise RemoteProtocolError(f"D-Bus message too long: {size} bytes; {most} at most")
        return head, body_size

    # What is long is never decoded: its signature says that it is a picture, which is left where it was received. Until
    # the header is complete, no memory is reserved.
    def _longest(self, head: int, order: str) -> int:
        """How long the message that begins here may be, as far as that is known: it is not an ordinary one."""
        if len(self._buffer) < head:
            return max(self._long.values(), default=0)
        kind = self._buffer[1]
        signature = self._fields(bytes(self._buffer[:head]), kind, order).get(_SIGNATURE, "")
        return self._long.get(signature, 0) if kind == CALL else 0

    def take(self) -> Message | None:
        """The next whole message; None if there is none. RemoteProtocolError ends the connection.

        What the message before took counts no more.
        """
        self.forget()
        if not self.waiting:
            return None
        raw: bytes | memoryview
        if self._large is not None:
            head, raw, self._large = self._large.head, self._large.memory, None
        else:
            head, body_size = self._sizes()
            raw = bytes(self._buffer[: head + body_size])
            del self._buffer[: head + body_size]
        self._taken_bytes = len(raw)
        order = _ORDERS[raw[0]]
        _, kind, flags, _, _, serial, _ = struct.unpack_from(order + "BBBBIII", raw)
        fields = self._fields(bytes(raw[:head]), kind, order)
        return Message(kind, flags, serial, fields, raw[head:], order)

    def forget(self) -> None:
        """What `take` gave is not needed any more."""
        self._taken_bytes = 0

    # A peer repeats its calls with the same header but for the serial and the length, thousands of times a second.
    def _fields(self, header: bytes, kind: int, order: str) -> dict[int, Any]:
        """The fields of a message's header."""
        known = (order, header[12:])
        if kind == CALL and known in self._headers:
            return self._headers[known]
        reader = Reader(header, order)
        reader.values("yyyyuu")
        listed = reader.value("a(yv)")
        if len(listed) > FIELDS_COUNT_MAX:
            raise RemoteProtocolError(f"a D-Bus header of {len(listed)} fields; {FIELDS_COUNT_MAX} at most")
        fields = dict(listed)
        for code, value in fields.items():
            if not isinstance(value, _KINDS.get(code, object)):
                raise RemoteProtocolError("wrong type of a D-Bus header field")
            if code in _SHORT and isinstance(value, str) and len(value) > NAME_MAX:
                raise RemoteProtocolError(f"a name of {len(value)} characters in a D-Bus header; {NAME_MAX} at most")
        if kind == CALL and len(header) <= HEADER_KEPT_MAX and len(self._headers) < HEADERS_KEPT:
            self._headers[known] = fields
        return fields

    def events(self) -> list[Message]:
        """The messages received since the last call."""
        out = []
        while (message := self.take()) is not None:
            out.append(message)
        return out

    # -- out -------------------------------------------------------------------------------------

    def send_call(
        self, path: str, interface: str, member: str, signature: str = "", body: bytes = b"",
        destination: str | None = None, fds: tuple[int, ...] = (),
    ) -> int:  # fmt: skip
        """Call a method; returns the serial that its answer will refer to."""
        fields: dict[int, str | int] = {_PATH: path, _INTERFACE: interface, _MEMBER: member}
        if destination is not None:
            fields[_DESTINATION] = destination
        return self._send(CALL, 0, fields, signature, body, fds)

    def send_reply(self, to: Message, signature: str = "", body: bytes = b"") -> None:
        """Answer a call, if it expects an answer."""
        if to.wants_reply:
            self._send(RETURN, NO_REPLY, self._back(to), signature, body)

    # What is sent meanwhile follows it: no message may come within another.
    def send_reply_in_parts(
        self, to: Message, signature: str, head: bytes, parts: Iterable[bytes], size: int
    ) -> Iterator[None]:
        """Answer a call, a part a step. The body begins with `head`, and `size` bytes follow; it must be completed."""
        if not to.wants_reply:
            return
        self._send(RETURN, NO_REPLY, self._back(to), signature, head, more=size)
        self._in_parts = True
        for part in parts:
            self._out.append(Chunk(bytearray(part)))
            yield
        self._in_parts = False
        self._out += self._held
        self._held.clear()

    def send_error(self, to: Message, name: str, text: str) -> None:
        """Answer a call with an error; of its text as much as people read, as it may name what the caller sent."""
        if to.wants_reply:
            fields = self._back(to) | {_ERROR_NAME: name}
            self._send(ERROR, NO_REPLY, fields, "s", Writer().text("s", printable(text)).bytes())

    @staticmethod
    def _back(to: Message) -> dict[int, str | int]:
        fields: dict[int, str | int] = {_REPLY_TO: to.serial}
        sender = to.fields.get(_SENDER)
        return fields | {_DESTINATION: str(sender)} if sender else fields

    def _send(
        self,
        kind: int,
        flags: int,
        fields: dict[int, str | int],
        signature: str,
        body: bytes,
        fds: tuple[int, ...] = (),
        more: int = 0,
    ) -> int:
        """`more` bytes of the body will follow."""
        self._serial += 1
        if signature:
            fields = fields | {_SIGNATURE: signature}
        if fds:
            fields = fields | {_FDS: len(fds)}
        array = Writer()
        for code, value in fields.items():
            array.align(8)
            array.number("y", code).text("g", _TYPES[code])
            if isinstance(value, int):
                array.number("u", value)
            else:
                array.text(_TYPES[code], value)
        listed = array.bytes()
        head = struct.pack("<cBBBIII", b"l", kind, flags, 1, len(body) + more, self._serial, len(listed)) + listed
        message = bytearray(head + bytes(-len(head) % 8) + body)
        # The message owns the descriptors from now on. If the caller closed them at a reply that arrives before this
        # is sent, their numbers could already mean other files.
        (self._held if self._in_parts or not self.ready else self._out).append(Chunk(message, fds, give=True))
        return self._serial

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        out, self._out = self._out, []
        return out
