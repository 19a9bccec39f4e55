"""Creating streams: every flag and attribute has its effect, or is refused and leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.doors.pulse.create import DONT_MOVE, create_playback, create_record, held_by_resampler
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.dsp.channels import Mapping
from millrace.dsp.convert import SampleFormat
from millrace.dsp.resample import holds_ns
from millrace.remembered.streams import Rule
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.units import default_map
from millrace.wire.pulse.client import playback_fields
from millrace.wire.pulse.constants import Command, Encoding, Err
from millrace.wire.pulse.tagstruct import FormatInfo, Spec
from tests.caller import Caller, Furnished

S16 = Spec(SampleFormat.S16LE, 2, 44_100)
STEREO = (1, 2)
HALF, FULL = 0x8000, 0x10000
PCM = FormatInfo(Encoding.PCM, {"format.rate": b"32000\0"})


def ms(milliseconds: float) -> int:
    return int(milliseconds * 44.1) * 4


class Scene(Furnished):
    """A guest with a second sink and a source, and a client that can create and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        handlers = {Command.CREATE_PLAYBACK_STREAM: create_playback, Command.CREATE_RECORD_STREAM: create_record}
        self.caller = Caller(self, handlers, props={"application.name": b"player\0", "application.process.id": b"77\0"})

    def play(self, **changes: Any) -> PlaybackStream:
        answer = self.caller.play(S16, STEREO, **changes)
        assert isinstance(answer, dict), answer
        return self.caller.streams[answer["channel"]]

    def record(self, **changes: Any) -> RecordStream:
        answer = self.caller.record(S16, STEREO, **changes)
        assert isinstance(answer, dict), answer
        return self.caller.records[answer["channel"]]


# -- playback ---------------------------------------------------------------------------------


def test_reply_describes_the_created_stream() -> None:
    scene = Scene()
    answer = scene.caller.play(S16, STEREO, tlength=ms(200), minreq=ms(20), prebuf=ms(50), sink_name="music")
    stream = scene.caller.streams[answer["channel"]]
    assert answer["index"] == scene.door.indexes.inputs.of(stream.node) == 0
    assert scene.door.playback[stream.node.id] is stream
    assert (answer["spec"], answer["map"]) == (S16, STEREO) and answer["format"].encoding is Encoding.PCM
    assert (answer["sink_index"], answer["sink_name"], answer["suspended"]) == (1, "music", False)
    attr = stream.attr
    assert (answer["tlength"], answer["minreq"], answer["prebuf"]) == (attr.tlength, attr.minreq, attr.prebuf)
    assert (answer["tlength"], answer["minreq"], answer["prebuf"]) == (ms(200), ms(20), ms(50))
    assert answer["missing"] == ms(200) and stream.state.missing == 0 and stream.state.requested == ms(200)
    assert answer["latency"] == attr.sink_ns // 1000 and answer["maxlength"] == attr.maxlength == 4 * 1024 * 1024
    assert not stream.node.active, "there is nothing to play"


def test_stream_is_named_after_its_media_or_program() -> None:
    scene = Scene()
    stream = scene.play(props={"media.name": b"song\0", "media.role": b"music\0", "secret": b"x\0"})
    assert stream.node.name == "song" and stream.node.props == {
        "application.name": "player", "application.process.id": "77", "media.name": "song", "media.role": "music",
    }  # fmt: skip
    assert stream.props["secret"] == b"x\0" and stream.props["application.name"] == b"player\0"
    assert scene.play().node.name == "player"
    scene.caller.props.clear()
    assert scene.play().node.name == "stream" and scene.record().node.name == "stream"


@pytest.mark.parametrize(
    ("flags", "mapping"),
    [({}, Mapping.MIX), ({"no_remix": True}, Mapping.NAMES), ({"no_remap": True}, Mapping.INDEX),
     ({"no_remix": True, "no_remap": True}, Mapping.INDEX)],
)  # fmt: skip
def test_channel_flags_select_remapping_and_remixing(flags: dict[str, bool], mapping: Mapping) -> None:
    scene = Scene()
    assert scene.play(**flags).node.mapping is scene.record(**flags).node.mapping is mapping


