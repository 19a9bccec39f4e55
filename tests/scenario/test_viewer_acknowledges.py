"""Acknowledgements of viewers against a daemon: none of an honest one comes too early, and false ones bring nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import numpy as np
import pytest
import uvloop

from millrace.daemon.app import Daemon
from millrace.guest.viewer import ViewerSession
from millrace.io.clock import now_ns
from millrace.io.crypto import client_tls
from millrace.pixels.rects import Rect
from millrace.wire.peer.pictures import SCREEN_SUBPROTOCOL, Shown, Watch, encode_picture_message
from tests import bus
from tests.scenario.test_certificates import certificate
from tests.scenario.watchers import Watcher
from tests.watch import Painter

WIDE, HIGH = 640, 400
LOSSLESS = Watch(formats=["raw", "zstd"], settings={"picture": "lossless", "fps": "60"})


@asynccontextmanager
async def connection(
    daemon: Daemon, own: Path | None = None, authority: Path | None = None
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A viewer's WebSocket: over the daemon's own socket, TLS or TCP."""
    unix = aiohttp.UnixConnector(str(own)) if own else None
    headers = {} if unix else {"Authorization": f"Bearer {daemon.worker.access.key}"}
    port = daemon.serving.address.rpartition(":")[2]
    base = "ws://localhost" if unix else f"wss://localhost:{port}" if authority else f"ws://127.0.0.1:{port}"
    tls: dict[str, Any] = {"ssl": client_tls(str(authority))} if authority else {}
    async with aiohttp.ClientSession(connector=unix) as http:
        yield await http.ws_connect(
            f"{base}/alice/screen", headers=headers, protocols=(SCREEN_SUBPROTOCOL,), max_msg_size=0, **tls
        )


def painter_of(daemon: Daemon) -> Painter:
    """A screen of noise."""
    painter = Painter()
    painter.screen = daemon.worker.guest("alice").screens.add(painter, "VGA", "door/0")
    painter.show(WIDE, HIGH, now_ns())
    return painter


def noise(painter: Painter, random: np.random.Generator) -> None:
    painter.pixels[:] = random.integers(0, 255, painter.pixels.shape, np.uint8)
    painter.screen.painted([Rect(0, 0, WIDE, HIGH)], now_ns())
    painter.point(int(random.integers(0, WIDE)), 9)


async def session_of(daemon: Daemon) -> ViewerSession:
    viewers = daemon.worker.guest("alice").viewers
    async with asyncio.timeout(10):
        while not viewers.sessions or not viewers.sessions[0].wire.sent:
            await asyncio.sleep(0.01)
    return viewers.sessions[0]


@pytest.mark.parametrize("loop", [asyncio, uvloop])
@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_honest_viewer_acknowledges_nothing_too_early(tmp_path: Path, way: str, loop: ModuleType) -> None:
    authority = certificate(tmp_path, "authority") if way == "tls" else None
    server = certificate(tmp_path, "server", authority, "localhost") if authority else None
    options = {"tls_cert": str(server.cert), "tls_key": str(server.key)} if server else {}

    async def test(daemon: Daemon) -> None:
        painter, random = painter_of(daemon), np.random.default_rng(1)
        own = tmp_path / "r" / "api.sock" if way == "unix" else None
        async with connection(daemon, own, authority.cert if authority else None) as socket:
            watcher = Watcher(socket, LOSSLESS)
            going = asyncio.create_task(watcher.goes_on())
            session = await session_of(daemon)
            async with asyncio.timeout(30):
                while session.times.shown < 25:
                    noise(painter, random)
                    await asyncio.sleep(0.02)
            assert session.pictures.early == 0 and session.flow.rate
            going.cancel()
            with suppress(asyncio.CancelledError):
                await going
            await watcher.shows(painter)
            assert session.pictures.early == 0

    bus.running(tmp_path, test, loop.run, **options)


def test_viewer_that_acknowledges_and_reads_nothing_is_sent_one_picture_and_charged_for_it(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        painter, random = painter_of(daemon), np.random.default_rng(1)
        async with connection(daemon) as socket:
            await socket.send_str(str(encode_picture_message(LOSSLESS)))
            response = socket._response.connection
            assert response is not None and response.transport is not None
            response.transport.pause_reading()
            session, charged = await session_of(daemon), 0
            for _ in range(60):
                noise(painter, random)
                await asyncio.sleep(0.02)
                await socket.send_str(str(encode_picture_message(Shown(session.wire.sent, now_ns(), now_ns()))))
                passed = session.sending.passed
                assert passed is not None and passed.written - passed.arrived < 4 * WIDE * HIGH * 4
                charged = max(charged, session.account.part("sending"))
            assert session.pictures.early > 20 and charged > 100_000 and session.pictures.sent < 12

    bus.running(tmp_path, test)
