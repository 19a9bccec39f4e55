"""Real VNC servers that turn viewers away (TigerVNC): the door leaves them to the people who use them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.io.crypto import vnc_answer
from millrace.pixels.rects import Point
from tests.bus import daemon_in
from tests.ports import free_port

from .conftest import need
from .watched import Watched
from .xserver import XServer

pytestmark = [pytest.mark.real, pytest.mark.beside]


@contextmanager
def xtigervnc(folder: Path, *args: str) -> Iterator[int]:
    """A server on a port of this host."""
    need("Xtigervnc")
    port = free_port()
    x = XServer(folder, "Xtigervnc", "{}", "-geometry", "640x480", "-localhost", "-rfbport", str(port), *args)
    try:
        yield port
    finally:
        x.close()


def viewer(port: int, password: str = "", shared: bool = False) -> socket.socket:
    """Somebody who looks at the screen, alone unless `shared`; ConnectionError: why the server does not let us in."""
    line = socket.create_connection(("127.0.0.1", port), 10)
    version = line.recv(12)
    line.sendall(b"RFB 003.008\n")
    if version == b"RFB 003.003\n":
        raise ConnectionError(line.recv(1000)[8:].decode())
    kinds = line.recv(line.recv(1)[0])
    kind = 2 if password else 1
    assert kind in kinds
    line.sendall(bytes((kind,)))
    if password:
        line.sendall(vnc_answer(line.recv(16), password))
    if line.recv(4) != bytes(4):
        raise ConnectionError(line.recv(1000)[4:].decode())
    line.sendall(bytes((shared,)))
    assert len(line.recv(24)) == 24
    return line


def is_open(line: socket.socket) -> bool:
    """Whether the server has not closed it; what it has sent is dropped."""
    line.setblocking(False)
    try:
        while line.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def becomes(door: AttachedMachine, state: str, *words: str) -> None:
    async with asyncio.timeout(20):
        while door.state != state or not all(word in door.error for word in words):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("points", [False, True])
def test_server_that_grants_one_viewer_its_screen_is_left_to_that_one(tmp_path: Path, points: bool) -> None:
    async def test(port: int) -> None:
        async with daemon_in(tmp_path) as daemon:
            guest, spec = daemon.worker.guests["alice"], parse_door(f"vnc://127.0.0.1:{port}")
            door = daemon.worker.attach(guest, spec)
            assert isinstance(door, AttachedMachine)
            await becomes(door, "attached")
            if points:
                # What it has not read when it closes may make a reset of the close.
                listed = guest.screens.first
                assert listed is not None
                reader = Watched(daemon, listed.screen).reader
                for n in range(200):
                    reader.pointer(Point(n, n), 0, False)
            person = await asyncio.to_thread(viewer, port)
            await becomes(door, "displaced", "still answers", "retrying after 2 s")
            # It might have been a server that lets both in.
            await becomes(door, "attached")
            await asyncio.sleep(0.5)
            assert not is_open(person)
            person = await asyncio.to_thread(viewer, port)
            await becomes(door, "displaced", "still answers", "retrying after 30 s")
            await asyncio.sleep(1.5)
            assert is_open(person) and door.state == "displaced" and door.sessions == 2
            daemon.worker.attach(guest, spec)
            await becomes(door, "attached")
            await asyncio.sleep(0.5)
            assert not is_open(person), "who attaches again has the screen"
            person = await asyncio.to_thread(viewer, port)
            await becomes(door, "displaced", "retrying after 120 s")
            assert is_open(person)

    with xtigervnc(tmp_path, "-SecurityTypes", "None", "-NeverShared") as port:
        asyncio.run(test(port))


def test_viewer_that_does_not_share_is_joined_where_the_server_lets_both_in(tmp_path: Path) -> None:
    """Xtigervnc as it is without options, and `vncviewer` as it is."""

    async def test(port: int) -> None:
        async with daemon_in(tmp_path) as daemon:
            door = daemon.worker.attach(daemon.worker.guests["alice"], parse_door(f"vnc://127.0.0.1:{port}"))
            assert isinstance(door, AttachedMachine)
            await becomes(door, "attached")
            other = await asyncio.to_thread(viewer, port, shared=True)
            await asyncio.sleep(0.5)
            assert is_open(other) and door.state == "attached", "who shares disturbs nobody"
            person = await asyncio.to_thread(viewer, port)
            await becomes(door, "displaced", "still answers", "retrying after 2 s")
            await becomes(door, "attached")
            await asyncio.sleep(0.5)
            assert is_open(person) and door.state == "attached" and door.sessions == 2 and not is_open(other)

    with xtigervnc(tmp_path, "-SecurityTypes", "None") as port:
        asyncio.run(test(port))


def test_server_that_ends_is_looked_for(tmp_path: Path) -> None:
    async def test(door_text: str, server: XServer) -> None:
        async with daemon_in(tmp_path) as daemon:
            door = daemon.worker.attach(daemon.worker.guests["alice"], parse_door(door_text))
            assert isinstance(door, AttachedMachine)
            await becomes(door, "attached")
            server.processes[0].terminate()
            await becomes(door, "waiting", "nothing at")

    need("Xtigervnc")
    port = str(free_port())
    x = XServer(tmp_path, "Xtigervnc", "{}", "-SecurityTypes", "None", "-localhost", "-rfbport", port)
    try:
        asyncio.run(test(f"vnc://127.0.0.1:{port}", x))
    finally:
        x.close()


def secrets(folder: Path) -> None:
    """The server's password file, and a door's with another password."""
    need("tigervncpasswd")
    secret = subprocess.run(["tigervncpasswd", "-f"], input=b"geheim\n", capture_output=True, check=True).stdout
    (folder / "passwd").write_bytes(secret)
    (folder / "own").write_text("wrong\n")
    (folder / "own").chmod(0o600)


def test_wrong_password_locks_nobody_out(tmp_path: Path) -> None:
    """TigerVNC refuses everybody of a host of which five logins failed, without asking for the password."""
    secrets(tmp_path)

    async def test(port: int) -> None:
        async with daemon_in(tmp_path) as daemon:
            guest = daemon.worker.guests["alice"]
            spec = replace(parse_door(f"vnc://127.0.0.1:{port}"), password_file=str(tmp_path / "own"))
            door = daemon.worker.attach(guest, spec)
            assert isinstance(door, AttachedMachine)
            await becomes(door, "waiting", "rejected the password", "retrying after 30 s")
            await asyncio.sleep(2.5)
            # Of the five logins Millrace has taken one, and no more.
            for _ in range(4):
                with pytest.raises(ConnectionError, match="Authentication fail"):
                    await asyncio.to_thread(viewer, port, "nonsense")
            with pytest.raises(ConnectionError, match="Too many"):
                await asyncio.to_thread(viewer, port, "geheim")
            daemon.worker.attach(guest, spec)
            await becomes(door, "waiting", "the VNC server refused: Too many security failures", "retrying after 30 s")

    options = ("-SecurityTypes", "VncAuth", "-PasswordFile", f"{tmp_path}/passwd", "-BlacklistTimeout", "60")
    with xtigervnc(tmp_path, *options) as port:
        asyncio.run(test(port))


def test_new_password_is_tried_at_once(tmp_path: Path) -> None:
    secrets(tmp_path)

    async def test(port: int) -> None:
        async with daemon_in(tmp_path) as daemon:
            spec = replace(parse_door(f"vnc://127.0.0.1:{port}"), password_file=str(tmp_path / "own"))
            door = daemon.worker.attach(daemon.worker.guests["alice"], spec)
            assert isinstance(door, AttachedMachine)
            await becomes(door, "waiting", "retrying after 30 s")
            (tmp_path / "own").write_text("geheim\n")
            async with asyncio.timeout(10):
                await becomes(door, "attached")

    with xtigervnc(tmp_path, "-SecurityTypes", "VncAuth", "-PasswordFile", f"{tmp_path}/passwd") as port:
        asyncio.run(test(port))