def test_dont_move_pins_the_stream() -> None:
    scene = Scene()
    assert scene.play(no_move=True).node.pinned == scene.record(no_move=True).node.pinned == DONT_MOVE
    assert scene.play().node.pinned == scene.record().node.pinned == ""


@pytest.mark.parametrize(
    ("changes", "gains", "mute", "chosen"),
    [
        ({"volume_set": True, "volume": (HALF, FULL)}, (0.125, 1.0), False, {"volume"}),
        ({"volume_set": False, "volume": (HALF, FULL)}, (1.0, 1.0), False, set()),
        ({"muted": True, "muted_set": True}, (1.0, 1.0), True, {"mute"}),
        ({"muted": False, "muted_set": True}, (1.0, 1.0), False, {"mute"}),
        ({"muted": False, "muted_set": False}, (1.0, 1.0), False, set()),
        ({"sink_name": "music"}, (1.0, 1.0), False, {"sink"}),
    ],
)  # fmt: skip
def test_stream_starts_at_requested_level(
    changes: dict[str, Any], gains: tuple[float, ...], mute: bool, chosen: set[str]
) -> None:
    stream = Scene().play(**changes)
    assert (stream.node.gains, stream.node.mute, set(stream.node.chosen)) == (gains, mute, chosen)


@pytest.mark.parametrize("volume", [(HALF,), (HALF, HALF, HALF), (HALF, 1 << 31)])
def test_volume_for_other_channels_or_beyond_the_maximum_is_invalid(volume: tuple[int, ...]) -> None:
    caller = Scene().caller
    assert caller.play(S16, STEREO, volume_set=True, volume=volume) is Err.INVALID
    assert caller.record(S16, STEREO, volume_set=True, volume=volume) is Err.INVALID


def test_older_clients_imply_volume_and_mute_flags() -> None:
    scene = Scene()
    fields = {"volume": (HALF, HALF), "muted": True}
    old = {
        key: value
        for key, value in playback_fields(S16, STEREO, **fields).items()
        if key not in ("volume_set", "muted_set")
    }
    made = scene.caller.ask(Command.CREATE_PLAYBACK_STREAM, **old)
    node = scene.caller.streams[made["channel"]].node
    assert (node.gains, node.mute, node.chosen) == ((0.125, 0.125), True, ("volume", "mute"))


def test_with_fix_channels_volume_is_mapped_by_channel_name() -> None:
    scene = Scene()
    scene.graph.default = scene.graph.add_sink("mono", "Mono", default_map(1))
    stream = scene.play(fix_channels=True, volume_set=True, volume=(HALF, FULL))
    assert len(stream.format.positions) == 1 and stream.node.gains == pytest.approx((0.75**3,), rel=1e-3)
    # A format that was offered is for the channels that it says itself.
    stream = scene.play(formats=[FormatInfo(Encoding.PCM)], volume_set=True, volume=(HALF, FULL))
    assert stream.format.positions == ("mono",) and stream.node.gains == (0.125,)


def test_first_pcm_format_is_chosen_and_others_refused() -> None:
    scene = Scene()
    assert scene.play(formats=[FormatInfo(Encoding.AC3_IEC61937), PCM]).format.rate == 32_000
    assert scene.caller.play(S16, STEREO, formats=[FormatInfo(Encoding.AC3_IEC61937)]) is Err.NOTSUPPORTED
    assert scene.record(formats=[PCM]).format.rate == 32_000


def test_adjusted_latency_leaves_graph_its_share_of_a_deep_buffer() -> None:
    scene = Scene()
    plain, adjusted = scene.play(tlength=ms(200)), scene.play(tlength=ms(200), adjust_latency=True)
    early = scene.play(tlength=ms(200), minreq=ms(20), early_requests=True)
    assert plain.attr.tlength == ms(200) > adjusted.attr.tlength
    assert 19_900_000 < early.attr.sink_ns <= 20_000_000


