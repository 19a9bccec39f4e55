"""After a Close frame nothing more is sent (RFC 6455, section 5.5.1), however much sound is queued."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest

from millrace.client.pulse import PulsePlayer
from millrace.daemon.app import Daemon
from millrace.server.http.events import EventStream
from millrace.server.http.wall import Wall
from millrace.wire.peer.messages import Hello, encode_message
from tests.bus import daemon_in
from tests.fuzz.attackers import masked
from tests.fuzz.verdicts import CLOSE, frames

TOKEN = "a-token-of-some-length"
UPGRADE = (
    b"GET /alice HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer "
    + TOKEN.encode() + b"\r\n\r\n"
)  # fmt: skip
MASK = b"abcd"
ENDS = {
    "a goodbye": masked(MASK, b'{"type":"bye"}'),
    "a frame of no known kind": b"\x83\x80" + MASK,
    "a message that is none": masked(MASK, b'{"type":"nonsense"}'),
    "Close": b"\x88\x80" + MASK,
}
BINARY = 2


async def heard_after(daemon: Daemon, last: bytes) -> list[int]:
    """Send `last` during playback; returns the opcodes of the frames up to half a second after it."""
    host, _, port = daemon.serving.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(masked(MASK, encode_message(Hello()).encode()))
    before = bytearray()
    while [kind for kind, _ in frames(bytes(before))].count(BINARY) < 5:
        before += await reader.read(65_536)
    writer.write(last)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while data := await reader.read(65_536):
                before += data
    writer.close()
    return [kind for kind, _ in frames(bytes(before))]


@pytest.mark.parametrize("end", ENDS)
def test_close_frame_is_the_last_frame(tmp_path: Path, end: str) -> None:
    async def main() -> None:
        async with daemon_in(tmp_path, token=TOKEN) as daemon:
            player = await PulsePlayer.connect(daemon.config.runtime / "alice" / "pulse", "test")
            sound = np.random.default_rng(1).uniform(-0.5, 0.5, (480_000, 2)).astype(np.float32)
            playing = asyncio.create_task(player.play(sound, 48_000))
            kinds = await heard_after(daemon, ENDS[end])
            assert kinds.count(CLOSE) == 1 and kinds[-1] == CLOSE, kinds[-20:]
            playing.cancel()
            await player.close()

    asyncio.run(main())


def test_watcher_that_can_not_be_told_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(stream: EventStream, made: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(EventStream, "send_objects", fails)

    async def main() -> None:
        async with daemon_in(tmp_path, token=TOKEN) as daemon:
            host, _, port = daemon.serving.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(UPGRADE.replace(b"/alice", b"/api/v1/events"))
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()

    asyncio.run(main())


def test_wall_that_does_not_read_can_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walls: list[Wall] = []

    async def serve(wall: Wall, websocket: object) -> None:
        walls.append(wall)
        await asyncio.Event().wait()

    monkeypatch.setattr(Wall, "serve", serve)

    async def main() -> None:
        async with daemon_in(tmp_path, token=TOKEN) as daemon:
            host, _, port = daemon.serving.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(UPGRADE.replace(b"/alice", b"/api/v1/thumbnails"))
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(10):
                while not walls:
                    await asyncio.sleep(0.01)
                walls[0]._cut()
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()

    asyncio.run(main())
