"""A real proxy between a listener and a daemon that impairs the connection.

Each WebSocket is forwarded; all its messages pass through the emulator of millrace.sim.net, one per direction. Media is
lost, duplicated or delayed like packets; control messages are only delayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp import web

from millrace.client.endpoint import staying
from millrace.errors import RemoteProtocolError
from millrace.io.clock import now_ns
from millrace.sim.net import NetEmulator, Path
from millrace.units import NS_PER_S
from millrace.wire.peer.messages import MEDIA_MAX

Message = str | bytes
_PASSED_ON = frozenset({"authorization", "origin", "host", "content-type", "accept-encoding", "sec-fetch-site"})
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"})


# Media is treated as a network treats packets. Control messages travel over a reliable connection in reality, so they
# are delayed with the rest but neither lost nor duplicated: a run that failed for lack of a format message would say
# nothing about a network. Messages keep their order unless the path reorders on purpose.
class Direction:
    """Carries messages one way, with delay."""

    def __init__(self, path: Path, seed: int, write: Callable[[Message], asyncio.Future[None]]) -> None:
        self.net: NetEmulator[Message] = NetEmulator(path, seed, lambda message: isinstance(message, bytes))
        self._write = write
        self._more = asyncio.Event()

    def put(self, message: Message) -> None:
        """A message has come in."""
        self.net.send(message, now_ns(), len(message))
        self._more.set()

    async def run(self) -> None:
        """Write messages when they come out."""
        while True:
            for message in self.net.receive(now_ns()):
                await self._write(message)
            due = self.net.next_timeout()
            self._more.clear()
            try:
                wait = None if due is None else max(0.0, (due - now_ns()) / NS_PER_S)
                async with asyncio.timeout(wait):
                    await self._more.wait()
            except TimeoutError:
                continue


class Impairment:
    """The proxy: `origin` is ws://HOST:PORT of a daemon."""

    def __init__(self, origin: str, path: Path, seed: int = 1) -> None:
        self.origin, self.path, self.seed = origin.rstrip("/"), path, seed
        self.sessions = 0
        self.lost = 0

    def application(self) -> web.Application:
        """The web application: one route, for any guest."""
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", self._serve)])
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._session(request)
        return await self._passed(request)

    async def _passed(self, request: web.Request) -> web.Response:
        """Forward requests for the page and the API unchanged."""
        url = self.origin.replace("ws", "http", 1) + request.path_qs
        async with aiohttp.ClientSession(headers=_kept(request), auto_decompress=False) as http:
            try:
                data = await request.read()
                async with http.request(request.method, url, data=data, allow_redirects=False) as answer:
                    headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
                    return web.Response(status=answer.status, body=await answer.read(), headers=headers)
            except aiohttp.ClientError as error:
                return web.Response(status=502, text=f"{url}: {error}\n")

    async def _session(self, request: web.Request) -> web.StreamResponse:
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if one.strip()]
        self.sessions += 1
        async with aiohttp.ClientSession(headers=_kept(request), trace_configs=[staying()]) as http:
            url = f"{self.origin}{request.path_qs}"
            try:
                far = await http.ws_connect(url, protocols=offered, max_msg_size=MEDIA_MAX, compress=0)
            except aiohttp.WSServerHandshakeError as error:
                return web.Response(status=error.status, text=f"the daemon refused: {error.message}\n")
            except (aiohttp.ClientError, RemoteProtocolError) as error:
                return web.Response(status=502, text=f"{url}: {error}\n")
            chosen = (far.protocol,) if far.protocol else ()
            near = web.WebSocketResponse(max_msg_size=MEDIA_MAX, compress=False, protocols=chosen)
            async with far:
                await near.prepare(request)
                await self._carry(near, far)
        return near

    async def _carry(self, near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse) -> None:
        down = Direction(self.path, self.seed, _writer(near))
        up = Direction(self.path, self.seed + 1, _writer(far))
        pumps = [asyncio.create_task(pump) for pump in (_read(far, down), _read(near, up), down.run(), up.run())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.lost += down.net.lost + up.net.lost
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await near.close()


def _kept(request: web.Request) -> dict[str, str]:
    """The headers for credentials and origin: the daemon must be able to reject foreign pages here too."""
    return {k: v for k, v in request.headers.items() if k.lower() in _PASSED_ON}


def _writer(
    websocket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> Callable[[Message], asyncio.Future[None]]:
    def write(message: Message) -> asyncio.Future[None]:
        sent = websocket.send_str(message) if isinstance(message, str) else websocket.send_bytes(message)
        return asyncio.ensure_future(sent)

    return write


async def _read(websocket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse, direction: Direction) -> None:
    async for message in websocket:
        if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return
        direction.put(message.data)
