"""The parsers and doors of machines, each as a function that takes one message."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from millrace.doors.machine import MachineDoor
from millrace.doors.qemu.door import EndedVoices, QemuPlayback, QemuRecord
from millrace.doors.qemu.input import ConsoleInput
from millrace.doors.qemu.screen import QemuScreen
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.spice.screen import Controls, SpiceScreen
from millrace.doors.vnc.door import SessionEvent, VncDoor
from millrace.doors.vnc.screen import VncScreen
from millrace.doors.x11.door import X11Door
from millrace.graph.model import Ids
from millrace.graph.screen import Reader
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.graph.tracks import Tracks
from millrace.media.packet import Kind
from millrace.pixels.rects import Point, Size
from millrace.rights.model import OWNER
from millrace.sim.rig import Rig
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.qemu.client import Console, DisplayClient
from millrace.wire.qemu.display import ScreenPeer
from millrace.wire.qemu.qmp import QmpHandover
from millrace.wire.spice.channel import ChannelKind, SpiceChannel
from millrace.wire.spice.cursor import SpiceCursor
from millrace.wire.spice.display import SpiceDisplay
from millrace.wire.spice.inputs import SpiceInputs
from millrace.wire.spice.main import SpiceMain
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import COMPRESSED, TlsWanted
from millrace.wire.x11.client import X11Client
from tests.fuzz import seeds, spiceserver
from tests.received import received

Take = Callable[[bytes], None]
"""Takes one message."""


def qmp() -> Take:
    core = QmpHandover(3, 0)

    def take(data: bytes) -> None:
        core.receive(data, 0)
        core.data_to_send()

    return take


def dbus_display(on_bus: bool) -> Take:
    core = DisplayClient(0, on_bus, 0)

    def registers() -> None:
        for event in core.events():
            if type(event).__name__ == "Machine":
                core.send_register("Out", 3)

    def take(data: bytes) -> None:
        received(core, data, 0, registers)
        core.data_to_send()

    return take


def dbus_audio() -> Take:
    rig = Rig()
    source, peers = rig.graph.add_source("microphone", "Microphone"), [AudioPeer(0), AudioPeer(0)]
    playback = QemuPlayback(rig.graph, peers[0], "QEMU", EndedVoices())
    doors: list[MachineDoor] = [playback, QemuRecord(rig.graph, source, peers[1], "QEMU")]

    def take(data: bytes) -> None:
        for peer, door in zip(peers, doors, strict=True):
            received(peer, data, rig.now_ns, partial(door.receive, rig.now_ns))
            peer.data_to_send()
        rig.run(0.01)

    return take


def dbus_screen() -> Take:
    rig = Rig()
    budget, peer, client = rig.graph.budget, ScreenPeer(0), DisplayClient(0, False, 0)
    screens = Screens("default", rig.graph.ids, budget)
    control = ConsoleInput(client, 0, lambda: None)
    door = QemuScreen(screens, peer, Console(0, "VGA", 0, True), "door/1", control, lambda fd: None)
    reader = door.screen.read(Watcher("viewer/1", OWNER))

    def take(data: bytes) -> None:
        peer.receive_fds([] if peer._fds else [9])
        peer.receive(data, rig.now_ns)
        door.receive(rig.now_ns)
        door.publish()
        door.receive(rig.now_ns)
        peer.data_to_send()
        if (picture := reader.take(rig.now_ns)) is not None:
            assert all(picture.mode.whole.holds(rect) for rect in picture.damage)
            picture.release()

    return take


def _channel(kind: ChannelKind) -> SpiceChannel:
    return SpiceChannel(kind, 7, 0b0110, "", lambda key, password: bytes(128), 0)


def spice_main() -> Take:
    main = SpiceMain("", lambda key, password: bytes(128), 0)

    def take(data: bytes) -> None:
        received(main, data, 0, main.events)
        main.data_to_send()

    return take


def spice_playback() -> Take:
    rig = Rig()
    channel = _channel(ChannelKind.PLAYBACK)
    door = SpicePlayback(rig.graph, channel, "SPICE")

    def take(data: bytes) -> None:
        received(channel, data, rig.now_ns, partial(door.receive, rig.now_ns))
        channel.data_to_send()
        rig.run(0.01)

    return take


def spice_record() -> Take:
    rig = Rig()
    channel = _channel(ChannelKind.RECORD)
    source = rig.graph.add_source("microphone", "Microphone")
    door = SpiceRecord(rig.graph, source, channel, "SPICE", lambda: None)

    def take(data: bytes) -> None:
        received(channel, data, rig.now_ns, partial(door.receive, rig.now_ns))
        rig.run(0.02)
        channel.data_to_send()

    return take


# The screen is looked at all the time, so that video is decoded too.
def spice_display() -> Take:
    rig, ticket = Rig(), bytes(128)
    budget, ids = rig.graph.budget, Ids()
    screens = Screens("alice", ids, budget)
    tracks = Tracks("alice", ids, screens.seat, budget)
    wire = SpiceDisplay(7, 0, "", lambda key, password: ticket, rig.now_ns)
    account = budget.open("connection")
    door = SpiceScreen(screens, wire, Controls(), account, "SPICE", "door/1", 0, lambda: tracks.add(Kind.VIDEO))
    readers: list[Reader] = []

    def take(data: bytes) -> None:
        received(wire, data, rig.now_ns, partial(door.receive, rig.now_ns))
        account.hold("partial", wire.partial_bytes)
        rig.run(0.01)
        wire.handle_timeout(rig.now_ns)
        door.receive(rig.now_ns)
        if door.screen is not None and not readers:
            readers.append(door.screen.read(Watcher("viewer/1", OWNER)))
        for reader in readers:
            picture = reader.take(rig.now_ns)
            if picture is not None:
                assert all(picture.mode.whole.holds(part) for part in picture.damage)
                picture.release()
        wire.data_to_send()

    return take


def spice_cursor() -> Take:
    wire = SpiceCursor(7, 0, "", lambda key, password: bytes(128), 0)
    budget = Rig().graph.budget
    display = SpiceDisplay(7, 0, "", lambda key, password: bytes(128), 0)
    door = SpiceScreen(
        Screens("alice", Ids(), budget), display, Controls(), budget.open("connection"), "SPICE", "door/1"
    )
    for part in linked([[spiceserver.surface(64, 48)]])[0]:
        display.receive(part, 0)
    display.handle_timeout(display.next_timeout() or 0)
    door.receive(0)

    def take(data: bytes) -> None:
        received(wire, data, 0, partial(door.receive_cursor, wire))
        wire.data_to_send()

    return take


def spice_inputs() -> Take:
    wire = SpiceInputs(7, "", lambda key, password: bytes(128), 0)

    def take(data: bytes) -> None:
        received(wire, data, 0)
        wire.send_pointer(Point(len(data), 5), len(data) & 7, False)
        wire.send_key(0x1E, True)
        wire.events()
        wire.data_to_send()

    return take


PARTIAL_MAX = 16_000_000
"""More than a whole picture of 640 by 480, inflated, and the longest text."""


def vnc() -> Take:
    rig = Rig()
    wire = VncClient(48_000, 2, "secret", lambda challenge, password: bytes(16), 0, COMPRESSED)

    def told(event: SessionEvent) -> None:
        if isinstance(event, TlsWanted):
            wire.tls_ready()

    screens = Screens("fuzz", Ids(), rig.graph.budget)
    door = VncDoor(rig.graph, wire, told, screen=VncScreen(screens, wire, "door/0", lambda: None))
    wire.send_watch(0)

    def take(data: bytes) -> None:
        received(wire, data, rig.now_ns, partial(door.receive, rig.now_ns))
        assert wire.partial_bytes < PARTIAL_MAX
        for char in "aA日":
            for down in (True, False):
                wire.send_key(0, down, char if down else "")
        wire.send_pointer(Point(len(data), 5), len(data) & 7, False)
        wire.send_size(Size(800, 600))
        wire.send_clip_offer(True)
        wire.send_clip_request()
        wire.data_to_send()
        rig.run(0.01)

    return take


def x11() -> Take:
    rig = Rig()
    wire = X11Client(b"", 0)
    memory = memoryview(bytearray(16_000_000))
    screens = Screens("fuzz", Ids(), rig.graph.budget)

    def shared(size: int) -> tuple[int, memoryview]:
        return 9, memory if size <= len(memory) else memoryview(bytearray(size))

    door = X11Door(screens, wire, "X display :1", "door/0", shared, lambda ready: None, lambda: None)
    wire.send_watch(0)

    def take(data: bytes) -> None:
        received(wire, data, rig.now_ns, partial(door.receive, rig.now_ns))
        wire.data_to_send()

    return take


def linked(sessions: list[seeds.Session]) -> list[seeds.Session]:
    """SPICE sessions from their link on."""
    link = [seeds.spice_reply(bytes(162)), bytes(4)]
    return [session if session[0].startswith(b"REDQ") else [*link, *session] for session in sessions]
