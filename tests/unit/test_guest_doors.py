"""A guest's doors for programs: what the guest asks of each, and that it takes one more without a change."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import Raw
from msgspec.msgpack import decode, encode

from millrace.control import verbs
from millrace.doors.ingress import Program
from millrace.doors.programs import DoorState, FrozenDoor, ProgramDoor
from millrace.doors.pulse.loaded import Module
from millrace.errors import ConfigError, GraphError
from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids, Sink, Tap
from millrace.guest import guest as guest_module
from millrace.guest.config import GuestConfig
from millrace.guest.doors import Doors
from millrace.guest.guest import Common, Guest
from millrace.guest.pulse import PulseServer
from millrace.guest.state import FrozenGuest, read_guest
from millrace.io.clock import now_ns, worked_ns
from millrace.io.listeners import Listeners
from millrace.io.turns import with_pauses
from millrace.observe.views import guest_view
from millrace.remembered.memory import Memory
from millrace.rights.grants import Subject
from millrace.rights.prompts import Prompts
from millrace.sim.rig import Capture
from tests.bare import bare


class Reports:
    def report(self, symptom: object) -> None: ...

    def report_node(self, guest: Guest, node: object, what: str, since_ns: int) -> None: ...


def new_guest(folder: Path, tcp: tuple[str, ...] = (), frozen: FrozenGuest | None = None) -> Guest:
    ids = Ids()
    common = Common(ids, TimerDriver(worked_ns, now_ns), folder, Listeners(), Prompts(ids.take), Reports())
    return Guest(GuestConfig("alice", pulse_tcp=tcp), common, frozen=frozen)


class Third(ProgramDoor):
    """A door that nothing else here knows."""

    kind = "third"

    def __init__(self, guest: Guest) -> None:
        self.did: list[str] = []
        self.sink = next((one for one in guest.graph.sinks.values() if one.name == "third"), None) or (
            guest.graph.add_sink("third")
        )
        self.recorder = 0

    @property
    def clients(self) -> Mapping[int, Program]:
        return {1: bare(Program, index=1, name="x", subject=Subject())}

    def open(self) -> None:
        self.did.append("open")

    def close(self) -> None:
        self.did.append("close")

    async def settle(self) -> None:
        self.did.append("settle")

    def freeze(self) -> FrozenDoor:
        state = DoorState(Raw(encode({"version": 7})), [Raw(encode("one"))])
        return FrozenDoor(state, [os.open("/dev/null", os.O_RDONLY)], frozenset({self.recorder}))

    def resume(self, frozen: FrozenDoor) -> None:
        self.did.append(f"resume {decode(frozen.state.own)} {[decode(one) for one in frozen.state.connections]}")
        os.close(frozen.fds[0])

    def mixes(self) -> list[Sink]:
        return [self.sink]

    def made(self, id_: int) -> bool:
        return id_ == self.recorder


def test_additional_door_is_opened_counted_and_closed_like_others(tmp_path: Path) -> None:
    async def main() -> None:
        guest = new_guest(tmp_path)
        assert isinstance(guest.doors, Doors) and list(guest.doors) == [guest.pulse, guest.native]
        third = Third(guest)
        guest.doors.table.append(third)
        await guest.start()
        view = await with_pauses(guest_view(guest))
        assert guest.clients == view.clients == 1
        with pytest.raises(GraphError, match="only sink"):
            verbs.removable(guest, "millrace")
        tap = Tap(guest.graph.ids.take(), "loop", guest.microphone.positions, consumer=Capture())
        guest.graph.add_tap(tap, guest.microphone)
        assert not guest.recording, "a recorder that clocks nothing"
        third.recorder = tap.id
        assert guest.recording, "except one created by a door"
        await guest.stop("the test ends")
        assert third.did == ["open", "close"]

    asyncio.run(main())


def test_additional_door_is_frozen_and_continues_as_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class More(Doors):
        def __init__(self, guest: Guest, listeners: Listeners, memory: Memory | None) -> None:
            super().__init__(guest, listeners, memory)
            self.table.append(Third(guest))

    async def main() -> None:
        before = {*os.listdir("/proc/self/fd")}
        with monkeypatch.context() as patch:
            patch.setattr(guest_module, "Doors", More)
            guest = new_guest(tmp_path)
            (third,) = [door for door in guest.doors if isinstance(door, Third)]
            taps = [Tap(guest.graph.ids.take(), "tap", guest.microphone.positions, consumer=Capture()) for _ in "ab"]
            for tap in taps:
                guest.graph.add_tap(tap, guest.microphone)
            third.recorder = taps[1].id
            await guest.settle()
            state, fds = guest.freeze(())
            assert third.did == ["settle"] and sorted(state.doors) == sorted(fds) == ["pulse", "third"]
            again = new_guest(
                tmp_path, frozen=FrozenGuest(read_guest(encode(state)), {"third": [os.dup(fds["third"][0])]})
            )
            assert [door.did for door in again.doors if isinstance(door, Third)] == [["resume {'version': 7} ['one']"]]
            assert list(again.graph.taps) == [taps[1].id], "and its nodes were kept"
        with pytest.raises(ConfigError, match="doors that this Millrace does not have: 'third'; start the guest anew"):
            new_guest(tmp_path, frozen=FrozenGuest(state, fds))
        assert {*os.listdir("/proc/self/fd")} == before, "nothing is left open"

    asyncio.run(main())


def test_pulseaudio_server_opens_sockets_and_leaves_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        guest = new_guest(tmp_path, ("127.0.0.1:0",))
        pulse = guest.pulse
        assert isinstance(pulse, PulseServer) and not pulse.tcp
        await guest.start()
        assert stat.S_ISSOCK(pulse.path.stat().st_mode) and pulse.cookie_path.read_bytes() == pulse.door.cookie
        assert stat.S_IMODE(pulse.cookie_path.stat().st_mode) == 0o600
        assert len(pulse.tcp) == 1 and not pulse.tcp[0].endswith(":0") and len(pulse.acceptors) == 2
        own = guest.graph.add_sink("own")
        pulse.door.load(Module(guest.graph.ids.take(), "module-null-sink", "", mixes=[own]))
        assert list(pulse.mixes()) == [own]
        await guest.stop("the test ends")
        assert not pulse.path.exists() and not pulse.cookie_path.exists()

    asyncio.run(main())


def test_server_that_cannot_listen_says_where_and_leaves_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        guest = new_guest(tmp_path, ("256.0.0.1:1",))
        with pytest.raises(ConfigError, match=r"^pulse_tcp: can't listen on 256\.0\.0\.1:1"):
            await guest.start()
        await guest.stop("the test ends")
        assert not guest.pulse.path.exists() and not guest.pulse.cookie_path.exists()

    asyncio.run(main())
