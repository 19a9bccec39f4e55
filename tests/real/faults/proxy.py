"""A proxy between a listener and a daemon that fails on command: python proxy.py DAEMON_PORT

Prints its port. It answers each command on standard input (stall S, upstall S, thin S, drop N) with the time, in ns, at
which the effect began.
"""

from __future__ import annotations

import asyncio
import sys
import time

BINARY = 0x82
THIN_S = 0.006
"""By how much the delay grows with each packet on a line with too little bandwidth."""


class Way:
    """Forwards one direction: bytes, or if `framed` whole WebSocket frames after the handshake (RFC 6455, 5.2)."""

    def __init__(self, out: asyncio.StreamWriter, framed: bool) -> None:
        self.out, self.framed = out, framed
        self.head = framed
        self.held_until = 0.0
        self.thin_until = 0.0
        self.behind = 0.0
        self.to_drop = 0
        self.dropped: asyncio.Future[int] | None = None
        self.queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self.buffer = b""

    def feed(self, data: bytes) -> None:
        """Bytes have arrived."""
        if not self.framed:
            self._put(data)
            return
        self.buffer += data
        if self.head:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._put(self.buffer[: end + 4])
            self.buffer, self.head = self.buffer[end + 4 :], False
        while (size := _frame(self.buffer)) and len(self.buffer) >= size:
            frame, self.buffer = self.buffer[:size], self.buffer[size:]
            self._frame(frame)

    def _frame(self, frame: bytes) -> None:
        if frame[0] == BINARY and self.to_drop:
            self.to_drop -= 1
            if self.dropped is not None and not self.dropped.done():
                self.dropped.set_result(time.monotonic_ns())
            return
        if frame[0] == BINARY and time.monotonic() < self.thin_until:
            self.behind += THIN_S
        elif frame[0] == BINARY:
            self.behind = max(0.0, self.behind - THIN_S)
        self._put(frame)

    def _put(self, data: bytes) -> None:
        self.queue.put_nowait((time.monotonic() + self.behind, data))

    async def run(self) -> None:
        """Write everything when it is due."""
        while True:
            due, data = await self.queue.get()
            while (wait := max(due, self.held_until) - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self.out.write(data)


def _frame(data: bytes) -> int:
    """The length of the frame at the beginning of `data`, header included; 0 if it is not known yet."""
    if len(data) < 2:
        return 0
    size = data[1] & 0x7F
    if size < 126:
        return 2 + size
    width = 2 if size == 126 else 8
    return 0 if len(data) < 2 + width else 2 + width + int.from_bytes(data[2 : 2 + width], "big")


class Proxy:
    """The proxy, with all of its connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.down: list[Way] = []
        self.up: list[Way] = []

    async def serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        far_in, far_out = await asyncio.open_connection("127.0.0.1", self.port)
        down, up = Way(near_out, True), Way(far_out, False)
        self.down.append(down)
        self.up.append(up)
        tasks = [asyncio.create_task(one) for one in (_pump(far_in, down), _pump(near_in, up), down.run(), up.run())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        self.down.remove(down)
        self.up.remove(up)
        near_out.close()
        far_out.close()

    async def command(self, words: list[str]) -> int:
        """Execute a command; returns when its effect began."""
        now, ns = time.monotonic(), time.monotonic_ns()
        for way in self.up if words[0] == "upstall" else self.down:
            if words[0] in ("stall", "upstall"):
                way.held_until = now + float(words[1])
            elif words[0] == "thin":
                way.thin_until = now + float(words[1])
            elif words[0] == "drop":
                way.to_drop, way.dropped = int(words[1]), asyncio.get_running_loop().create_future()
        waited = [way.dropped for way in self.down if words[0] == "drop" and way.dropped is not None]
        if waited:
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            return min(one.result() for one in done)
        return ns


async def _pump(source: asyncio.StreamReader, way: Way) -> None:
    while data := await source.read(65536):
        way.feed(data)


async def main(port: int) -> None:
    """Serve until standard input ends."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while text := await commands.readline():
        print(await proxy.command(text.decode().split()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
