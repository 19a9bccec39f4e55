"""QEMU's end of a machine over D-Bus, and a daemon that it is attached to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np

from millrace.daemon.app import Daemon
from millrace.guest.guest import Guest
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine
from millrace.observe.objects import ScreenView
from millrace.observe.views import screen_view
from millrace.sim.qemu import ServerWire
from millrace.sim.qemuscreen import FakeConsole, Pixels
from millrace.wire.qemu.dbus import CALL, UNKNOWN_METHOD, Message
from millrace.wire.qemu.values import Reader, Writer
from tests.bus import daemon_in

UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(40):
        while not true():
            await asyncio.sleep(0.002)


def entries(**values: object) -> bytes:
    """An a{sv} of texts, numbers, truths and lists of numbers."""
    body = Writer()
    for name, value in values.items():
        body.align(8)
        body.text("s", name)
        if isinstance(value, str):
            body.text("g", "s").text("s", value)
        elif isinstance(value, bool):
            body.text("g", "b").number("b", value)
        elif isinstance(value, int):
            body.text("g", "u").number("u", value)
        else:
            assert isinstance(value, list)
            body.text("g", "au").number("u", 4 * len(value))
            for number in value:
                body.number("u", number)
    return Writer().number("u", len(body.bytes())).number("u", 0).bytes() + body.bytes()


class Vm:
    """QEMU's end of the first connection, and of what is registered over it."""

    def __init__(self, sound: bool = True, consoles: dict[int, str] | None = None, refuse: str = "") -> None:
        self.sound, self.refuse = sound, refuse
        self.consoles = {0: "Graphic"} if consoles is None else consoles
        self.absolute = True
        self.size: dict[str, int] = {}
        """Width and Height of its consoles, if it names them."""
        self.ids: list[int] = []
        """The numbers that it lists, if not those of its consoles."""
        self.wire, self.input = ServerWire(), list[tuple[str, list[Any]]]()
        self.screens: dict[int, FakeConsole] = {}
        self.sockets: list[socket.socket] = []
        self._fds: list[int] = []
        self._listeners: list[int] = []
        """Connections for sound, which stays silent."""
        self._sent: dict[int, socket.socket] = {}
        self._unsent: dict[int, bytearray] = {}

    def serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sockets.append(sock)
        asyncio.get_running_loop().add_reader(sock, self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            data, fds, _, _ = socket.recv_fds(sock, 65_536, 4)
            if not data:
                asyncio.get_running_loop().remove_reader(sock)
            self._fds += fds
            self.wire.receive(data, 0)
        for message in self.wire.events():
            if message.kind == CALL:
                self._called(message)
        self._flush(sock)

    def _flush(self, sock: socket.socket) -> None:
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(b"".join(bytes(chunk.data) for chunk in self.wire.data_to_send()))

    def _called(self, message: Message) -> None:
        if message.member == "GetAll":
            self._describe(message)
        elif message.member == "RegisterListener":
            self._register(message, int(message.path.rpartition("_")[2]))
        elif message.interface.endswith(".Clipboard"):
            self.wire.send_error(message, UNKNOWN, "no such object")
        elif message.member.startswith("Register"):
            fd = self._fds.pop(0)
            if self.sound:
                self._listeners.append(fd)
                self.wire.send_reply(message)
            else:
                os.close(fd)
                self.wire.send_error(message, UNKNOWN, "no such object")
        else:
            self.input.append((message.member, Reader(message.body).values(message.signature)))
            self.wire.send_reply(message)

    def _describe(self, message: Message) -> None:
        (interface,) = message.values()
        if interface.endswith(".VM"):
            found = entries(Name="vm", ConsoleIDs=self.ids or list(self.consoles))
        elif interface.endswith(".Console"):
            number = int(message.path.rpartition("_")[2])
            found = entries(Label="VGA", Head=number, Type=self.consoles[number], **self.size)
        elif interface.endswith(".Keyboard"):
            found = entries(Modifiers=2)
        else:
            found = entries(IsAbsolute=self.absolute)
        self.wire.send_reply(message, "a{sv}", found)

    def _register(self, message: Message, number: int) -> None:
        sock = socket.socket(fileno=self._fds.pop(0))
        if self.refuse:
            sock.close()
            self.wire.send_error(message, UNKNOWN_METHOD, self.refuse)
            return
        self.wire.send_reply(message)
        sock.setblocking(False)
        self.sockets.append(sock)
        self._sent[number], self._unsent[number], self.screens[number] = sock, bytearray(), FakeConsole()
        asyncio.get_running_loop().add_reader(sock, self.step, number)

    def step(self, number: int) -> None:
        """Pass on what the listener of a console and QEMU have to say to each other."""
        sock, screen = self._sent[number], self.screens[number]
        data = b""
        with contextlib.suppress(OSError):
            data = sock.recv(65_536)
            if not data:
                asyncio.get_running_loop().remove_reader(sock)
        screen.receive(data)
        self._unsent[number] += screen.data_to_send()
        self._write(number)

    def _write(self, number: int) -> None:
        loop, sock, unsent = asyncio.get_running_loop(), self._sent[number], self._unsent[number]
        with contextlib.suppress(OSError):
            while unsent:
                del unsent[: sock.send(unsent)]
        if unsent:
            loop.add_writer(sock, self._write, number)
        else:
            loop.remove_writer(sock)

    def show(self, number: int, picture: Pixels) -> None:
        self.screens[number].scanout(picture)
        self.step(number)

    def changed(self, interface: str, console: int = 0, **properties: object) -> None:
        """Properties of a console have changed."""
        text = Writer().text("s", f"org.qemu.Display1.{interface}")
        found = entries(**properties)
        text.align(4)
        body = text.bytes()
        # `entries` is aligned to its own beginning, which has to be a multiple of 8.
        pad = bytes(-len(body) % 8)
        if pad:
            text.number("u", len(found) - 8)
            body = text.bytes() + found[8:]
        else:
            body += found
        body += Writer().number("u", 0).bytes()
        path = f"/org/qemu/Display1/Console_{console}"
        fields: dict[int, str | int] = {1: path, 2: "org.freedesktop.DBus.Properties", 3: "PropertiesChanged"}
        self.wire._send(4, 1, fields, "sa{sv}as", body)
        self._flush(self.sockets[0])

    def close(self) -> None:
        for sock in self.sockets:
            asyncio.get_running_loop().remove_reader(sock)
            asyncio.get_running_loop().remove_writer(sock)
            sock.close()
        for fd in (*self._fds, *self._listeners):
            os.close(fd)
        self._fds, self._listeners, self.sockets = [], [], []


class Hall:
    """A daemon with such a machine attached."""

    def __init__(self, daemon: Daemon, vm: Vm) -> None:
        self.daemon, self.vm = daemon, vm
        self.guest: Guest = daemon.worker.guest("alice")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        vm.serve(theirs)
        self.machine: AttachedMachine = daemon.worker.attach(self.guest, DoorSpec("p2p", "fd", connection=ours))

    def views(self) -> list[ScreenView]:
        return [screen_view(self.guest, one) for one in self.guest.screens]

    async def attached(self, screens: int = 1) -> None:
        await until(lambda: self.machine.state == "attached" and len(self.vm.screens) == screens)
        for number, screen in self.vm.screens.items():
            await until(lambda screen=screen: screen.properties is not None)
            self.vm.step(number)


@contextlib.asynccontextmanager
async def hall(folder: Path, vm: Vm) -> AsyncIterator[Hall]:
    async with daemon_in(folder) as daemon:
        one = Hall(daemon, vm)
        try:
            yield one
        finally:
            await one.machine.stop("the test ends")
            vm.close()


def noise(width: int, height: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
