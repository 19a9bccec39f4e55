"""The runner: connects sans-IO cores to the operating system.

At each step it feeds the core, then writes everything the core wants to send, then arms one timer.
Cores never see a socket or a clock; this file never sees a protocol.

The laws of a runner:

- The core is never entered while it runs: everything that happens to it (bytes, a deadline, `wake`) is a step of its
  own, and output that a step makes for *another* connection only wakes that one.
- After each step first all output is written, then the deadline is read. Producing output may change the deadline; the
  timer would otherwise be armed for the one before.
- Bytes reach the core in the order in which they arrived. While some wait for a turn (`_rest`), new ones are appended
  to them, and reading is paused. asyncio may still deliver what it had read before the pause.
- The end is a step as well: `closed` is called in turns until the core says that it is done, and nothing else after the
  first time.
- A connection may be handed on to another runner, in another process: `settle`, then `hand_on`. What is on its way at
  that time is in one of three places: the kernel, where it stays; `_rest`, which goes along; or the core.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from millrace.errors import BudgetError, PeerLost, RemoteProtocolError
from millrace.io.clock import now_ns
from millrace.io.senderidentity import SenderIdentity
from millrace.io.timer import TimerRunner
from millrace.io.turns import Turns
from millrace.units import HostNs
from millrace.wire.contract import Runner, Sender, Timed

log = logging.getLogger("millrace.io")

RECEIVE_BYTES = 256 * 1024
RECEIVE_BYTES_BESIDE = 64 * 1024
RECEIVE_BYTES_WAITING = 4 * 1024
"""Read sizes while other connections of the guest wait for a turn: with some of its share left (BESIDE), and with none
(WAITING). They are small because what is read then has to be kept until the turn comes."""
UNSENT_MAX = 8 * 1024 * 1024
"""A connection whose peer leaves more than this unread is closed: the backlog would only grow."""

BACKLOG_CHECK_S = 1.0
"""How often the backlog is checked."""
CLOSE_TIMEOUT_S = 3.0
"""How long a connection that is being closed has to read its last messages."""
SETTLE_S, SETTLE_STEP_S = 1.0, 0.005
"""How long a connection that is to be handed on has to read what was written, and how often that is checked."""


class Connection(Sender[bytes], Timed, Protocol):
    """A sans-IO connection over a byte stream. It stops working when its turn is over."""

    closing: bool
    congested: bool
    unread_since_ns: HostNs

    @property
    def known(self) -> bool:
        """Whether the peer has logged in, or need not."""
        ...

    @property
    def unfinished(self) -> bool:
        """Whether it has started work that it will continue in its next turn."""
        ...

    @property
    def watched(self) -> bool:
        """Whether to keep track of since when the peer has not been reading."""
        ...

    def receive(self, data: memoryview, now_ns: HostNs) -> int:
        """Take bytes, which are valid during the call only; returns how many were taken before the turn ended."""
        ...

    def may_wait(self, waiting_bytes: int) -> bool:
        """Whether this many bytes may wait, for the peer to read them or for a turn; if not, the connection ends."""
        ...

    def closed(self) -> bool:
        """The connection is gone. Returns False if cleanup has to continue in the next turn."""
        ...

    def violated(self, error: RemoteProtocolError) -> None:
        """The connection is about to be closed because of this error."""
        ...


def unread(transport: asyncio.Transport) -> int:
    """What the kernel still holds for the peer to read, in the kernel's own count (unix(7), SIOCOUTQ)."""
    count = bytearray(4)
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


Make = Callable[[asyncio.Transport, Runner], Connection | None]
"""Makes the connection on a transport, or refuses it."""


def _nothing(transport: asyncio.Transport, runner: Runner) -> None:
    """The `make` of a runner whose connection is over."""


Watch = Callable[[asyncio.Transport, Connection], SenderIdentity | None]
"""Makes what identifies the program that writes on a connection, if that matters."""


class Released(NamedTuple):
    """An open connection without a runner."""

    sock: socket.socket
    received: bytes
    """What its core has not been given yet."""


