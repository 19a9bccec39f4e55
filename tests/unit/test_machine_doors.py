"""Doors to machines have one interface: streams and recorders are shown while they exist, and end with the session."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.doors.inputroom import InputRoom
from millrace.doors.machine import MachineDoor
from millrace.doors.qemu.door import EndedVoices, QemuPlayback, QemuRecord
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.vnc.door import VncDoor
from millrace.doors.x11.door import X11Door
from millrace.dsp.convert import SampleFormat
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.graph.pictures import KeyPress
from millrace.guest.machines.address import DoorSpec, parse_door
from millrace.guest.machines.attach import KINDS
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.spice import SpiceMachine
from millrace.guest.machines.vnc import VncMachine
from millrace.guest.machines.x11 import X11Machine
from millrace.io.client import ClientConnection
from millrace.io.clock import now_ns
from millrace.media.format import AudioFormat
from millrace.sim.rig import Rig
from millrace.units import default_map
from millrace.wire.chunk import Chunk
from millrace.wire.keys import LightsTold
from millrace.wire.qemu.audio import AudioPeer, VoiceEnabled, VoiceInit
from millrace.wire.spice.channel import ChannelKind, SpiceChannel, SpiceMessage
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import AudioBegin
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.events import Ready
from tests.unit.test_guest_home import House

Make = Callable[[Rig], MachineDoor]
LARGE = 1_000_000
"""Bytes that no socket takes at once."""
PCM = AudioFormat(SampleFormat.S16LE, 44_100, default_map(2))


def channel(kind: ChannelKind, message: int, body: bytes) -> SpiceChannel:
    made = SpiceChannel(kind, 1, 0, "", lambda key, text: bytes(128), 0)
    made._events.append(SpiceMessage(message, body))
    return made


def qemu_peer() -> AudioPeer:
    peer = AudioPeer(0)
    peer._events += [VoiceInit(1, PCM), VoiceInit(2, PCM), VoiceEnabled(1, True)]
    return peer


def vnc(rig: Rig) -> MachineDoor:
    wire = VncClient(48_000, 2, "", lambda challenge, text: b"", 0)
    wire._events.append(AudioBegin())
    return VncDoor(rig.graph, wire)


def spice_playback(rig: Rig) -> MachineDoor:
    start = struct.pack("<IHII", 2, 1, 48_000, 0)
    return SpicePlayback(rig.graph, channel(ChannelKind.PLAYBACK, 103, start), "SPICE")


def spice_record(rig: Rig) -> MachineDoor:
    start = struct.pack("<IHI", 2, 1, 48_000)
    return SpiceRecord(
        rig.graph, rig.graph.add_source("mic", "x"), channel(ChannelKind.RECORD, 101, start), "SPICE", lambda: None
    )


PLAYING: dict[str, tuple[Make, int]] = {
    "QEMU": (lambda rig: QemuPlayback(rig.graph, qemu_peer(), "QEMU", EndedVoices()), 2),
    "SPICE": (spice_playback, 1),
    "VNC": (vnc, 1),
}
RECORDING: dict[str, Make] = {
    "QEMU": lambda rig: QemuRecord(rig.graph, rig.graph.add_source("mic", "x"), qemu_peer(), "QEMU"),
    "SPICE": spice_record,
}


class Flapping(AttachedMachine):
    """A door at a port where something else answers."""

    async def _session(self) -> None:
        raise PeerLost("this is not a SPICE server")


def test_a_door_that_fails_for_the_same_reason_logs_it_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    home: Any = SimpleNamespace(name="alice", machine_changed=lambda *_: None, report=lambda *_: None, graph=rig.graph)
    door = Flapping(1, home, parse_door("spice://vm:5930"))
    for reason in [*["this is not a SPICE server"] * 312, "refused", "this is not a SPICE server"]:
        # The session may have been up for a moment.
        door.state = "attached"
        door._lost(PeerLost(reason), up=True)
    said = [record.getMessage().partition("vm:5930: ")[2] for record in caplog.records]
    times = [2, 4, 8, 16, 32, 64, 128, 256]
    assert said == [
        "this is not a SPICE server", *(f"this is not a SPICE server ({n} times)" for n in times), "refused",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "advice"), [
    ("QEMU (win11)", "; QEMU has sound with -vnc …,audiodev=ID"),
    ("x11vnc: desk", "; let its programs play to PULSE_SERVER=unix:/"),
])  # fmt: skip
def test_only_qemu_is_told_how_it_has_sound_by_vnc(name: str, advice: str) -> None:
    async def hint() -> str:
        home: Any = SimpleNamespace(name="alice")
        door = VncMachine(1, home, parse_door("vnc://vm:5901"))
        door.state, door.machine = "attached", name
        door._wire = VncClient(48_000, 2, "", lambda challenge, text: b"", 0)
        return door.hint()

    assert advice in asyncio.run(hint())


@pytest.mark.parametrize("kind", PLAYING)
def test_machine_streams_exist_until_session_ends(kind: str) -> None:
    rig, (make, count) = Rig(), PLAYING[kind]
    door, held = make(rig), rig.graph.budget.held
    assert not door.streams and not rig.graph.streams
    door.receive(0)
    door.receive(0)
    assert {stream.node.id for stream in door.streams} == set(rig.graph.streams) and len(door.streams) == count
    assert not door.recording
    for _ in range(2):
        door.close()
        assert not door.streams and not rig.graph.streams and rig.graph.budget.held == held


@pytest.mark.parametrize("kind", RECORDING)
def test_machine_recorders_exist_until_session_ends(kind: str) -> None:
    rig = Rig()
    door = RECORDING[kind](rig)
    held = rig.graph.budget.held
    assert not door.recording
    door.receive(0)
    assert door.recording and rig.graph.taps and not door.streams
    for _ in range(2):
        door.close()
        assert not door.recording and not rig.graph.taps and rig.graph.budget.held == held


def test_every_kind_of_machine_address_is_served() -> None:
    named = (
        "qmp:/run/vm.qmp",
        "dbus:unix:path=/run/bus",
        "spice://host",
        "spice+tls://host",
        "vnc+unix:///run/vnc",
        "x11::1",
    )
    kinds = {parse_door(text).kind for text in named}
    assert kinds | {"p2p"} == set(KINDS)
    assert all(issubclass(load(), AttachedMachine) for load in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_session_of_each_kind_of_machine_ends_by_what_a_viewer_s_request_raises(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        machine = KINDS[kind]()(1, House().home, DoorSpec(kind, "unix:path=/nothing"))
        machine._begin()
        session = asyncio.create_task(machine._until_ended())
        machine.failed(ValueError("a bug"))
        with pytest.raises(ValueError, match="a bug"):
            await session
        assert not caplog.records
        machine.failed(ValueError("and another"))
        assert "internal error after the session" in caplog.text and "and another" in caplog.text

    asyncio.run(main())


def test_x_display_is_left_when_its_newest_connection_is_closed() -> None:
    async def main() -> None:
        machine = X11Machine(1, House().home, parse_door("x11::1"))
        machine._account = machine.guest.admission.account({})
        door: Any = SimpleNamespace(room=InputRoom(), receive=lambda now_ns: None, busy=False)
        pairs = [socket.socketpair() for _ in range(2)]
        before, newest = (machine._served(mine, X11Client(b"", now_ns()), door) for mine, _ in pairs)
        before.close()
        stopping = asyncio.create_task(machine.stop("the test ends"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done(), "the one before is closed, and not that"
        newest.close()
        await stopping
        for _, theirs in pairs:
            theirs.close()

    asyncio.run(main())


def test_whoever_waits_to_type_into_an_x_display_is_told_when_it_has_read_all() -> None:
    async def main() -> None:
        machine, told = X11Machine(1, House().home, parse_door("x11::1")), list[str]()
        machine._account = machine.guest.admission.account({})
        door: Any = SimpleNamespace(room=InputRoom(), receive=lambda now_ns: None, busy=False)
        mine, theirs = socket.socketpair()
        stream = machine._served(mine, X11Client(b"", now_ns()), door)
        door.room.open(lambda: stream.congested)
        stream._out.chunks.append(Chunk(bytearray(LARGE)))
        stream.flush()
        assert not door.room.takes(True, lambda: told.append("room"))
        theirs.setblocking(False)
        read = 0
        async with asyncio.timeout(10):
            while read < LARGE:
                read += len(await asyncio.get_running_loop().sock_recv(theirs, 1 << 16))
        assert told == ["room"]
        stream.close()
        theirs.close()

    asyncio.run(main())


def test_door_of_an_x_display_is_called_by_its_display_and_not_by_who_made_its_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        house = House()
        machine = X11Machine(1, house.home, parse_door("x11::7"))

        async def session(x11: X11Machine) -> None:
            door = x11.doors[0]
            assert isinstance(door, X11Door)
            door._told(Ready("The X.Org Foundation"))

        mine, theirs = socket.socketpair()

        async def connected(x11: X11Machine) -> socket.socket:
            return mine

        monkeypatch.setattr(X11Machine, "_connected", connected)
        monkeypatch.setattr(X11Machine, "_until_ended", session)
        machine._begin()
        machine._account = machine.guest.admission.account({})
        await machine._session()
        machine.state = "attached"
        assert machine.view().machine == "X display :7"
        machine._gone()
        theirs.close()

    asyncio.run(main())


def test_x_display_that_was_never_reached_is_left_at_once() -> None:
    asyncio.run(stopped())


async def stopped() -> None:
    async with asyncio.timeout(1):
        await X11Machine(1, House().home, parse_door("x11::1")).stop("the test ends")


def test_each_screen_of_a_spice_machine_is_told_of_its_lights() -> None:
    async def main() -> None:
        machine, told = SpiceMachine(1, House().home, parse_door("spice+unix:///nothing")), list[int | None]()
        machine._begin()
        screen: Any = SimpleNamespace(lit=lambda: told.append(machine._controls.lights))
        machine._screens = {0: screen, 1: screen}
        wire: Any = SimpleNamespace(events=lambda: [LightsTold(2)])
        machine._lit(wire)
        assert told == [2, 2]

    asyncio.run(main())


def test_keyboard_whose_connection_ended_before_its_turn_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def session(early: bool) -> tuple[int, bool]:
        house = House()
        machine = SpiceMachine(1, house.home, parse_door("spice+unix:///nothing"))
        machine._begin()

        async def opened(connection: ClientConnection, tls: object) -> None:
            machine.connections.append(connection)
            if early:
                connection._ended(RemoteProtocolError("rubbish"))

        monkeypatch.setattr(machine, "_open", opened)
        await machine._inputs(None)
        machine._controls.key(KeyPress(0x1E, True))
        wire = machine._controls._wire
        return len(machine.connections), wire is not None

    assert asyncio.run(session(early=False)) == (1, True)
    assert asyncio.run(session(early=True)) == (0, False)
