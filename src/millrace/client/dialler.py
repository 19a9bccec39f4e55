"""How listeners and viewers connect, and how long they wait before they try again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp

from millrace.client import endpoint
from millrace.client.options import ListenerOptions
from millrace.errors import PeerLost
from millrace.wire.peer.messages import MEDIA_MAX

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 0.5
"""Short enough to play again within a second of the server's return; the random factor in `pause` keeps a fleet of
listeners from reconnecting all at once."""
HANDSHAKE_S = 10.0
BACKOFF_LONG_S, FAST_TRIES_MAX = 5.0, 120
"""After more than FAST_TRIES_MAX failed attempts in a row, the delay grows to BACKOFF_LONG_S."""


async def pause(stopping: asyncio.Event, tries: int) -> None:
    """Wait before the next attempt, or until `stopping`."""
    top = BACKOFF_LONG_S if tries > FAST_TRIES_MAX else BACKOFF_MAX_S
    delay = min(top, BACKOFF_FIRST_S * 2 ** min(tries, 10)) * random.uniform(0.8, 1.2)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay):
            await stopping.wait()


class Dialler:
    """Connects to a guest's URL, or to what is `below` it, any number of times, with these WebSocket subprotocols.

    `right` is the one that such a connection takes, for messages.
    """

    def __init__(
        self, url: str, options: ListenerOptions, protocols: tuple[str, ...] = (), below: str = "", right: str = "hear"
    ) -> None:
        self.url, self.options, self._protocols, self._below, self._right = url, options, protocols, below, right
        self._by_socket = False

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """An open WebSocket, closed afterwards. Errors that another attempt can't cure are MillraceErrors."""
        (url, connector), tls = await self._way(), endpoint.tls_of(self.url, self.options)
        async with endpoint.session(self.options, connector) as http:
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    websocket = await http.ws_connect(
                        url, max_msg_size=MEDIA_MAX, ssl=tls, compress=0, protocols=self._protocols
                    )
            except aiohttp.WSServerHandshakeError as error:
                endpoint.demand_welcome(self.url, self.options, error, self._right)
                raise
            except aiohttp.ClientResponseError as error:
                endpoint.demand_http(self.url, error)
                raise
            except aiohttp.ClientConnectorCertificateError as error:
                raise endpoint.untrusted(self.url, error) from None
            async with endpoint.parting(websocket):
                yield websocket

    async def _way(self) -> tuple[str, aiohttp.BaseConnector | None]:
        """Where to connect: to this user's own daemon through its private socket, which needs no token."""
        if self.options.socket is not None:
            return self.url.rstrip("/") + self._below, aiohttp.UnixConnector(str(self.options.socket))
        own = None if self.options.token or self.options.cert else await endpoint.own_socket(self.url)
        if own is not None:
            self._by_socket = True
            path = urlsplit(self.url).path.rstrip("/") + self._below
            return f"ws://localhost{path}", aiohttp.UnixConnector(str(own))
        # It was restarted, stopped, or is busy: try again later. Over TCP, without a token, it would refuse, which is
        # final.
        if self._by_socket:
            raise PeerLost("the daemon does not answer on its socket")
        return self.url.rstrip("/") + self._below, None


async def write(websocket: aiohttp.ClientWebSocketResponse, message: str | bytes) -> None:
    """Send a message."""
    # The reading side notices that the connection has ended.
    with contextlib.suppress(ConnectionError):
        await (websocket.send_str(message) if isinstance(message, str) else websocket.send_bytes(message))


async def closing(websocket: aiohttp.ClientWebSocketResponse, due: asyncio.Event) -> None:
    """Close the connection as soon as `due` is set."""
    await due.wait()
    await websocket.close()
