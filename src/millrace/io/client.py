"""Connections that we make: to a machine's SPICE or VNC server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from millrace.dsp.convert import Buffer
from millrace.errors import MillraceError, PeerLost, RemoteProtocolError
from millrace.io.lookup import found_below
from millrace.io.runner import StreamRunner
from millrace.io.sockets import keep_alive
from millrace.io.turns import Turns
from millrace.units import HostNs
from millrace.wire.contract import Session

CONNECT_S = 5.0
UNREAD_MAX = 2 * 1024 * 1024
"""What waits for a machine to be read, at most: some seconds of a microphone."""
GONE_S = 30
"""A machine whose host has gone without a word is looked for again after that."""
PIECE_BYTES = 1024
"""What is taken before the others are thought of: messages may be of one byte, and cost more than it seems."""


class Closed(PeerLost):
    """The other side closed the connection, in order."""


class _Runner(StreamRunner):
    """Tells its line how the connection ended."""

    def __init__(self, line: ClientLine, turns: Turns | None, whose: str) -> None:
        super().__init__(lambda transport: line, turns, whose=whose)
        self._line = line

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if exc is not None:
            self._line.broke(exc)
        super().connection_lost(exc)


class Core(Session[Buffer, bytes], Protocol):
    """What is run on a line."""

    @property
    def partial_bytes(self) -> int:
        """What has come of a message that is not whole yet."""
        ...


def _free(size: int) -> None:
    """Nobody pays for it."""


class ClientLine:
    """One core on one connection, as the runner wants it.

    `after` is called when bytes were taken or a deadline has passed; `ended` once, with why. All at the expense of
    `turns`. `may_wait` is asked whether so many bytes may wait to be read; `partial` is told what has come of a message
    that is not whole yet, and ends the line by an error where that is too much.
    """

    def __init__(
        self,
        core: Core,
        after: Callable[[HostNs], None],
        ended: Callable[[Exception], None],
        turns: Turns | None = None,
        whose: str = "a connection",
        may_wait: Callable[[int], bool] = lambda size: True,
        partial: Callable[[int], None] = _free,
    ) -> None:
        self._may_wait, self._partial = may_wait, partial
        self.closing, self.known = False, True
        self.congested = self.watched = False
        self.unread_since_ns: HostNs = 0
        self.wake: Callable[[], None] = lambda: None
        self.over: Callable[[], bool] = lambda: False
        self.unfinished = False
        self._core, self._after, self._ended = core, after, ended
        self._why: Exception = Closed("the peer closed the connection")
        self._runner = _Runner(self, turns, whose)
        self._transport: asyncio.Transport | None = None
        self._shaking = False

    async def connect(
        self, host: str, port: int, path: str, tls: ssl.SSLContext | None, below: tuple[str, ...] = ()
    ) -> None:
        """Connect by TCP, or to a unix socket where there is no host (see `found_below`); PeerLost says why not."""
        loop = asyncio.get_running_loop()
        where = f"{host}:{port}" if host else path
        try:
            async with asyncio.timeout(CONNECT_S):
                if host:
                    name = host if tls is not None else None
                    made = await loop.create_connection(lambda: self._runner, host, port, ssl=tls, server_hostname=name)
                else:
                    with found_below(path, below) as found:
                        made = await loop.create_unix_connection(lambda: self._runner, found)
        except ssl.SSLError as error:
            raise PeerLost(f"TLS: {error.reason or error}") from None
        except TimeoutError:
            raise PeerLost(f"no answer at {where}") from None
        except OSError as error:
            raise PeerLost(f"nothing at {where} yet: {error.strerror or error}") from None
        self._transport = made[0]
        raw = self._transport.get_extra_info("socket")
        if raw is not None and host:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(raw, GONE_S)
        self.wake()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Go on inside TLS, on the same connection; PeerLost says why not."""
        plain = self._transport
        assert plain is not None
        if plain.is_closing():
            # uvloop would begin all the same, fail unseen in a callback of its own, and wait for an answer.
            raise PeerLost("TLS: the connection ended before the handshake")
        self._shaking = True
        try:
            made = await asyncio.get_running_loop().start_tls(
                plain, self._runner, context, server_hostname=host, ssl_handshake_timeout=CONNECT_S
            )
        except (ssl.SSLError, OSError) as error:
            self._why = PeerLost(f"TLS: {getattr(error, 'reason', None) or error}")
            raise self._why from None
        finally:
            self._shaking = False
        self._transport = cast(asyncio.Transport, made)
        if self._transport.is_closing():
            # Closed in order, which is no error to asyncio.
            self._why = PeerLost("TLS: the connection ended during the handshake")
            raise self._why
        self._runner.connection_made(self._transport)

    def receive(self, data: memoryview, now_ns: HostNs) -> int:
        """See `Connection`."""
        taken = 0
        try:
            while taken < len(data):
                self._core.receive(data[taken : taken + PIECE_BYTES], now_ns)
                taken += PIECE_BYTES
                self._partial(self._core.partial_bytes)
                self._after(now_ns)
                if self.over():
                    break
            return min(taken, len(data))
        except RemoteProtocolError as error:
            self._why = error
            raise
        except MillraceError as error:
            # What the graph refuses is the end of this connection too, and no bug.
            self._why = error
            raise RemoteProtocolError(str(error)) from None
        except Exception:
            # A bug of ours, which the runner logs.
            self._why = PeerLost("ended by an internal error; the daemon's log has it")
            raise

    def data_to_send(self) -> bytes:
        """See `Connection`."""
        return self._core.data_to_send()

    def next_timeout(self) -> HostNs | None:
        """See `Connection`. A handshake has a deadline of its own."""
        return None if self._shaking else self._core.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Connection`."""
        try:
            self._core.handle_timeout(now_ns)
        except MillraceError as error:
            self._why, self.closing = error, True
        else:
            self._after(now_ns)

    def may_wait(self, waiting_bytes: int) -> bool:
        """See `Connection`."""
        may = waiting_bytes <= UNREAD_MAX and self._may_wait(waiting_bytes)
        if not may:
            self._why = PeerLost(f"the other side leaves {waiting_bytes} bytes unread")
        return may

    def broke(self, error: Exception) -> None:
        """It is about to end otherwise than in order."""
        if isinstance(self._why, Closed):
            self._why = PeerLost(f"the connection was lost: {getattr(error, 'strerror', None) or error}")

    def closed(self) -> bool:
        """See `Connection`. During a handshake `start_tls` says what went wrong."""
        if not self._shaking:
            self._ended(self._why)
        return True

    def violated(self, error: RemoteProtocolError) -> None:
        """See `Connection`: `ended` is told when it is closed."""

    def close(self) -> None:
        """Close the connection; `ended` hears of it. What has come and was not taken yet is not taken any more."""
        self.closing = True
        if self._transport is None:
            return
        if self._shaking:
            # The handshake is about to begin, in a callback that needs the connection.
            asyncio.get_running_loop().call_soon(self._transport.abort)
        else:
            self._transport.abort()
