"""Streams over unix sockets that also carry file descriptors, which asyncio's own transports can't send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from millrace.absent import never, nothing
from millrace.dsp.convert import Buffer
from millrace.errors import BudgetError, MillraceError, PeerLost
from millrace.io.clock import now_ns
from millrace.io.runner import CLOSE_TIMEOUT_S
from millrace.io.senderidentity import SenderIdentity
from millrace.io.timer import TimerRunner
from millrace.io.turns import ChunkSize, Turns
from millrace.units import HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.contract import Session

log = logging.getLogger("millrace.io")
RECEIVE_BYTES = 64 * 1024
CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = 256, 4 * 1024
"""How much is read and parsed in one step when other connections share the turns."""
FDS_MAX = 16
UNSENT_MAX = 4 * 1024 * 1024
UNSENT_FDS_MAX = 256
"""Descriptors that may wait for the peer to take them. Each counts as open, and a process has only so many."""
BEHIND = 256 * 1024
LINGER_S = 1.0
"""So long a peer that is to close first has for that."""


@dataclass(slots=True)
class Outgoing:
    """Output that has not been sent yet. A plain value; its descriptors are handed over separately."""

    chunks: deque[Chunk] = field(default_factory=deque)
    begun: bool = False
    """Part of the first chunk has been sent."""


# Ownership of descriptors: the stream owns its socket until `hand_on`; a chunk with `give` owns its descriptors until
# they are sent or the chunk is dropped, and then they are closed here (`_given`), whichever of the two happens.
# Received ones belong to `take_fds`. After `close` nothing is sent any more: what is flushed then is dropped.
#
# The kernel attaches descriptors to the first byte of a message. So they are gone as soon as any part of it was sent,
# and the rest follows without them. A message begun must be completed, whatever is dropped behind it: the peer parses a
# byte stream and would take the next message for its missing part.
#
# libuv reports an error of a socket once and then stops watching it; uvloop calls the reader that one time and never
# again. A peer that leaves with our output unread causes such an error, though what it sent before may fill more than
# one read, and its end is yet to come. So after each read the error is asked for, which also clears it, and the reader
# is added anew in a later round.
#
# `ended` is called once at most: not after `finish` or `close`, which are the owner's own decision, and not again when
# a connection that is being closed with a last word breaks.
class FdStream:
    """Runs one core on one connected unix socket, which it owns.

    With `outgoing` it continues another stream's output, but sends none of it before the first flush: the peer may have
    lost the right to receive it.

    `after` is called when the core has taken bytes or a deadline has passed, before the core's output is sent; `ended`
    once, with the reason, when nothing more is read. Received descriptors go to `take_fds`; without it the kernel drops
    them. When a peer is disconnected, `last_word` has the core send the reason, and the socket stays open until that
    has been sent, for `CLOSE_TIMEOUT_S` at most. `gone` is called when the socket is closed, for whatever reason.
    `may_wait` is asked whether that many bytes may wait for the peer to read them, and called with 0 when none do any
    more.
    `whose` names the guest and door in the log. `chunk_max` bounds what is read at once, `RECEIVE_BYTES` at most: for
    what comes in large messages, such as pictures. While the core is `unfinished` nothing is read, and it is given no
    bytes again and again, in turns.
    """

    first = False
    _buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __init__(
        self,
        sock: socket.socket,
        core: Session[Buffer, list[Chunk]],
        after: Callable[[], None],
        ended: Callable[[Exception], None],
        take_fds: Callable[[list[int]], None] | None = None,
        last_word: Callable[[Exception], None] | None = None,
        turns: Turns | None = None,
        may_wait: Callable[[int], bool] = lambda unsent: True,
        whose: str = "a connection",
        gone: Callable[[], None] = nothing,
        outgoing: Outgoing | None = None,
        chunk_max: int = CHUNK_BYTES_MAX,
        unfinished: Callable[[], bool] = never,
    ) -> None:
        self._whose, self._gone, self._unfinished = whose, gone, unfinished
        self._chunk_size = (
            ChunkSize(RECEIVE_BYTES, RECEIVE_BYTES) if turns is None else ChunkSize(CHUNK_BYTES_MIN, chunk_max)
        )
        self.turns = turns or Turns()
        """The turns of the guest that is charged for the work."""
        self._sock, self._core, self._after, self._ended = sock, core, after, ended
        self._take_fds, self._last_word, self._may_wait = take_fds, last_word, may_wait
        self.sender: SenderIdentity | None = None
        """Identifies the program that writes, if that matters."""
        self._flush_due = self._paused = False
        self._loop = asyncio.get_running_loop()
        self._out = outgoing or Outgoing()
        self._writing = self.closed = self._lingers = False
        self._close_timer: asyncio.TimerHandle | None = None
        """Set once the stream is being closed: only output queued before that is still sent."""
        self._unsent = _bytes_of(self._out)
        self._unsent_fds = sum(_fds_of(chunk) for chunk in self._out.chunks)
        self._timer = TimerRunner(self, self._loop)
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)
        if outgoing is None:
            self.flush()

    # Without a turn the socket is not even read: bytes stay in the kernel, and a peer that floods is slowed down by its
    # own full socket. Then the reader is removed, because asyncio's is level-triggered and would call again at once.
    def _readable(self) -> None:
        if self.turns.ready():
            with self.turns:
                self._read()
        else:
            self._pause()

    def go_on(self) -> None:
        """The core has become unfinished by something else than what was read: let it go on at the next turn."""
        if self._reading and not self._paused:
            self._pause()

    @property
    def _reading(self) -> bool:
        return self._sock.fileno() >= 0 and self._close_timer is None

    def _pause(self) -> None:
        """Read on at the guest's next turn."""
        self._paused = True
        self._loop.remove_reader(self._sock)
        self.turns.wait(self)

    def work(self) -> bool:
        """See `Worker`."""
        if self._flush_due and self._sock.fileno() >= 0:
            self._flush_due = False
            self.flush()
        while self._paused and self._reading and self._unfinished():
            self._run(lambda: self._core.receive(b"", now_ns()))
            if self.turns.over():
                return False
        if self._paused and self._reading:
            self._paused = False
            self._loop.add_reader(self._sock, self._readable)
            if not self.turns.over():
                self._read()
        return True

    def _read(self) -> None:
        if self.sender is not None:
            self.sender.reading()
        try:
            size = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(PeerLost(f"the connection was lost: {error.strerror}"))
            return
        if size == 0:
            self._end(PeerLost("the peer closed the connection"))
            return
        if self.sender is not None:
            self.sender.read(size)
            if self.sender is not None and self.sender.done:
                self.sender = None
        self._run(lambda: self._core.receive(self._buffer[:size], now_ns()))
        self._chunk_size.processed(self.turns.over())
        if not self._reading:
            return
        if self._unfinished() or self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._pause()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: the core's deadline, as long as the stream is read."""
        listening = self._close_timer is None and self._sock.fileno() >= 0
        return self._core.next_timeout() if listening else None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        with self.turns:
            self._run(lambda: self._core.handle_timeout(now_ns))

    def _run(self, step: Callable[[], None]) -> None:
        """Run a step of the core, then send its output."""
        try:
            step()
            self._after()
        except MillraceError as error:
            self._send_away(error)
        except Exception as error:
            # A bug in the daemon must cost at most this connection.
            log.exception("%s: connection ended because of an internal error", self._whose)
            self._send_away(error)
        else:
            self.flush()

    def _receive(self) -> int:
        if self._take_fds is None:
            return self._sock.recv_into(self._buffer, self._chunk_size.bytes)
        data, fds, _, _ = socket.recv_fds(self._sock, self._chunk_size.bytes, FDS_MAX)
        self._take_fds(fds)
        self._buffer[: len(data)] = data
        return len(data)

    def is_behind(self) -> bool:
        """Send the core's output, and say whether the peer leaves much of it unread."""
        if self._sock.fileno() >= 0:
            self.flush()
        return self._unsent > BEHIND

    @property
    def congested(self) -> bool:
        """The kernel takes no more before the peer has read some; `may_wait` is called with 0 when all was taken."""
        return self._writing

    def flush_soon(self) -> None:
        """Send the core's output at the guest's next turn, so that messages queued until then go out together."""
        self._flush_due = True
        self.turns.wait(self)

    # While a write waits for room, new output is only queued behind it, and the bounds are checked here: a peer that
    # does not read is noticed by those that write to it.
    def flush(self) -> None:
        """Send the core's output; drop it once the stream is closed."""
        if self.closed:
            self.forget()
            return
        for chunk in self._core.data_to_send():
            self._out.chunks.append(chunk)
            self._unsent += len(chunk.data)
            self._unsent_fds += _fds_of(chunk)
        if self._writing:
            self._await_room()
        else:
            self._write()
        self._timer.rearm()

    def _write(self) -> None:
        if self._sock.fileno() < 0:
            return
        out = self._out
        while out.chunks:
            chunk = out.chunks[0]
            try:
                sent = (
                    socket.send_fds(self._sock, [chunk.data], chunk.fds) if chunk.fds else self._sock.send(chunk.data)
                )
            except (BlockingIOError, InterruptedError):
                self._await_room()
                return
            except OSError as error:
                self._end(PeerLost(f"the connection was lost: {error.strerror}"))
                return
            _given(chunk)
            self._unsent -= sent
            self._unsent_fds -= _fds_of(chunk)
            out.begun = sent < len(chunk.data)
            if out.begun:
                out.chunks[0] = Chunk(chunk.data[sent:])
            else:
                out.chunks.popleft()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
            # Everything was sent: the guest's budget gets its room back.
            self._may_wait(0)
        if self._close_timer is not None:
            self._sent_last()

    def _await_room(self) -> None:
        too_much = self._unsent > UNSENT_MAX or self._unsent_fds > UNSENT_FDS_MAX
        # A peer that lingers gets what there is to say at the end, though the account that was charged may be closed.
        if too_much or not (self._lingers or self._may_wait(self._unsent)):
            self._too_much()
        elif not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock, self._write)

    def _too_much(self) -> None:
        """The peer does not read. Drop its backlog, so that it gets at least the reason if it reads on."""
        unread = self._unsent
        if self._close_timer is not None:
            self.close()
        elif self._last_word is None:
            self._end(PeerLost("the peer does not read"))
        else:
            self.forget()
            self._send_away(BudgetError(f"{unread} bytes were left unread"))

    def forget(self) -> None:
        """Drop unsent output, except for a message that has been sent in part: the peer needs the rest of that."""
        out = self._out
        begun = [out.chunks.popleft()] if out.begun else []
        for chunk in (*out.chunks, *self._core.data_to_send()):
            _given(chunk)
        out.chunks = deque(begun)
        # What is left of a message has no descriptors any more.
        self._unsent, self._unsent_fds = _bytes_of(out), 0

    def _send_away(self, why: Exception) -> None:
        """End the connection because of something the peer did, and send it the reason."""
        if self._last_word is None:
            self._end(why)
        elif self._close_timer is None and self._sock.fileno() >= 0:
            ended = self._ended
            self._last_word(why)
            self.finish()
            ended(why)

    def finish(self) -> None:
        """Stop reading, and close once all output is sent, or after `CLOSE_TIMEOUT_S`, without calling `ended`."""
        if self._close_timer is not None or self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        # Set before the last output is flushed: if that goes out whole, `_write` closes the socket at once.
        self._close_timer = self._loop.call_later(LINGER_S if self._lingers else CLOSE_TIMEOUT_S, self.close)
        self.flush()

    # A peer that finds the connection closed when it says something may drop what it has not processed (X servers).
    def linger(self) -> None:
        """As `finish`, but close when the peer has, and so has processed all it was sent; after `LINGER_S` anyway."""
        self._lingers = True
        self.finish()

    def _sent_last(self) -> None:
        if not self._lingers:
            self.close()
            return
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._loop.add_reader(self._sock, self._drop)

    def _drop(self) -> None:
        """What the peer still says is not heard."""
        try:
            ended = not self._sock.recv_into(self._buffer, self._chunk_size.bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            ended = True
        if ended:
            self.close()

    def _end(self, why: Exception) -> None:
        """End the connection without a final message: the peer is gone or can't be told."""
        if self._sock.fileno() >= 0:
            told, ended = self._close_timer is not None, self._ended
            self.close()
            if not told:
                ended(why)

    def close(self) -> None:
        """Close the socket; `ended` is not called."""
        if self._sock.fileno() >= 0:
            self._stop()
            self._sock.close()
            self.closed = True
            self._out.begun = False
            self.forget()
            gone = self._gone
            # Its user is reached through these, and keeps the stream: a cycle, which only a full collection would
            # free (daemon/collector.py).
            self._after = self._gone = nothing
            self._unfinished = _finished
            self._ended, self._may_wait, self._last_word, self._take_fds = _not_told, _all_may, None, None
            self.sender = None
            gone()

    def hand_on(self) -> tuple[socket.socket, Outgoing]:
        """Release the open socket and the unsent output, for another stream to continue. No callback is called."""
        self._stop()
        self.sender = None
        return socket.socket(fileno=self._sock.detach()), self._out

    def _stop(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._writing:
            self._loop.remove_writer(self._sock)
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._timer.stop()


def _finished() -> bool:
    """The stream is closed."""
    return False


def _not_told(why: Exception) -> None:
    """The stream is closed."""


def _all_may(unsent: int) -> bool:
    """Nothing is sent any more."""
    return True


def _bytes_of(out: Outgoing) -> int:
    return sum(len(chunk.data) for chunk in out.chunks)


def _fds_of(chunk: Chunk) -> int:
    """How many descriptors it owns."""
    return len(chunk.fds) if chunk.give else 0


def _given(chunk: Chunk) -> None:
    """Close a chunk's descriptors once they were sent, or never will be."""
    if chunk.give:
        for fd in chunk.fds:
            os.close(fd)
