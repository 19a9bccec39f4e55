"""The shape of every protocol here: what has come goes in and events come out, what is said goes in and bytes come out.

A session knows no socket and no clock. Time is an argument, and its next deadline a result: whoever runs it
(io/runner.py) drains what is to be sent after each step, and arms one timer. What is said goes by `send_<verb>`.

The laws, which tests/unit/test_wire_contract.py holds for each session:

- What was drained is not there a second time; the same of events.
- A stream gives the same events wherever its bytes are split.
- After `handle_timeout(next_timeout())` the next deadline is later, or there is none, or the session has ended by an
  error. Called early, it does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from millrace.dsp.convert import Buffer
from millrace.units import HostNs
from millrace.wire.chunk import Chunk

Came = TypeVar("Came", contravariant=True)
"""What comes at a time: some bytes, a message, a datagram."""
Event = TypeVar("Event", covariant=True)
Written = TypeVar("Written", covariant=True)
"""What is written at a time."""


class Sender(Protocol[Written]):
    """What has something to write."""

    def data_to_send(self) -> Written:
        """What to write now, in order; it is not here any more then."""
        ...


class Timed(Protocol):
    """What has deadlines."""

    def next_timeout(self) -> HostNs | None:
        """When it wants to be called, if nothing happens until then."""
        ...

    def handle_timeout(self, now_ns: HostNs) -> None:
        """It is now `now_ns`; MillraceError ends the connection."""
        ...


class Session(Sender[Written], Timed, Protocol[Came, Written]):
    """What a runner sees of one."""

    def receive(self, data: Came, now_ns: HostNs) -> None:
        """Take what has come; RemoteProtocolError ends the connection."""
        ...


class Wire(Session[Came, Written], Protocol[Came, Event, Written]):
    """One end of one connection, and what it makes of what comes."""

    def events(self) -> Iterable[Event]:
        """What has come since the last call."""
        ...


class Untimed:
    """A protocol without deadlines."""

    __slots__ = ()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: never."""
        return None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""


Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""Of an IPv4 peer, or of an IPv6 one."""


class Datagram(NamedTuple):
    """What comes in one piece, or not at all; from whom, or to whom."""

    payload: bytes
    address: Address


ByteWire: TypeAlias = Wire[Buffer, Event, bytes]
"""Over a stream of bytes."""
ChunkWire: TypeAlias = Wire[Buffer, Event, list[Chunk]]
"""Over a stream of bytes on which descriptors travel."""
MessageWire: TypeAlias = Wire[str | bytes, Event, list[str | bytes]]
"""Over a WebSocket, which keeps messages apart."""
DatagramWire: TypeAlias = Wire[Datagram, Event, list[Datagram]]
