"""A machine over D-Bus from its first answer to its end: sound, screens and input, each without the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.daemon.app import Daemon
from millrace.graph.seat import Watcher
from millrace.guest.guest import Guest
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.consoles import Consoles, Later
from millrace.guest.machines.qemu import QemuMachine
from millrace.io.settled import Settled
from millrace.io.turns import Turns
from millrace.observe.objects import ScreenView
from millrace.observe.views import screen_view
from millrace.pixels.rects import Point, Size
from millrace.rights.model import OWNER
from millrace.sim.qemu import ServerWire
from millrace.sim.qemuscreen import RGB565, FakeConsole, Pixels
from millrace.wire.qemu.dbus import CALL, UNKNOWN_METHOD, Message
from millrace.wire.qemu.display import ScreenPeer
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
            await one.machine.stop()
            vm.close()


def noise(width: int, height: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


def test_screen_of_a_machine_is_shown_and_takes_input(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            (view,) = one.views()
            assert (view.name, view.door, view.state, view.width) == ("VGA", one.machine.key, "blank", 0)
            screen = next(iter(one.guest.screens)).screen
            who = Watcher("viewer/1", OWNER)
            reader = screen.read(who)
            vm.show(0, noise(640, 480))
            await until(lambda: screen.memory is not None)
            assert screen.memory is not None and (screen.memory.picture == noise(640, 480)).all()
            one.guest.screens.seat.take(who)
            (view,) = one.views()
            assert (view.width, view.height, view.state, view.keyboard) == (
                640, 480, "running", "viewer/1",
            )  # fmt: skip
            reader.key(0x1E, True)
            reader.pointer(Point(3, 4), 1, False)
            reader.wish_size(Size(800, 600))
            await until(lambda: len(vm.input) == 4)
            assert vm.input[:3] == [("Press", [0x1E]), ("SetAbsPosition", [3, 4]), ("Press", [0])]
            vm.changed("Mouse", IsAbsolute=False)
            await until(lambda: screen.relative)
            reader.pointer(Point(-1, 2), 1, True)
            await until(lambda: len(vm.input) == 5)
            assert vm.input[4] == ("RelMotion", [-1, 2])
            await one.machine.stop()
            assert not one.guest.screens.first
            await until(lambda: len(vm.input) == 7)
            assert vm.input[5:] == [("Release", [0x1E]), ("Release", [0])], "nothing stays pressed"
            reader.end()

    asyncio.run(main())


def test_small_updates_in_one_burst_are_one_picture(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            picture = noise(720, 400)
            vm.show(0, picture)
            screen = next(iter(one.guest.screens)).screen
            await until(lambda: screen.serial == 2)
            for n in range(200):
                at = n % 25 * 16
                vm.screens[0].update(9 * (n // 25), at, picture[at : at + 16, :9])
            vm.step(0)
            await until(lambda: screen.serial > 2)
            await asyncio.sleep(0.05)
            assert screen.serial < 100, "a burst is cut by time, but not at each call"

    asyncio.run(main())


def test_mode_that_only_lines_and_properties_tell_of_is_shown_whole(tmp_path: Path) -> None:
    """QEMU 7.2 says the size of a picture only with a whole one, and after a change of mode may send lines."""

    async def main() -> None:
        vm = Vm()
        vm.size = {"Width": 640, "Height": 480}
        async with hall(tmp_path, vm) as one:
            await one.attached()
            screen = next(iter(one.guest.screens)).screen
            for size, first in (((720, 400), True), ((640, 480), False), ((320, 200), True), ((800, 600), False)):
                picture = noise(*size)
                if first:
                    vm.changed("Console", Width=size[0], Height=size[1])
                if screen.memory is None:
                    vm.show(0, noise(640, 480))
                    await until(lambda: screen.memory is not None)
                for y in range(0, size[1], 16):
                    vm.screens[0].update(0, y, picture[y : y + 16])
                vm.step(0)
                if not first:
                    vm.changed("Console", Width=size[0], Height=size[1])
                await until(lambda size=size: screen.memory and screen.memory.picture.shape[1::-1] == size)
                await until(lambda picture=picture: (screen.memory.picture == picture).all())  # type: ignore[union-attr]

    asyncio.run(main())


def test_flood_of_calls_is_taken_in_the_guests_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a turn is over, one call is taken and the loop goes on, whatever has been received."""
    taken = 0
    take = ScreenPeer.take

    def counted(peer: ScreenPeer) -> object:
        nonlocal taken
        taken += 1
        return take(peer)

    monkeypatch.setattr(ScreenPeer, "take", counted)
    monkeypatch.setattr(Turns, "over", lambda turns: True)

    async def main() -> None:
        nonlocal taken
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            vm.show(0, noise(64, 48))
            screen = next(iter(one.guest.screens)).screen
            await until(lambda: screen.memory is not None)
            for n in range(300):
                vm.screens[0].mouse(n, n, True)
            vm.step(0)
            taken, most, passes = 0, 0, 0
            while taken < 300:
                before = taken
                await asyncio.sleep(0)
                most, passes = max(most, taken - before), passes + 1
                assert passes < 100_000
            assert most <= 2
            vm.changed("Console", Width=80, Height=60)
            await until(lambda: screen.memory is not None and screen.memory.mode.width == 80)

    asyncio.run(main())


