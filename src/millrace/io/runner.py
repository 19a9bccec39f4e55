"""The runner: the one loop between sans-IO cores and the operating system.

Mutate, then drain everything that is to be sent, then arm one timer. Cores never see a socket
or a clock; this file never sees a protocol.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
from collections.abc import Callable
from typing import Protocol, cast

from millrace.errors import BudgetError, PeerLost, RemoteProtocolError
from millrace.io.clock import now_ns
from millrace.io.senderidentity import SenderIdentity
from millrace.io.turns import Turns
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.contract import Sender, Timed

log = logging.getLogger("millrace.io")

RECEIVE_BYTES = 256 * 1024
RECEIVE_BYTES_BESIDE = 64 * 1024
RECEIVE_BYTES_WAITING = 4 * 1024
"""A guest whose connections wait for their turn is read no faster than this, or with something left of its share than
that: what is read must be kept."""
UNSENT_MAX = 8 * 1024 * 1024
"""A connection that leaves more than this unread is cut: it would only grow."""

WEIGH_S = 1.0
"""How often what is left unread is looked at."""
FAREWELL_S = 3.0
"""A connection that is ended has so long to read its last messages."""


class Connection(Sender[bytes], Timed, Protocol):
    """A sans-IO connection over a byte stream. It does no more in its turn than it has time for."""

    closing: bool
    congested: bool
    unread_since_ns: HostNs
    wake: Callable[[], None]
    over: Callable[[], bool]
    """Asked after each step: whether the turn is over."""

    @property
    def known(self) -> bool:
        """Whether the other side has logged in, or need not."""
        ...

    @property
    def unfinished(self) -> bool:
        """Whether it has begun something that it will go on with in its next turn."""
        ...

    @property
    def watched(self) -> bool:
        """Whether it is to be known since when the peer does not read."""
        ...

    def receive(self, data: memoryview, now_ns: HostNs) -> int:
        """Bytes have come, valid during the call only; returns how many were taken before the turn ended."""
        ...

    def may_wait(self, waiting_bytes: int) -> bool:
        """Whether so much may wait, for the other side to read it or for its turn; else the connection is cut."""
        ...

    def closed(self) -> bool:
        """The connection is gone; False where something is still to be given back, in the next turn."""
        ...

    def violated(self, error: RemoteProtocolError) -> None:
        """It is about to be ended for this."""
        ...


AFTER_FAILURE_S = 0.1


class RunObserver(Protocol):
    """Who sees a core being run."""

    strain_ns: HostNs

    def ran(self, began_ns: HostNs) -> None:
        """It was run."""
        ...

    def strain(self, late_ns: HostNs, spent_ns: HostNs, began_ns: HostNs, before_ns: HostNs) -> None:
        """It began later than `strain_ns` after its deadline, or took longer; the run before ended at `before_ns`."""
        ...


class TimerRunner:
    """Keeps one timer armed for a `Timed` core. One that is given `rearm` when it is made comes later, by `drive`."""

    def __init__(
        self, core: Timed | None = None, loop: asyncio.AbstractEventLoop | None = None,
        observer: RunObserver | None = None,
    ) -> None:  # fmt: skip
        self._core, self._loop, self._observer = core, loop, observer
        self._handle: asyncio.Handle | None = None
        self._ended_at: HostNs = 0
        self._armed_for: HostNs | None = None
        self._armed_at: HostNs = 0

    def drive(self, core: Timed, loop: asyncio.AbstractEventLoop) -> None:
        """Call this one from now on, in that loop."""
        self._core, self._loop = core, loop
        self.rearm()

    def rearm(self) -> None:
        """The core's next deadline may have changed."""
        if self._core is None or self._loop is None:
            return
        deadline = self._core.next_timeout()
        if deadline == self._armed_for and (self._handle is not None or deadline is None):
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_for, self._armed_at = deadline, now_ns()
        if deadline is not None:
            # libuv's timers count whole milliseconds and round down: without the ceiling the last
            # part of every wait would be spent firing early and arming again.
            delay_ms = max(0, -(-(deadline - self._armed_at) // NS_PER_MS))
            self._handle = self._loop.call_later(delay_ms / 1000, self._fire)

    def _fire(self) -> None:
        self._handle = None
        assert self._core is not None and self._loop is not None
        deadline, began = self._armed_for, now_ns()
        # A deadline that had passed when it was set (a graph that begins again) is not late by that.
        late = began - max(deadline, self._armed_at) if deadline is not None else 0
        try:
            self._core.handle_timeout(began)
        except Exception:
            # A bug of ours must not stop the clock for good; nor may it spin, where its deadline is the same again.
            log.exception("internal error when a timer ran out")
            self._handle = self._loop.call_later(AFTER_FAILURE_S, self._fire)
            return
        before, self._ended_at = self._ended_at, now_ns()
        spent = self._ended_at - began
        self.rearm()
        observer = self._observer
        if observer is not None:
            observer.ran(began)
            if late > observer.strain_ns or spent > observer.strain_ns:
                observer.strain(late, spent, began, before)

    def stop(self) -> None:
        """Disarm for good."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def unread(transport: asyncio.Transport) -> int:
    """What the kernel holds for the other side, in its own count (unix(7), SIOCOUTQ)."""
    count = bytearray(4)
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


def _nobody() -> None:
    """What a connection wakes that is gone: it and its runner know each other no more."""


def _never() -> bool:
    return False


Watch = Callable[[asyncio.Transport, Connection], SenderIdentity | None]
"""Finds out which program speaks on a connection, if that matters."""


class StreamRunner(asyncio.BufferedProtocol):
    """Runs one `Connection` on one socket. All runners share a receive buffer: cores copy what they keep."""

    first = False
    _buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __init__(
        self,
        make: Callable[[asyncio.Transport], Connection | None],
        turns: Turns | None = None,
        entered: Callable[[asyncio.Transport], None] = lambda transport: None,
        gone: Callable[[asyncio.Transport], None] = lambda transport: None,
        watch: Watch = lambda transport, core: None,
        whose: str = "a connection",
    ) -> None:
        self._watch, self._whose = watch, whose
        self._sender: SenderIdentity | None = None
        self._make, self._entered, self._gone = make, entered, gone
        self._inside = False
        self._turns = turns or Turns()
        self._core: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._weighed = 0
        self._paused = self._lost = False
        self._due: asyncio.TimerHandle | None = None
        self._timer: TimerRunner | None = None
        """Made when the core has a deadline: most never have."""
        self._read_ns: HostNs = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's transports have the methods but not the base class.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=512 * 1024)
        with self._turns:
            self._core = self._make(transport)
        if self._core is None:
            transport.abort()
            return
        self._sender = self._watch(transport, self._core)
        self._core.wake = self._wake
        self._core.over = self._turns.over
        self._arm(self._core)

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
        if self._rest or self._turns.left_ns <= 0:
            self._park(self._rest + bytes(self._buffer[:nbytes]))
            return
        with self._turns:
            self._take(self._buffer[:nbytes])

    def _take(self, data: memoryview) -> None:
        """Give the core its bytes, as far as the turn goes."""
        core = self._core
        assert core is not None
        taken = len(data)
        try:
            taken = core.receive(data, now_ns())
        except Exception as error:
            self._failed(core, error)
        if not self._inside and core.known and self._transport is not None:
            self._inside = True
            self._entered(self._transport)
        if not core.closing and (taken < len(data) or core.unfinished):
            self._park(bytes(data[taken:]))
        self._flush()

    def _failed(self, core: Connection, error: Exception) -> None:
        """It ends by this."""
        core.closing = True
        if isinstance(error, PeerLost):
            log.info("%s: connection ended: %s", self._whose, error)
        elif isinstance(error, RemoteProtocolError | BudgetError):
            log.warning("%s: connection ended: %s", self._whose, error)
            if isinstance(error, RemoteProtocolError):
                core.violated(error)
        else:
            # A bug of ours must cost at most the connection that met it.
            log.error("%s: connection ended by an internal error", self._whose, exc_info=error)

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: the core's."""
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
        """Its next deadline may have changed."""
        if self._timer is not None:
            self._timer.rearm()
        elif core.next_timeout() is not None:
            self._timer = TimerRunner(self, asyncio.get_running_loop())
            self._timer.rearm()

    def _park(self, rest: bytes) -> None:
        """Go on in another round; until then nothing more is read."""
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
            core.wake, core.over = _nobody, _never
            self._core = self._transport = None
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

    def eof_received(self) -> bool:
        """See asyncio."""
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
        """See asyncio. What it held is given back in turn: a thousand connections may end at once."""
        self._lost, self._rest = True, b""
        if self._due is not None:
            self._due.cancel()
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._transport is not None:
            self._gone(self._transport)
        if self._turns.ready():
            with self._turns:
                if not self.work():
                    self._turns.wait(self)
        else:
            self._turns.wait(self)

    def _wake(self) -> None:
        self._turns.wait(self)

    def _flush(self) -> None:
        core, transport = self._core, self._transport
        if core is None or transport is None or transport.is_closing():
            return
        data = core.data_to_send()
        if data:
            if core.watched and not transport.get_write_buffer_size() and not unread(transport):
                # Read until some time after the last look, and not any more some time after this.
                before, self._read_ns = self._read_ns, now_ns()
                core.unread_since_ns = (before + self._read_ns) // 2
            transport.write(data)
        self._arm(core)
        if core.closing:
            self._close(transport)
        elif self._weighed or self._rest or transport.get_write_buffer_size():
            self._weigh(core, transport)

    def _weigh(self, core: Connection, transport: asyncio.Transport) -> None:
        """Whether what is left unread, on either side, may wait; looked at again until nothing is."""
        unread_bytes = transport.get_write_buffer_size()
        self._weighed = waiting_bytes = unread_bytes + len(self._rest)
        if unread_bytes > UNSENT_MAX or not core.may_wait(waiting_bytes):
            log.warning("%s: connection ended: its client left %d bytes unread", self._whose, unread_bytes)
            transport.abort()
        elif waiting_bytes and self._due is None:
            self._due = asyncio.get_running_loop().call_later(WEIGH_S, self._weigh_again)

    def _weigh_again(self) -> None:
        self._due = None
        core, transport = self._core, self._transport
        if core is not None and transport is not None and not transport.is_closing():
            self._weigh(core, transport)

    def _close(self, transport: asyncio.Transport) -> None:
        """Close when all is sent, but let nobody keep the connection by not reading."""
        transport.close()
        if transport.get_write_buffer_size():
            if self._due is not None:
                self._due.cancel()
            self._due = asyncio.get_running_loop().call_later(FAREWELL_S, transport.abort)
