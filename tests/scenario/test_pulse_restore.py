"""The extensions of module-stream-restore and module-device-restore, which share their rules with the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.daemon.app import Daemon
from millrace.dsp.convert import SampleFormat
from millrace.remembered.streams import RULES_MAX, Rule, Rules, group_of, parsed, written
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.rights.model import Principal, Right
from millrace.sim.rig import Rig, RigClient
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Encoding, Err
from millrace.wire.pulse.tagstruct import FormatInfo, Reader, Spec, Writer
from tests.nativebus import eventually, of_daemon, running

from .test_policy import policy

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
F32 = Spec(SampleFormat.F32LE, 2, 48_000)
SET, MERGE, REPLACE = range(3)
MPV = "sink-input-by-application-name:mpv"


def asked(number: int, *values: tuple[str, Any], module: str = "module-stream-restore") -> dict[str, Any]:
    writer = Writer()
    writer.u32(number)
    for kind, value in values:
        getattr(writer, kind)(value)
    return {"index": NO_INDEX, "name": module, "rest": bytes(writer.data)}


def a_write(mode: int, entries: dict[str, Rule], at_once: bool = False) -> dict[str, Any]:
    values: list[tuple[str, Any]] = [("u32", mode), ("boolean", at_once)]
    numbers = {"mono": 0, "front-left": 1, "front-right": 2}
    for name, rule in entries.items():
        values += [("string", name), ("channel_map", tuple(numbers[p] for p in rule.positions)),
                   ("cvolume", rule.levels), ("string", rule.device or None), ("boolean", bool(rule.mute))]  # fmt: skip
    return asked(2, *values)


def read(client: RigClient) -> dict[str, Rule]:
    return table(client.ask(Command.EXTENSION, **asked(1)))


def table(reply: dict[str, Any]) -> dict[str, Rule]:
    reader = Reader(reply["rest"])
    names = ("mono", "front-left", "front-right")
    out = {}
    while not reader.at_end:
        name = reader.string() or ""
        positions = tuple(names[n] for n in reader.channel_map())
        levels, device, mute = reader.cvolume(), reader.string() or "", reader.boolean()
        out[name] = Rule(levels, positions, mute, device)
    return out


LOUD = Rule((0x8000, 0x4000), ("front-left", "front-right"), True, "music")
LOW = Rule((0x4000,), ("mono",), False)


def test_rules_are_read_written_merged_replaced_and_deleted() -> None:
    client = Rig().client()
    assert Reader(client.ask(Command.EXTENSION, **asked(0))["rest"]).u32() == 1
    assert read(client) == {}
    client.ask(Command.EXTENSION, **a_write(MERGE, {"a": LOUD, "b": LOW}))
    assert read(client) == {"a": LOUD, "b": LOW}
    client.ask(Command.EXTENSION, **a_write(MERGE, {"a": LOW, "c": LOW}))
    assert read(client) == {"a": LOUD, "b": LOW, "c": LOW}
    client.ask(Command.EXTENSION, **a_write(REPLACE, {"a": LOW}))
    assert read(client)["a"] == LOW
    client.ask(Command.EXTENSION, **asked(3, ("string", "b"), ("string", "nowhere")))
    assert set(read(client)) == {"a", "c"}
    client.ask(Command.EXTENSION, **a_write(SET, {"d": LOUD}))
    assert read(client) == {"d": LOUD}
    client.ask(Command.EXTENSION, **a_write(SET, {}))
    assert read(client) == {}


@pytest.mark.parametrize(
    "request_",
    [
        asked(9),
        asked(0, ("u32", 1)),
        asked(1, ("u32", 1)),
        asked(2, ("u32", 3), ("boolean", False)),
        asked(2, ("u32", 0)),
        asked(2, ("u32", 0), ("boolean", False), ("string", "x")),
        a_write(SET, {"": LOW}),
        a_write(SET, {"x" * 129: LOW}),
        a_write(SET, {"x": Rule((1, 2), ("mono",))}),
        asked(0, module="module-null-sink"),
        asked(0, module="module-native-protocol-unix"),
        {"index": NO_INDEX, "name": None, "rest": b""},
    ],
)
def test_invalid_extension_request_is_refused_and_connection_continues(request_: dict[str, Any]) -> None:
    client = Rig().client()
    assert client.error(Command.EXTENSION, **request_) == Err.NOEXTENSION
    assert read(client) == {}


def test_rule_with_apply_takes_effect_immediately_and_changes_are_announced() -> None:
    rig = Rig()
    client, other = rig.client(), rig.client()
    rig.graph.add_sink("music")
    other.ask(Command.EXTENSION, **asked(4, ("boolean", True)))
    props = {"application.name": b"mpv\0"}
    mpv = client.play(S16, (1, 2), props=props).index
    vlc = client.play(S16, (1, 2), props={"application.name": b"vlc\0"}).index
    shown = {s["index"]: s for s in client.ask_list(Command.GET_SINK_INPUT_INFO_LIST)}
    assert shown[mpv]["props"]["module-stream-restore.id"].rstrip(b"\0").decode() == MPV
    client.ask(Command.EXTENSION, **a_write(SET, {MPV: LOUD}))
    assert rig.stream_at(mpv).gains == (1.0, 1.0), "not asked to"
    client.ask(Command.EXTENSION, **a_write(SET, {MPV: LOUD}, at_once=True))
    shown = {s["index"]: s for s in client.ask_list(Command.GET_SINK_INPUT_INFO_LIST)}
    assert shown[mpv]["volume"] == LOUD.levels and shown[mpv]["mute"]
    assert rig.stream_at(mpv).sink.name == "music" and rig.stream_at(vlc).sink is rig.sink
    other.exchange()
    told = [n.fields for n in other.notices if n.command is Command.EXTENSION]
    assert [(event["name"], event["event"]) for event in told] == [("module-stream-restore", 5)] * 2
    other.ask(Command.EXTENSION, **asked(4, ("boolean", False)))
    client.ask(Command.EXTENSION, **a_write(SET, {}))
    assert len([n for n in other.notices if n.command is Command.EXTENSION]) == 2


def test_programs_without_control_right_may_only_read() -> None:
    rig = Rig()
    client = rig.client()
    rig.admission.principal = Principal("guest/default", Right.SPEAK, frozenset({"default"}))
    assert client.error(Command.EXTENSION, **a_write(SET, {"a": LOW})) == Err.ACCESS
    assert client.error(Command.EXTENSION, **asked(3, ("string", "a"))) == Err.ACCESS
    assert read(client) == {}


def test_device_restore_reports_that_sinks_accept_pcm() -> None:
    rig = Rig()
    client = rig.client()

    def device(number: int, *values: tuple[str, Any]) -> dict[str, Any]:
        return asked(number, *values, module="module-device-restore")

    assert Reader(client.ask(Command.EXTENSION, **device(0))["rest"]).u32() == 1
    of_sink = (("u32", 0), ("u32", rig.sink.id))
    for query in (device(3), device(4, *of_sink)):
        reader = Reader(client.ask(Command.EXTENSION, **query)["rest"])
        assert (reader.u32(), reader.u32(), reader.format_infos()) == (0, rig.sink.id, [FormatInfo(Encoding.PCM)])
        assert reader.at_end
    client.ask(Command.EXTENSION, **device(5, *of_sink, ("format_infos", [FormatInfo(Encoding.PCM)])))
    ac3 = [FormatInfo(Encoding.PCM), FormatInfo(Encoding.AC3_IEC61937)]
    assert client.error(Command.EXTENSION, **device(5, *of_sink, ("format_infos", ac3))) == Err.NOTSUPPORTED
    assert client.error(Command.EXTENSION, **device(4, ("u32", 1), ("u32", 0))) == Err.NOEXTENSION


def test_unloaded_extension_does_not_answer_and_reloaded_one_uses_its_arguments() -> None:
    rig = Rig()
    client = rig.client()
    client.ask(Command.EXTENSION, **a_write(SET, {MPV: LOUD}))
    index = next(m for m in rig.door.modules.values() if m.name == "module-stream-restore").index
    assert client.error(Command.LOAD_MODULE, name="module-stream-restore", argument="") == Err.MODINITFAILED
    client.ask(Command.UNLOAD_MODULE, index=index)
    assert client.error(Command.EXTENSION, **asked(1)) == Err.NOEXTENSION
    assert rig.door.rules.restored(MPV) is None
    client.ask(Command.LOAD_MODULE, name="module-stream-restore", argument="restore_volume=no restore_device=false")
    assert rig.door.rules.restored(MPV) == Rule(mute=True) and read(client) == {MPV: LOUD}


def test_number_of_rules_is_limited() -> None:
    rules = Rules()
    for number in range(RULES_MAX + 10):
        rules.take({f"sink-input-by-media-name:{number}": LOW})
    assert len(rules.kept) == RULES_MAX and "sink-input-by-media-name:9" not in rules.kept
    client = Rig().client()
    many = {str(number): LOW for number in range(RULES_MAX + 1)}
    assert client.error(Command.EXTENSION, **a_write(SET, many)) == Err.TOOLARGE
    many.popitem()
    client.ask(Command.EXTENSION, **a_write(SET, many))
    assert client.error(Command.EXTENSION, **a_write(MERGE, {"more": LOUD})) == Err.TOOLARGE
    assert set(read(client)) == set(many)


def test_group_names_match_pulseaudios() -> None:
    said = {"media.role": "video", "application.id": "org.mpv", "application.name": "mpv", "media.name": "film"}
    groups = []
    for gone in ("", *said):
        said.pop(gone, None)
        groups.append(group_of(said))
    assert groups == [
        "sink-input-by-media-role:video", "sink-input-by-application-id:org.mpv",
        "sink-input-by-application-name:mpv", "sink-input-by-media-name:film", "sink-input-fallback:sink-input",
    ]  # fmt: skip
    assert group_of({"module-stream-restore.id": "own", "media.role": "video"}) == "own"
    assert len(group_of({"media.name": "x" * 9999})) == 128


def test_saved_rules_are_loaded_and_invalid_or_older_values_tolerated() -> None:
    for rule in (LOUD, LOW, Rule(), Rule(mute=False)):
        assert parsed(written(MPV, rule)) == rule
    nonsense = [
        "{", "[]", "7", '{"levels": [1], "map": "a,b"}', '{"levels": "x", "map": 3}', '{"mute": "x"}',
        '{"volume": true}', '{"levels": [-1], "map": "mono"}', '{"levels": [1], "map": "nowhere"}',
    ]  # fmt: skip
    for text in nonsense:
        assert parsed(text) == Rule()
    rules = Rules()
    old = {
        "mpv/video": '{"volume": 40, "mute": true, "sink": "sink/default"}', "vlc/": '{"volume": 50}',
        "sink-input-by-application-name:vlc": written("x", LOW),
    }  # fmt: skip
    again = rules.load(old)
    assert rules.kept["sink-input-by-media-role:video"] == Rule((26214,), ("mono",), True)
    assert rules.kept["sink-input-by-application-name:vlc"] == LOW
    assert again["mpv/video"] is None and again["vlc/"] is None and len(again) == 3


# -- with the daemon: on disk, and shared with the policy --------------------------------------


class Program:
    """A PulseAudio client of a daemon's guest, in memory."""

    def __init__(self, daemon: Daemon, name: str = "mpv") -> None:
        self.door = daemon.worker.guest("alice").pulse.door
        self.rig = Rig()
        self.rig.door = self.door
        self.client = RigClient(self.rig, 35, True)
        self.client.ask(Command.AUTH, version=35, cookie=bytes(256))
        self.client.ask(Command.SET_CLIENT_NAME, props={"application.name": name.encode() + b"\0"})

    async def ask(self, command: Command, **fields: Any) -> Any:
        tag = self.client.send(command, **fields)

        def answered() -> bool:
            self.client.exchange()
            return tag in self.client.replies

        await eventually(answered)
        return self.client.replies[tag]


