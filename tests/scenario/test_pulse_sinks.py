"""Sinks, sources and modules as PulseAudio clients see them: names, defaults, maps, arguments, created objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.control.store import Store
from millrace.daemon.app import Daemon
from millrace.dsp.convert import SampleFormat
from millrace.errors import GraphError
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, DeviceState, Encoding, Err, Facility
from millrace.wire.pulse.tagstruct import FormatInfo, Spec
from tests.nativebus import of_daemon, running
from tests.scenario.pulseviews import load, quiet_recorder, sinks_of, sources_of

from .test_pulse_restore import Program


def test_first_sink_has_own_name_and_is_found_by_former_name() -> None:
    rig = Rig()
    client = rig.client()
    assert client.ask(Command.GET_SERVER_INFO)["default_sink"] == "millrace"
    for name in ("millrace", "default"):
        assert client.ask(Command.LOOKUP_SINK, name=name)["index"] == rig.sink.id
        assert client.ask(Command.LOOKUP_SOURCE, name=f"{name}.monitor")["index"] == rig.sink.id
    assert client.ask(Command.GET_SOURCE_INFO, index=NO_INDEX, name="default.monitor")["name"] == "millrace.monitor"
    with pytest.raises(GraphError, match="'default' already exists"):
        rig.graph.add_sink("default")


def test_settings_for_former_name_apply_to_first_sink(tmp_path: Path) -> None:
    store = Store(tmp_path / "s" / "state.db")
    store.keep_level("alice", "sink", "default", ((0.5, 0.25), True))
    store.keep_sink("alice", "millrace", "somebody's own of before")
    store.close()

    async def test(daemon: Daemon) -> None:
        sink = daemon.worker.guest("alice").graph.default
        assert sink is not None and sink.name == "millrace"
        assert (sink.gains, sink.mute) == ((0.5, 0.25), True)
        async with of_daemon(daemon) as bus:
            await bus.set("sink/default", "alice", mute=False)
            assert not sink.mute
            await bus.set("sink/millrace", "alice", volume="100%")
            assert sink.gains == (1.0, 1.0)
            async with bus.record("sink/default", guest="alice"):
                assert len(sink.taps) == 1

    running(tmp_path, test)
    again = Store(tmp_path / "s" / "state.db")
    assert again.guest("alice").levels["sink", "millrace"] == ((1.0, 1.0), False)
    again.close()


# -- modules -----------------------------------------------------------------------------------


def test_event_waits_for_the_list_in_progress() -> None:
    """Else a list could name an object after the event of its removal."""
    rig = Rig()
    client, other = rig.client(), rig.client()
    loaded = [load(other, "module-null-sink", f"sink_name=s{number}") for number in range(20)]
    client.ask(Command.SUBSCRIBE, mask=1 << Facility.SINK)
    client.server.over = lambda: True
    tag = client.send(Command.GET_SINK_INFO_LIST)
    assert client.server.unfinished and tag not in client.replies
    other.ask(Command.UNLOAD_MODULE, index=loaded[-1])
    client.exchange()
    assert client.server.unfinished and not client.named(Command.SUBSCRIBE_EVENT)
    while client.server.unfinished:
        client.server.receive(b"", rig.now_ns)
    assert tag not in client.replies
    client.exchange()
    assert tag in client.replies and client.named(Command.SUBSCRIBE_EVENT)


# -- the default sink --------------------------------------------------------------------------


def test_new_default_sink_takes_unpinned_streams() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=b")
    load(client, "module-null-sink", "sink_name=c")
    spec = Spec(SampleFormat.S16LE, 2, 48_000)
    free, named, moved = (client.play(spec, (1, 2), sink_name=name).index for name in (None, "millrace", None))
    client.ask(Command.MOVE_SINK_INPUT, index=moved, sink_index=NO_INDEX, sink_name="c")

    def where() -> list[str]:
        return [rig.stream_at(index).sink.name for index in (free, named, moved)]

    client.ask(Command.SET_DEFAULT_SINK, name="b")
    assert where() == ["b", "millrace", "c"]
    told = client.named(Command.PLAYBACK_STREAM_MOVED)
    assert told[-1]["name"] == "b"
    client.ask(Command.SET_DEFAULT_SINK, name="c")
    client.ask(Command.SET_DEFAULT_SINK, name="millrace")
    assert where() == ["millrace", "millrace", "c"]
    # A stream that was moved to the default sink follows the default again.
    client.ask(Command.MOVE_SINK_INPUT, index=moved, sink_index=NO_INDEX, sink_name="default")
    client.ask(Command.SET_DEFAULT_SINK, name="b")
    assert where() == ["b", "millrace", "b"]


def test_new_default_source_takes_unpinned_recorders_where_permitted() -> None:
    rig = Rig()
    client = rig.client()
    rig.graph.add_source("microphone", "Microphone")
    load(client, "module-null-source", "source_name=line")
    spec = Spec(SampleFormat.S16LE, 1, 48_000)
    for name in (None, "microphone"):
        client.ask(Command.CREATE_RECORD_STREAM, **record_fields(spec, (0,), source_name=name))

    def where() -> list[str]:
        return [record.node.sink.name for record in rig.door.records.values() if record.node.sink]

    client.ask(Command.SET_DEFAULT_SOURCE, name="line")
    assert where() == ["line", "microphone"]
    rig.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    client.ask(Command.SET_DEFAULT_SOURCE, name="millrace.monitor")
    assert where() == ["line", "microphone"]
    client.ask(Command.SET_DEFAULT_SOURCE, name="microphone")
    assert where() == ["line", "microphone"], "it is not where the default was"


# -- client views ------------------------------------------------------------------------------


def test_sink_level_change_is_announced_for_sink_only() -> None:
    rig = Rig()
    client = rig.client()
    client.ask(Command.SUBSCRIBE, mask=0x2FF)
    client.ask(Command.SET_SINK_VOLUME, index=rig.sink.id, name=None, volume=(0x8000, 0x8000))
    client.ask(Command.SET_SOURCE_MUTE, index=rig.sink.id, name=None, mute=True)
    told = [(n["event"] & 0xF, n["index"]) for n in client.named(Command.SUBSCRIBE_EVENT)]
    assert told == [(Facility.SINK, rig.sink.id), (Facility.SOURCE, rig.sink.id)]


def test_devices_are_running_only_while_played_to_or_recorded() -> None:
    """The microphone is not shown as in use while music plays, and a combined sink is idle while another plays."""
    rig = Rig()
    client = rig.client()
    rig.graph.add_source("microphone", "Microphone")
    for name, argument in (("null", "sink_name=a"), ("null", "sink_name=b"), ("combine", "sink_name=c slaves=a")):
        load(client, f"module-{name}-sink", argument)
    load(client, "module-remap-source", "source_name=d master=a.monitor")
    spec = Spec(SampleFormat.S16LE, 2, 48_000)

    def record(source: str) -> int:
        reply = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(spec, (1, 2), source_name=source))
        channel: int = reply["channel"]
        return channel

    def busy() -> set[str]:
        rig.run(0.1)
        devices = sinks_of(client) | sources_of(client)
        return {name for name, one in devices.items() if one["state"] == DeviceState.RUNNING}

    assert busy() == set()
    player = client.play(spec, (1, 2), bytes(2_000_000), sink_name="b", tlength=2_000_000)
    assert busy() == {"b"}
    client.ask(Command.SUBSCRIBE, mask=0x2FF)
    channel = record("microphone")
    assert busy() == {"b", "microphone"}
    told = [(n["event"] & 0xF, n["index"]) for n in client.named(Command.SUBSCRIBE_EVENT)]
    assert (Facility.SOURCE, sources_of(client)["microphone"]["index"]) in told
    client.ask(Command.DELETE_RECORD_STREAM, channel=channel)
    client.ask(Command.MOVE_SINK_INPUT, index=player.index, sink_index=NO_INDEX, sink_name="c")
    assert busy() == {"a", "c"}, "playing to a combined sink uses its slaves"
    channel = record("d")
    assert busy() == {"a", "c", "d", "a.monitor"}, "a remapped source uses its master"
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    assert busy() == {"d", "a.monitor"}
    client.ask(Command.CORK_RECORD_STREAM, channel=channel, cork=True)
    assert busy() == set()
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=False)
    assert busy() == {"a", "c"}
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)
    assert busy() == set()


def test_changes_without_effect_are_not_announced() -> None:
    rig = Rig()
    client = rig.client()
    microphone = rig.graph.add_source("microphone", "Microphone")
    spec = Spec(SampleFormat.S16LE, 2, 48_000)
    stream = client.play(spec, (1, 2)).index
    record = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(spec, (1, 2), source_name="millrace.monitor"))
    client.ask(Command.SUBSCRIBE, mask=0x2FF)
    named = {"index": NO_INDEX, "name": "microphone"}
    asked: tuple[tuple[Command, dict[str, object]], ...] = (
        (Command.SET_DEFAULT_SINK, {"name": "millrace"}),
        (Command.SET_DEFAULT_SOURCE, {"name": "microphone"}),
        (Command.SET_SOURCE_VOLUME, named | {"volume": (0x10000, 0x10000)}),
        (Command.SET_SOURCE_MUTE, named | {"mute": False}),
        (Command.MOVE_SINK_INPUT, {"index": stream, "sink_index": NO_INDEX, "sink_name": "millrace"}),
        (
            Command.MOVE_SOURCE_OUTPUT,
            {"index": record["index"], "source_index": NO_INDEX, "source_name": "millrace.monitor"},
        ),
    )
    for command, fields in asked:
        client.ask(command, **fields)
    assert not client.named(Command.SUBSCRIBE_EVENT)
    assert not client.named(Command.PLAYBACK_STREAM_MOVED) and not client.named(Command.RECORD_STREAM_MOVED)
    client.ask(Command.SET_SOURCE_VOLUME, **named | {"volume": (0x8000, 0x8000)})
    client.ask(Command.SET_DEFAULT_SOURCE, name="millrace.monitor")
    told = [(n["event"] & 0xF, n["index"]) for n in client.named(Command.SUBSCRIBE_EVENT)]
    assert told == [(Facility.SOURCE, rig.door.source_indexes.of(microphone)), (Facility.SERVER, NO_INDEX)]
    # A stream with links of its own is linked only to the sink it is moved to, even if that is its own.
    node, other = rig.stream_at(stream), rig.graph.add_sink("other")
    rig.graph.link(node, other)
    client.ask(Command.MOVE_SINK_INPUT, index=stream, sink_index=NO_INDEX, sink_name="millrace")
    assert [link.target for link in node.links] == [rig.sink]


def test_forbidden_microphone_is_hidden_and_recording_it_refused() -> None:
    rig = Rig()
    client = rig.client()
    rig.graph.add_source("microphone", "Microphone")
    assert set(sources_of(client)) == {"microphone", "millrace.monitor"}
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    assert set(sources_of(client)) == {"millrace.monitor"}
    assert client.ask(Command.GET_SERVER_INFO)["default_source"] == "millrace.monitor"
    spec = Spec(SampleFormat.S16LE, 1, 48_000)
    assert client.error(Command.CREATE_RECORD_STREAM, **record_fields(spec, (0,))) == Err.ACCESS
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
    assert set(sources_of(client)) == {"microphone", "millrace.monitor"}


def test_sinks_accept_pcm_and_streams_show_their_origin() -> None:
    client = Rig().client()
    for shown in (*sinks_of(client).values(), *sources_of(client).values()):
        assert shown["formats"] == [FormatInfo(Encoding.PCM)] and shown["props"]["device.icon_name"]
    (own,) = client.ask_list(Command.GET_CLIENT_INFO_LIST)
    assert own["props"]["native-protocol.version"] == b"35\0"


def test_recording_a_derived_source_requests_listeners_microphones(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guest("alice")
        program = Program(daemon)
        loaded = (await program.ask(Command.LOAD_MODULE, name="module-loopback", argument="source=microphone")).fields
        assert guest.recording, "the loopback records continuously"
        await program.ask(Command.UNLOAD_MODULE, index=loaded["index"])
        assert not guest.recording
        argument = "master=microphone source_name=quiet channels=1 master_channel_map=left"
        await program.ask(Command.LOAD_MODULE, name="module-remap-source", argument=argument)
        assert not guest.recording
        await program.ask(Command.CREATE_RECORD_STREAM, **quiet_recorder())
        assert guest.recording

    running(tmp_path, test)
