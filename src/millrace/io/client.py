"""Outgoing connections: to a machine's SPICE or VNC server."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

from millrace.absent import nothing
from millrace.dsp.convert import Buffer
from millrace.errors import MillraceError, PeerLost, RemoteProtocolError, bare
from millrace.io.crypto import tls_trouble
from millrace.io.lookup import found_below
from millrace.io.runner import StreamRunner
from millrace.io.sockets import keep_alive, why_not_unix
from millrace.io.turns import ChunkSize, Turns
from millrace.units import HostNs
from millrace.wire.contract import Session, Untimed

CONNECT_S = 5.0
DISPLAYS = 100
"""A lower port is more likely a VNC display number."""
UNREAD_MAX = 2 * 1024 * 1024
"""The most bytes that may wait for a machine to read them: a few seconds of microphone sound."""
GONE_S = 30
"""A machine whose host vanished without closing the connection is detected, and looked for again, after this."""
CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = 64, 4096
LINGER_S = 1.0
"""How long a peer has to process what it was sent last, and to close the connection."""


class Closed(PeerLost):
    """The peer closed the connection cleanly."""


class Reset(PeerLost):
    """The connection was reset: the peer closed it with something unread, or its host or one between has ended it."""


class _Runner(StreamRunner):
    """Reports to its `ClientConnection` how the connection ended."""

    # Whoever has connected is told too, and knows whether that has happened before.
    level = logging.INFO

    def __init__(self, connection: ClientConnection, turns: Turns | None, whose: str) -> None:
        super().__init__(lambda transport, runner: connection.made(transport), turns, whose=whose)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if exc is not None and self._core is not None:
            cast(ClientConnection, self._core).broke(exc)
        super().connection_lost(exc)


class Core(Session[Buffer, bytes], Protocol):
    """The protocol that a `ClientConnection` runs."""

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message that is still incomplete, and what was made of it and is not used yet."""
        ...

    @property
    def unfinished(self) -> bool:
        """Whether it has more to do with what it has received: `receive` is then called again, without bytes."""
        ...


def _why_not(error: OSError, host: str, port: int, path: str) -> str:
    """Why nothing was reached, and a likely mistake."""
    why = error.strerror or str(error)
    if host:
        return f"{why} (display :{port} is port {5900 + port})" if port < DISPLAYS else why
    return why_not_unix(error, path)


def _not_served(now_ns: HostNs) -> None:
    """The session is over."""


def _not_told(why: Exception) -> None:
    """The end has been reported."""


def _all_may(size: int) -> bool:
    """Nothing is sent any more."""
    return True


def _free(size: int) -> None:
    """Partial messages are not accounted for."""