def test_rule_written_by_program_applies_to_next_stream_and_is_saved(tmp_path: Path) -> None:
    async def first(daemon: Daemon) -> None:
        daemon.worker.guest("alice").graph.add_sink("music")
        async with policy(daemon):
            program = Program(daemon)
            await program.ask(Command.EXTENSION, **a_write(SET, {MPV: LOUD}))
            player = program.client.play(S16, (1, 2), volume_set=False)
            stream = daemon.worker.guest("alice").pulse.door.input_at(player.index)
            assert stream is not None
            await eventually(lambda: stream.mute and stream.sink.name == "music")
            assert [round(gain, 4) for gain in stream.gains] == [0.125, 0.0156]
            # What a user sets from there is what the program reads.
            async with of_daemon(daemon) as bus:
                await bus.set(stream.key, volume="25%", mute=False)
            quarter = Rule((0x4000, 0x4000), LOUD.positions, False, "music")
            await eventually(lambda: daemon.worker.guest("alice").pulse.door.rules.kept[MPV] == quarter)
            assert table((await program.ask(Command.EXTENSION, **asked(1))).fields) == {MPV: quarter}

    async def second(daemon: Daemon) -> None:
        program = Program(daemon)
        kept = Rule((0x4000, 0x4000), LOUD.positions, False, "music")
        assert daemon.worker.guest("alice").pulse.door.rules.kept == {MPV: kept}
        await program.ask(Command.EXTENSION, **asked(3, ("string", MPV)))

    async def third(daemon: Daemon) -> None:
        assert not daemon.worker.guest("alice").pulse.door.rules.kept

    for test in (first, second, third):
        running(tmp_path, test)


