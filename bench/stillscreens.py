"""A VNC server whose picture is painted once and never again: python -m bench.stillscreens SOCKET WIDTHxHEIGHT

It serves any number of clients on a unix socket, with the encoding raw and without a password. RFC 6143.
"""

from __future__ import annotations

import asyncio
import struct
import sys

import uvloop

from millrace.pixels.rects import Size
from millrace.sim.desktop import Desktop

FIXED = {0: 20, 3: 10, 4: 8, 5: 6}
"""Lengths of a client's messages: pixel format, update request, key, pointer."""
ENCODINGS, UPDATE_REQUEST = 2, 3
PIXEL_FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Server:
    """One picture for all."""

    def __init__(self, size: Size) -> None:
        self._size, self._pixels = size, bytes(Desktop(size, "still").memory)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it leaves."""
        try:
            await self._greet(reader, writer)
            await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        await reader.readexactly(12)
        writer.write(b"\1\1")
        await reader.readexactly(1)
        writer.write(bytes(4))
        await reader.readexactly(1)
        writer.write(
            struct.pack(">HH", self._size.width, self._size.height) + PIXEL_FORMAT + struct.pack(">I", 5) + b"still"
        )

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (kind,) = await reader.readexactly(1)
            if kind == ENCODINGS:
                _, count = struct.unpack(">BH", await reader.readexactly(3))
                await reader.readexactly(4 * count)
                continue
            body = await reader.readexactly(FIXED[kind] - 1)
            # A request for changes stays without an answer, since there are none.
            if kind == UPDATE_REQUEST and not body[0]:
                writer.write(
                    struct.pack(">BxHHHHHi", 0, 1, 0, 0, self._size.width, self._size.height, 0) + self._pixels
                )
                await writer.drain()


async def main(path: str, size: Size) -> None:
    """Serve until killed."""
    server = await asyncio.start_unix_server(Server(size).serve, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Size(*map(int, sys.argv[2].split("x")))))
