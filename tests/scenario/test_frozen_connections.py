"""A PulseAudio connection with streams of both kinds is frozen at any byte of its traffic, and plays and records on."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import VERSIONS, read_client
from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.errors import BudgetError, ConfigError
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Player, Rig, RigClient
from millrace.wire.pulse.client import Failed, Reply, record_fields
from millrace.wire.pulse.constants import NO_INDEX, PROTOCOL_VERSION, Command, Err
from millrace.wire.pulse.tagstruct import Spec

SPEC = Spec(SampleFormat.S16LE, 2, 48_000)
SOUND = encode(SampleFormat.S16LE, np.random.default_rng(3).uniform(-0.3, 0.3, (40_000, 2)).astype(np.float32))
READ_RULES = b"L\0\0\0\1"
QUIET = 0x8000
"""A volume of one eighth."""


class FrozenClient(RigClient):
    """A connection whose bytes arrive in pieces, by `seed`. With `freezing` it is frozen now and then."""

    def __init__(self, rig: Rig, seed: int, freezing: bool) -> None:
        super().__init__(rig, PROTOCOL_VERSION, trusted=True)
        self._pieces, self._freezes, self._freezing = random.Random(seed), random.Random(seed + 1), freezing
        self.told = b""
        """Everything that the client has received."""
        self.frozen_in_block = self.frozen = 0
        rig.clients.append(self)

    def exchange(self) -> None:
        while True:
            out = self.wire.data_to_send()
            for at in range(0, len(out), size := self._pieces.choice((1_000, 3_001, 70_000))):
                self._arrives(out[at : at + size])
            if self._freezing and self._freezes.random() < 0.05:
                self.freeze()
            back = self.server.data_to_send()
            self._told(back)
            if not out and not back:
                return

    def _arrives(self, data: bytes) -> None:
        """Pass on bytes; if the connection is frozen there, some have been received and not been processed."""
        if self._freezing and self._freezes.random() < 0.15:
            cut = self._freezes.randrange(len(data) + 1)
            self.server.receive(data[:cut], self.rig.now_ns)
            self.freeze(data[cut:])
        else:
            self.server.receive(data, self.rig.now_ns)

    def freeze(self, received: bytes = b"") -> None:
        """Continue the connection from its bytes."""
        self.frozen += 1
        self.frozen_in_block += self.server._wire.state.left > 0
        held, door = self.server.account.held, self.rig.door
        streams = list(self.server.streams), list(self.server.records), list(door.clients)
        frozen = msgspec.msgpack.encode(self.server.freeze(received))
        assert not (self.server.streams or self.server.account.held or self.server.index in door.clients)
        assert all(stream.owner is not self.server for stream in (*door.playback.values(), *door.records.values()))
        self.server = PulseClient(door, HANDLERS, state := read_client(frozen))
        assert self.server.account.held == held and streams[:2] == ([*self.server.streams], [*self.server.records])
        assert set(door.clients) == set(streams[2])
        taken, state.received = state.received, b""
        assert self.server.receive(taken, self.rig.now_ns) == len(taken)

    def _told(self, data: bytes) -> None:
        self.told += data
        self.wire.receive(data, self.rig.now_ns)
        self._take()


def conversation(rig: Rig, seed: int, freezing: bool) -> tuple[FrozenClient, list[Player]]:
    """A program plays, records, uploads and asks while another changes what it hears."""
    line = FrozenClient(rig, seed, freezing)
    line.ask(Command.AUTH, version=PROTOCOL_VERSION, cookie=bytes(256))
    line.ask(Command.SET_CLIENT_NAME, props={"application.name": b"recorder\0"})
    line.ask(Command.SUBSCRIBE, mask=0xFFF)
    other, hall = rig.client(), rig.graph.add_sink("hall")
    rig.graph.link(hall, rig.sink)
    fields = record_fields(SPEC, (1, 2), source_name="millrace.monitor", fragsize=2_000)
    record = line.ask(Command.CREATE_RECORD_STREAM, **fields)
    players = [line.play(SPEC, (1, 2), SOUND, tlength=8_000 + 4_000 * n, maxlength=1 << 20) for n in range(2)]
    pair = [line.play(SPEC, (1, 2), SOUND[n:40_000], tlength=16_000, sync_id=1 << 20, corked=True) for n in (0, 400)]
    for step in range(14):
        rig.run(0.0337)
        line.ask(Command.GET_PLAYBACK_LATENCY, channel=players[0].channel, time=(1, step))
        if step == 2:
            line.ask(Command.CORK_PLAYBACK_STREAM, channel=pair[0].channel, cork=False)
            line.wire.send_block(players[1].channel, SOUND[:1_600], offset=-3_200)
        if step == 4:
            other.ask(Command.SET_SINK_INPUT_VOLUME, index=players[0].index, volume=(QUIET, QUIET))
            line.ask(Command.CORK_PLAYBACK_STREAM, channel=players[1].channel, cork=True)
        if step == 5:
            upload = {"name": "bell", "spec": SPEC, "map": (1, 2), "length": 20_000, "props": {}}
            channel = line.ask(Command.CREATE_UPLOAD_STREAM, **upload)["channel"]
            line.wire.send_block(channel, SOUND[:20_000])
            line.ask(Command.FINISH_UPLOAD_STREAM, channel=channel)
        if step == 6:
            other.ask(Command.MOVE_SINK_INPUT, index=players[0].index, sink_index=1, sink_name=None)
            line.ask(Command.CORK_PLAYBACK_STREAM, channel=players[1].channel, cork=False)
        if step == 7:
            line.ask(Command.SET_SOURCE_OUTPUT_VOLUME, index=record["index"], volume=(QUIET, 0x10000))
            line.ask_list(Command.GET_SINK_INPUT_INFO_LIST)
        if step == 8:
            line.ask(Command.FLUSH_PLAYBACK_STREAM, channel=pair[0].channel)
            other.ask(Command.MOVE_SINK_INPUT, index=players[0].index, sink_index=0, sink_name=None)
        if step == 10:
            other.ask(Command.KILL_SINK_INPUT, index=pair[1].index)
            line.ask(Command.PLAY_SAMPLE, name="bell", sink_index=0, sink_name=None, volume=0x10000, props={})
    drained = players[0].drain()
    rig.run(0.8)
    assert isinstance(line.replies[drained], Reply)
    return line, players


def heard(seed: int, freezing: bool) -> tuple[Samples, bytes, bytes, FrozenClient, Rig]:
    rig = Rig()
    monitor = rig.capture()
    line, _ = conversation(rig, seed, freezing)
    (recorded,) = line.recorded.values()
    return monitor.sound, line.told, bytes(recorded), line, rig


@pytest.mark.parametrize("seed", range(4))
def test_sound_and_answers_are_the_same_byte_for_byte(seed: int) -> None:
    whole, frozen = (heard(seed, freezing) for freezing in (False, True))
    assert frozen[3].frozen > 30 and frozen[3].frozen_in_block > 3
    assert frozen[0].any() and np.array_equal(frozen[0], whole[0])
    assert frozen[1] == whole[1], "every answer and notice, byte for byte"
    assert frozen[2] == whole[2] and len(whole[2]) > 50_000
    assert frozen[4].troubles == whole[4].troubles
    assert frozen[4].graph.budget.held == whole[4].graph.budget.held


def frozen(client: RigClient, received: bytes = b"") -> PulseClient:
    """The server's side of a connection, continued from its bytes."""
    data = msgspec.msgpack.encode(client.server.freeze(received))
    return PulseClient(client.rig.door, HANDLERS, read_client(data))


