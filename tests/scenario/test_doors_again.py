"""SPICE and VNC servers that end a session: the reason is inferred from how it ended, and the door reconnects."""

from __future__ import annotations

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from millrace.daemon.app import Daemon
from millrace.doors.pushed import new_stream
from millrace.dsp.convert import SampleFormat
from millrace.errors import GraphError, RightsError
from millrace.guest.machines import hold, network, retries, vnc
from millrace.guest.machines import spice as attach_spice
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine
from millrace.io.crypto import vnc_answer
from millrace.media.format import AudioFormat
from millrace.rights.model import OWNER, Principal, parse_rights
from tests import bus

KEY = rsa.generate_private_key(65537, 1024)
MAIN, PLAYBACK, RECORD = 1, 5, 6


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all retry delays."""
    monkeypatch.setattr(retries, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(retries, "RETRY_MAX_S", 0.02)
    monkeypatch.setattr(network, "LOOK_S", 0.02)
    monkeypatch.setattr(vnc, "CLOSE_TOGETHER_S", 0.05)
    monkeypatch.setattr(attach_spice, "CLOSE_TOGETHER_S", 0.05)
    monkeypatch.setattr(hold, "HOLD_FIRST_S", 0.3)
    monkeypatch.setattr(hold, "SOON_S", 0.1)


class Connection:
    """One connection of a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def end(self, in_order: bool) -> None:
        if not in_order:
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()


class Server(ABC):
    """A server on a free port; each kind names its connections in its own way."""

    def __init__(self, password: str = "") -> None:
        self.password = password
        self.connections: dict[int, Connection] = {}
        self.logins = self.refused = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.end(True)
        await asyncio.sleep(0)

    def end(self, in_order: bool, *kinds: int) -> None:
        for kind in kinds or tuple(self.connections):
            self.connections.pop(kind).end(in_order)
        # The client closes the others itself, and what counts from now on are its new ones.
        self.connections.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(Connection(reader, writer))
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    @abstractmethod
    async def serve(self, connection: Connection) -> None: ...


class Spice(Server):
    """Accepts every client that has the ticket, and sends no sound."""

    async def serve(self, connection: Connection) -> None:
        size = struct.unpack("<12xI", await connection.reader.readexactly(16))[0]
        kind = (await connection.reader.readexactly(size))[4]
        public = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        body = struct.pack("<I", 0) + public + struct.pack("<IIII", 1, 0, 178, 0b1011)
        connection.writer.write(b"REDQ" + struct.pack("<III", 2, 2, len(body)) + body)
        ticket = (await connection.reader.readexactly(132))[4:]
        secret = KEY.decrypt(ticket, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
        if secret != self.password.encode() + b"\0":
            self.refused += 1
            connection.writer.write(struct.pack("<I", 7))
            connection.writer.close()
            return
        connection.writer.write(bytes(4))
        self.connections[kind] = connection
        if kind == MAIN:
            self.logins += 1
            connection.writer.write(struct.pack("<HI", 103, 32) + struct.pack("<8I", 77, *[0] * 7))
            await connection.reader.readexactly(6)
            channels = struct.pack("<IBBBB", 2, PLAYBACK, 0, RECORD, 0)
            connection.writer.write(struct.pack("<HI", 104, len(channels)) + channels)
        await connection.reader.read()


class Vnc(Server):
    """Has sound, requires a password if one is set, and supports viewers that request exclusive access."""

    exclusive = False
    name = b"QEMU (vm)"
    attempts = 0

    async def serve(self, connection: Connection) -> None:
        write, read = connection.writer.write, connection.reader.readexactly
        self.attempts += 1
        write(b"RFB 003.008\n")
        await read(12)
        write(b"\1\2" if self.password else b"\1\1")
        await read(1)
        if self.password:
            write(bytes(16))
            if await read(16) != vnc_answer(bytes(16), self.password):
                self.refused += 1
                write(struct.pack(">II", 1, 6) + b"failed")
                connection.writer.close()
                return
        write(bytes(4))
        await read(1)
        if self.exclusive:
            connection.writer.close()
            return
        write(struct.pack(">HH16xI", 640, 480, len(self.name)) + self.name)
        write(struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, 640, 480, -259))
        self.logins += 1
        self.connections[0] = connection
        await connection.reader.read()


Test = Callable[[Daemon, Server, DoorSpec], Awaitable[None]]


def running(folder: Path, server: Server, test: Test) -> None:
    async def main(daemon: Daemon) -> None:
        await server.start()
        kind = type(server).__name__.lower()
        spec = DoorSpec(kind, "", "127.0.0.1", server.port, password=server.password)
        try:
            await test(daemon, server, spec)
        finally:
            await server.stop()

    bus.running(folder, main)


async def becomes(door: AttachedMachine, state: str, *words: str) -> None:
    async with asyncio.timeout(5):
        while door.state != state or not all(word in door.error for word in words):
            await asyncio.sleep(0.005)


