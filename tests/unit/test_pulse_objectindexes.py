"""The indexes of streams, recorders, clients, modules and samples: each guest's own, from 0."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.doorstate import PulseDoorState, freeze_door, resume_door
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import ClientState
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Stream
from millrace.sim.rig import Rig, RigClient
from millrace.units import default_map
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Facility
from millrace.wire.pulse.tagstruct import Spec

C = Command
S16, STEREO = Spec(SampleFormat.S16LE, 2, 48_000), (1, 2)
LISTS = (
    C.GET_SINK_INPUT_INFO_LIST, C.GET_SOURCE_OUTPUT_INFO_LIST, C.GET_CLIENT_INFO_LIST, C.GET_MODULE_INFO_LIST,
    C.GET_SAMPLE_INFO_LIST,
)  # fmt: skip


def indexes(client: RigClient) -> list[list[int]]:
    """Of all that is listed."""
    return [[one["index"] for one in client.ask_list(command)] for command in LISTS]


def record(client: RigClient, **changes: Any) -> int:
    fields = record_fields(S16, STEREO, **{"source_name": "millrace.monitor"} | changes)
    index: int = client.ask(C.CREATE_RECORD_STREAM, **fields)["index"]
    return index


def upload(client: RigClient, name: str) -> None:
    fields = {"name": name, "spec": S16, "map": STEREO, "length": 400, "props": {}}
    channel = client.ask(C.CREATE_UPLOAD_STREAM, **fields)["channel"]
    client.wire.send_block(channel, memoryview(bytes(400)))
    client.ask(C.FINISH_UPLOAD_STREAM, channel=channel)


def busy() -> Rig:
    """A guest beside others, which have had a hundred objects since it was made."""
    rig = Rig()
    for _ in range(100):
        rig.graph.ids.take()
    return rig


def furnished(rig: Rig) -> tuple[RigClient, RigClient]:
    """Two programs that play and record, with a tone, a loopback and samples."""
    first, second = rig.client(), rig.client()
    for client in (first, second):
        client.play(S16, STEREO)
        record(client)
        upload(client, f"bell of {client.server.client_index}")
    for name, argument in (("sine", ""), ("loopback", "source=millrace.monitor sink=millrace")):
        first.ask(C.LOAD_MODULE, name=f"module-{name}", argument=argument)
    return first, second


def thawed(rig: Rig, client: RigClient, old: bool = False) -> PulseDoor:
    """The guest continues elsewhere; with `old`, as one that was frozen before indexes were counted in each guest."""
    connection = msgspec.msgpack.encode(client.server.freeze())
    door = freeze_door(rig.door)
    if old:
        door.sinks = door.sources = door.objects = None
    state = msgspec.msgpack.encode(door)
    rig.graph.observers.remove(rig.door._graph_changed)
    rig.admission.doors.remove(rig.door)
    rig.door = PulseDoor(rig.graph, rig.admission, rig, b"", "user@host", lambda: rig.now_ns)
    resume_door(rig.door, msgspec.msgpack.decode(state, type=PulseDoorState))
    continued = msgspec.msgpack.decode(connection, type=ClientState)
    if old:
        continued.client_index = NO_INDEX
    client.server = PulseClient(rig.door, HANDLERS, continued)
    return rig.door


def test_all_are_counted_from_0_whatever_other_guests_have() -> None:
    rig = busy()
    first, second = furnished(rig)
    assert indexes(second) == [[0, 1, 2, 3], [0, 1, 2], [0, 1], list(range(8)), [0, 1]]
    inputs, outputs, clients = (second.ask_list(command) for command in LISTS[:3])
    assert [one["client"] for one in (*inputs, *outputs)] == [0, 1, NO_INDEX, NO_INDEX, 0, 1, NO_INDEX]
    assert [one["module"] for one in (*inputs, *outputs, *clients)] == [0, 0, 6, 7, 0, 0, 7, 0, 0]
    assert second.ask(C.SET_CLIENT_NAME, props={})["index"] == second.server.client_index == 1
    assert second.server.index > 100, "for the API it has the daemon's number"
    fields = {"sink_index": NO_INDEX, "sink_name": None, "volume": NO_INDEX, "name": "bell of 0", "props": {}}
    assert second.ask(C.PLAY_SAMPLE, **fields)["index"] == 4
    # Those of a monitor of one stream, of requests about each, and of what is gone.
    assert record(first, direct_on_input=1) == 3 and rig.record_at(3).node.stream is rig.stream_at(1)
    first.ask(C.SET_SINK_INPUT_MUTE, index=1, mute=True)
    first.ask(C.SET_SOURCE_OUTPUT_MUTE, index=1, mute=True)
    first.ask(C.KILL_SINK_INPUT, index=0)
    first.ask(C.KILL_SOURCE_OUTPUT, index=0)
    first.ask(C.UNLOAD_MODULE, index=6)
    first.ask(C.REMOVE_SAMPLE, name="bell of 1")
    assert rig.stream_at(1).mute and rig.record_at(1).state.mute and not first.server.streams
    upload(first, "gong")
    upload(first, "bell of 0")
    assert (first.play(S16, STEREO).index, record(first)) == (5, 4)
    assert first.ask(C.LOAD_MODULE, name="module-null-sink", argument="")["index"] == 8
    second.close()
    rig.client()
    assert indexes(first) == [[3, 4, 5], [2, 4], [0, 2], [0, 1, 2, 3, 4, 5, 7, 8], [0, 2]]
    for command in (C.GET_SINK_INPUT_INFO, C.GET_SOURCE_OUTPUT_INFO, C.GET_CLIENT_INFO):
        assert first.error(command, index=1) == Err.NOENTITY
    assert first.error(C.KILL_CLIENT, index=1) == Err.NOENTITY
    first.ask(C.KILL_CLIENT, index=2)


def test_events_tell_the_same_indexes() -> None:
    rig = busy()
    watcher = rig.client()
    watcher.ask(C.SUBSCRIBE, mask=0xFFF)
    first, _ = furnished(rig)
    first.ask(C.KILL_SINK_INPUT, index=0)
    first.ask(C.KILL_SOURCE_OUTPUT, index=0)
    first.ask(C.UNLOAD_MODULE, index=6)
    first.ask(C.REMOVE_SAMPLE, name="bell of 1")
    first.close()
    watcher.exchange()
    told = {(one["event"], one["index"]) for one in watcher.named(C.SUBSCRIBE_EVENT)}
    kinds = {
        Facility.SINK_INPUT: {0, 1, 2, 3}, Facility.SOURCE_OUTPUT: {0, 1, 2}, Facility.CLIENT: {1, 2},
        Facility.MODULE: {6, 7}, Facility.SAMPLE_CACHE: {0, 1},
    }  # fmt: skip
    removed = {
        Facility.SINK_INPUT: {0, 2}, Facility.SOURCE_OUTPUT: {0}, Facility.CLIENT: {1}, Facility.MODULE: {6},
        Facility.SAMPLE_CACHE: {0},
    }  # fmt: skip
    for facility, new in kinds.items():
        assert {index for event, index in told if event == facility | Change.NEW} == new, facility
        assert {index for event, index in told if event & 0xF == facility} == new, facility
        assert {index for event, index in told if event == facility | Change.REMOVE} == removed[facility], facility


def test_stream_is_gone_while_it_plays_to_a_source() -> None:
    rig = busy()
    watcher, source = rig.client(), rig.graph.add_source("line", "Line")
    watcher.ask(C.SUBSCRIBE, mask=1 << Facility.SINK_INPUT)
    film = Stream(rig.graph.ids.take(), "film", default_map(2))
    rig.graph.add_stream(film, source)
    assert indexes(watcher)[0] == []
    seen = []
    for mix in (rig.sink, source, rig.sink):
        rig.graph.move_stream(film, mix)
        watcher.exchange()
        seen += [(one["event"] & 0xF0, one["index"]) for one in watcher.named(C.SUBSCRIBE_EVENT)]
        watcher.notices.clear()
    assert seen == [(Change.NEW, 0), (Change.REMOVE, 0), (Change.NEW, 1)] and indexes(watcher)[0] == [1]


def test_indexes_stay_when_the_guest_continues_elsewhere() -> None:
    rig = busy()
    first, second = furnished(rig)
    first.close()
    before = indexes(second)
    assert before == [[1, 2, 3], [1, 2], [1], list(range(8)), [0, 1]]
    door = thawed(rig, second)
    assert indexes(second) == before
    assert second.ask(C.GET_SINK_INPUT_INFO, index=1)["client"] == second.server.client_index == 1
    upload(second, "gong")
    assert (second.play(S16, STEREO).index, record(second)) == (4, 3)
    assert second.ask(C.LOAD_MODULE, name="module-null-sink", argument="")["index"] == 8
    assert [sample.index for sample in door.samples] == [0, 1, 2] and rig.client().server.client_index == 2


def test_what_ended_meanwhile_has_no_index_any_more() -> None:
    rig = busy()
    client = rig.client()
    players = [client.play(S16, STEREO) for _ in range(2)]
    record(client)
    node, tap = rig.stream_at(0), rig.record_at(0).node
    connection, state = client.server.freeze(), freeze_door(rig.door)
    rig.graph.observers.remove(rig.door._graph_changed)
    rig.graph.remove_stream(node)
    rig.graph.remove_tap(tap)
    rig.door = PulseDoor(rig.graph, rig.admission, rig, b"", "user@host", lambda: rig.now_ns)
    resume_door(rig.door, state)
    client.server = PulseClient(rig.door, HANDLERS, connection)
    assert indexes(client)[:2] == [[players[1].index], []] and players[1].index == 1
    assert node not in rig.door.indexes.inputs and tap not in rig.door.indexes.outputs
    assert (client.play(S16, STEREO).index, record(client)) == (2, 1)


def test_recorder_that_moves_while_its_connection_is_frozen_keeps_its_index() -> None:
    rig = Rig()
    client = rig.client()
    record(client)
    tap = rig.record_at(0).node
    state = client.server.freeze()
    rig.graph.move_tap(tap, rig.graph.add_sink("music"))
    client.server = PulseClient(rig.door, HANDLERS, state)
    assert indexes(client)[1] == [0] and rig.record_at(0).node is tap


@pytest.mark.parametrize("kind", ["stream", "recorder", "client"])
def test_programs_of_a_guest_frozen_before_keep_the_numbers_that_they_know(kind: str) -> None:
    rig = busy()
    client = rig.client()
    player = client.play(S16, STEREO)
    record(client)
    nodes = {"stream": rig.stream_at(player.index).id, "recorder": rig.record_at(0).node.id}
    nodes["client"] = client.server.index
    thawed(rig, client, old=True)
    position = list(nodes).index(kind)
    (known,) = indexes(client)[position]
    assert known == nodes[kind]
    other = rig.client()
    other.play(S16, STEREO)
    record(other)
    assert indexes(other)[position] == [known, known + 1]
    assert client.ask(C.SET_CLIENT_NAME, props={})["index"] == nodes["client"]
