"""Fuzzes every parser in memory, with the door behind it: it must accept its input or raise its own error.

`python -m tests.fuzz.parsers [SECONDS] [SEED]`; the unit tests run a few sessions of each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from millrace.client.fileplayer import FilePlayer
from millrace.doors.machine import MachineDoor
from millrace.doors.microphone import MicrophoneStream
from millrace.doors.qemu.door import EndedVoices, QemuPlayback, QemuRecord
from millrace.doors.qemu.input import ConsoleInput
from millrace.doors.qemu.screen import QemuScreen
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.spice.screen import Controls, SpiceScreen
from millrace.doors.vnc.door import SessionEvent, VncDoor
from millrace.doors.vnc.screen import VncScreen
from millrace.doors.x11.door import X11Door
from millrace.dsp.convert import Samples
from millrace.errors import MillraceError
from millrace.graph.model import Ids
from millrace.graph.screen import Reader
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.graph.tracks import Tracks
from millrace.media.audio import AudioPacket
from millrace.media.packet import Kind
from millrace.pixels.rects import Point, Rect
from millrace.playout.playout import Playout
from millrace.rights.model import OWNER
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS, Frames, Positions, default_map
from millrace.wire.native.session import NativeWire
from millrace.wire.peer.clips import ClipboardState
from millrace.wire.peer.messages import FormatChanged, Hello, Silence
from millrace.wire.peer.pictures import Watch
from millrace.wire.peer.session import PeerClient, PeerServer
from millrace.wire.peer.viewing import ViewClient
from millrace.wire.pulse.client import PulseClientSession
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
from tests.fuzz import seeds, spiceserver, xserver
from tests.fuzz.mutate import Mutator, Repair, repair_at, repair_line
from tests.unit.test_clipboard import Board
from tests.watch import Desk, Remote

Take = Callable[[bytes], None]
"""Takes one message."""
STEP_NS = 10 * NS_PER_MS


@dataclass(frozen=True)
class Wire:
    """One direction of one protocol: its recorded sessions, and the parser for it."""

    name: str
    sessions: Callable[[], list[seeds.Session]]
    open: Callable[[], Take]
    repair: Repair | None = None


class Nowhere:
    """An output that discards everything."""

    name = "nowhere"
    frames = 0

    def open(self, rate: int, positions: Positions) -> None:
        pass

    def write(self, block: Samples) -> None:
        assert np.isfinite(block).all() or block.dtype == np.float32
        self.frames += len(block)

    def skip(self, frames: Frames) -> None:
        self.frames += frames

    def close(self) -> None:
        pass


def _pulse_server() -> Take:
    rig = Rig()
    client = rig.client(login=False)
    rig.clients.clear()

    def take(data: bytes) -> None:
        rest = memoryview(data)
        while len(rest):
            rest = rest[client.server.receive(rest, rig.now_ns) :]
        client.server.data_to_send()
        rig.run(0.01)

    return take


def _pulse_client() -> Take:
    wire = PulseClientSession()
    from millrace.wire.pulse.constants import Command

    wire.send_request(Command.STAT)

    def take(data: bytes) -> None:
        wire.receive(data)
        wire.events()

    return take


def _native(daemon: bool) -> Take:
    wire = NativeWire(daemon=daemon)

    def take(data: bytes) -> None:
        wire.receive(data, 0)
        for _ in wire.events():
            pass
        wire.data_to_send()

    return take


def _message(data: bytes) -> str | bytes:
    return data.decode("utf-8", "replace") if data[:1] in (b"{", b"[", b'"') else data


def _peer_server() -> Take:
    rig = Rig()
    wire = PeerServer(rig.now_ns)
    voice = MicrophoneStream(rig.graph, rig.graph.add_source("microphone", "Microphone"), "fuzz", "listener/1")

    def take(data: bytes) -> None:
        wire.receive(_message(data), rig.now_ns)
        for event in wire.events():
            if isinstance(event, AudioPacket):
                voice.push(event, rig.now_ns)
            elif isinstance(event, FormatChanged):
                voice.set_format(event.format)
            elif isinstance(event, Silence):
                voice.stop()
        rig.run(0.01)
        voice.pull(np.zeros((480, 2), np.float32))

    return take


def _peer_client() -> Take:
    now = [0]
    wire = PeerClient(Hello(microphone=True), 0)
    playout, file = Playout(48_000, default_map(2), "normal"), FilePlayer(Nowhere())
    out = np.zeros((480, 2), np.float32)

    def take(data: bytes) -> None:
        now[0] += STEP_NS
        wire.receive(_message(data), now[0])
        for event in wire.events():
            if isinstance(event, AudioPacket):
                playout.push(event, now[0])
                file.push(event, now[0])
            elif isinstance(event, FormatChanged):
                playout.set_format(event.format)
                file.set_format(event.format)
            elif isinstance(event, Silence):
                playout.silence()
                file.silence()
        playout.pull(out, now[0])
        wire.handle_timeout(now[0])
        wire.data_to_send()

    return take


def _viewer_session() -> Take:
    desk = Desk()
    desk.add().fill(Rect(1, 1, 9, 9), 5, desk.now_ns)
    remote = Remote(desk, speaks=False)
    # It is handed texts for which the fuzz has asked in its name.
    remote.wire.clips.ask(2**32 - 1)
    session = remote.session
    board = Board(desk)
    board.clipboard.copied()

    def take(data: bytes) -> None:
        session.receive(_message(data), desk.now_ns)
        if "offered" in board.asked and len(board.got) < 4:
            board.paste()
        board.clipboard.supply("text")
        desk.run(5)
        assert not session.closing or session.viewers

    return take


def _view_client() -> Take:
    wire = ViewClient(Watch(), 0)

    def take(data: bytes) -> None:
        wire.receive(_message(data), STEP_NS)
        for event in wire.events():
            if isinstance(event, ClipboardState) and event.number:
                wire.send_paste(event.number)
        wire.data_to_send()

    return take


def _qmp() -> Take:
    core = QmpHandover(3, 0)

    def take(data: bytes) -> None:
        core.receive(data, 0)
        core.data_to_send()

    return take


def _display(on_bus: bool) -> Take:
    core = DisplayClient(0, on_bus, 0)

    def take(data: bytes) -> None:
        core.receive(data, 0)
        for event in core.events():
            if type(event).__name__ == "Machine":
                core.send_register("Out", 3)
        core.data_to_send()

    return take


def _audio() -> Take:
    rig = Rig()
    source, peers = rig.graph.add_source("microphone", "Microphone"), [AudioPeer(0), AudioPeer(0)]
    playback = QemuPlayback(rig.graph, peers[0], "QEMU", EndedVoices())
    doors: list[MachineDoor] = [playback, QemuRecord(rig.graph, source, peers[1], "QEMU")]

    def take(data: bytes) -> None:
        for peer, door in zip(peers, doors, strict=True):
            peer.receive(data, rig.now_ns)
            door.receive(rig.now_ns)
            peer.data_to_send()
        rig.run(0.01)

    return take


def _screen() -> Take:
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


def _spice_main() -> Take:
    main = SpiceMain("", lambda key, password: bytes(128), 0)

    def take(data: bytes) -> None:
        main.receive(data, 0)
        main.events()
        main.data_to_send()

    return take


def _spice_playback() -> Take:
    rig = Rig()
    channel = _channel(ChannelKind.PLAYBACK)
    door = SpicePlayback(rig.graph, channel, "SPICE")

    def take(data: bytes) -> None:
        channel.receive(data, rig.now_ns)
        door.receive(rig.now_ns)
        channel.data_to_send()
        rig.run(0.01)

    return take


def _spice_record() -> Take:
    rig = Rig()
    channel = _channel(ChannelKind.RECORD)
    source = rig.graph.add_source("microphone", "Microphone")
    door = SpiceRecord(rig.graph, source, channel, "SPICE", lambda: None)

    def take(data: bytes) -> None:
        channel.receive(data, rig.now_ns)
        door.receive(rig.now_ns)
        rig.run(0.02)
        channel.data_to_send()

    return take


# The screen is looked at all the time, so that video is decoded too.
def _spice_display() -> Take:
    rig, ticket = Rig(), bytes(128)
    budget, ids = rig.graph.budget, Ids()
    screens = Screens("alice", ids, budget)
    tracks = Tracks("alice", ids, screens.seat, budget)
    wire = SpiceDisplay(7, 0, "", lambda key, password: ticket, rig.now_ns)
    account = budget.open("connection")
    door = SpiceScreen(screens, wire, Controls(), account, "SPICE", "door/1", 0, lambda: tracks.add(Kind.VIDEO))
    readers: list[Reader] = []

    def take(data: bytes) -> None:
        wire.receive(data, rig.now_ns)
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


def _spice_cursor() -> Take:
    wire = SpiceCursor(7, 0, "", lambda key, password: bytes(128), 0)
    budget = Rig().graph.budget
    display = SpiceDisplay(7, 0, "", lambda key, password: bytes(128), 0)
    door = SpiceScreen(
        Screens("alice", Ids(), budget), display, Controls(), budget.open("connection"), "SPICE", "door/1"
    )
    for part in _linked([[spiceserver.surface(64, 48)]])[0]:
        display.receive(part, 0)
    display.handle_timeout(display.next_timeout() or 0)
    door.receive(0)

    def take(data: bytes) -> None:
        wire.receive(data, 0)
        door.receive_cursor(wire)
        wire.data_to_send()

    return take


def _spice_inputs() -> Take:
    wire = SpiceInputs(7, "", lambda key, password: bytes(128), 0)

    def take(data: bytes) -> None:
        wire.receive(data, 0)
        wire.send_pointer(Point(len(data), 5), len(data) & 7, False)
        wire.send_key(0x1E, True)
        wire.events()
        wire.data_to_send()

    return take


PARTIAL_MAX = 16_000_000
"""More than a whole picture of 640 by 480, inflated, and the longest text."""


def _vnc() -> Take:
    rig = Rig()
    wire = VncClient(48_000, 2, "secret", lambda challenge, password: bytes(16), 0, COMPRESSED)

    def told(event: SessionEvent) -> None:
        if isinstance(event, TlsWanted):
            wire.tls_ready()

    screens = Screens("fuzz", Ids(), rig.graph.budget)
    door = VncDoor(rig.graph, wire, told, screen=VncScreen(screens, wire, "door/0", lambda: None))
    wire.send_watch(0)

    def take(data: bytes) -> None:
        wire.receive(data, rig.now_ns)
        while wire.unfinished:
            door.receive(rig.now_ns)
            wire.receive(b"", rig.now_ns)
        door.receive(rig.now_ns)
        assert wire.partial_bytes < PARTIAL_MAX
        wire.data_to_send()
        rig.run(0.01)

    return take


def _x11() -> Take:
    rig = Rig()
    wire = X11Client(b"", 0)
    memory = memoryview(bytearray(16_000_000))
    screens = Screens("fuzz", Ids(), rig.graph.budget)

    def shared(size: int) -> tuple[int, memoryview]:
        return 9, memory if size <= len(memory) else memoryview(bytearray(size))

    door = X11Door(screens, wire, "X display :1", "door/0", shared, lambda ready: None, lambda: None)
    wire.send_watch(0)

    def take(data: bytes) -> None:
        wire.receive(data, rig.now_ns)
        door.receive(rig.now_ns)
        while wire.unfinished:
            wire.receive(b"", rig.now_ns)
            door.receive(rig.now_ns)
        wire.data_to_send()

    return take


def _linked(sessions: list[seeds.Session]) -> list[seeds.Session]:
    """SPICE sessions from their link on."""
    link = [seeds.spice_reply(bytes(162)), bytes(4)]
    return [session if session[0].startswith(b"REDQ") else [*link, *session] for session in sessions]


SPICE, DBUS = repair_at(2, "<I", 6), repair_at(4, "<I", 16)
WIRES = (
    Wire("pulse: client to daemon", lambda: seeds.pulse()[0], _pulse_server, repair_at(0, ">I", 20)),
    Wire("pulse: server to client", lambda: seeds.pulse()[1], _pulse_client, repair_at(0, ">I", 20)),
    Wire("native: client to daemon", seeds.native, lambda: _native(True), repair_at(0, "<I", 8)),
    Wire("native: daemon to client", seeds.native, lambda: _native(False), repair_at(0, "<I", 8)),
    Wire("peer: listener to daemon", seeds.peer_listener, _peer_server),
    Wire("peer: daemon to listener", seeds.peer_daemon, _peer_client),
    Wire("peer: viewer to daemon", seeds.viewer, _viewer_session),
    Wire("peer: daemon to viewer", seeds.view_daemon, _view_client),
    Wire("qmp: machine to daemon", seeds.qmp, _qmp, repair_line),
    Wire("dbus: bus to daemon", lambda: seeds.dbus_display(True), lambda: _display(True), DBUS),
    Wire("dbus: machine to daemon", lambda: seeds.dbus_display(False), lambda: _display(False), DBUS),
    Wire("dbus: sound", seeds.dbus_audio, _audio, DBUS),
    Wire("dbus: screen", seeds.dbus_screen, _screen, DBUS),
    Wire("spice: main", lambda: _linked(seeds.spice_main()), _spice_main, SPICE),
    Wire("spice: playback", lambda: _linked(seeds.spice_sound()), _spice_playback, SPICE),
    Wire("spice: record", lambda: _linked(seeds.spice_sound()), _spice_record, SPICE),
    Wire("spice: display", lambda: _linked(seeds.spice_display()), _spice_display, SPICE),
    Wire("spice: cursor", lambda: _linked(seeds.spice_cursor()), _spice_cursor, SPICE),
    Wire("spice: inputs", lambda: _linked(seeds.spice_inputs()), _spice_inputs, SPICE),
    Wire("vnc: machine to daemon", seeds.vnc, _vnc),
    Wire("x11: display to daemon", lambda: seeds.x11(xserver.NAMES), _x11),
)


def one_session(wire: Wire, seed: int) -> bool:
    """Feed one mutated session; returns whether it was refused. Any error other than the parser's own is a finding."""
    mutator = Mutator(seed)
    take = wire.open()
    pieces = mutator.random.choice((1 << 30, 1 << 30, 1000, 17, 1))
    for message in mutator.session(wire.sessions(), wire.repair):
        step = max(pieces, len(message) // 200 + 1) if pieces < 1 << 30 else len(message) or 1
        whole = wire.name.startswith("peer") or len(message) == 0
        for piece in (message,) if whole else (message[at : at + step] for at in range(0, len(message), step)):
            try:
                take(piece)
            except MillraceError as error:
                assert str(error).isprintable(), str(error)
                return True
    return False


def sessions_for(seconds: float, seed: int) -> Iterator[tuple[Wire, int]]:
    """The wires in turn for so long, each time with a new seed."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for wire in WIRES:
            yield wire, seed
            seed += 1


def main() -> None:
    """Entry point."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    first = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 2**31
    print(f"seed {first}")
    count = refused = 0
    slowest = (0.0, "", 0)
    for wire, seed in sessions_for(seconds, first):
        began = time.perf_counter()
        try:
            refused += one_session(wire, seed)
        except Exception:
            print(f"{wire.name}, seed {seed}:", file=sys.stderr)
            raise
        slowest = max(slowest, (time.perf_counter() - began, wire.name, seed))
        count += 1
    print(f"{count} sessions, {refused} refused; slowest {slowest[0]:.2f} s: {slowest[1]}, seed {slowest[2]}")


if __name__ == "__main__":
    main()
