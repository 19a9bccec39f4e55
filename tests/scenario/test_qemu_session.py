"""A machine over D-Bus from its first answer to its end: sound, screens and input, each without the other."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.absent import nothing
from millrace.doors.inputroom import InputRoom
from millrace.graph.pictures import KeyPress
from millrace.graph.seat import Watcher
from millrace.guest.hands import Hands
from millrace.guest.machines import refit
from millrace.guest.machines.consoles import Shown
from millrace.guest.machines.qemu import QemuMachine
from millrace.io.later import Later
from millrace.io.turns import Turns
from millrace.pixels.rects import Point, Size
from millrace.rights.model import OWNER
from millrace.sim.qemuscreen import RGB565
from millrace.wire.peer.pictures import Text
from millrace.wire.qemu.display import ScreenPeer
from millrace.wire.qemu.values import Writer
from tests.scenario.qemuvm import Vm, hall, noise, until


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
            reader.key(KeyPress(0x1E, True))
            reader.pointer(Point(3, 4), 1, False)
            reader.wish_size(Size(800, 600))
            await until(lambda: len(vm.input) == 4)
            assert vm.input[:3] == [("Press", [0x1E]), ("SetAbsPosition", [3, 4]), ("Press", [0])]
            vm.changed("Mouse", IsAbsolute=False)
            await until(lambda: screen.relative)
            assert screen.lights.wrong(0x1E, 6) == [0x3A], "caps lock is off there"
            vm.changed("Keyboard", Modifiers=6)
            await until(lambda: screen.lights.wrong(0x1E, 2) == [0x3A])
            reader.pointer(Point(-1, 2), 1, True)
            await until(lambda: len(vm.input) == 5)
            assert vm.input[4] == ("RelMotion", [-1, 2])
            await one.machine.stop("the test ends")
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
            screen = next(iter(one.guest.screens)).screen
            one.guest.screens.seat.take(who)
            account = one.guest.admission.budget.open("viewer")
            hands = Hands(one.guest.turns, account)
            hands.control(Text("ab" * 15), who, screen, Size(1, 1))
            await asyncio.sleep(0)
            assert len(vm.input) < 30 and account.held, "not all at once"
            await until(lambda: len(vm.input) == 60)
            assert vm.input == [(call, [code]) for code in (0x1E, 0x30) for call in ("Press", "Release")] * 15
            assert not hands.waiting and not account.held
            hands.control(Text("ab" * 15), who, screen, Size(1, 1))
            await one.machine.stop("the test ends")
            hands.forget()
            assert not account.held
            account.close()

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


def test_machine_without_sound_is_lost_with_its_last_console(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm(sound=False, consoles={0: "Graphic", 2: "Graphic"})
        async with hall(tmp_path, vm) as one:
            await one.attached(2)
            vm._sent[0].shutdown(socket.SHUT_RDWR)
            await until(lambda: len(one.views()) == 1)
            last = next(iter(one.guest.screens)).screen
            vm.changed("Mouse", 2, IsAbsolute=False)
            await until(lambda: last.relative)
            assert one.machine.state == "attached"
            vm._sent[2].shutdown(socket.SHUT_RDWR)
            await until(lambda: not one.views())
            vm.changed("Mouse", 2, IsAbsolute=True)
            await until(lambda: "no sound on D-Bus" in one.machine.error)

    asyncio.run(main())


def test_console_that_is_shown_no_more_publishes_nothing() -> None:
    async def main() -> None:
        published = list[int]()
        door: Any = SimpleNamespace(
            publish=lambda: published.append(1), receive=lambda now_ns: None, settle_size=nothing, close=nothing,
            control=SimpleNamespace(room=InputRoom()), due=True, trouble="",
        )  # fmt: skip
        shown = Shown(door, nothing, nothing)
        shown.received()
        await until(lambda: published)
        shown.received()
        shown.close()
        await asyncio.sleep(0.05)
        assert published == [1]

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


def test_picture_that_had_no_room_is_asked_for_again_once_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.guest.machines.consoles.AGAIN_FIRST_S", 0.1)
    monkeypatch.setattr(refit, "AGAIN_S", 0.05)

    async def main() -> None:
        # Without sound the session has nothing but this console.
        vm = Vm(sound=False)
        async with hall(tmp_path, vm) as one:
            await one.attached()
            budget, first = one.guest.graph.budget, vm.screens[0]
            assert isinstance(one.machine, QemuMachine)
            connections = len(one.machine._streams)
            # Room for it when it is sent, and none to show it besides.
            limit, budget.limit = budget.limit, budget.held + 2_000_000
            vm.show(0, noise(640, 480))
            await until(lambda: "no room for its 640 × 480" in one.machine.hint())
            refusals = budget.refusals
            await asyncio.sleep(0.2)
            assert vm.screens[0] is first and budget.refusals == refusals, "nothing is tried as long as there is none"
            budget.limit = limit
            await until(lambda: not one.views())
            vm.changed("Mouse", IsAbsolute=False)
            await until(lambda: vm.screens[0] is not first)
            vm.show(0, noise(640, 480))
            await until(lambda: one.views() and one.views()[0].width == 640)
            assert "no room" not in one.machine.hint() and one.machine.sessions == 1
            assert len(one.machine._streams) == connections, "the one before is kept no longer"

    asyncio.run(main())


def test_what_a_lost_console_had_not_read_is_charged_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            assert isinstance(one.machine, QemuMachine)
            budget = one.guest.graph.budget
            before = budget.shares()["connection"]
            asyncio.get_running_loop().remove_reader(vm._sent[0])
            one.machine._streams[-1]._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            for n in range(500):
                vm.screens[0].mouse(n, n, True)
            vm._unsent[0] += vm.screens[0].data_to_send()
            vm._write(0)
            await until(lambda: budget.shares()["connection"] > before)
            vm._sent[0].shutdown(socket.SHUT_RDWR)
            await until(lambda: not one.views())
            assert budget.shares()["connection"] == before

    asyncio.run(main())


def test_what_a_lost_console_had_sent_in_part_is_charged_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            budget = one.guest.graph.budget
            before = budget.shares()["connection"]
            vm.screens[0].scanout(noise(640, 480))
            line, part = vm._sent[0], vm.screens[0].data_to_send()[:500_000]
            line.setblocking(True)
            await asyncio.to_thread(line.sendall, part)
            await until(lambda: budget.shares()["connection"] >= before + len(part))
            line.shutdown(socket.SHUT_RDWR)
            await until(lambda: not one.views())
            assert budget.shares()["connection"] == before

    asyncio.run(main())