def test_frames_held_by_resampler_count_as_buffer_space() -> None:
    assert held_by_resampler(48_000, 48_000, glide=False) == 0
    for rate in (44_100, 8_000, 96_000):
        assert held_by_resampler(rate, 48_000, glide=False) > 0
        assert held_by_resampler(rate, 48_000, glide=True) > 0
    assert held_by_resampler(44_100, 48_000, glide=False) < holds_ns(44_100, 48_000, low_delay=False)
    assert held_by_resampler(100, 48_000, glide=True) == held_by_resampler(100, 48_000, glide=False)
    assert held_by_resampler(8_000, 48_000, glide=True) > held_by_resampler(44_100, 48_000, glide=True)
    scene = Scene()
    assert scene.play(tlength=ms(5)).attr.tlength > scene.play(tlength=ms(5), fix_rate=True).attr.tlength
    assert scene.play(variable_rate=True).state.glide and not scene.play().state.glide


def test_stream_created_corked_or_with_data_reports_its_state() -> None:
    scene = Scene()
    assert scene.play(corked=True).corked and not scene.play().corked
    assert scene.play(prebuf=0).node.active and not scene.play(prebuf=0, corked=True).node.active


def test_synchronised_streams_share_a_sink_and_join_while_paused() -> None:
    scene = Scene()
    first = scene.play(sync_id=7, corked=True, sink_name="music")
    first.queue.write(bytes(400))
    first.queue.advance(400)
    second = scene.play(sync_id=7, corked=True)
    assert second.node.sink is scene.music and "sink" in second.node.chosen
    assert second.queue.read_index == second.queue.write_index == 400
    assert first.node.pinned == second.node.pinned == "it is synchronised with others"
    assert scene.caller.play(S16, STEREO, sync_id=7, corked=True, sink_name="millrace") is Err.INVALID
    first.state.corked = False
    assert scene.caller.play(S16, STEREO, sync_id=7, corked=True) is Err.INVALID
    assert len(scene.graph.streams) == 2


REFUSED: list[tuple[dict[str, Any], Err]] = [
    ({"sink_name": "nowhere"}, Err.NOENTITY), ({"sink_index": 12_345}, Err.NOENTITY),
    ({"sink_index": 0, "sink_name": "music"}, Err.INVALID), ({"passthrough": True}, Err.NOTSUPPORTED),
    ({"map": (1,)}, Err.INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "answer"), REFUSED)
def test_unplayable_stream_is_refused_and_leaves_nothing(changes: dict[str, Any], answer: Err) -> None:
    scene = Scene()
    held = scene.graph.budget.held
    assert scene.caller.play(S16, STEREO, **changes) is answer
    assert not scene.graph.streams and not scene.door.playback and not scene.caller.streams
    assert scene.graph.budget.held == held


def test_suspended_sink_refuses_streams_with_fail_on_suspend() -> None:
    scene = Scene()
    scene.graph.suspend(scene.sink, True)
    assert scene.caller.play(S16, STEREO, fail_on_suspend=True) is Err.BADSTATE
    monitor = {"source_name": "millrace.monitor"}
    assert scene.caller.record(S16, STEREO, fail_on_suspend=True, **monitor) is Err.BADSTATE
    assert scene.caller.play(S16, STEREO)["suspended"] and scene.caller.record(S16, STEREO, **monitor)["suspended"]
    assert scene.play(fail_on_suspend=True, sink_name="music").state.fail_on_suspend
    assert scene.record(fail_on_suspend=True, source_name="music.monitor").state.fail_on_suspend


# -- recording --------------------------------------------------------------------------------


def test_reply_describes_the_created_recorder() -> None:
    scene = Scene()
    answer = scene.caller.record(S16, STEREO, fragsize=ms(20), source_name="music.monitor")
    record = scene.caller.records[answer["channel"]]
    assert answer["index"] == scene.door.indexes.outputs.of(record.node) == 0
    assert scene.door.records[record.node.id] is record
    assert (answer["spec"], answer["map"]) == (S16, STEREO) and answer["format"].encoding is Encoding.PCM
    assert (answer["source_index"], answer["source_name"]) == (1, "music.monitor")
    assert (answer["fragsize"], answer["maxlength"]) == (ms(20), 4 * 1024 * 1024)
    assert answer["latency"] == record.node.latency_ask_ns // 1000 == 20_000 and not answer["suspended"]
    assert record.node.active and record.node.clocked and record.state.keeps_awake


