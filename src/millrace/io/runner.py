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

from millrace.errors import RemoteProtocolError
from millrace.io.clock import now_ns
from millrace.units import NS_PER_MS, HostNs

log = logging.getLogger("millrace.io")

RECEIVE_BYTES = 256 * 1024
UNSENT_MAX = 8 * 1024 * 1024
"""A connection that leaves more than this unread is cut: it would only grow."""


class Timed(Protocol):
    """Something with deadlines."""

    def next_timeout(self) -> HostNs | None:
        """When it wants to be called."""
        ...

    def handle_timeout(self, now_ns: HostNs) -> None:
        """It is now `now_ns`."""
        ...


class Connection(Timed, Protocol):
    """A sans-IO connection over a byte stream."""

    closing: bool
    congested: bool
    unread_since_ns: HostNs
    wake: Callable[[], None]

    @property
    def watched(self) -> bool:
        """Whether it is to be known since when the other side does not read."""
        ...

    def receive(self, data: memoryview, now_ns: HostNs) -> None:
        """Bytes have come; the view is valid during the call only."""
        ...

    def data_to_send(self) -> bytes:
        """What to write now."""
        ...

    def closed(self) -> None:
        """The connection is gone."""
        ...

    def violated(self, error: RemoteProtocolError) -> None:
        """It is about to be ended for this."""
        ...


class TimerRunner:
    """Keeps one timer armed for a `Timed` core."""

    def __init__(self, core: Timed, loop: asyncio.AbstractEventLoop) -> None:
        self._core, self._loop = core, loop
        self._handle: asyncio.Handle | None = None
        self.strain_ns: HostNs = 0
        self.on_strain: Callable[[HostNs, HostNs, HostNs, HostNs], None] = lambda late, spent, began, before: None
        """Called where a run began later than `strain_ns` after its deadline, or took longer; 0 for never.

        How late it was, how long it took, when it began, and when the run before it ended, in ns.
        """
        self.on_run: Callable[[HostNs], None] = lambda now_ns: None
        self._ended_at: HostNs = 0
        self._armed_for: HostNs | None = None
        self._armed_at: HostNs = 0

    def rearm(self) -> None:
        """The core's next deadline may have changed."""
        deadline = self._core.next_timeout()
        if deadline == self._armed_for and self._handle is not None:
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
        deadline, began = self._armed_for, now_ns()
        # A deadline that had passed when it was set (a graph that begins again) is not late by that.
        late = began - max(deadline, self._armed_at) if deadline is not None else 0
        self._core.handle_timeout(began)
        before, self._ended_at = self._ended_at, now_ns()
        spent = self._ended_at - began
        self.rearm()
        self.on_run(began)
        if self.strain_ns and (late > self.strain_ns or spent > self.strain_ns):
            self.on_strain(late, spent, began, before)

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


class StreamRunner(asyncio.BufferedProtocol):
    """Runs one `Connection` on one socket. All runners share a receive buffer: cores copy what they keep."""

    _buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __init__(self, make: Callable[[asyncio.Transport], Connection | None]) -> None:
        self._make = make
        self._core: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._flush_due = False
        self._read_ns: HostNs = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's transports have the methods but not the base class.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=512 * 1024)
        self._core = self._make(transport)
        if self._core is None:
            transport.abort()
            return
        self._core.wake = self._wake

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._core is None or self._core.closing:
            return
        try:
            self._core.receive(self._buffer[:nbytes], now_ns())
        except RemoteProtocolError as error:
            log.warning("connection ended: %s", error)
            self._core.violated(error)
            self._core.closing = True
        except Exception:
            # A bug of ours must cost at most the connection that met it.
            log.exception("connection ended by an internal error")
            self._core.closing = True
        self._flush()

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
        """See asyncio."""
        core, self._core = self._core, None
        if core is not None:
            core.closed()

    def _wake(self) -> None:
        if not self._flush_due and self._transport is not None:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
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
        if core.closing:
            transport.close()
        elif transport.get_write_buffer_size() > UNSENT_MAX:
            log.warning("connection ended: its client left %d bytes unread", UNSENT_MAX)
            transport.abort()
