"""A machine whose server never stops talking nonsense: its guest waits, and the loop goes round for the others."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from pathlib import Path

import pytest

from millrace.guest.machines.address import parse_door
from tests.bus import daemon_in
from tests.fuzz import seeds

AUDIO = [struct.pack(">BBH", 255, 1, operation) for operation in (1, 0)]
FLOODS = {"bells": b"\2" * 65_536, "beginnings and ends": b"".join(AUDIO) * 8_192}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_from_a_machine_is_taken_in_small_steps(tmp_path: Path, flood: str) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"".join(seeds.vnc()[0]))
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(FLOODS[flood])
                sent += len(FLOODS[flood])
                await writer.drain()

    async def main() -> float:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, daemon_in(tmp_path) as daemon:
            daemon.worker.attach(
                daemon.worker.guests["alice"], parse_door(f"vnc://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            )
            while not daemon.worker.guests["alice"].machines[0].sessions:
                await asyncio.sleep(0.01)
            # Its own processor time between two rounds, whatever else this machine does.
            most, ends = 0.0, time.thread_time() + 1.0
            while time.thread_time() < ends:
                began = time.thread_time()
                await asyncio.sleep(0)
                most = max(most, time.thread_time() - began)
            return most

    assert asyncio.run(main()) < 0.1
    assert sent > 1_000_000