@pytest.mark.parametrize(
    ("changes", "name", "placed"),
    [({}, "microphone", False), ({"source_name": "millrace.monitor"}, "millrace.monitor", True),
     ({"source_name": "@DEFAULT_SOURCE@"}, "microphone", True)],
)  # fmt: skip
def test_recorder_without_source_follows_default_source(changes: dict[str, Any], name: str, placed: bool) -> None:
    scene = Scene()
    record = scene.record(**changes)
    assert record.node.sink is not None and scene.door.source_name(record.node.sink) == name
    assert record.node.placed is placed
    assert scene.record(source_index=1).node.placed


def test_recorder_of_one_stream_hears_only_it_wherever_it_plays() -> None:
    scene = Scene()
    stream = scene.play(sink_name="music")
    record = scene.record(direct_on_input=0)
    assert record.node.stream is stream.node and record.node.sink is scene.music
    assert scene.record(direct_on_input=0, source_name="music.monitor").node.stream is stream.node
    for changes, answer in (
        ({"direct_on_input": 0, "source_name": "millrace.monitor"}, Err.INVALID),
        ({"direct_on_input": 12_345}, Err.NOENTITY),
        ({"source_name": "nowhere"}, Err.NOENTITY),
        ({"source_index": 0, "source_name": "music.monitor"}, Err.INVALID),
    ):
        assert scene.caller.record(S16, STEREO, **changes) is answer, changes
    stream.node.links = []
    assert scene.caller.record(S16, STEREO, direct_on_input=0) is Err.NOENTITY
    assert len(scene.door.records) == 2


def test_saved_settings_of_group_apply_where_client_chose_none() -> None:
    scene = Scene()
    group = "source-output-by-application-name:player"
    scene.door.rules.kept[group] = Rule((HALF, FULL), default_map(2), True, "music.monitor")
    record = scene.record()
    assert record.node.sink is scene.music and not record.node.placed
    assert record.state.gains == (0.125, 1.0) and record.state.mute
    chosen = scene.record(
        source_name="microphone", volume_set=True, volume=(FULL, FULL), muted_set=True, muted=False
    )  # fmt: skip
    assert chosen.node.sink is scene.source and chosen.state.gains == (1.0, 1.0) and not chosen.state.mute
    assert scene.record(muted_set=True, muted=True).state.mute
    # It goes there only if its client may record it and it still exists.
    scene.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    assert scene.record().node.sink is scene.source
    scene.admission.grants.set(Permission.MONITOR, ANY, None)
    scene.graph.remove_sink(scene.music)
    assert scene.record().node.sink is scene.source


def test_recorder_waits_for_permission_and_is_created_or_refused() -> None:
    scene = Scene()
    scene.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
    assert scene.caller.record(S16, STEREO) is None and not scene.door.records
    tag = max(scene.caller.answers, default=-1) + 1
    (prompt,) = scene.prompts
    scene.prompts.decide(prompt, True)
    answer = scene.caller.answers[tag]
    assert scene.caller.records[answer["channel"]].node.sink is scene.source
    scene.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    assert scene.caller.record(S16, STEREO) is Err.ACCESS
    assert len(scene.door.records) == 1


def test_other_recorder_flags() -> None:
    scene = Scene()
    assert scene.record(corked=True).corked and not scene.record(corked=True).node.active
    quiet = scene.record(dont_inhibit_auto_suspend=True)
    assert not quiet.state.keeps_awake and not quiet.node.clocked and quiet.node.active
    assert scene.record(adjust_latency=True).attr.fragsize < scene.record().attr.fragsize
    assert scene.record(adjust_latency=True, early_requests=True).attr.fragsize == scene.record().attr.fragsize
    assert scene.record(peak_detect=True)._meter is not None and scene.record()._meter is None
    assert scene.record(variable_rate=True).state.glide and not scene.record().state.glide
    assert scene.record(volume_set=True, volume=(HALF, FULL)).state.gains == (0.125, 1.0)
    assert scene.record(volume_set=False, volume=(HALF, FULL)).state.gains == (1.0, 1.0)