class StreamRunner(asyncio.BufferedProtocol):
    """Runs one `Connection` on one socket. All runners share one receive buffer, so cores must copy what they keep.

    It is in `among` while the connection lasts. A connection that was handed on begins with what was `received`.
    """

    first = False
    level = logging.WARNING
    """Of the message that a peer has ended its connection by what it sent."""
    _buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __init__(
        self,
        make: Make,
        turns: Turns | None = None,
        entered: Callable[[asyncio.Transport], None] = lambda transport: None,
        gone: Callable[[asyncio.Transport], None] = lambda transport: None,
        watch: Watch = lambda transport, core: None,
        whose: str = "a connection",
        among: dict[StreamRunner, Connection] | None = None,
        received: bytes | None = None,
    ) -> None:
        self._watch, self._whose = watch, whose
        self._among = {} if among is None else among
        self._sender: SenderIdentity | None = None
        self._make, self._entered, self._gone = make, entered, gone
        self._inside = False
        self._turns = turns or Turns()
        self.over = self._turns.over
        """See `Runner`."""
        self._core: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._handed, self._rest = received is not None, received or b""
        self._weighed = 0
        self._paused = self._lost = self._settling = False
        self._due: asyncio.TimerHandle | None = None
        self._timer: TimerRunner | None = None
        """Made when the core first has a deadline; most never have one."""
        self._read_ns: HostNs = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio, which leaves a connection open that could not be taken because of a bug."""
        # uvloop's transports have the methods of asyncio.Transport but not the base class.
        transport = self._transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=512 * 1024)
        try:
            with self._turns:
                self._core = self._make(transport, self)
        finally:
            if self._core is None:
                transport.abort()
        if self._core is None:
            return
        self._among[self] = self._core
        self._sender = self._watch(transport, self._core)
        self._arm(self._core)
        if self._handed:
            # There may be something to process, and something to send.
            self._turns.wait(self)
            if self._core.known:
                self._enter(transport)

    # The buffer is shared: between this call and `buffer_updated` nothing else of the event loop runs, and `_take` is
    # done with the view before it returns. What has to wait is copied.
    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio."""
        if self._sender is not None:
            self._sender.reading()
        if self._turns.free():
            return self._buffer
        return self._buffer[: RECEIVE_BYTES_BESIDE if self._turns.ready() else RECEIVE_BYTES_WAITING]

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._sender is not None:
            self._sender.read(nbytes)
            if self._sender.done:
                self._sender = None
        if self._core is None or self._core.closing:
            return
        turns = self._turns
        if self._settling:
            self._rest += bytes(self._buffer[:nbytes])
            return
        if self._rest or turns.left_ns <= 0:
            self._park(self._rest + bytes(self._buffer[:nbytes]))
            return
        # As `with turns`, without two more calls: this is once per block.
        turns.enter()
        try:
            self._take(self._buffer[:nbytes])
        finally:
            turns.leave()

    def _take(self, data: memoryview) -> None:
        """Feed the core until the turn is over."""
        core = self._core
        assert core is not None
        taken = len(data)
        try:
            taken = core.receive(data, now_ns())
        except Exception as error:
            self._failed(core, error)
        if not self._inside and core.known and self._transport is not None:
            self._enter(self._transport)
        self._flush()
        # Asked now, as a core may have waited for its output to be sent.
        if not core.closing and (taken < len(data) or core.unfinished):
            self._park(bytes(data[taken:]))

    def _enter(self, transport: asyncio.Transport) -> None:
        self._inside = True
        self._entered(transport)

    def _failed(self, core: Connection, error: Exception) -> None:
        """An error ends the connection."""
        core.closing = True
        if isinstance(error, PeerLost):
            log.info("%s: connection ended: %s", self._whose, error)
        elif isinstance(error, RemoteProtocolError | BudgetError):
            log.log(self.level, "%s: connection ended: %s", self._whose, error)
            if isinstance(error, RemoteProtocolError):
                core.violated(error)
        else:
            # A bug in the daemon must cost at most this connection.
            log.error("%s: connection ended because of an internal error", self._whose, exc_info=error)

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: the core's deadline."""
        return None if self._core is None or self._core.closing else self._core.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        core = self._core
        if core is None or core.closing:
            return
        with self._turns:
            try:
                core.handle_timeout(now_ns)
            except Exception as error:
                self._failed(core, error)
            self._flush()

    def _arm(self, core: Connection) -> None:
        """The core's next deadline may have changed."""
        if self._timer is not None:
            self._timer.rearm()
        elif core.next_timeout() is not None:
            self._timer = TimerRunner(self, asyncio.get_running_loop())
            self._timer.rearm()

    def _park(self, rest: bytes) -> None:
        """Keep the rest for a later round, and read nothing more until then."""
        self._rest = rest
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
        self._turns.wait(self)
        if self._core is not None and self._transport is not None:
            self._weigh(self._core, self._transport)

    def work(self) -> bool:
        """See `Worker`."""
        core, transport = self._core, self._transport
        if core is None or transport is None:
            return True
        if self._lost:
            if not core.closed():
                return False
            self._forget()
            return True
        if self._settling:
            return True
        rest, self._rest = self._rest, b""
        if (rest or core.unfinished) and not core.closing:
            self._take(memoryview(rest))
        else:
            self._flush()
        if self._paused and not self._rest and not core.unfinished and not transport.is_closing():
            self._paused = False
            transport.resume_reading()
        return True

    def _forget(self) -> None:
        # The sender's identity keeps the core: a cycle.
        self._core = self._transport = self._sender = None
        self._among.pop(self, None)

    # A peer that has closed its side but does not read would keep the rest of the output, which nobody is charged for
    # any more. What the kernel has already taken still reaches it.
    def eof_received(self) -> bool:
        """See asyncio, which reports the loss a round later: others would see the streams until then."""
        transport = self._transport
        self._end()
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        return False

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._core is not None:
            self._core.congested = True

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._core is not None:
            self._core.congested = False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if not self._lost:
            self._end()

    # Deadlines and reading stop at once, so that nothing happens to a core that is being cleaned up; `gone` frees its
    # place among the connections that wait to log in. Only the cleaning up itself waits for turns.
    def _end(self) -> None:
        """Clean up, in turns: a thousand connections may end at once."""
        self._rest = b""
        self._cease()
        if self._turns.ready():
            with self._turns:
                if not self.work():
                    self._turns.wait(self)
        else:
            self._turns.wait(self)

    def _cease(self) -> None:
        """Neither read nor keep deadlines any more."""
        self._lost, self._make = True, _nothing
        if self._due is not None:
            self._due.cancel()
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._transport is not None:
            self._gone(self._transport)

    # -- handing on ------------------------------------------------------------------------------

    # A transport gives nothing back that was written to it: what it has not sent would be sent later, or be lost. So
    # from here on the output stays with the core, until the transport is empty.
    async def settle(self) -> None:
        """Take and send nothing more, and wait until what was written is sent, for `SETTLE_S` at most."""
        loop, transport = asyncio.get_running_loop(), self._transport
        if transport is None or self._core is None:
            return
        if self._core.closing:
            # It does not go along, so this is its last word.
            self._flush()
        self._settling = True
        if not self._paused and not transport.is_closing():
            self._paused = True
            transport.pause_reading()
        deadline = loop.time() + SETTLE_S
        while transport.get_write_buffer_size() and loop.time() < deadline:
            await asyncio.sleep(SETTLE_STEP_S)

    def hand_on(self) -> Released | None:
        """Release a settled connection. None if it is over, or because its peer does not read: then it ends here."""
        core, transport = self._core, self._transport
        if core is None or transport is None:
            return None
        if core.closing or self._lost or transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
            if not self._lost:
                self._cease()
            while not self.work():
                pass
            return None
        self._cease()
        self._forget()
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        transport.abort()
        return Released(sock, self._rest)

    # -- output ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """See `Runner`."""
        self._turns.wait(self)

    def _flush(self) -> None:
        core, transport = self._core, self._transport
        if core is None or transport is None or transport.is_closing() or self._settling:
            return
        data = core.data_to_send()
        if data:
            if core.watched and not transport.get_write_buffer_size() and not unread(transport):
                # The peer has read everything, and now has new data to read. When it last read is known only to lie
                # between the previous check and this one, so take the middle.
                before, self._read_ns = self._read_ns, now_ns()
                core.unread_since_ns = (before + self._read_ns) // 2
            transport.write(data)
        if self._timer is not None or core.next_timeout() is not None:
            self._arm(core)
        if core.closing:
            # After the output of this step: a core that closes has usually just said why.
            self._close(transport)
        elif self._weighed or self._rest or transport.get_write_buffer_size():
            self._weigh(core, transport)

    def _weigh(self, core: Connection, transport: asyncio.Transport) -> None:
        """Close the connection if too much is unread or waits for a turn; check again until nothing is left."""
        unread_bytes = transport.get_write_buffer_size()
        self._weighed = waiting_bytes = unread_bytes + len(self._rest)
        if unread_bytes > UNSENT_MAX or not core.may_wait(waiting_bytes):
            why = f"its client left {unread_bytes} bytes unread"
            if unread_bytes <= UNSENT_MAX:
                why = f"the guest's memory budget has no room: {why}, and {len(self._rest)} wait for their turn"
            log.warning("%s: connection ended: %s", self._whose, why)
            transport.abort()
        elif waiting_bytes and self._due is None:
            self._due = asyncio.get_running_loop().call_later(BACKLOG_CHECK_S, self._weigh_again)

    def _weigh_again(self) -> None:
        self._due = None
        core, transport = self._core, self._transport
        if core is not None and transport is not None and not transport.is_closing():
            self._weigh(core, transport)

    def _close(self, transport: asyncio.Transport) -> None:
        """Close once everything is sent, or after `CLOSE_TIMEOUT_S`: a peer that doesn't read can't block it."""
        transport.close()
        if transport.get_write_buffer_size():
            if self._due is not None:
                self._due.cancel()
            self._due = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.abort)
