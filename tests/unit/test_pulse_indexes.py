"""The indexes of sinks and sources: each guest's own, from 0."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from millrace.doors.pulse import infos
from millrace.doors.pulse.devicenames import MONITOR
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.doorstate import PulseDoorState, freeze_door, resume_door
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.indexes import Indexes
from millrace.graph.driver import TimerDriver
from millrace.graph.model import Ids
from millrace.guest.config import GuestConfig
from millrace.guest.guest import Common, Guest
from millrace.io.clock import now_ns, worked_ns
from millrace.io.listeners import Listeners
from millrace.rights.prompts import Prompts
from millrace.sim.rig import Rig
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from tests.doorscene import Scene
from tests.unit.test_guest_doors import Reports


@pytest.mark.parametrize("before", [0, 100])
def test_first_sink_of_every_guest_is_0_as_are_its_monitor_and_then_its_microphone(before: int, tmp_path: Path) -> None:
    """However many objects other guests had before."""
    asyncio.run(_first_sink_is_0(before, tmp_path))


async def _first_sink_is_0(before: int, folder: Path) -> None:
    ids = Ids()
    for _ in range(before):
        ids.take()
    common = Common(ids, TimerDriver(worked_ns, now_ns), folder, Listeners(), Prompts(ids.take), Reports())
    guest = Guest(GuestConfig("alice"), common)
    door, sink = guest.pulse.door, guest.graph.default
    assert sink is not None and sink.id == before
    assert door.find_sink(0, None) is door.find_sink(NO_INDEX, "0") is door.find_source(0, None) is sink
    assert door.find_source(NO_INDEX, f"0{MONITOR}") is sink and door.find_source(NO_INDEX, "1") is guest.microphone
    records = [infos.sink_info(door, sink, 0), *(infos.source_info(door, mix, 0) for mix in guest.graph.mixes())]
    assert [record["index"] for record in records] == [0, 0, 1]
    assert records[0]["monitor_index"] == records[1]["monitor_of_index"] == 0
    music = guest.graph.add_sink("music")
    assert (infos.sink_info(door, music, 0)["index"], infos.source_info(door, music, 0)["index"]) == (1, 2)
    for number in {str(sink.id), "3"} - {"0"}:
        with pytest.raises(CommandError) as refused:
            door.find_sink(NO_INDEX, number)
        assert refused.value.code is Err.NOENTITY


def test_index_is_not_given_twice_and_names_take_precedence() -> None:
    scene = Scene()
    door, graph = scene.door, scene.graph
    graph.remove_sink(scene.music)
    other = graph.add_sink("other")
    assert door.find_sink(2, None) is door.find_source(3, None) is other
    for find, index in ((door.find_sink, 1), (door.find_source, 1)):
        with pytest.raises(CommandError):
            find(index, None)
    indexes = Indexes([scene.sink, other])
    indexes.forget(other)
    indexes.add(scene.music)
    assert (indexes.of(scene.sink), indexes.of(other), indexes.of(scene.music)) == (0, NO_INDEX, 2)
    assert (indexes.id_at(1), indexes.id_at(2)) == (-1, scene.music.id)
    named = graph.add_sink("2")
    assert [door.source_indexes.of(mix) for mix in door.sources_for(scene.caller)] == [0, 2, 3, 4], (
        "as PulseAudio lists"
    )
    assert door.find_sink(NO_INDEX, "2") is named and door.find_sink(2, None) is other


def test_streams_and_recorders_name_their_device_by_its_index() -> None:
    rig = Scene()
    playing, recording = rig.play(sink_name="music"), rig.record(source_name="microphone")
    shown = infos.sink_input_info(rig.door, playing.node, 0)
    assert shown is not None and shown["sink"] == 1
    assert infos.source_output_info(rig.door, recording)["source"] == 2


def test_indexes_stay_when_the_guest_continues_elsewhere() -> None:
    rig = Rig()
    client = rig.client()
    gone, hall = rig.graph.add_sink("gone"), rig.graph.add_sink("hall")
    rig.graph.remove_sink(gone)
    listed = client.ask_list(Command.GET_SINK_INFO_LIST)
    client.close()
    state = msgspec.msgpack.encode(freeze_door(rig.door))
    rig.graph.observers.remove(rig.door._graph_changed)
    rig.door = PulseDoor(rig.graph, rig.admission, rig, b"", "user@host", lambda: rig.now_ns)
    resume_door(rig.door, msgspec.msgpack.decode(state, type=PulseDoorState))
    assert [one["index"] for one in listed] == [0, 2] and rig.client().ask_list(Command.GET_SINK_INFO_LIST) == listed
    assert rig.door.sink_indexes.of(hall) == 2 and rig.door.sink_indexes.of(rig.graph.add_sink("new")) == 3