class Mute(Untimed):
    """The `Core` of a connection on which nothing is said, and nothing heard."""

    partial_bytes = 0

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Ignore anything received."""

    def data_to_send(self) -> bytes:
        """Send nothing."""
        return b""


# Everything that ends the connection leads to one call of `ended`. Until it is made it is `connect` that reports, and
# during a TLS handshake `start_tls`, by raising.
class ClientConnection:
    """Runs one core on one connection, as a `Connection` for the runner.

    `after` is called when bytes were taken or a deadline has passed; `ended` once, with the reason. All work is charged
    to `turns`. `may_wait` is asked whether so many bytes may wait for the peer to read them. `partial` is passed the
    size of what is still incomplete, or waits; it raises to end the connection if that is too much. A core that bounds
    its own work in one step may be given large chunks. `relieved` is called when it is no longer `congested`.
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
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
        relieved: Callable[[], None] = nothing,
    ) -> None:
        self._may_wait, self._partial = may_wait, partial
        self.closing, self.known = False, True
        self.watched = self._congested = False
        self._relieved = relieved
        self.unread_since_ns: HostNs = 0
        self._core, self._after, self._ended = core, after, ended
        self._why: Exception = Closed("the peer closed the connection")
        self._runner = _Runner(self, turns, whose)
        self._transport: asyncio.Transport | None = None
        self._shaking = False
        self._cut: asyncio.TimerHandle | None = None
        self._chunk_size = ChunkSize(CHUNK_BYTES_MIN, chunk_bytes_max)
        self._plain = False
        """Connected over TCP without TLS, and nothing has arrived yet."""

    @property
    def unfinished(self) -> bool:
        """See `Connection`: also after what was asked of the core from elsewhere, when it is woken."""
        return self._core.unfinished

    async def connect(
        self, host: str, port: int, path: str, tls: ssl.SSLContext | None, below: tuple[str, ...] = ()
    ) -> None:
        """Connect over TCP, or to a unix socket if there is no host (see `found_below`); raises PeerLost."""
        try:
            await self._reached(host, port, path, tls, below)
        except BaseException:
            # An event loop closes a connection that was made just before its caller gave up, without a call of
            # `connection_lost`; uvloop then refuses every further use of it. The caller learns the reason from this
            # error and not from `ended`, which would report another one.
            self._forget()
            self._runner.connection_lost(None)
            raise

    async def _reached(
        self, host: str, port: int, path: str, tls: ssl.SSLContext | None, below: tuple[str, ...]
    ) -> None:
        loop = asyncio.get_running_loop()
        where = f"{host}:{port}" if host else path
        self._plain = bool(host) and tls is None
        try:
            async with asyncio.timeout(CONNECT_S):
                if host:
                    name = host if tls is not None else None
                    made = await loop.create_connection(lambda: self._runner, host, port, ssl=tls, server_hostname=name)
                else:
                    with found_below(path, below) as found:
                        made = await loop.create_unix_connection(lambda: self._runner, found)
        except ssl.SSLError as error:
            raise PeerLost(tls_trouble(error, host, where)) from None
        except TimeoutError:
            raise PeerLost(f"no answer at {where}") from None
        except OSError as error:
            raise PeerLost(f"nothing at {where} yet: {_why_not(error, host, port, path)}") from None
        raw = made[0].get_extra_info("socket")
        if raw is not None and host:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(raw, GONE_S)
        self._runner.wake()

    # Bytes may arrive, and TLS be asked for, before `connect` has its turn to go on.
    def made(self, transport: asyncio.Transport) -> ClientConnection:
        """The connection is there; called by the runner."""
        self._transport = transport
        return self

    @property
    def ends(self) -> tuple[Any, Any] | None:
        """The addresses of the peer and of this end; None if the connection is gone."""
        if self._transport is None:
            return None
        peer, own = (self._transport.get_extra_info(name) for name in ("peername", "sockname"))
        return (peer, own) if peer and own else None

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Switch the connection to TLS; raises PeerLost if that fails."""
        plain = self._transport
        assert plain is not None
        if plain.is_closing():
            # uvloop would start the handshake anyway, fail unnoticed in one of its callbacks, and keep waiting.
            raise PeerLost("TLS: the connection ended before the handshake")
        self._shaking = True
        try:
            made = await asyncio.get_running_loop().start_tls(
                plain, self._runner, context, server_hostname=host, ssl_handshake_timeout=CONNECT_S
            )
        except (ssl.SSLError, OSError) as error:
            self._why = PeerLost(tls_trouble(error, host, host))
            raise self._why from None
        finally:
            self._shaking = False
        self._transport = secure = cast(asyncio.Transport, made)
        if secure.is_closing():
            # A clean close by the peer, which asyncio does not report as an error.
            self._why = PeerLost("TLS: the connection ended during the handshake")
            raise self._why
        self._runner.connection_made(secure)

    @property
    def congested(self) -> bool:
        """See `Connection`: the peer leaves much unread."""
        return self._congested

    @congested.setter
    def congested(self, now: bool) -> None:
        self._congested = now
        if not now:
            self._relieved()

    def receive(self, data: memoryview, now_ns: HostNs) -> int:
        """See `Connection`."""
        taken, self._plain = 0, False
        try:
            while taken < len(data) or self._core.unfinished:
                size = 0 if self._core.unfinished else self._chunk_size.bytes
                self._core.receive(data[taken : taken + size], now_ns)
                taken += size
                self._partial(self._core.partial_bytes)
                self._after(now_ns)
                over = self._runner.over()
                self._chunk_size.processed(over)
                if over:
                    break
            self._partial(self._core.partial_bytes)
            return min(taken, len(data))
        except RemoteProtocolError as error:
            self._why = error
            raise
        except MillraceError as error:
            # Refused by the graph: that ends this connection too, but is not a bug.
            self._why = error
            raise RemoteProtocolError(str(error)) from None
        except Exception:
            # A bug in the daemon; the runner logs it.
            self._why = MillraceError("ended because of an internal error; the daemon's log has it")
            raise

    def data_to_send(self) -> bytes:
        """See `Connection`."""
        return self._core.data_to_send()

    def next_timeout(self) -> HostNs | None:
        """See `Connection`. The TLS handshake has its own timeout."""
        return None if self._shaking else self._core.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Connection`."""
        try:
            self._core.handle_timeout(now_ns)
            self._after(now_ns)
            self._partial(self._core.partial_bytes)
        except MillraceError as error:
            self._why, self.closing = error, True

    def may_wait(self, waiting_bytes: int) -> bool:
        """See `Connection`."""
        may = waiting_bytes <= UNREAD_MAX and self._may_wait(waiting_bytes)
        if not may:
            self._why = PeerLost(f"the other side leaves {waiting_bytes} bytes unread")
        return may

    def broke(self, error: Exception) -> None:
        """The connection is about to end because of `error`, not by a clean close."""
        if isinstance(self._why, Closed):
            hint = "; if this is a TLS port of SPICE, add --tls" if self._plain else ""
            kind = Reset if isinstance(error, ConnectionError) else PeerLost
            self._why = kind(f"the connection was lost: {getattr(error, 'strerror', None) or error}{hint}")

    # `_why` begins as a clean close. Whatever ends the connection otherwise has replaced it by now.
    def closed(self) -> bool:
        """See `Connection`. During a TLS handshake, `start_tls` reports the failure instead."""
        if self._cut is not None:
            self._cut.cancel()
        if not self._shaking:
            ended = self._ended
            self._forget()
            # It is kept, and was raised in frames that hold this.
            bare(self._why)
            ended(self._why)
        return True

    # Whoever serves the session is reached through these, and keeps the connection: a cycle, which only a full
    # collection would free (daemon/collector.py).
    def _forget(self) -> None:
        self._after, self._ended, self._may_wait, self._partial = _not_served, _not_told, _all_may, _free
        self._relieved = nothing

    def violated(self, error: RemoteProtocolError) -> None:
        """See `Connection`. Nothing to do: `ended` is called once the connection is closed."""

    def wake(self) -> None:
        """There is something to send that no step of its own has caused."""
        self._runner.wake()

    # A server that finds the connection closed may drop what it has not processed; it is reset if anything that the
    # server sent was not read. TLS has an end of its own, at which the server closes (RFC 8446, section 6.1).
    def linger(self, gone: Callable[[], None]) -> None:
        """Send what is due, and close when the peer has, and so has processed it; after `LINGER_S` anyway.

        `gone` is called when it is closed, in place of `ended`. What still arrives is dropped.
        """
        transport = self._transport
        if transport is None or self._shaking or self.closing or transport.is_closing():
            self.close()
            gone()
            return
        self._forget()
        self._ended = lambda why: gone()
        last = self._core.data_to_send()
        self._core = Mute()
        if last:
            transport.write(last)
        self._cut = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
        self._runner.wake()

    def close(self) -> None:
        """Close the connection and have `ended` called. Data received but not yet processed is dropped."""
        self.closing = True
        if self._transport is None:
            return
        if self._shaking:
            # The handshake may be about to start, in a callback that needs the transport: abort only after it.
            asyncio.get_running_loop().call_soon(self._transport.abort)
        else:
            self._transport.abort()
