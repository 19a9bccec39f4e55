"""A machine's session ends in order, whatever goes wrong then, and releases what is down at last."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from millrace.guest.machines.address import parse_door
from millrace.wire.peer.pictures import Key
from millrace.wire.qemu.client import DisplayClient
from millrace.wire.spice.inputs import SpiceInputs
from millrace.wire.vnc.keyboard import Keyboard as VncKeyboard
from millrace.wire.x11.keyboard import Keyboard as XKeyboard
from tests.gops import WATCHER
from tests.scenario.qemuvm import Vm, hall, until
from tests.scenario.test_typing_back_pressure import SERVERS, SIZE, Deaf, Typist, attached, vnc_server

A, B = 0x1E, 0x30
BROKEN: dict[str, tuple[type, str]] = {
    "x11": (XKeyboard, "_fake"), "vnc": (VncKeyboard, "strokes"), "spice": (SpiceInputs, "send_key"),
}  # fmt: skip
"""What makes the messages of keys, their releases too."""


def press(typist: Typist, code: int, down: bool = True) -> None:
    typist.hands.control(Key(code, down), WATCHER, typist.screen, SIZE)


def vnc_presses(got: bytes) -> int:
    """How many times A was pressed, without shift."""
    return got.count(struct.pack(">BBxxI", 4, 1, 0x61))


def breaks(*args: object) -> None:
    raise ValueError("a bug")


@pytest.mark.parametrize("kind", SERVERS)
def test_error_in_what_is_typed_ends_the_machine_s_session_and_not_the_viewer(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    door, make, keys, _ = SERVERS[kind]
    keys = vnc_presses if kind == "vnc" else keys

    async def main() -> None:
        server = make()
        server.reads.set()
        async with attached(tmp_path, server, parse_door(door.format(tmp_path / "X0"))) as (machine, typist):
            screens = machine.guest.screens
            press(typist, A)
            await until(lambda: keys(server.got))
            with monkeypatch.context() as broken:
                broken.setattr(*BROKEN[kind], breaks)
                for _ in range(2):
                    press(typist, B)
                await until(lambda: typist.screen.ended and not machine.doors)
                assert machine.sessions == 1 and machine.state == "waiting"
            told = [(one.subject, one.evidence["error"]) for one in typist.incidents if one.cause == "lost"]
            assert told == [(machine.key, "a bug")] and "session ended because of an internal error" in caplog.text
            assert "it takes nothing more from viewers" not in caplog.text, "that is of screens without a machine"
            # It is attached anew, and what is typed arrives.
            await until(lambda: machine.state == "attached" and screens.first and server.linked(machine))
            assert machine.sessions == 2 and screens.first is not None
            typist.screen = screens.first.screen
            before = keys(server.got)
            press(typist, A)
            await until(lambda: keys(server.got) > before)
            async with asyncio.timeout(10):
                await machine.stop("it was detached")
            assert not len(screens)

    asyncio.run(main())


def test_error_in_what_is_typed_closes_each_screen_of_a_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        vm = Vm(consoles={0: "Graphic", 1: "Graphic"})
        async with hall(tmp_path, vm) as one:
            await one.attached(screens=2)
            typist = Typist(one.daemon, one.guest, screen := next(iter(one.guest.screens)).screen)
            press(typist, A)
            monkeypatch.setattr(DisplayClient, "send_key", breaks)
            press(typist, B)
            await until(lambda: screen.ended and not one.machine.doors)
            assert not len(one.guest.screens) and one.machine not in one.guest.machines
            # No connection is left open.
            await until(lambda: all(sock.recv(1 << 16) == b"" for sock in vm.sockets))
            typist.hands.forget()
            typist.account.close()

    asyncio.run(main())


def last_keys(got: bytes) -> list[tuple[int, int]]:
    """What a VNC server was told last of A and B: whether each is down, and its symbol."""
    told = [struct.unpack_from(">BBxxI", got, at) for at in range(len(got) - 7)]
    return [(down, symbol) for kind, down, symbol in told if kind == 4 and down in (0, 1) and symbol in (0x61, 0x62)]


def test_vnc_server_has_read_what_releases_the_keys_when_it_is_left(tmp_path: Path) -> None:
    door, make, _, _ = SERVERS["vnc"]

    async def main() -> None:
        server = make()
        async with attached(tmp_path, server, parse_door(door.format(tmp_path / "X0"))) as (machine, typist):
            press(typist, A)
            stopping = asyncio.create_task(machine.stop("it was detached"))
            await until(lambda: typist.screen.ended)
            # Nobody types any more once that is released.
            press(typist, B)
            assert not stopping.done()
            server.reads.set()
            await stopping
            assert last_keys(server.got)[-2:] == [(1, 0x61), (0, 0x61)]

    asyncio.run(main())


def test_keys_that_a_killed_daemon_has_left_down_in_a_vnc_server_are_released_at_the_next_attach(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        server = Deaf(vnc_server(b"desktop"))
        server.reads.set()
        async with attached(tmp_path, server, parse_door(f"vnc+unix://{tmp_path}/X0")) as (machine, _):
            await until(lambda: last_keys(server.got) == [(0, 0x61), (0, 0x62)])
            await machine.stop("it was detached")

    asyncio.run(main())