def test_typed_text_arrives_whole_though_the_guest_takes_it_slowly(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            who = Watcher("viewer/1", OWNER)
            reader = next(iter(one.guest.screens)).screen.read(who)
            one.guest.screens.seat.take(who)
            text = [(0x10 + n % 20, down) for n in range(30) for down in (True, False)]
            for code, down in text:
                reader.key(code, down)
            await asyncio.sleep(0)
            assert len(vm.input) < 30, "not all at once"
            await until(lambda: len(vm.input) == len(text))
            assert vm.input == [("Press" if down else "Release", [code]) for code, down in text]
            for code, down in text:
                reader.key(code, down)
            await one.machine.stop()
            reader.end()

    asyncio.run(main())


def test_later_calls_once_though_it_is_begun_again_and_again() -> None:
    async def main() -> None:
        called: list[int] = []
        later = Later(lambda: called.append(1))
        for _ in range(200):
            later.begin(0.001)
        assert later.begun
        await until(lambda: called)
        await asyncio.sleep(0.01)
        assert called == [1] and not later.begun
        later.begin(0.001)
        later.close()
        await asyncio.sleep(0.01)
        assert called == [1]

    asyncio.run(main())


def test_machine_with_several_heads_has_a_screen_for_each_but_not_for_terminals(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm(consoles={0: "Graphic", 1: "Text", 2: "Graphic"})
        async with hall(tmp_path, vm) as one:
            await one.attached(2)
            assert [view.name for view in one.views()] == ["VGA", "VGA head 2"]

    asyncio.run(main())


def test_consoles_that_are_not_listed_are_not_remembered_and_none_is_shown_twice(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm(consoles={0: "Graphic", 3: "Graphic"})
        vm.ids = [0, 0, 3, 2**32 - 1, 3]
        async with hall(tmp_path, vm) as one:
            await one.attached(2)
            assert [view.name for view in one.views()] == ["VGA", "VGA head 3"]
            for n in range(1, 100):
                vm.changed("Mouse", n, IsAbsolute=False)
                vm.changed("Console", n, Width=n, Height=n)
                await asyncio.sleep(0)
            vm.changed("Mouse", IsAbsolute=False)
            screen = next(iter(one.guest.screens)).screen
            await until(lambda: screen.relative)
            assert isinstance(one.machine, QemuMachine) and one.machine._consoles is not None
            assert (set(one.machine._consoles._absolute), set(one.machine._consoles._sizes)) == ({0, 3}, {3})

    asyncio.run(main())


def test_machine_without_sound_has_its_screen_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm(sound=False)
        async with hall(tmp_path, vm) as one:
            await one.attached()
            assert "no sound on D-Bus" in one.machine.hint()
            vm.show(0, noise(64, 48))
            await until(lambda: one.views()[0].width == 64)

    asyncio.run(main())


def test_machine_without_screens_has_its_sound(tmp_path: Path) -> None:
    async def main() -> None:
        for consoles in ({}, {0: "Text"}):
            async with hall(tmp_path, Vm(consoles=consoles)) as one:
                await until(lambda one=one: one.machine.state == "attached")
                assert not one.views() and not one.machine.hint()

    asyncio.run(main())


def test_machine_with_neither_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        for vm in (Vm(sound=False, consoles={}), Vm(sound=False, consoles={0: "Text"}), Vm(sound=False, refuse="no")):
            async with hall(tmp_path, vm) as one:
                await until(lambda one=one: "no sound on D-Bus" in one.machine.error)
                assert not one.views()

    asyncio.run(main())


def test_refused_or_unreadable_screen_leaves_the_sound_and_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with hall(tmp_path, Vm(refuse="it is taken")) as one:
            await until(lambda: one.machine.hint())
            assert one.machine.state == "attached" and "it is taken" in one.machine.hint() and not one.views()
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            vm.screens[0].scanout(noise(8, 8), RGB565)
            vm.step(0)
            await until(lambda: "not supported" in one.machine.hint())
            vm.screens[0].call("Scanout", "s", Writer().text("s", "x"))
            vm.step(0)
            await until(lambda: not one.views())
            assert one.machine.state == "attached" and "unexpected arguments" in one.machine.hint()

    asyncio.run(main())


def test_screens_end_with_the_machine_and_free_what_they_held(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            before = one.guest.admission.budget.shares().get("screen", 0)
            await one.attached()
            reader = next(iter(one.guest.screens)).screen.read(Watcher("viewer/1", OWNER))
            vm.show(0, noise(640, 480))
            await until(lambda: one.views()[0].width)
            vm.close()
            await until(lambda: not one.views())
            assert reader.ended and one.guest.admission.budget.shares().get("screen", 0) == before == 0

    asyncio.run(main())


def test_settled_waits_for_a_pass_without_news_but_not_for_ever() -> None:
    async def main() -> None:
        told: list[int] = []
        settled = Settled(lambda: told.append(1))
        for _ in range(3):
            settled.came()
            await asyncio.sleep(0)
        assert not told
        for _ in range(3):
            await asyncio.sleep(0)
        assert told == [1]
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.05
        while loop.time() < end:
            settled.came()
            await asyncio.sleep(0)
        assert len(told) > 1, "what never pauses is told all the same"
        told.clear()
        settled.came()
        settled.close()
        await asyncio.sleep(0.01)
        assert not told

    asyncio.run(main())
    assert Consoles.__doc__
