"""Both ends of a native connection: bytes and descriptors ⇄ messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from millrace.dsp.convert import Buffer
from millrace.errors import RemoteProtocolError
from millrace.units import HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.native.messages import FRAME_MAX, HEADER, Kind, Message, decode, frame

FROM_DAEMON_MIN = 128


class Received(NamedTuple):
    """A message with the descriptors that came along, which whoever takes it owns."""

    message: Message
    fds: tuple[int, ...] = ()


class NativeWire:
    """One end. The daemon's takes no descriptors; `close_fd` gets those that belong to nothing known."""

    def __init__(self, daemon: bool, close_fd: Callable[[int], None] = lambda fd: None) -> None:
        self._daemon, self._close_fd = daemon, close_fd
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._events: deque[Received] = deque()
        self._out: list[Chunk] = []

    def receive_fds(self, fds: list[int]) -> None:
        """Descriptors have come with the bytes that follow."""
        self._fds.extend(fds)

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection."""
        del now_ns
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= HEADER.size:
            size, kind, fds, zero = HEADER.unpack_from(self._buffer, at)
            self._check(size, kind, fds, zero)
            end = at + HEADER.size + size
            if len(self._buffer) < end:
                break
            self._take(decode(kind, bytes(self._buffer[at + HEADER.size : end])), fds)
            at = end
        del self._buffer[:at]

    def _check(self, size: int, kind: int, fds: int, zero: int) -> None:
        if size > FRAME_MAX:
            raise RemoteProtocolError(f"a message of {size} bytes; {FRAME_MAX} at most")
        if self._daemon and fds:
            raise RemoteProtocolError("descriptors are not taken from clients")
        if zero:
            raise RemoteProtocolError("these bytes are not a message of the native protocol")
        if self._daemon == (kind >= FROM_DAEMON_MIN):
            raise RemoteProtocolError(f"a message of kind {kind} from the wrong side")

    def _take(self, message: Message | None, count: int) -> None:
        if len(self._fds) < count:
            raise RemoteProtocolError("a message came without its descriptors")
        fds = tuple(self._fds.popleft() for _ in range(count))
        if message is not None:
            self._events.append(Received(message, fds))
            return
        for fd in fds:
            self._close_fd(fd)

    @property
    def partial_bytes(self) -> int:
        """What has come of a message that is not all there."""
        return len(self._buffer)

    def events(self) -> Iterator[Received]:
        """What has come, one by one: the descriptors of those that nobody gets to are closed by `close`."""
        while self._events:
            yield self._events.popleft()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Queue a message."""
        self._out.append(Chunk(bytearray(frame(message, len(fds))), fds, give=True))

    def send_frame(self, made: bytes) -> None:
        """Queue a frame that was made once for many."""
        self._out.append(Chunk(bytearray(made)))

    def chunks_to_send(self) -> list[Chunk]:
        """What to write now, in order."""
        out, self._out = self._out, []
        return out

    def close(self) -> None:
        """Descriptors that nobody took are closed."""
        for received in self.events():
            self._fds.extend(received.fds)
        while self._fds:
            self._close_fd(self._fds.popleft())


__all__ = ["Kind", "NativeWire", "Received"]