def test_request_in_progress_is_finished_and_following_bytes_are_kept() -> None:
    rig = Rig()
    client = rig.client()
    client.server.over = lambda: True
    asked = [client.wire.send_request(command) for command in (Command.GET_SINK_INFO_LIST, Command.GET_SERVER_INFO)]
    data = client.wire.data_to_send()
    taken = client.server.receive(data, rig.now_ns)
    assert client.server.unfinished and taken < len(data)
    client.server = frozen(client, data[taken:])
    client.server.receive(client.server.state.received, rig.now_ns)
    client.exchange()
    answers = [client.replies[tag] for tag in asked]
    assert isinstance(answers[0], Reply) and [one["name"] for one in answers[0].records] == ["millrace"]
    assert isinstance(answers[1], Reply) and answers[1].fields["host"] == "host"


def test_change_that_waits_for_the_disk_is_made_again_and_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    door, stored = rig.door, list[Callable[[bool], None]]()
    client = rig.client()
    monkeypatch.setattr(door.devices, "_submit", lambda update: stored.append(update.done))
    monkeypatch.setattr(door.rules, "submit", lambda update: stored.append(update.done))
    restore = {"index": NO_INDEX, "name": "module-stream-restore", "rest": READ_RULES}
    tags = [
        client.send(Command.SET_SINK_VOLUME, index=rig.sink.id, name=None, volume=(QUIET, QUIET)),
        client.send(Command.SET_DEFAULT_SINK, name="millrace"), client.send(Command.EXTENSION, **restore),
    ]  # fmt: skip
    assert len(stored) == 3 and not client.replies.keys() & tags
    client.server = frozen(client)
    before, again = stored[:3], stored[3:]
    assert len(again) == 3 and len(client.server._storing) == 3
    for done in before:
        done(True)
    client.exchange()
    assert not client.replies.keys() & tags, "the connection that asked first is gone"
    for done, kept in zip(again, (True, False, True), strict=True):
        done(kept)
    client.exchange()
    answers = [client.replies[tag] for tag in tags]
    assert isinstance(answers[0], Reply) and isinstance(answers[2], Reply)
    assert answers[1] == Failed(tags[1], Command.SET_DEFAULT_SINK, Err.IO) and not client.server._storing
    assert rig.sink.gains == pytest.approx((0.125, 0.125))


