"""Texts for a machine that does not read for a while: one is on its way, the newest waits, and the session goes on."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from millrace.doors.clipboard import ClipboardDoor
from millrace.graph.clipboard import Clipboard
from millrace.graph.seat import Watcher
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.qemu import QemuMachine
from millrace.guest.machines.spice import SpiceMachine
from millrace.io.fdstream import FdStream
from millrace.media.clip import ClipText
from millrace.sim.qemu import ServerWire
from millrace.wire.qemu.clipboard import INTERFACE, PATH
from millrace.wire.qemu.dbus import RETURN, Message
from millrace.wire.qemu.values import Writer
from millrace.wire.spice.channel import ChannelKind
from tests.fuzz import spiceserver
from tests.gops import WATCHER
from tests.scenario.qemuvm import Vm, hall, until
from tests.scenario.test_spice_machine import Attached
from tests.scenario.test_spice_machine import Server as SpiceServer
from tests.scenario.test_spice_machine import attached as spice_attached
from tests.scenario.test_typing_back_pressure import Deaf, attached, vnc_server
from tests.watch import words

SIZE = 1_000_000
HEAD = struct.pack(">Bxxxi", 6, SIZE)


class Copier:
    """A viewer that copies texts of a megabyte."""

    who: Watcher = WATCHER

    def __init__(self, clipboard: Clipboard) -> None:
        self.clipboard, self.mine = clipboard, words("")
        clipboard.join(self)

    def clip_changed(self) -> None: ...

    def clip_wanted(self) -> None:
        self.clipboard.answer(self, self.mine)

    def clip_supplied(self, text: ClipText) -> None: ...

    def clip_refused(self, why: str) -> None: ...

    def copy(self, letter: str) -> None:
        self.mine = words(letter * SIZE)
        self.clipboard.offer(self)


def test_newest_text_waits_while_a_vnc_server_does_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        server = Deaf(vnc_server(b"desktop"))
        async with attached(tmp_path, server, parse_door(f"vnc+unix://{tmp_path}/X0")) as (machine, _):
            guest = machine.guest
            held = guest.admission.budget.held
            clipboard = guest.screens.clipboard_of(machine.key)
            assert clipboard is not None
            copier = Copier(clipboard)
            for letter in "abcdef":
                copier.copy(letter)
                await until(lambda: not guest.turns.waiting)
                assert SIZE // 2 < guest.admission.budget.held - held < 3 * SIZE, "one waits, one is on its way"
            assert machine.state == "attached" and machine.sessions == 1
            server.reads.set()
            await until(lambda: server.got.count(b"f") >= SIZE)
            assert [server.got.count(HEAD + letter) for letter in (b"a", b"f")] == [1, 1]
            assert server.got.count(HEAD) == 2, "those between were replaced"
            await until(lambda: guest.admission.budget.held - held < SIZE // 10)
            assert machine.sessions == 1

    asyncio.run(main())


class DeafAgent(SpiceServer):
    """A SPICE server whose guest has an agent. It reads nothing on its main channel until it is told to."""

    def __init__(self) -> None:
        super().__init__((ChannelKind.DISPLAY,))
        self.reads = asyncio.Event()

    @property
    def got(self) -> bytearray:
        """What it has read of its main channel."""
        return self.heard.get(ChannelKind.MAIN, bytearray())

    def said(self, kind: int) -> list[bytes]:
        """See `Server`."""
        agent = [spiceserver.message(115, struct.pack("<I", 1 << 20)), agent_says(6, struct.pack("<II", 0, 1 << 5))]
        return [*super().said(kind), *(agent if kind == ChannelKind.MAIN else [])]

    async def hear(self, kind: int, reader: asyncio.StreamReader) -> None:
        """See `Server`."""
        if kind == ChannelKind.MAIN:
            await self.reads.wait()
        await super().hear(kind, reader)

    def paste(self) -> None:
        """A program of the guest asks for the text."""
        self.writers[ChannelKind.MAIN].write(agent_says(8, struct.pack("<I", 1)))


def agent_says(kind: int, body: bytes) -> bytes:
    """A message of the agent."""
    return spiceserver.message(109, struct.pack("<IIQI", 1, kind, 0, len(body)) + body)


def test_texts_wait_while_a_spice_server_does_not_read(tmp_path: Path) -> None:
    server = DeafAgent()

    async def test(one: Attached) -> None:
        guest, machine = one.guest, one.machine
        assert isinstance(machine, SpiceMachine)
        await one.until(lambda: guest.screens.clipboard_of(machine.key) and one.screen, "there is a clipboard")
        clipboard, held = guest.screens.clipboard_of(machine.key), guest.admission.budget.held
        (agent,) = [door._wire for door in machine.doors if isinstance(door, ClipboardDoor)]
        assert clipboard is not None
        guest.screens.seat.take(WATCHER)
        copier = Copier(clipboard)
        copier.copy("a")
        server.paste()
        await one.until(lambda: machine.connections[0].congested, "nobody reads")
        copier.copy("b")
        server.paste()
        await one.until(lambda: agent.giving.begun and not guest.turns.waiting, "a text waits, the first or the second")
        copier.copy("c")
        server.paste()
        assert guest.admission.budget.held - held < 5 * SIZE // 2
        server.reads.set()
        await one.until(lambda: all(server.got.count(one) >= SIZE for one in (b"a", b"c")), "they arrive")
        await one.until(lambda: not agent.giving.begun, "it is given")
        assert machine.sessions == 1

    spice_attached(tmp_path, server, test)


class Answered(ServerWire):
    """Keeps the answers to its calls."""

    def __init__(self, answers: list[Message]) -> None:
        super().__init__()
        self.answers = answers

    def take(self) -> Message | None:
        message = super().take()
        if message is not None and message.kind == RETURN:
            self.answers.append(message)
        return message


class ClipVm(Vm):
    """QEMU with a clipboard, which may leave unread what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.answers: list[Message] = []
        self.wire = Answered(self.answers)

    def _called(self, message: Message) -> None:
        if message.interface != INTERFACE:
            super()._called(message)
            return
        self.calls.append(message.member)
        self.wire.send_reply(message)

    def paste(self) -> None:
        """Ask for the text, and read nothing more until `read`."""
        mimes = Writer().text("s", "text/plain;charset=utf-8").bytes()
        body = Writer().number("u", 0).number("u", len(mimes)).bytes() + mimes
        self.wire.send_call(PATH, INTERFACE, "Request", "uas", body)
        asyncio.get_running_loop().remove_reader(self.sockets[0])
        self._flush(self.sockets[0])

    def read(self) -> None:
        asyncio.get_running_loop().add_reader(self.sockets[0], self._readable, self.sockets[0])


def test_qemu_is_given_the_rest_of_a_text_when_it_reads_on(tmp_path: Path) -> None:
    async def main() -> None:
        vm = ClipVm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            guest, key = one.guest, one.machine.key
            await until(lambda: guest.screens.clipboard_of(key))
            clipboard, held = guest.screens.clipboard_of(key), guest.admission.budget.held
            assert clipboard is not None
            guest.screens.seat.take(WATCHER)
            copier = Copier(clipboard)
            copier.copy("a")
            await until(lambda: "Grab" in vm.calls)
            vm.paste()
            stream = _stream_of(one.machine)
            await until(lambda: stream.congested and not guest.turns.waiting)
            assert SIZE < guest.admission.budget.held - held < SIZE * 5 // 4, "what is left waits where it was"
            vm.read()
            await until(lambda: vm.answers)
            assert vm.answers[0].values("say")[1] == b"a" * SIZE
            await until(lambda: guest.admission.budget.held - held < SIZE // 10)
            assert one.machine.sessions == 1

    asyncio.run(main())


def _stream_of(machine: AttachedMachine) -> FdStream:
    """The first connection of a QEMU machine."""
    assert isinstance(machine, QemuMachine)
    return machine._streams[0]
