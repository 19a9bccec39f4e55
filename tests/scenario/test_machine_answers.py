"""Machines at odd moments: a guest without memory for another one, and a QEMU that answers before it has read."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.budget import GUEST_BYTES_MIN, MACHINES
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import DoorSpec, parse_door
from millrace.guest.machines.attached import anywhere
from millrace.wire.qemu.dbus import _REPLY_TO, NO_REPLY, RETURN, DBusWire
from tests.bus import daemon_in

CALLS = 40
"""Calls made in one go, whose answers are not read."""


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("door", ["spice+unix://{}", "vnc+unix://{}", "qmp:{}"])
def test_machine_beyond_budget_is_retried_when_there_is_room(tmp_path: Path, door: str) -> None:
    async def main() -> None:
        small = (GuestConfig("alice", memory=GUEST_BYTES_MIN),)
        async with daemon_in(tmp_path, guests=small) as daemon:
            guest = daemon.worker.guest("alice")
            budget = guest.graph.budget
            held = budget.open("sample", {"data": int(budget.limit * MACHINES) - budget.held}, MACHINES)
            machine = daemon.worker.attach(guest, parse_door(door.format(tmp_path / "machine")))
            await until(lambda: machine.error)
            assert "memory" in machine.error or "room" in machine.error
            held.close()
            machine.retake(machine.spec, anywhere)
            assert machine.error == "", "attaching again does not report the previous error"
            await until(lambda: "No such file" in machine.error)
            await machine.stop("the test ends")
            assert not guest.machines

    asyncio.run(main())


def test_machines_that_share_a_bus_have_a_door_each(tmp_path: Path) -> None:
    async def main() -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guest("alice")
            specs = [parse_door(f"dbus:unix:path={tmp_path}/bus", vm=name) for name in ("linux", "win11")]
            first, second = (daemon.worker.attach(guest, spec) for spec in specs)
            assert first is not second and guest.machines == [first, second]
            assert daemon.worker.attach(guest, specs[0]) is first and len(guest.machines) == 2

    asyncio.run(main())


def reply(wire: DBusWire, serial: int) -> None:
    """Send an empty answer."""
    wire._send(RETURN, NO_REPLY, {_REPLY_TO: serial}, "a{sv}", bytes(8))


def test_descriptor_is_sent_with_its_message_despite_early_answer(tmp_path: Path) -> None:
    """What is finally sent must be our socket, and not another that has taken its number by then, such as another
    guest's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with daemon_in(tmp_path) as daemon:
            ours, qemu = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for sock in (ours, qemu):
                sock.setblocking(False)
            machine = daemon.worker.attach(daemon.worker.guest("alice"), DoorSpec("p2p", "fd", connection=ours))
            wire = DBusWire(os.getuid())
            wire.ready = True
            wire.data_to_send()
            await loop.sock_sendall(qemu, b"OK x\r\nAGREE_UNIX_FD\r\n")
            await until(lambda: machine._streams and machine._streams[0]._core._pending)  # type: ignore[attr-defined]
            line = machine._streams[0]  # type: ignore[attr-defined]
            while not line._writing:
                for _ in range(CALLS):
                    wire.send_call("/", "a.b", "C" * 100)
                await loop.sock_sendall(qemu, b"".join(bytes(chunk.data) for chunk in wire.data_to_send()))
                await asyncio.sleep(0.01)
            reply(wire, 1)
            await loop.sock_sendall(qemu, b"".join(bytes(chunk.data) for chunk in wire.data_to_send()))
            await until(lambda: [what for what, _ in line._core._pending.values()] == ["Out", "In"])
            for serial in list(line._core._pending):
                reply(wire, serial)
            await loop.sock_sendall(qemu, b"".join(bytes(chunk.data) for chunk in wire.data_to_send()))
            await until(lambda: machine.state == "attached")
            await until(lambda: not line._core._pending)
            others = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
            given: list[int] = []
            async with asyncio.timeout(20):
                while len(given) < 2:
                    await asyncio.sleep(0)
                    try:
                        given += socket.recv_fds(qemu, 65_536, 4)[1]
                    except BlockingIOError:
                        await asyncio.sleep(0.005)
            assert all(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in given)
            for fd in (*others, *given):
                os.close(fd)
            await machine.stop("the test ends")
            qemu.close()

    asyncio.run(main())


def test_connection_handed_over_is_no_earlier_one_that_had_its_number(tmp_path: Path) -> None:
    async def main() -> None:
        async with daemon_in(tmp_path) as daemon:
            alice = daemon.worker.guest("alice")
            before, qemu = socket.socketpair()
            ended = daemon.worker.attach(alice, DoorSpec("p2p", "fd 9", connection=before))
            qemu.close()
            # It has not noticed yet that it has ended.
            ours, qemu = socket.socketpair()
            machine = daemon.worker.attach(alice, DoorSpec("p2p", "fd 9", connection=ours))
            assert machine is not ended
            await until(lambda: alice.machines == [machine])
            qemu.close()

    asyncio.run(main())
