"""Requests and messages that are never finished: whoever makes them, others and the guest's own programs have room."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

from millrace.budget import MIB, REQUESTS
from millrace.client.bus import connect
from millrace.wire.native.messages import HEADER, frame
from millrace.wire.native.messages import Hello as NativeHello
from tests.nativebus import eventually
from tests.scenario.tenants import Rig, joined, running

SIZE = 65_000
EACH = 18 * 1024 + 2 * SIZE


IN_TWO_PARTS = """
import socket, sys, time
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    data = bytes.fromhex(sys.argv[2])
    for part in data[:-1], data[-1:]:
        sock.sendall(part)
        time.sleep(0.1)
    print(sock.recv(4096))
"""


async def withhold(rig: Rig, secret: str, number: int) -> list[socket.socket]:
    """Requests of a token whose bodies do not come."""
    host, _, port = rig.daemon.serving.address.rpartition(":")
    head = (
        f"POST /api/v1/set HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\nContent-Length: {SIZE}\r\n\r\n"
    )
    lines = list[socket.socket]()
    for _ in range(number):
        line = socket.create_connection((host, int(port)))
        line.sendall(head.encode() + b"{")
        lines.append(line)
        await asyncio.sleep(0)
    return lines


async def plays(rig: Rig) -> None:
    """The guest's programs have all they need."""
    async with (
        connect(rig.daemon.config.runtime / "alice" / "native", name="test") as bus,
        bus.play(guest="alice", rate=44_100) as playing,
    ):
        assert playing.id in rig.daemon.worker.guest("alice").graph.streams


async def send(rig: Rig, data: bytes) -> socket.socket:
    """A native connection of a program that sends this, as far as it is read."""
    sock, loop = socket.socket(socket.AF_UNIX), asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_connect(sock, str(rig.daemon.config.runtime / "alice" / "native"))
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(sock, data)
    return sock


def test_token_that_withholds_its_requests_keeps_nobody_else_from_a_guest(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        budget, refusals = alice.graph.budget, alice.graph.budget.refusals
        budget.limit = 16 * MIB
        sees, hears = await rig.token("sees", "see", ["alice"]), await rig.token("hears", "hear", ["alice"])
        lines = await withhold(rig, sees, 40)
        await eventually(lambda: budget.refusals >= refusals + 40 - budget.limit // 8 // EACH)
        assert budget.limit // 8 - EACH < budget._shared[REQUESTS] <= budget.limit // 8
        assert alice.admission.account({"itself": 10 * MIB}).held
        refused = [one for one in rig.daemon.worker.diagnosis.incidents if one.cause == "no memory"]
        assert {(one.evidence["for"], one.evidence["who"]) for one in refused} == {("request", "token/1")}
        lines += await withhold(rig, hears, 1)
        await eventually(lambda: budget._shared[REQUESTS] > budget.limit // 8)
        await plays(rig)
        await (await joined(rig, hears)).close()
        for line in lines:
            line.close()

    running(tmp_path, test)


def test_program_that_never_finishes_its_messages_keeps_nobody_else_from_its_guest(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        budget = alice.graph.budget
        budget.limit = 64 * MIB
        sockets = []
        for size, number in ((MIB, 60), (MIB // 32, 40), (1024, 40)):
            part = frame(NativeHello(1, "p")) + HEADER.pack(size, 2, 0, 0) + bytes(size // 2)
            sockets += [await send(rig, part) for _ in range(number)]
        await eventually(lambda: budget.refusals >= 50)
        assert 6 * MIB < max(budget._whose[REQUESTS].values()) <= 8 * MIB
        await plays(rig)
        # Another program of the guest has room for a message in two parts.
        path, hello = rig.daemon.config.runtime / "alice" / "native", frame(NativeHello(1, "other" * 400))
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", IN_TWO_PARTS, path, hello.hex(), stdout=asyncio.subprocess.PIPE
        )
        assert b"version" in (await other.communicate())[0]
        await (await joined(rig, await rig.token("hears", "hear", ["alice"]))).close()
        for sock in sockets:
            sock.close()

    running(tmp_path, test)