def test_rule_that_disk_refuses_is_refused_and_not_in_force(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        program = Program(daemon)
        await program.ask(Command.EXTENSION, **a_write(SET, {"a": LOW}))
        daemon.worker.store._db.execute("PRAGMA query_only = ON")
        reply = await program.ask(Command.EXTENSION, **a_write(SET, {"b": LOUD}))
        assert reply.code == Err.IO
        assert daemon.worker.guest("alice").pulse.door.rules.kept == {"a": LOW}
        daemon.worker.store._db.execute("PRAGMA query_only = OFF")

    running(tmp_path, test)


def test_recorder_rule_applies_only_where_client_may_record() -> None:
    rig = Rig()
    client = rig.client()
    rig.graph.add_source("microphone", "Microphone")
    props = {"application.name": b"recorder\0"}
    client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, (1, 2), props=props, source_name="millrace.monitor"))
    (record,) = rig.door.records.values()
    group = "source-output-by-application-name:recorder"
    (shown,) = client.ask_list(Command.GET_SOURCE_OUTPUT_INFO_LIST)
    assert shown["props"]["module-stream-restore.id"].rstrip(b"\0").decode() == group
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    rule = Rule((0x8000,), ("mono",), True, "microphone")
    client.ask(Command.EXTENSION, **a_write(SET, {group: rule}, at_once=True))
    (shown,) = client.ask_list(Command.GET_SOURCE_OUTPUT_INFO_LIST)
    assert shown["volume"] == (0x8000, 0x8000) and shown["mute"] and record.node.sink is rig.sink
    fields = record_fields(S16, (1, 2), props=props)
    assert client.error(Command.CREATE_RECORD_STREAM, **fields) == Err.ACCESS, "the default is the microphone"
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.ALLOW)
    new = client.ask(Command.CREATE_RECORD_STREAM, **fields)
    assert new["source_name"] == "microphone" and rig.record_at(new["index"]).state.mute
    assert rig.record_at(new["index"]).state.gains == (0.125, 0.125)
    client.ask(Command.EXTENSION, **a_write(SET, {group: rule}, at_once=True))
    assert record.node.sink is not None and record.node.sink.name == "microphone"


