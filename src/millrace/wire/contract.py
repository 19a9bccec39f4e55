"""The interface of every protocol here. Received data goes in and events come out; messages go in and bytes come out.

A session knows no socket and no clock. Time is an argument, and its next deadline a result: the runner (io/runner.py)
writes the pending output after each step and arms one timer. Messages are sent with `send_<verb>` methods.

The laws, which tests/unit/test_wire_contract.py checks for each session:

- Output is returned only once, and so are events.
- A byte stream yields the same events however it is split.
- One call of `receive` takes about a millisecond at most, with 4 KiB, or 64 KiB where pictures come, of whatever the
  peer sends. A session that has more to do with what it has received is `unfinished`: `receive` is called again without
  bytes, and nothing is read meanwhile, until it is not. (PulseAudio's end takes an event's bytes: `receive_some`.)
- A session with `take` gives its events one by one, for those that take long to be used. While there are more, it is
  `waiting`, and what was taken counts in `partial_bytes` until the next call.
- After `handle_timeout(next_timeout())` the next deadline is later, or there is none, or the session has ended with an
  error. Called early, it does nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from millrace.dsp.convert import Buffer
from millrace.errors import MillraceError
from millrace.units import HostNs
from millrace.wire.chunk import Chunk

Came = TypeVar("Came", contravariant=True)
"""One piece of input: some bytes, a message, a datagram."""
Event = TypeVar("Event", covariant=True)
Written = TypeVar("Written", covariant=True)
"""One piece of output."""


class Sender(Protocol[Written]):
    """Something that produces output."""

    def data_to_send(self) -> Written:
        """Take the pending output, in order."""
        ...


class Timed(Protocol):
    """Something with deadlines."""

    def next_timeout(self) -> HostNs | None:
        """When `handle_timeout` must be called, unless something happens first; None for never."""
        ...

    def handle_timeout(self, now_ns: HostNs) -> None:
        """It is now `now_ns`. A MillraceError ends the connection."""
        ...


class Session(Sender[Written], Timed, Protocol[Came, Written]):
    """A session as the runner sees it."""

    def receive(self, data: Came, now_ns: HostNs) -> None:
        """Take input. A RemoteProtocolError ends the connection."""
        ...


class Wire(Session[Came, Written], Protocol[Came, Event, Written]):
    """One end of one connection, with the events that it makes of its input."""

    def events(self) -> Iterable[Event]:
        """The events since the last call."""
        ...


class Runner(Protocol):
    """What a connection may ask of its runner, which it is given when it is made."""

    def wake(self) -> None:
        """There is something to send that `receive` did not cause: take it soon."""
        ...

    def over(self) -> bool:
        """Asked after each step: whether the turn is over."""
        ...


class Unrun:
    """In the place of a runner for a connection that has none: its owner does each step."""

    def wake(self) -> None:
        """See `Runner`."""

    def over(self) -> bool:
        """See `Runner`."""
        return False


UNRUN = Unrun()


# Why the next deadline is asked for, and not announced by a callback: a session can then be copied, frozen, or run on a
# virtual clock, and no callback can arrive in the middle of a step. The price is that after any change of a session its
# deadline has to be asked for again; the runners do that after every step.
class Untimed:
    """A protocol without deadlines."""

    __slots__ = ()

    @property
    def unfinished(self) -> bool:
        """Whether it has more to do with what it has received: `receive` is then called again, without bytes."""
        return False

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: never."""
        return None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""


class AnswerDue(ABC):
    """A protocol whose peer has to answer in time."""

    @property
    def unfinished(self) -> bool:
        """Whether it has more to do with what it has received: `receive` is then called again, without bytes."""
        return False

    _answer_by_ns: HostNs | None
    """None once it has answered."""

    def next_timeout(self) -> HostNs | None:
        """The deadline for the answer."""
        return self._answer_by_ns

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`: ends the connection if the answer is overdue."""
        if self._answer_by_ns is not None and now_ns >= self._answer_by_ns:
            raise self._overdue()

    @abstractmethod
    def _overdue(self) -> MillraceError:
        """The error, which says what did not arrive."""


Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""The address of an IPv4 or IPv6 peer."""


class Datagram(NamedTuple):
    """A datagram, with the address it came from or goes to."""

    payload: bytes
    address: Address


ByteWire: TypeAlias = Wire[Buffer, Event, bytes]
"""A protocol over a byte stream."""
ChunkWire: TypeAlias = Wire[Buffer, Event, list[Chunk]]
"""A protocol over a byte stream that carries descriptors."""
MessageWire: TypeAlias = Wire[str | bytes, Event, list[str | bytes]]
"""A protocol over a WebSocket, which preserves message boundaries."""
DatagramWire: TypeAlias = Wire[Datagram, Event, list[Datagram]]
