"""Many guests whose screens are still: CPU and memory of the daemon, with nobody watching and with a wall of them all.

Each guest has a VNC server of 1920 × 1080 that never paints again (bench/stillscreens.py). A screen without a watcher
has no picture yet; the wall, for 30 s one WebSocket with the thumbnails of all, makes each have one, and it stays.
Takes two minutes and 2 GiB of memory; `--screens N` for another number than 200; `--quick` measures for 5 s each.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from bench.common import Daemon, cpu_share, daemon, memory_kib, option, processes
from bench.streams_per_core import add_guests

SCREENS, SIZE = 200, "1920x1080"
SECONDS, QUICK_S, SETTLE_S, ATTACH_S = 20.0, 5.0, 3.0, 60.0
CPU_GOAL, MIB_GOAL = 1, 10


def attach(bus: Daemon, names: list[str], socket: Path) -> None:
    """Guests of those names, each with the machine behind that socket; returns when all are attached."""
    from millrace.cli.api import call, path_of

    add_guests(bus.env["XDG_RUNTIME_DIR"], names)
    for name in names:
        call("POST", path_of("guests", name, "doors"), {"door": f"vnc+unix://{socket}", "also": True})
    end = time.monotonic() + ATTACH_S
    while sum(len(guest["screens"]) for guest in bus.state()["guests"]) < len(names):
        assert time.monotonic() < end, "not every machine is attached"
        time.sleep(0.5)


async def wall(bus: Daemon, names: list[str], seconds: float) -> tuple[float, int]:
    """CPU of a core with a wall that shows all of them, once each is there, and how many came."""
    headers = {"Authorization": f"Bearer {bus.env['MILLRACE_TOKEN']}"}
    url = f"http://{bus.listen}/api/v1/thumbnails"
    seen: set[bytes] = set()

    async def read(line: aiohttp.ClientWebSocketResponse) -> None:
        async for message in line:
            if message.type is aiohttp.WSMsgType.BINARY:
                seen.add(message.data[14 : 14 + message.data[1]])

    async with aiohttp.ClientSession(headers=headers) as http, http.ws_connect(url, max_msg_size=0) as line:
        await line.send_str(json.dumps({"show": names}))
        reader = asyncio.create_task(read(line))
        async with asyncio.timeout(ATTACH_S):
            while len(seen) < len(names):
                await asyncio.sleep(0.2)
        await asyncio.sleep(SETTLE_S)
        share = await asyncio.to_thread(cpu_share, bus.pid, seconds)
        reader.cancel()
    return share, len(seen)


def main() -> None:
    """Print the table."""
    count, seconds = int(option("screens", SCREENS)), QUICK_S if "--quick" in sys.argv else SECONDS
    names = [f"g{number}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="mr") as name, processes() as start, daemon() as bus:
        socket = Path(name) / "vnc"
        server = start(sys.executable, "-m", "bench.stillscreens", str(socket), SIZE, stdout=subprocess.PIPE)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        print(f"idle_screens: {count} guests with a VNC server of {SIZE} each, nothing is painted")
        print("| | CPU of a core, all of them | goal | MiB of memory a screen | goal |\n|---|---|---|---|---|")
        before = memory_kib(bus.pid)

        def row(what: str, share: float) -> None:
            each = (memory_kib(bus.pid) - before) / 1024 / count
            print(f"| {what} | {share * 100:.2f} % | ≤ {CPU_GOAL} % | {each:.1f} | ≤ {MIB_GOAL} |", flush=True)

        print(f"| no guest but the first | {cpu_share(bus.pid, seconds) * 100:.2f} % | | | |", flush=True)
        attach(bus, names, socket)
        time.sleep(SETTLE_S)
        row("attached, never watched", cpu_share(bus.pid, seconds))
        share, _ = asyncio.run(wall(bus, names, seconds))
        row("on one wall", share)
        time.sleep(SETTLE_S)
        row("after the wall, nobody watches", cpu_share(bus.pid, seconds))


if __name__ == "__main__":
    main()