def test_events_not_distributed_yet_are_included(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    client = rig.client()
    client.ask(Command.SUBSCRIBE, mask=0xFFF)
    monkeypatch.setattr(rig.door.news, "_spread", lambda: None)
    sink = rig.graph.add_sink("hall")
    client.server = frozen(client)
    client.exchange()
    assert {"event": 0, "index": rig.door.sink_indexes.of(sink)} in client.named(Command.SUBSCRIBE_EVENT)


def test_grant_withdrawn_meanwhile_ends_the_recorder() -> None:
    rig = Rig()
    client = rig.client()
    client.ask(Command.CREATE_RECORD_STREAM, **record_fields(SPEC, (1, 2), source_name="millrace.monitor"))
    state = client.server.freeze()
    rig.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    rig.admission.enforce()
    assert rig.graph.taps
    client.server = PulseClient(rig.door, HANDLERS, state)
    client.exchange()
    assert not rig.graph.taps and client.named(Command.RECORD_STREAM_KILLED)


def test_connection_of_unknown_version_is_refused() -> None:
    data = msgspec.msgpack.encode({"version": VERSIONS.stop, "index": "another layout"})
    with pytest.raises(ConfigError, match=f"a connection was frozen in version {VERSIONS.stop}"):
        read_client(data)
    with pytest.raises(ConfigError, match="the state of a frozen connection can't be read"):
        read_client(data[:-1])


def test_connection_that_has_no_room_to_continue_leaves_nothing() -> None:
    rig = Rig()
    client = FrozenClient(rig, 0, False)
    client.ask(Command.AUTH, version=PROTOCOL_VERSION, cookie=bytes(256))
    client.ask(Command.SET_CLIENT_NAME, props={f"large.{n}": bytes(30_000) for n in range(6)})
    client.ask(Command.SUBSCRIBE, mask=0xFFF)
    budget = rig.admission.budget
    upload = {"name": "bell", "spec": SPEC, "map": (1, 2), "length": 40_000, "props": {}}
    client.ask(Command.CREATE_UPLOAD_STREAM, **upload)
    state = client.server.freeze()
    budget.limit, before = budget.held, budget.held
    with pytest.raises(BudgetError):
        PulseClient(rig.door, HANDLERS, state)
    assert budget.held == before and not rig.door.clients and not rig.door.news.subscriptions
