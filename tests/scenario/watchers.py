"""Viewers over WebSockets, and screens for them to watch."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp
import numpy as np

from millrace.io.clock import now_ns
from millrace.pixels.rects import Rect, Size
from millrace.wire.peer.pictures import SCREEN_SUBPROTOCOL, PartType, Piece, Watch, Watching
from millrace.wire.peer.viewing import ViewClient
from tests.painting import Canvas
from tests.scenario.tenants import Rig
from tests.watch import Painter


class Watcher:
    """A viewer over a WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, watch: Watch) -> None:
        self.socket, self.wire = socket, ViewClient(watch, now_ns())
        self.told: list[Any] = []
        self.canvas = Canvas(Size(1, 1))
        self.types: set[int] = set()
        self.seen: set[int] = set()
        """All colours that were ever in a picture."""

    async def until(self, kind: type, within_s: float = 10) -> Any:
        """Go on until there is a message of that kind, and return it."""
        async with asyncio.timeout(within_s):
            while True:
                for at, event in enumerate(self.told):
                    if isinstance(event, kind):
                        del self.told[: at + 1]
                        return event
                await self._step()

    async def shows(self, painter: Painter) -> None:
        """Go on until the picture is the machine's."""
        async with asyncio.timeout(10):
            while not self.canvas.exact(painter.pixels):
                await self._step()

    async def ends(self) -> Any:
        """Go on until the daemon closes."""
        async with asyncio.timeout(10):
            while not self.socket.closed:
                await self._step()

    async def goes_on(self) -> None:
        """Receive and acknowledge until cancelled."""
        while True:
            await self._step()

    async def say(self, message: Any) -> None:
        self.wire.send_message(message)
        await self._write()

    async def _write(self) -> None:
        for message in self.wire.data_to_send():
            # The daemon may have closed meanwhile; what it said before that is still read.
            with suppress(aiohttp.ClientConnectionResetError):
                await self.socket.send_str(str(message))

    async def _step(self) -> None:
        self.wire.handle_timeout(now_ns())
        await self._write()
        message = await self.socket.receive()
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            self.wire.receive(message.data, now_ns())
        for event in self.wire.events():
            self.told.append(event)
            if isinstance(event, Piece):
                self._draw(event)
        await self._write()

    def _draw(self, piece: Piece) -> None:
        mode = self.wire.mode
        assert mode is not None
        if self.canvas.size != Size(mode.width, mode.height):
            self.canvas = Canvas(Size(mode.width, mode.height))
        self.types |= {part.type for part in piece.parts}
        self.canvas.apply(part for part in piece.parts if part.type != PartType.SHAPE)
        self.seen |= set(np.unique(self.canvas.pixels[:, :, 0][self.canvas.drawn]).tolist())
        if piece.last and piece.serial:
            self.wire.send_shown(piece.serial, now_ns(), now_ns())


def painter_of(rig: Rig, guest: str, colour: int, door: str = "door/0") -> Painter:
    """A screen in one colour."""
    painter = Painter()
    painter.screen = rig.daemon.worker.guest(guest).screens.add(painter, "VGA", door)
    painter.show(64, 48, now_ns())
    painter.fill(Rect(0, 0, 64, 48), colour, now_ns())
    return painter


async def watching(rig: Rig, secret: str = "", guest: str = "alice", **watch: Any) -> Watcher:
    """A viewer that has been greeted."""
    headers = {"Authorization": f"Bearer {secret or rig.daemon.worker.access.key}"}
    url = f"ws://{rig.daemon.serving.address}/{guest}/screen"
    socket = await rig.http.ws_connect(url, headers=headers, protocols=(SCREEN_SUBPROTOCOL,))
    assert socket.protocol == SCREEN_SUBPROTOCOL
    watcher = Watcher(socket, Watch(**({"formats": ["raw", "zstd"]} | watch)))
    await watcher.until(Watching)
    return watcher
