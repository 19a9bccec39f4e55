"""Runs a datagram session on one socket. The session handles the addresses."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from millrace.errors import MillraceError
from millrace.io.clock import now_ns
from millrace.io.timer import TimerRunner
from millrace.io.turns import Turns
from millrace.units import HostNs
from millrace.wire.contract import Address, Datagram, Session

log = logging.getLogger("millrace.io")


class DatagramRunner(asyncio.DatagramProtocol):
    """Feeds the session, writes its output, and arms one timer.

    `after` is called when the session has taken a datagram or a deadline has passed, before its output is sent; `ended`
    once, with the reason, unless `close` was called.
    """

    def __init__(
        self,
        wire: Session[Datagram, list[Datagram]],
        after: Callable[[], None],
        ended: Callable[[Exception], None],
        turns: Turns | None = None,
    ) -> None:
        self._wire, self._after, self._ended = wire, after, ended
        self._turns = turns or Turns()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer = TimerRunner(self, asyncio.get_running_loop())
        self._full = False
        self.lost = 0
        """Datagrams dropped here because the send buffer was full."""

    async def start(self, sock: socket.socket) -> None:
        """Run on a bound socket (io/listeners.py), and take ownership of it."""
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=sock)
        self._transport = transport
        self.flush()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """See asyncio."""
        self._step(lambda: self._wire.receive(Datagram(data, addr), now_ns()))

    def error_received(self, exc: Exception) -> None:
        """See asyncio: a datagram could not be delivered. The error does not say to which address."""
        log.debug("a datagram could not be delivered: %s", exc)

    def pause_writing(self) -> None:
        """See asyncio: the send buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self._full = False

    def next_timeout(self) -> HostNs | None:
        """See `Timed`: the session's."""
        return None if self._transport is None else self._wire.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`."""
        self._step(lambda: self._wire.handle_timeout(now_ns))

    def _step(self, step: Callable[[], None]) -> None:
        if self._transport is None:
            return
        try:
            with self._turns:
                step()
                self._after()
        except Exception as error:
            if not isinstance(error, MillraceError):
                # A bug in the daemon must cost at most this session.
                log.exception("datagram session ended because of an internal error")
            self.close()
            self._ended(error)
        else:
            self.flush()

    def flush(self) -> None:
        """Send the session's pending datagrams."""
        if self._transport is None:
            return
        for payload, address in self._wire.data_to_send():
            # Dropped and not queued: by the time the buffer has drained, a datagram of media would be too late, and its
            # place is better taken by a newer one. asyncio would otherwise queue without limit.
            if self._full:
                self.lost += 1
            else:
                self._transport.sendto(payload, address)
        self._timer.rearm()

    def close(self) -> None:
        """Close the socket; `ended` is not called."""
        transport, self._transport = self._transport, None
        self._timer.stop()
        if transport is not None:
            transport.close()
