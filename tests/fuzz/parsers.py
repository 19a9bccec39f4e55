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
from millrace.doors.microphone import MicrophoneStream
from millrace.dsp.convert import Samples
from millrace.errors import MillraceError
from millrace.media.audio import AudioPacket
from millrace.pixels.rects import Rect
from millrace.playout.playout import Playout
from millrace.sim.rig import Rig
from millrace.text import printable
from millrace.units import NS_PER_MS, Frames, Positions, default_map
from millrace.wire.native.session import NativeWire
from millrace.wire.peer.clips import ClipboardState
from millrace.wire.peer.messages import FormatChanged, Hello, Silence
from millrace.wire.peer.pictures import Watch
from millrace.wire.peer.session import PeerClient, PeerServer
from millrace.wire.peer.viewing import ViewClient
from millrace.wire.pulse.client import PulseClientSession
from tests.fuzz import clientseeds, seeds, x11viewer, xserver
from tests.fuzz.machinewires import (
    Take,
    dbus_audio,
    dbus_display,
    dbus_screen,
    linked,
    qmp,
    spice_cursor,
    spice_display,
    spice_inputs,
    spice_main,
    spice_playback,
    spice_record,
    vnc,
    x11,
)
from tests.fuzz.mutate import Mutator, Repair, repair_at, repair_line
from tests.unit.test_clipboard import Board
from tests.watch import Desk, Remote, words

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
        self._channels = len(positions)

    def write(self, block: Samples) -> None:
        assert block.dtype == np.float32 and block.shape == (len(block), self._channels) and np.isfinite(block).all()
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
        board.clipboard.supply(words("text"))
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


SPICE, DBUS = repair_at(2, "<I", 6), repair_at(4, "<I", 16)


WIRES = (
    Wire("pulse: client to daemon", lambda: clientseeds.pulse()[0], _pulse_server, repair_at(0, ">I", 20)),
    Wire("pulse: server to client", lambda: clientseeds.pulse()[1], _pulse_client, repair_at(0, ">I", 20)),
    Wire("native: client to daemon", clientseeds.native, lambda: _native(True), repair_at(0, "<I", 8)),
    Wire("native: daemon to client", clientseeds.native, lambda: _native(False), repair_at(0, "<I", 8)),
    Wire("peer: listener to daemon", clientseeds.peer_listener, _peer_server),
    Wire("peer: daemon to listener", clientseeds.peer_daemon, _peer_client),
    Wire("peer: viewer to daemon", clientseeds.viewer, _viewer_session),
    Wire("peer: daemon to viewer", clientseeds.view_daemon, _view_client),
    Wire("qmp: machine to daemon", seeds.qmp, qmp, repair_line),
    Wire("dbus: bus to daemon", lambda: seeds.dbus_display(True), lambda: dbus_display(True), DBUS),
    Wire("dbus: machine to daemon", lambda: seeds.dbus_display(False), lambda: dbus_display(False), DBUS),
    Wire("dbus: sound", seeds.dbus_audio, dbus_audio, DBUS),
    Wire("dbus: screen", seeds.dbus_screen, dbus_screen, DBUS),
    Wire("spice: main", lambda: linked(seeds.spice_main()), spice_main, SPICE),
    Wire("spice: playback", lambda: linked(seeds.spice_sound()), spice_playback, SPICE),
    Wire("spice: record", lambda: linked(seeds.spice_sound()), spice_record, SPICE),
    Wire("spice: display", lambda: linked(seeds.spice_display()), spice_display, SPICE),
    Wire("spice: cursor", lambda: linked(seeds.spice_cursor()), spice_cursor, SPICE),
    Wire("spice: inputs", lambda: linked(seeds.spice_inputs()), spice_inputs, SPICE),
    Wire("vnc: machine to daemon", seeds.vnc, vnc),
    Wire("x11: display to daemon", lambda: seeds.x11(xserver.NAMES), x11),
    Wire("x11: display to viewer", x11viewer.sessions, x11viewer.viewer),
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
                said = str(error)
                assert printable(said, len(said)) == said, said
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
