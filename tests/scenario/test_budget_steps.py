"""A guest whose memory ends at one step or another: what was begun is released, whichever it is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from millrace.budget import PROGRAMS, Budget, Lack
from millrace.codec.parameters import CodecParameters
from millrace.errors import BudgetError
from millrace.guest.guest import Guest
from millrace.guest.machines import consoles, refit, spice
from millrace.guest.machines.address import parse_door
from millrace.sim.qemu import FakeQemu
from millrace.wire.peer.messages import FormatChanged, encode_message
from tests.bus import daemon_in
from tests.nativebus import eventually
from tests.scenario.qemuvm import Vm, hall, noise, until
from tests.scenario.tenants import Rig, joined, running
from tests.scenario.test_budget_daemon import of_guest
from tests.scenario.test_budget_viewers import Filmed, state
from tests.scenario.test_typing_back_pressure import SERVERS
from tests.scenario.watchers import watching

Use = Callable[[Rig, str], Awaitable[None]]
STEPS_MAX = 40
LOOK_S, SETTLE_S = 0.1, 0.05


def held(guest: Guest) -> dict[str, Any]:
    """What machines and their screens take."""
    return {
        "held": guest.graph.budget.held, "shares": guest.graph.budget.shares(), "screens": len(guest.screens),
        "machines": len(guest.machines), "streams": set(guest.graph.streams), "taps": set(guest.graph.taps),
    }  # fmt: skip


async def views(rig: Rig, secret: str) -> None:
    one = await watching(rig, secret, keyboard=True, codecs=["avc1"])
    async with asyncio.timeout(LOOK_S):
        await one.goes_on()


async def looks_at_wall(rig: Rig, secret: str) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    line = await rig.http.ws_connect(f"http://{rig.daemon.serving.address}/api/v1/thumbnails", headers=headers)
    await line.send_str(json.dumps({"show": ["alice"]}))
    await line.receive(timeout=LOOK_S)


async def hears_and_speaks(rig: Rig, secret: str) -> None:
    line = await joined(rig, secret, microphone=True)
    await line.send_str(encode_message(FormatChanged(CodecParameters(1, "opus", 48_000, ["mono"]))))
    await asyncio.sleep(LOOK_S)


async def plays_and_records(rig: Rig, secret: str) -> None:
    async with of_guest(rig) as bus, bus.play(guest="alice", rate=44_100), bus.record("sink/default", guest="alice"):
        pass


class Refusing:
    """A budget that has no room at one step, counted from `begin`."""

    def __init__(self, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused, self._left, self._demanded = False, 0, budget._demanded
        monkeypatch.setattr(budget, "_demanded", self)

    def begin(self, step: int) -> None:
        self.refused, self._left = False, step

    def __call__(self, more: int, reach: float, part: float = 1.0, who: str = "", always: bool = False) -> Lack | None:
        self._left -= more > 0
        if more > 0 and self._left == 0:
            self.refused = True
            return Lack("", 0, 0)
        return self._demanded(more, reach, part, who, always)


@pytest.mark.parametrize(
    "use", [views, looks_at_wall, hears_and_speaks, plays_and_records], ids=lambda use: use.__name__
)
def test_nothing_is_left_at_whatever_step_there_is_no_room(
    use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        secret = await rig.token("a", "hear,speak,type,clipboard", ["alice"])
        film = asyncio.create_task(Filmed(rig, "alice").film())
        before, budget = state(alice), Refusing(alice.graph.budget, monkeypatch)
        for step in range(1, STEPS_MAX):
            budget.begin(step)
            with suppress(BudgetError, TimeoutError, aiohttp.WSServerHandshakeError):
                async with aiohttp.ClientSession() as http:
                    await use(Rig(rig.daemon, http), secret)
            refused = budget.refused
            await eventually(lambda: state(alice) == before)
            if not refused:
                break
        film.cancel()
        assert step >= 4

    running(tmp_path, test)


@pytest.mark.parametrize("kind", SERVERS)
def test_machine_leaves_nothing_at_whatever_step_there_is_no_room(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spice, "AGAIN_FIRST_S", 0.1)
    monkeypatch.setattr(refit, "AGAIN_S", 0.1)
    door, make, _, _ = SERVERS[kind]
    spec = parse_door(door.format(tmp_path / "X0"))

    async def main() -> None:
        server = make()
        server.reads.set()
        async with daemon_in(tmp_path) as daemon, await asyncio.start_unix_server(server.serve, spec.address):
            alice = daemon.worker.guest("alice")
            before, budget = held(alice), Refusing(alice.graph.budget, monkeypatch)
            for step in range(1, STEPS_MAX):
                budget.begin(step)
                machine = daemon.worker.attach(alice, spec)
                await until(lambda one=machine: one.error or (alice.screens.first and server.linked(one)))
                await asyncio.sleep(SETTLE_S)
                # What is attached without a part of it gets that part soon.
                await until(lambda one=machine: "no room" not in one.hint() and (one.error or alice.screens.first))
                refused = budget.refused
                await machine.stop("the test ends")
                await until(lambda: held(alice) == before)
                if not refused:
                    break
            assert step >= 4

    asyncio.run(main())


@pytest.mark.parametrize("step", [4, 5])
def test_console_of_a_qemu_that_had_no_room_is_shown_soon(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "AGAIN_FIRST_S", 0.1)

    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            budget = Refusing(one.guest.graph.budget, monkeypatch)
            budget.begin(step)
            async with asyncio.timeout(20):
                while not (budget.refused and one.views() and one.views()[0].width == 640):
                    if vm.screens:
                        vm.show(0, noise(640, 480))
                    await asyncio.sleep(0.05)
            assert one.machine.sessions == 1 and "no room" not in one.machine.hint()

    asyncio.run(main())


def test_sound_of_a_qemu_that_had_no_room_is_heard_soon_in_the_same_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "AGAIN_S", 0.02)

    async def main() -> None:
        vm = Vm()
        async with hall(tmp_path, vm) as one:
            await one.attached()
            await until(lambda: len(vm._listeners) == 2)
            card, line = FakeQemu("Out"), socket.socket(fileno=os.dup(vm._listeners[0]))
            line.setblocking(False)

            def said(told: Callable[[], object]) -> object:
                line.send(card.data_to_send())
                with suppress(BlockingIOError):
                    card.receive(line.recv(65_536))
                return told()

            vm.show(0, noise(64, 48))
            await until(lambda: said(lambda: card.properties) and one.views()[0].width == 64)
            budget = one.guest.admission.budget
            other = budget.open("other", {"all": int(budget.limit * PROGRAMS) - budget.held - 10_000})
            card.init()
            await until(lambda: said(lambda: "no room for its sound" in one.machine.hint()))
            await asyncio.sleep(SETTLE_S)
            assert one.machine.sessions == 1 and one.views() and not one.machine.streams()
            other.close()
            await until(lambda: one.machine.streams() and not one.machine.hint())
            assert one.machine.sessions == 1
            line.close()

    asyncio.run(main())
