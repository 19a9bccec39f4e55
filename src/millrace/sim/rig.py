"""A guest in memory on a virtual clock: graph, PulseAudio server and any number of clients, without sockets.

Time moves from deadline to deadline, so minutes of sound take a moment and every run is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from millrace.doors.admission import Admission
from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.clients import Client as DoorClient
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.state import ClientState
from millrace.dsp.convert import Samples
from millrace.graph.driver import TimerDriver
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Node, Sink, Stream, Tap
from millrace.graph.reports import Trouble, Unreported
from millrace.rights.grants import Subject
from millrace.rights.prompts import Prompts
from millrace.symptoms import Symptom
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs, default_map
from millrace.wire.pulse.client import Failed, Notice, PulseClientSession, Reply, Sound, playback_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec

START_NS: HostNs = 400 * 24 * 3600 * NS_PER_S
"""A host with a long uptime, to expose anything that slows down or loses precision as its clock grows."""


class Capture:
    """A tap's consumer that keeps everything."""

    def __init__(self) -> None:
        self.blocks: list[Samples] = []
        self.positions: list[Frames] = []
        self.idles: list[Frames] = []

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer`."""
        assert (level > 0) == bool(block.any())
        self.blocks.append(block.copy())
        self.positions.append(position)

    def idle(self, position: Frames) -> None:
        """See `Consumer`."""
        self.idles.append(position)

    @property
    def sound(self) -> Samples:
        """All blocks concatenated."""
        return np.concatenate(self.blocks) if self.blocks else np.zeros((0, 2), np.float32)

    def began(self) -> Frames:
        """The position of the first sound."""
        for block, position in zip(self.blocks, self.positions, strict=True):
            loud = np.flatnonzero(block.any(axis=1))
            if len(loud):
                return position + int(loud[0])
        raise AssertionError("nothing was heard")

    def trimmed(self) -> Samples:
        """All sound without leading and trailing silence."""
        sound = self.sound
        loud = np.flatnonzero(sound.any(axis=1))
        return sound[loud[0] : loud[-1] + 1] if len(loud) else sound[:0]


# Time jumps from one deadline of the driver to the next, and after each one all clients exchange what they have until
# neither side has more. So a client answers a request in no time at all, which no real one does: what depends on a
# slow client has to be provoked (`stall`, or a player that is not fed).
class Rig(Unreported):
    """One guest with a virtual clock."""

    def __init__(self, rate: int = 48_000, channels: int = 2) -> None:
        self.now_ns: HostNs = START_NS
        self.driver = TimerDriver()
        self.troubles: list[str] = []
        self.modules_told: list[str] = []
        self.graph = Graph("default", Ids(), rate, default_map(channels), reports=self)
        self.graph.add_first_sink()
        self.driver.attach(self.graph)
        self.symptoms: list[Symptom] = []
        self.prompts = Prompts(self.graph.ids.take)
        self.admission = Admission("default", self.graph.budget, self.prompts, self.symptoms.append)
        self.door = PulseDoor(self.graph, self.admission, self, bytes(range(256)), "user@host", lambda: self.now_ns)
        self.clients: list[RigClient] = []

    # -- the guest's part for its graph and its door -----------------------------------------

    def report_node(self, node: Node, what: Trouble, since_ns: HostNs) -> None:
        """See `graph.reports.Reports`."""
        self.troubles.append(what)

    def client_changed(self, change: str, client: DoorClient) -> None:
        """See `clients.Host`."""

    def module_failed(self, module: str, why: str) -> None:
        """See `clients.Host`."""
        self.modules_told.append(f"{module}: {why}")

    def module_idle(self, module: str, why: str) -> None:
        """See `clients.Host`."""
        self.modules_told.append(f"{module} {why}")

    def in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        """See `clients.Host`. Runs all steps at once."""

        def run() -> None:
            for _ in steps():
                pass

        return run

    @property
    def sink(self) -> Sink:
        """The default sink."""
        assert self.graph.default is not None
        return self.graph.default

    def capture(self, sink: Sink | None = None, clocked: bool = False, channels: int | None = None) -> Capture:
        """Record a sink's monitor."""
        target = sink or self.sink
        taken = Capture()
        positions = default_map(channels) if channels else target.positions
        self.graph.add_tap(Tap(self.graph.ids.take(), "capture", positions, consumer=taken, clocked=clocked), target)
        return taken

    def client(self, version: int = PROTOCOL_VERSION, trusted: bool = True, login: bool = True) -> RigClient:
        """A connected client, authenticated unless `login` is off."""
        client = RigClient(self, version, trusted)
        self.clients.append(client)
        if login:
            client.ask(Command.AUTH, version=version, cookie=bytes(COOKIE_BYTES))
            client.ask(Command.SET_CLIENT_NAME, props={"application.name": b"test\0"})
        return client

    def stream_at(self, index: int) -> Stream:
        """The stream that clients know by this index."""
        stream = self.door.input_at(index)
        assert stream is not None, index
        return stream

    def playback_at(self, index: int) -> PlaybackStream:
        """The same, as its door has it."""
        return self.door.playback[self.stream_at(index).id]

    def record_at(self, index: int) -> RecordStream:
        """The recorder that clients know by this index."""
        record = self.door.output_at(index)
        assert record is not None, index
        return record

    def run(self, seconds: float) -> None:
        """Let time pass, from deadline to deadline; clients serve their requests."""
        end = self.now_ns + round(seconds * NS_PER_S)
        while True:
            deadline = self.driver.next_timeout()
            if deadline is None or deadline > end:
                break
            self.now_ns = max(self.now_ns, deadline)
            self.driver.handle_timeout(self.now_ns)
            for client in self.clients:
                client.exchange()
        self.now_ns = end

    def stall(self, milliseconds: float) -> None:
        """Stall the machine."""
        self.now_ns += round(milliseconds * NS_PER_MS)


class RigClient:
    """A client session connected to the server's session in memory."""

    def __init__(self, rig: Rig, version: int, trusted: bool) -> None:
        self.rig = rig
        self.wire = PulseClientSession(version)
        self.server = PulseClient(rig.door, HANDLERS, ClientState(rig.graph.ids.take(), Subject(ours=trusted)))
        self.replies: dict[int, Reply | Failed] = {}
        self.notices: list[Notice] = []
        self.recorded: dict[int, bytearray] = {}
        self.players: list[Player] = []

    def exchange(self) -> None:
        """Carry bytes both ways until neither side has more."""
        while True:
            out = self.wire.data_to_send()
            if out:
                self.server.receive(out, self.rig.now_ns)
            back = self.server.data_to_send()
            if back:
                self.wire.receive(back, self.rig.now_ns)
                self._take()
            if not out and not back:
                return

    def _take(self) -> None:
        for event in self.wire.events():
            if isinstance(event, Reply | Failed):
                self.replies[event.tag] = event
            elif isinstance(event, Sound):
                self.recorded.setdefault(event.channel, bytearray()).extend(event.data)
            else:
                self.notices.append(event)
                for player in self.players:
                    player.noticed(event)

    def send(self, command: Command, **fields: Any) -> int:
        """Send a request without waiting; return its tag."""
        tag = self.wire.send_request(command, fields)
        self.exchange()
        return tag

    def ask(self, command: Command, **fields: Any) -> dict[str, Any]:
        """Send a request and return the reply's fields; AssertionError if it fails or gets no reply."""
        reply = self.replies.get(self.send(command, **fields))
        assert isinstance(reply, Reply), f"{command.name}: {reply}"
        return reply.fields

    def ask_list(self, command: Command) -> list[dict[str, Any]]:
        """Send a request for a list, and return it."""
        reply = self.replies.get(self.send(command))
        assert isinstance(reply, Reply), f"{command.name}: {reply}"
        return reply.records

    def error(self, command: Command, **fields: Any) -> int:
        """Send a request that must fail; return the error code."""
        reply = self.replies.get(self.send(command, **fields))
        assert isinstance(reply, Failed), f"{command.name} did not fail: {reply}"
        return reply.code

    def named(self, command: Command) -> list[dict[str, Any]]:
        """All notices of one kind so far."""
        return [notice.fields for notice in self.notices if notice.command is command]

    def play(self, spec: Spec, numbers: tuple[int, ...], data: bytes = b"", **changes: Any) -> Player:
        """Create a playback stream that sends `data` as it is requested."""
        fields = playback_fields(spec, numbers, **changes)
        reply = self.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
        player = Player(self, reply, data)
        self.players.append(player)
        player.feed()
        return player

    def close(self) -> None:
        """Break the connection."""
        self.server.closed()
        self.rig.clients.remove(self)


class Player:
    """Serves REQUESTs as libpulse does."""

    def __init__(self, client: RigClient, reply: dict[str, Any], data: bytes) -> None:
        self.client, self.reply = client, reply
        self.channel: int = reply["channel"]
        self.index: int = reply["index"]
        self.asked: int = reply["missing"]
        self.requests: list[int] = []
        self.data = memoryview(data)

    def noticed(self, notice: Notice) -> None:
        """A notice arrived on the connection."""
        if notice.command is Command.REQUEST and notice.fields["channel"] == self.channel:
            self.requests.append(notice.fields["bytes"])
            self.asked += notice.fields["bytes"]
            self.feed()

    def feed(self) -> None:
        """Send what was requested, as far as there is data."""
        take = min(self.asked, len(self.data))
        if take > 0:
            self.client.wire.send_block(self.channel, self.data[:take])
            self.data = self.data[take:]
            self.asked -= take
            self.client.exchange()

    def drain(self) -> int:
        """Request a drain; return its tag."""
        return self.client.send(Command.DRAIN_PLAYBACK_STREAM, channel=self.channel)
