"""The send queue of one listener: bounded, in front of its connection, with counters.

If a listener can't keep up, its oldest packets are dropped whole. An error of one queue never reaches the cycle that
sends to all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from millrace.absent import never, nothing

QUEUE_PACKETS_MAX, QUEUE_BYTES_MAX = 50, 1024 * 1024
Message = str | bytes
Write = Callable[[Sequence[Message]], None]


class Passed(NamedTuple):
    """Bytes that were written to a connection, and those of them that have arrived at the other machine."""

    written: int
    arrived: int
    exact: bool = True
    """More than `arrived` can't have arrived, but for what TLS adds."""


Traffic = Callable[[], Passed | None]
"""None if the system can't say."""


def unknown() -> None:
    """A connection of which nothing is known."""


class SendQueue:
    """The messages to one listener.

    `write` sends messages on the connection in one write. `room` says whether the connection can take more now, and
    `may_queue` whether that many bytes may be queued for it (the guest's budget decides). `dropped` is called for
    every packet dropped from the full queue, `failed` once there is an error to be taken.
    """

    def __init__(
        self, write: Write, room: Callable[[], bool], may_queue: Callable[[int], bool], dropped: Callable[[], None],
        failed: Callable[[], None] = nothing,
    ) -> None:  # fmt: skip
        self.sent_packets = 0
        self.sent_bytes = 0
        self.dropped_packets = 0
        self._write, self._room, self._may_queue, self._dropped = write, room, may_queue, dropped
        self._failed = failed
        self._error: Exception | None = None
        """What went wrong while sound was sent; no more is."""
        self._forgotten = False
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0

    def forget(self) -> None:
        """The connection is over. What reaches it keeps this, and so does an error: cycles (daemon/collector.py)."""
        self._forgotten, self._error = True, None
        self._write, self._dropped, self._failed = (lambda messages: None), nothing, nothing
        self._room, self._may_queue = never, (lambda size: False)

    def send(self, *messages: Message) -> None:
        """Send, or queue while the connection is full. Beyond the limits, drop the oldest media packets first."""
        if self._forgotten:
            return
        if not self._queue and self._room():
            self._put(messages)
            return
        self._queue.extend(messages)
        self._queued_bytes += sum(map(len, messages))
        self.flush()
        while not self._fits():
            self._drop_oldest()

    # The cycle that sends goes on to other listeners. Nobody there can end this one, so its session does (`tick`).
    def send_sound(self, *messages: Message) -> None:
        """As `send`, from a cycle: raises nothing. After an error no more is sent."""
        try:
            self.send(*messages)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Send nothing more, because of `error`."""
        failed = self._failed
        self.forget()
        self._error = error
        failed()

    def take_error(self) -> Exception | None:
        """The error that ended the sound, once."""
        error, self._error = self._error, None
        return error

    def _fits(self) -> bool:
        """Whether the queue is within its limits, as an empty one always is; that gives its room in the budget back."""
        if not self._queue:
            self._may_queue(0)
            return True
        if len(self._queue) > QUEUE_PACKETS_MAX or self._queued_bytes > QUEUE_BYTES_MAX:
            return False
        return self._may_queue(self._queued_bytes)

    def _take(self, at: int = 0) -> Message:
        message = self._queue[at]
        del self._queue[at]
        self._queued_bytes -= len(message)
        return message

    # Control messages are kept as long as possible: media behind a lost `format` could not be decoded.
    def _drop_oldest(self) -> None:
        """Drop the oldest media packet; a control message only if no media is queued."""
        for at, message in enumerate(self._queue):
            if isinstance(message, bytes):
                self._take(at)
                self.dropped_packets += 1
                self._dropped()
                return
        self._take()

    def flush(self) -> None:
        """Send as much of the queue as the connection takes."""
        while self._queue and self._room():
            self._put((self._take(),))
            if not self._queue:
                # Give back the room in the budget.
                self._may_queue(0)

    def _put(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.sent_bytes += len(message)
            self.sent_packets += isinstance(message, bytes)
        self._write(messages)

    @property
    def rests(self) -> bool:
        """Whether nothing is queued and nothing has gone wrong."""
        return not self._queue and self._error is None

    @property
    def queued(self) -> int:
        """Messages queued."""
        return len(self._queue)
