"""Load from another process: `python -m bench.load listeners URL…` reads and counts, and does nothing else."""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import uvloop

from millrace.wire.peer.messages import Hello, Ping, Pong, decode_from_daemon, encode_message


async def listen(http: aiohttp.ClientSession, url: str, settings: dict[str, str]) -> None:
    """One listener that discards everything."""
    async with http.ws_connect(url, compress=0, max_msg_size=1 << 22) as line:
        await line.send_str(encode_message(Hello(name="load", settings=settings)))
        async for message in line:
            if message.type is aiohttp.WSMsgType.TEXT:
                parsed = decode_from_daemon(message.data)
                if isinstance(parsed, Ping):
                    await line.send_str(encode_message(Pong(parsed.t, 0)))


async def main(settings: dict[str, str], urls: list[str]) -> None:
    """Run one listener for each URL."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    headers = {"Authorization": f"Bearer {os.environ['MILLRACE_TOKEN']}"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http:
        await asyncio.gather(*(listen(http, url, settings) for url in urls))


if __name__ == "__main__":
    uvloop.run(main(dict(word.split("=", 1) for word in sys.argv[1].split(",")), sys.stdin.read().split()))
