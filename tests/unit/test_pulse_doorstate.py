"""What a PulseAudio door holds besides its connections, as a value: modules are as they were, and so is their end."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from millrace.doors.pulse.detached import attach_playback, detach_playback, detach_record, resume_playback
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.doorstate import PulseDoorState, freeze_door, resume_door
from millrace.doors.pulse.loopback import Heard, Loopback
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.streams import NoOwner
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import NOTHING, NodeState
from millrace.sim.rig import Rig, RigClient
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import Change, Command, Err, Facility
from millrace.wire.pulse.tagstruct import Spec

SPEC = Spec(SampleFormat.S16LE, 2, 48_000)


def thawed(rig: Rig) -> PulseDoor:
    """Another door on the same graph, without connections, continued from the bytes of the first one's state."""
    nodes = freeze_door(rig.door)
    rig.graph.observers.remove(rig.door._graph_changed)
    rig.admission.doors.remove(rig.door)
    rig.door = PulseDoor(rig.graph, rig.admission, rig, b"", "user@host", lambda: rig.now_ns)
    resume_door(rig.door, msgspec.msgpack.decode(msgspec.msgpack.encode(nodes), type=PulseDoorState))
    return rig.door


def load(client: RigClient, name: str, argument: str = "") -> int:
    index: int = client.ask(Command.LOAD_MODULE, name=name, argument=argument)["index"]
    return index


def test_detached_streams_keep_their_nodes() -> None:
    rig = Rig()
    client = rig.client()
    player = client.play(SPEC, (1, 2), bytes(40_000))
    record = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(SPEC, (1, 2), source_name="millrace.monitor"))
    stream, recorder = rig.playback_at(player.index), rig.record_at(record["index"])
    node = stream.node
    state = detach_playback(rig.door, stream)
    detach_record(rig.door, recorder)
    assert not rig.door.playback and not rig.door.records
    assert node.feed is NOTHING and recorder.node.consumer is NOTHING and node.id in rig.graph.streams
    attach_playback(rig.door, PlaybackStream(NoOwner(), state, node, rig.graph))
    assert rig.door.playback[node.id] is node.feed is not stream
    state = detach_playback(rig.door, rig.door.playback[node.id])
    rig.graph.remove_stream(node)
    assert resume_playback(rig.door, node.id, state, NoOwner()) is None and not rig.door.playback


def test_modules_are_listed_as_before_and_remove_what_they_made() -> None:
    rig = Rig()
    client = rig.client()
    client.ask(Command.UNLOAD_MODULE, index=next(m.index for m in rig.door.modules.values() if "always" in m.name))
    sink = load(client, "module-null-sink", "sink_name=hall rate=8000")
    link = load(client, "module-remap-sink", "sink_name=turned master=hall channel_map=front-right,front-left")
    tone = load(client, "module-sine", "sink=turned frequency=331")
    loop = load(client, "module-loopback", "source=hall.monitor sink=millrace latency_msec=30")
    restore = next(m for m in rig.door.modules.values() if m.name == "module-stream-restore")
    client.ask(Command.UNLOAD_MODULE, index=restore.index)
    load(client, "module-stream-restore", "restore_volume=no")
    rig.run(0.2)
    listed = client.ask_list(Command.GET_MODULE_INFO_LIST)
    client.close()
    held, restores, own = rig.graph.budget.held, rig.door.rules.restores, rig.door.own_module.index
    nodes = {*rig.door.made_by}
    door = thawed(rig)
    assert rig.graph.budget.held == held and {*door.made_by} == nodes and len(nodes) == 3
    assert door.rules.restores == restores == {"muted", "device"} and door.own_module.index == own
    client = rig.client()
    assert client.ask_list(Command.GET_MODULE_INFO_LIST) == listed
    (stream,) = door.playback.values()
    assert isinstance(stream.owner, Loopback) and door.records
    rig.run(0.1)
    client.ask(Command.UNLOAD_MODULE, index=loop)
    assert not door.playback and not door.records
    # What depends on a device that goes ends with it.
    client.ask(Command.UNLOAD_MODULE, index=sink)
    assert not {sink, link} & door.modules.keys() and [one.name for one in rig.graph.sinks.values()] == ["millrace"]
    client.ask(Command.UNLOAD_MODULE, index=tone)
    assert not door.made_by and not rig.graph.streams
    client.ask(Command.UNLOAD_MODULE, index=next(m.index for m in door.modules.values() if m.name == restore.name))
    assert not door.rules.restores


@pytest.mark.parametrize("argument", ["", "ignore_virtual=no"])
def test_switch_on_connect_still_switches(argument: str) -> None:
    rig = Rig()
    load(rig.client(), "module-switch-on-connect", argument)
    rig.clients[0].close()
    thawed(rig)
    load(rig.client(), "module-null-sink", "sink_name=hall")
    assert rig.sink.name == ("hall" if argument else "millrace")
    assert rig.graph.add_sink("other") is rig.sink


def test_loopback_stays_quiet_and_still_refuses_to_hear_itself() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=hall")
    load(client, "module-loopback", "source=hall.monitor sink=millrace latency_msec=30")
    client.play(SPEC, (1, 2), bytes(400_000), sink_name="hall")
    rig.run(0.1)
    client.close()
    (before,) = rig.door.records.values()
    door = thawed(rig)
    (after,), (stream,) = door.records.values(), door.playback.values()
    assert isinstance(before, Heard) and isinstance(after, Heard) and after is not before
    assert (after.quiet, after.rests_after) == (before.quiet, before.rests_after) and after.quiet
    hall = next(one for one in rig.graph.sinks.values() if one.name == "hall")
    index = rig.door.indexes.inputs.of(stream.node)
    move = {"index": index, "sink_index": rig.door.sink_indexes.of(hall), "sink_name": None}
    assert rig.client().error(Command.MOVE_SINK_INPUT, **move) == Err.INVALID


def test_only_changes_are_published_after_it_continues() -> None:
    rig = Rig()
    rig.client().play(SPEC, (1, 2), bytes(40_000), tlength=20_000)
    rig.run(0.05)
    rig.clients[0].close()
    assert rig.sink.state is NodeState.RUNNING
    thawed(rig)
    client = rig.client()
    client.ask(Command.SUBSCRIBE, mask=0xFFF)
    rig.graph.set_gains(rig.sink, (0.5, 0.5))
    client.exchange()
    assert [one["event"] for one in client.named(Command.SUBSCRIBE_EVENT)] == [Facility.SINK | Change.CHANGE]


def test_sample_that_is_playing_continues_to_its_end() -> None:
    def heard(freezing: bool) -> np.ndarray:
        rig = Rig()
        client, monitor = rig.client(), rig.capture()
        sound = np.random.default_rng(2).integers(-9_000, 9_000, 20_000, np.int16).tobytes()
        upload = {"name": "bell", "spec": SPEC, "map": (1, 2), "length": len(sound), "props": {}}
        channel = client.ask(Command.CREATE_UPLOAD_STREAM, **upload)["channel"]
        client.wire.send_block(channel, sound)
        client.ask(Command.FINISH_UPLOAD_STREAM, channel=channel)
        client.ask(Command.PLAY_SAMPLE, name="bell", sink_index=rig.sink.id, sink_name=None, volume=0x10000, props={})
        client.close()
        rig.run(0.05)
        if freezing:
            thawed(rig)
        rig.run(1.0)
        assert not rig.graph.streams
        return monitor.trimmed()

    whole, frozen = heard(False), heard(True)
    assert len(whole) > 9_000 and np.array_equal(frozen, whole)
