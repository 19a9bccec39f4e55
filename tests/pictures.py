"""A daemon that sends pictures, without a daemon: what a viewer is tried against."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
from aiohttp import WSMsgType, web
from backports import zstd

from millrace.io import clock
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect
from millrace.wire.peer.clips import Clip
from millrace.wire.peer.pictures import (
    SCREEN_SUBPROTOCOL,
    FromViewer,
    Part,
    PartType,
    Shown,
    Taken,
    ToViewer,
    Watch,
    Watching,
    pack_parts,
)
from millrace.wire.peer.viewing import ViewServer


def packed(picture: Plane, at: Rect) -> Part:
    """A rectangle of a picture, lossless."""
    pixels = np.ascontiguousarray(picture[at.y : at.bottom, at.x : at.right])
    return Part(PartType.ZSTD, at, zstd.compress(pixels.tobytes(), 1))


class Session:
    """One viewer's connection."""

    def __init__(self, websocket: web.WebSocketResponse, watch: Watch, wire: ViewServer) -> None:
        self.websocket, self.watch, self.wire = websocket, watch, wire
        self.came: list[FromViewer | Clip] = []
        self.arrived = asyncio.Event()

    @property
    def shown(self) -> list[Shown]:
        return [one for one in self.came if isinstance(one, Shown)]

    @property
    def taken(self) -> list[int]:
        return [one.serial for one in self.came if isinstance(one, Taken)]

    async def flush(self) -> None:
        for message in self.wire.data_to_send():
            await (self.websocket.send_str(message) if isinstance(message, str) else self.websocket.send_bytes(message))

    async def say(self, *messages: ToViewer) -> None:
        for message in messages:
            self.wire.send_message(message)
        await self.flush()

    async def mode(self, picture: Plane) -> None:
        """A new mode, and its first picture."""
        self.wire.send_mode(picture.shape[1], picture.shape[0])
        await self.picture(picture, [Rect(0, 0, picture.shape[1], picture.shape[0])], key=True)

    async def picture(
        self, picture: Plane, changed: Sequence[Rect], painted_ns: int | None = None, key: bool = False
    ) -> int:
        return await self.parts([packed(picture, rect) for rect in changed], painted_ns, key)

    async def parts(self, parts: Sequence[Part], painted_ns: int | None = None, key: bool = False) -> int:
        painted = clock.now_ns() if painted_ns is None else painted_ns
        serial = self.wire.send_piece(pack_parts(parts), key=key, painted_ns=painted)
        await self.flush()
        return serial

    async def until_shown(self, serial: int) -> Shown:
        while True:
            for shown in self.shown:
                if shown.serial == serial:
                    return shown
            self.arrived.clear()
            await self.arrived.wait()


class PictureDaemon:
    """Accepts viewers of guest `default`; each is a `Session`."""

    def __init__(self) -> None:
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.requests: list[web.Request] = []
        self.socket = Path()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        self.requests.append(request)
        websocket = web.WebSocketResponse(protocols=(SCREEN_SUBPROTOCOL,), compress=False)
        await websocket.prepare(request)
        wire, session = ViewServer(clock.now_ns()), None
        async for message in websocket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            wire.receive(message.data, clock.now_ns())
            for event in wire.events():
                if isinstance(event, Watch):
                    session = Session(websocket, event, wire)
                    wire.send_message(Watching(7, "default", "screen/3", "a desktop", {}, True))
                    wire.handle_timeout(clock.now_ns())
                    self.sessions.put_nowait(session)
                elif session is not None:
                    session.came.append(event)
                    session.arrived.set()
            for out in wire.data_to_send():
                await (websocket.send_str(out) if isinstance(out, str) else websocket.send_bytes(out))
        return websocket

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PictureDaemon]:
        """On a unix socket, where what was sent has arrived: virtual time does not pass on the way."""
        runner = await self._runner()
        with tempfile.TemporaryDirectory() as place:
            self.socket = Path(place) / "s"
            await web.UnixSite(runner, str(self.socket)).start()
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _runner(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/default/screen", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        return runner

    @contextlib.asynccontextmanager
    async def on_tcp(self, port: int = 0) -> AsyncIterator[str]:
        """Its URL, for programs."""
        runner = await self._runner()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}/default"
        finally:
            await runner.cleanup()
