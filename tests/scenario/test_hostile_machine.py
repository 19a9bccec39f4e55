"""A machine whose server sends nonsense without end: its own guest waits, and the loop goes on for the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from millrace.budget import GUEST_BYTES_MIN, MACHINES
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.spice import SpiceMachine
from millrace.io import crypto
from millrace.io.client import GONE_S, UNREAD_MAX, ClientConnection
from millrace.io.listeners import Joining, Listeners
from millrace.wire.spice.channel import ChannelKind
from millrace.wire.spice.main import SpiceMain
from tests.bus import daemon_in
from tests.fuzz import seeds, vncserver
from tests.places import lack

AUDIO = [struct.pack(">BBH", 255, 1, operation) for operation in (1, 0)]
FILL = vncserver.rect(0, 0, 640, 480, 7, b"\x80abc")
FLOODS = {
    "bells": b"\2" * 65_536,
    "beginnings and ends": b"".join(AUDIO) * 8_192,
    "whole screens of 16 bytes": vncserver.update(*[FILL] * 4_096),
    "cursors": vncserver.update(*[vncserver.rect(0, 0, 9, 9, -239, bytes(9 * 9 * 4 + 18))] * 180),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_from_a_machine_is_processed_in_small_steps(tmp_path: Path, flood: str) -> None:
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
            # Thread CPU time between two rounds of the loop, which other load on this machine does not change.
            most, ends = 0.0, time.thread_time() + 1.0
            while time.thread_time() < ends:
                began = time.thread_time()
                await asyncio.sleep(0)
                most = max(most, time.thread_time() - began)
            return most

    assert asyncio.run(main()) < 0.1
    assert sent > 1_000_000


# -- memory ----------------------------------------------------------------------------------------

KEY = rsa.generate_private_key(65537, 1024).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
WELCOME = seeds.spice_reply(KEY) + bytes(4)
ROOM = 600_000
PINGS = struct.pack("<HI12x", 4, 12) * 4_096


async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Complete a SPICE server's link handshake on any channel."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        link = await reader.readexactly(42)
        writer.write(WELCOME + (b"".join(seeds.spice_main()[0]) if link[20] == ChannelKind.MAIN else b""))


async def unread_pongs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A SPICE server that pings without end and reads no answer."""
    await let_in(reader, writer)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(PINGS)
            await writer.drain()


async def half_a_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A SPICE server that starts a message of 1 MiB on each channel and never completes it."""
    await let_in(reader, writer)
    writer.write(struct.pack("<HI", 106, 1 << 20) + bytes((1 << 20) - 1))
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


def waiting_bytes(machines: list[SpiceMachine]) -> int:
    """The bytes held for machines: unread output, and incomplete input."""
    connections = [connection for machine in machines for connection in getattr(machine, "connections", ())]
    unread = [
        connection._transport.get_write_buffer_size() for connection in connections if connection._transport is not None
    ]
    return sum(unread) + sum(connection._core.partial_bytes for connection in connections)


@pytest.mark.parametrize("serve", [unread_pongs, half_a_message])
def test_unread_and_unfinished_messages_are_charged_to_the_guest(tmp_path: Path, serve: object) -> None:
    path = tmp_path / "spice"

    async def main() -> None:
        small = (GuestConfig("alice", memory=GUEST_BYTES_MIN),)
        async with await asyncio.start_unix_server(serve, path), daemon_in(tmp_path, guests=small) as daemon:  # type: ignore[arg-type]
            guest, machines = daemon.worker.guests["alice"], []
            budget, refused = guest.graph.budget, set[str]()
            budget.open("sample", {"data": int(budget.limit * MACHINES) - budget.held - ROOM}, MACHINES)
            for n in range(3):
                (tmp_path / f"door{n}").symlink_to(path)
                machines.append(
                    daemon.worker.attach(daemon.worker.guest("alice"), parse_door(f"spice+unix://{tmp_path}/door{n}"))
                )
            async with asyncio.timeout(30):
                while not refused:
                    await asyncio.sleep(0.01)
                    assert waiting_bytes(machines) <= budget.shares().get("connection", 0) + 65_536
                    refused |= {m.error for m in machines if "unread" in m.error or "no room for this" in m.error}
            for machine in machines:
                await machine.stop("the test ends")
            assert budget.shares().get("connection", 0) == 0

    asyncio.run(main())


def test_machine_that_does_not_read_is_told_apart_from_disconnection() -> None:
    connection = ClientConnection(SpiceMain("", lambda key, text: bytes(128), 0), lambda now: None, lambda why: None)
    assert connection.may_wait(UNREAD_MAX) and not connection.may_wait(UNREAD_MAX + 1)
    assert str(connection._why) == f"the other side leaves {UNREAD_MAX + 1} bytes unread"


# -- a host that is gone ---------------------------------------------------------------------------


def kept_alive(sock: socket.socket) -> list[int]:
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    idle, interval, count, unread = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return [idle + interval * count, unread // 1000]


def test_vanished_host_is_detected_on_both_sides() -> None:
    """A host that has lost power sends nothing more; without a timeout its door would stay attached for ever."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connection = ClientConnection(
                SpiceMain("", lambda key, text: bytes(128), 0), lambda now: None, lambda why: None
            )
            await connection.connect("127.0.0.1", server.getsockname()[1], "", None)
            assert connection._transport is not None
            assert kept_alive(connection._transport.get_extra_info("socket")) == [GONE_S, GONE_S]
            accepted, _ = server.accept()
            with accepted.dup() as same:
                joining = Joining(Listeners(), asyncio.Protocol, None)
                accepted.setblocking(False)
                await joining._join(accepted)
                assert kept_alive(same) == [300, 300]
            connection.close()

    asyncio.run(main())


# -- certificates ----------------------------------------------------------------------------------


def test_ca_certificates_are_read_once_and_outside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes 60 ms, and a missing machine is retried every second."""
    made: list[threading.Thread] = []
    real = crypto.client_tls

    def client_tls(ca_file: str) -> object:
        made.append(threading.current_thread())
        return real(ca_file)

    monkeypatch.setattr(crypto, "client_tls", client_tls)
    monkeypatch.setattr(crypto, "_trusting", {})

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        async with daemon_in(tmp_path) as daemon:
            doors = [
                daemon.worker.attach(daemon.worker.guest("alice"), parse_door(f"spice+tls://{host}:{port}"))
                for host in ("127.0.0.1", "127.0.0.2")
            ]
            while not all("nothing at" in door.error for door in doors):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)

    asyncio.run(main())
    assert 1 <= len(made) <= 2 and threading.main_thread() not in made


def test_changed_ca_certificates_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    bundle = crypto.ssl.get_default_verify_paths().cafile
    if bundle is None:
        lack("a file of authorities")
    whole = Path(bundle).read_text()
    path.write_text(whole)
    first = crypto.trusting(str(path))
    assert crypto.trusting(str(path)) is first and crypto.trusting("") is crypto.trusting("") is not first
    path.write_text(whole[: whole.index("-----END CERTIFICATE-----") + 26])
    assert len(crypto.trusting(str(path)).get_ca_certs()) == 1 < len(first.get_ca_certs())