async def all_lines(server: Server) -> None:
    async with asyncio.timeout(5):
        while len(server.connections) < 3:
            await asyncio.sleep(0.005)


class Watch:
    """Records all states that a door goes through."""

    def __init__(self, daemon: Daemon) -> None:
        self.states: list[str] = []
        daemon.worker.guest("alice").observers.append(self)

    def door_changed(self, change: str, door: AttachedMachine) -> None:
        self.states.append(door.view().state)

    async def hears(self, state: str) -> None:
        """Wait for a state, which may last too short a time to be polled for."""
        async with asyncio.timeout(5):
            while state not in self.states:
                await asyncio.sleep(0.005)


def causes(daemon: Daemon) -> list[str]:
    return [f"{i.stage} {i.cause}" for i in daemon.worker.diagnosis.incidents]


async def became(daemon: Daemon, cause: str) -> None:
    async with asyncio.timeout(5):
        while cause not in causes(daemon):
            await asyncio.sleep(0.005)


def test_reset_spice_connections_are_reopened_immediately(tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        watch, door = Watch(daemon), daemon.worker.attach(daemon.worker.guests["alice"], spec)
        # All connections reset, one reset, or one closed while the others stay.
        for in_order, kinds in ((False, ()), (False, (PLAYBACK,)), (True, (RECORD,)), (False, (MAIN,))):
            logins = server.logins
            await becomes(door, "attached")
            await all_lines(server)
            watch.states.clear()
            server.end(in_order, *kinds)
            await watch.hears("waiting")
            await becomes(door, "attached")
            assert server.logins == logins + (2 if not logins else 1)
            assert "displaced" not in watch.states
        assert set(causes(daemon)) == {"machine lost"}

    running(tmp_path, Spice(), test)


def test_spice_server_that_closes_cleanly_is_retried_after_a_while(tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        door = daemon.worker.attach(daemon.worker.guests["alice"], spec)
        await becomes(door, "attached")
        await all_lines(server)
        for wait in ("0 s", "1 s"):
            server.end(True)
            await becomes(door, "displaced", "closed all channels at once", f"retrying after {wait}")
            assert server.logins == 1 + (wait == "1 s") and "machine displaced" in causes(daemon)
            await becomes(door, "attached")
            await all_lines(server)
        assert server.logins == 3

    running(tmp_path, Spice(), test)


def test_displaced_door_reattaches_on_request_or_with_new_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_FIRST_S", 1000.0)

    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        door = daemon.worker.attach(daemon.worker.guests["alice"], spec)
        await becomes(door, "attached")
        await all_lines(server)
        with pytest.raises(GraphError, match=r"already attached to guest"):
            daemon.worker.attach(daemon.worker.guests["alice"], spec)
        server.end(True)
        await becomes(door, "displaced")
        assert daemon.worker.attach(daemon.worker.guests["alice"], spec) is door
        await becomes(door, "attached")
        await all_lines(server)
        server.password = "another"
        server.end(True)
        await becomes(door, "displaced")
        assert daemon.worker.attach(daemon.worker.guests["alice"], replace(spec, password="another")) is door
        await becomes(door, "attached")
        await all_lines(server)
        server.end(True)
        await becomes(door, "displaced")
        assert daemon.worker.attach(daemon.worker.guests["alice"], replace(spec, password="")) is door
        await becomes(door, "attached")
        assert not server.refused, "without a new password the old one stays"
        await all_lines(server)
        server.end(True)
        await becomes(door, "displaced")
        await server.stop()
        await becomes(door, "waiting", "nothing at")
        await server.start()
        await becomes(door, "attached")

    running(tmp_path, Spice(), test)


@pytest.mark.parametrize("kind", [Spice, Vnc])
def test_password_file_is_read_on_each_attempt_and_reason_is_reported(kind: type[Server], tmp_path: Path) -> None:
    secret = tmp_path / "ticket"

    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        secret.touch(0o600)
        door = daemon.worker.attach(
            daemon.worker.guests["alice"], replace(spec, password="", password_file=str(secret))
        )
        await becomes(door, "waiting", "needs a password: --password-file")
        secret.write_text("wrong\n")
        await becomes(door, "waiting", "rejected the password", "is wrong, or has expired", str(secret))
        secret.write_text("first\n")
        await becomes(door, "attached")
        server.password = "second"
        server.end(False)
        await becomes(door, "waiting", "it was accepted before, so it has expired or been changed")
        secret.write_text("second\n")
        await becomes(door, "attached")
        secret.unlink()
        server.end(False)
        await becomes(door, "waiting", "No such file")

    running(tmp_path, kind("first"), test)


def test_explain_names_no_unknown_sender(tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        graph = daemon.worker.guest("alice").graph
        assert graph.default is not None
        stream = new_stream(graph, graph.default, "x", AudioFormat(SampleFormat.S16LE, 48_000, ("mono",)), {})
        told = await daemon.plane.commands.run(OWNER, "explain", {"target": stream.key})
        assert "unknown origin" in told.steps[0].text and "microphone" not in str(told)

    running(tmp_path, Vnc(), test)


def test_only_owner_may_name_password_files(tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        tenant = Principal("token/1", parse_rights("admin"), frozenset({"alice"}))
        asked: dict[str, Any] = {"guest": "alice", "door": spec.text, "password_file": str(tmp_path / "x")}
        with pytest.raises(RightsError):
            await daemon.plane.commands.run(tenant, "attach", asked)
        assert not daemon.worker.guest("alice").machines
        await daemon.plane.commands.run(OWNER, "attach", asked)
        await becomes(daemon.worker.guest("alice").machines[0], "waiting", "x: No such file")

    running(tmp_path, Vnc(), test)


def test_exclusive_vnc_viewer_is_reported_and_door_retries(tmp_path: Path) -> None:
    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        assert isinstance(server, Vnc)
        door = daemon.worker.attach(daemon.worker.guests["alice"], spec)
        await becomes(door, "attached")
        server.exclusive = True
        server.end(True)
        await becomes(door, "displaced", "exclusive access")
        assert sorted(causes(daemon)) == ["machine displaced", "machine lost"]
        server.exclusive = False
        await becomes(door, "attached")

    running(tmp_path, Vnc("geheim"), test)


class Tiger(Vnc):
    """Is not QEMU, and may have a tunnel before it that outlives it."""

    name = b"desk"
    tunnel = False

    async def serve(self, connection: Connection) -> None:
        if self.tunnel:
            connection.writer.close()
        else:
            await super().serve(connection)


@pytest.mark.parametrize("in_order", [True, False])
def test_vnc_server_that_grants_one_viewer_its_screen_is_left_to_the_other(tmp_path: Path, in_order: bool) -> None:
    """It closes the connection, in order or with something unread, and still answers (Xtigervnc -NeverShared)."""

    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        spec = replace(spec, kind="vnc")
        door = daemon.worker.attach(daemon.worker.guests["alice"], spec)
        await becomes(door, "attached")
        # Soon, as most servers then let both in; from then on ever later.
        for logins, wait in enumerate(("0 s", "0 s", "1 s"), 1):
            server.end(in_order)
            await becomes(door, "displaced", "still answers", f"retrying after {wait}", "-AlwaysShared")
            assert server.logins == logins and "machine displaced" in causes(daemon)
            await becomes(door, "attached")
        server.end(in_order)
        await becomes(door, "displaced", "retrying after 5 s")
        assert daemon.worker.attach(daemon.worker.guests["alice"], spec) is door
        await becomes(door, "attached")
        assert server.logins == 5

    running(tmp_path, Tiger(), test)


@pytest.mark.parametrize("ends", ["gone", "tunnel", "tunnel, reset"])
def test_vnc_server_that_is_lost_is_looked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(hold, "HOLD_FIRST_S", 1000.0)
    monkeypatch.setattr(vnc, "GREETS_S", 0.1)

    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        assert isinstance(server, Tiger)
        door = daemon.worker.attach(daemon.worker.guests["alice"], replace(spec, kind="vnc"))
        await becomes(door, "attached")
        server.tunnel = ends != "gone"
        if ends == "gone":
            await server.stop()
        else:
            server.end(ends == "tunnel")
        await became(daemon, "machine lost")
        server.tunnel = False
        if ends == "gone":
            await server.start()
        await becomes(door, "attached")
        assert causes(daemon) == ["machine lost"] and server.logins == 2

    running(tmp_path, Tiger(), test)


@pytest.mark.parametrize("given", ["wrong", ""])
def test_refused_vnc_login_is_not_repeated_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """A server that locks out whoever fails to log in (TigerVNC) would lock out everybody of this host."""
    monkeypatch.setattr(hold, "HOLD_FIRST_S", 1000.0)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(given)

    async def test(daemon: Daemon, server: Server, spec: DoorSpec) -> None:
        assert isinstance(server, Vnc)
        guest, spec = daemon.worker.guests["alice"], replace(spec, password="", password_file=str(secret))
        door = daemon.worker.attach(guest, spec)
        await becomes(door, "waiting", "password", "retrying after 1000 s, or at once if you attach again")
        await asyncio.sleep(0.2)
        assert server.attempts == 1
        assert daemon.worker.attach(guest, spec) is door
        async with asyncio.timeout(10):
            while server.attempts < 2:
                await asyncio.sleep(0.01)
        await becomes(door, "waiting", "retrying after 1000 s")
        secret.write_text("right\n")
        await becomes(door, "attached")
        assert server.attempts == 3

    running(tmp_path, Vnc("right"), test)
