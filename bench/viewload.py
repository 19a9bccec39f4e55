"""Viewers that acknowledge each picture when it has arrived, and decode nothing: python -m bench.viewload URL COUNT

Further arguments are settings of the picture, as NAME=VALUE. `ready` is printed when all of them watch.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import aiohttp
import uvloop

from millrace.client.canvas import CODECS, FORMATS
from millrace.client.dialler import write
from millrace.wire.peer.messages import MEDIA_MAX
from millrace.wire.peer.pictures import SCREEN_SUBPROTOCOL, Piece, Watch
from millrace.wire.peer.viewing import ViewClient


async def view(http: aiohttp.ClientSession, url: str, settings: dict[str, str], watching: asyncio.Semaphore) -> None:
    """One viewer, until the daemon ends."""
    watch = Watch(name="load", codecs=list(CODECS), formats=list(FORMATS), settings=settings)
    async with http.ws_connect(url, protocols=(SCREEN_SUBPROTOCOL,), compress=0, max_msg_size=MEDIA_MAX) as line:
        wire = ViewClient(watch, time.monotonic_ns())
        await _flush(line, wire)
        async for message in line:
            now, before = time.monotonic_ns(), wire.watching
            wire.receive(message.data, now)
            for event in wire.events():
                if isinstance(event, Piece) and event.last and event.serial:
                    wire.send_shown(event.serial, now, now, None, 0, now, now)
            if (due := wire.next_timeout()) is not None and due <= now:
                wire.handle_timeout(now)
            await _flush(line, wire)
            if before is None and wire.watching is not None:
                watching.release()


async def _flush(line: aiohttp.ClientWebSocketResponse, wire: ViewClient) -> None:
    for message in wire.data_to_send():
        await write(line, message)


async def main(url: str, count: int, settings: dict[str, str]) -> None:
    """Run them all."""
    headers = {"Authorization": f"Bearer {os.environ['MILLRACE_TOKEN']}"}
    watching = asyncio.Semaphore(0)
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = [asyncio.create_task(view(http, f"{url}/screen", settings, watching)) for _ in range(count)]
        for _ in tasks:
            await watching.acquire()
        print("ready", flush=True)
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), dict(word.split("=", 1) for word in sys.argv[3:])))