def test_new_stream_and_sample_start_with_saved_settings() -> None:
    rig = Rig()
    client = rig.client()
    music = rig.graph.add_sink("music")
    heard = rig.capture(music)
    props = {"media.role": b"event\0"}
    rules = {"sink-input-by-media-role:event": Rule((0x8000,), ("mono",), False, "music")}
    client.ask(Command.EXTENSION, **a_write(SET, rules))
    tone = np.full((4800, 2), 0.5, np.float32)
    channel = client.ask(
        Command.CREATE_UPLOAD_STREAM, name="bell", spec=F32, map=(1, 2), length=tone.nbytes, props=props
    )["channel"]
    client.wire.send_block(channel, tone.tobytes())
    client.ask(Command.FINISH_UPLOAD_STREAM, channel=channel)
    client.ask(Command.PLAY_SAMPLE, sink_index=NO_INDEX, sink_name=None, volume=NO_INDEX, name="bell", props=props)
    rig.run(0.5)
    assert len(heard.trimmed()) == 4800 and np.allclose(heard.trimmed(), 0.0625)
    own = client.play(F32, (1, 2), props=props, sink_name="millrace", volume=(0x10000, 0x10000), volume_set=True)
    node = rig.stream_at(own.index)
    assert node.sink is rig.sink and node.gains == (1.0, 1.0), "the client's own choice has priority"
    reply = client.play(F32, (1, 2), props=props, volume_set=False).reply
    assert reply["sink_name"] == "music" and rig.stream_at(reply["index"]).placed


def test_sample_without_role_is_an_event() -> None:
    rig = Rig()
    client = rig.client()
    heard = rig.capture(rig.sink)
    rules = {"sink-input-by-media-role:event": Rule((0x8000,), ("mono",), False, None)}
    client.ask(Command.EXTENSION, **a_write(SET, rules))
    tone = np.full((4800, 2), 0.5, np.float32)
    fields = {"spec": F32, "map": (1, 2), "length": tone.nbytes}
    channel = client.ask(Command.CREATE_UPLOAD_STREAM, name="bell", props={}, **fields)["channel"]
    client.wire.send_block(channel, tone.tobytes())
    client.ask(Command.FINISH_UPLOAD_STREAM, channel=channel)
    (sample,) = client.ask_list(Command.GET_SAMPLE_INFO_LIST)
    assert sample["props"]["media.role"] == b"event\0"
    client.ask(Command.PLAY_SAMPLE, sink_index=NO_INDEX, sink_name=None, volume=NO_INDEX, name="bell", props={})
    (shown,) = client.ask_list(Command.GET_SINK_INPUT_INFO_LIST)
    assert shown["props"]["media.role"] == b"event\0" and shown["props"]["event.id"] == b"bell\0"
    assert shown["props"]["module-stream-restore.id"] == b"sink-input-by-media-role:event\0"
    rig.run(0.5)
    assert np.allclose(heard.trimmed(), 0.0625)
