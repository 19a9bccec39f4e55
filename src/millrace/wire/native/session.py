"""Both ends of a native connection: bytes and descriptors ⇄ messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from millrace.dsp.convert import Buffer
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.units import NS_PER_S, HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.native.messages import FRAME_MAX, HEADER, Hello, Kind, Message, decode, frame

FROM_DAEMON_MIN = 128
HELLO_TIMEOUT_NS = 10 * NS_PER_S


class Received(NamedTuple):
    """A message and the descriptors that came with it; whoever takes it owns them."""

    message: Message
    fds: tuple[int, ...] = ()


@dataclass(slots=True)
class NativeState:
    """The state of one end. A plain value; its descriptors are handed over separately."""

    partial: bytearray = field(default_factory=bytearray)
    fds: deque[int] = field(default_factory=deque)
    """Descriptors received ahead of their message."""
    events: deque[Received] = field(default_factory=deque)
    unsent: list[Chunk] = field(default_factory=list)
    hello_by_ns: HostNs | None = None
    """Deadline for the client's hello; None once it has arrived."""


def awaiting_hello(now_ns: HostNs) -> NativeState:
    """The state of a new connection, whose client must send hello within `HELLO_TIMEOUT_NS`."""
    return NativeState(hello_by_ns=now_ns + HELLO_TIMEOUT_NS)


# Bytes and descriptors arrive side by side: the kernel delivers descriptors with or before the last byte of the message
# that they were sent with. So they queue up, and the header of each message says how many it takes off. The count is
# taken off for unknown messages too; that is what keeps the two streams in step.
class NativeWire:
    """One end of a connection. The daemon's end accepts no descriptors; `close_fd` gets those that nothing claims.

    It can continue from another one's `state`.
    """

    def __init__(
        self, daemon: bool, close_fd: Callable[[int], None] = lambda fd: None, state: NativeState | None = None
    ) -> None:
        self._daemon, self._close_fd = daemon, close_fd
        self.state = state or NativeState()

    def receive_fds(self, fds: list[int]) -> None:
        """Take descriptors, which came with the bytes passed to `receive` next."""
        self.state.fds.extend(fds)

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection."""
        del now_ns
        partial = self.state.partial
        partial += data
        at = 0
        while len(partial) - at >= HEADER.size:
            size, kind, fds, zero = HEADER.unpack_from(partial, at)
            self._check(size, kind, fds, zero)
            end = at + HEADER.size + size
            if len(partial) < end:
                break
            self._take(decode(kind, bytes(partial[at + HEADER.size : end])), fds)
            at = end
        del partial[:at]

    # All of the header is checked before the message is waited for.
    def _check(self, size: int, kind: int, fds: int, zero: int) -> None:
        if size > FRAME_MAX:
            raise RemoteProtocolError(f"message too long: {size} bytes; {FRAME_MAX} at most")
        if self._daemon and fds:
            raise RemoteProtocolError("unexpected descriptors: clients may not send any")
        if zero:
            raise RemoteProtocolError("this is not a message of the native protocol")
        if self._daemon == (kind >= FROM_DAEMON_MIN):
            raise RemoteProtocolError(f"unexpected message: only the other side sends kind {kind}")

    def _take(self, message: Message | None, count: int) -> None:
        state = self.state
        if len(state.fds) < count:
            raise RemoteProtocolError("missing descriptors: the message came without them")
        fds = tuple(state.fds.popleft() for _ in range(count))
        if isinstance(message, Hello):
            state.hello_by_ns = None
        if message is not None:
            state.events.append(Received(message, fds))
            return
        # Even an unknown message's descriptors are taken off the queue, or the next message would get them.
        for fd in fds:
            self._close_fd(fd)

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message that is still incomplete."""
        return len(self.state.partial)

    def events(self) -> Iterator[Received]:
        """Received messages, one by one. If some are left over, `close` closes their descriptors."""
        events = self.state.events
        while events:
            yield events.popleft()

    def next_timeout(self) -> HostNs | None:
        """The deadline for the client's hello."""
        return self.state.hello_by_ns

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Raises PeerLost if the hello is overdue."""
        if self.state.hello_by_ns is not None and now_ns >= self.state.hello_by_ns:
            raise PeerLost("no hello arrived")

    def send_message(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message."""
        self.state.unsent.append(Chunk(bytearray(frame(message, len(fds))), fds, give=True))

    def send_frame(self, made: bytes) -> None:
        """Queue a frame that was encoded once for many clients."""
        self.state.unsent.append(Chunk(bytearray(made)))

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        out, self.state.unsent = self.state.unsent, []
        return out

    def close(self) -> None:
        """Close the descriptors that were not taken."""
        for received in self.events():
            self.state.fds.extend(received.fds)
        while self.state.fds:
            self._close_fd(self.state.fds.popleft())


__all__ = ["Kind", "NativeWire", "Received"]
