"""Commands about a client's own streams: their effects, and the order of the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.doors.pulse import streams
from millrace.doors.pulse.streams import HANDLERS
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import NodeState
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Facility, Seek
from millrace.wire.pulse.tagstruct import Spec
from tests.caller import Caller

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
MONO = Spec(SampleFormat.S16LE, 1, 24_000)
STEREO = (1, 2)
C = Command


def ms(milliseconds: float) -> int:
    return int(milliseconds * 48) * 4


def loud(milliseconds: float) -> bytes:
    return np.full(ms(milliseconds) // 2, 16_384, "<i2").tobytes()


class Scene(Rig):
    """A guest with one client, served by this table alone."""

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self, HANDLERS, props={"application.name": b"player\0"})

    def play(self, data: bytes = b"", **changes: Any) -> int:
        """A stream with this in its buffer; its channel."""
        channel: int = self.caller.play(S16, STEREO, **({"tlength": ms(200)} | changes))["channel"]
        self.write(channel, data)
        return channel

    def write(self, channel: int, data: bytes) -> None:
        self.caller.streams[channel].write(Seek.RELATIVE, 0, data)

    def record(self, **changes: Any) -> int:
        channel: int = self.caller.record(S16, STEREO, **changes)["channel"]
        return channel

    def ask(self, command: Command, channel: int = 0, **fields: Any) -> Any:
        return self.caller.ask(command, channel=channel, **fields)


OWN = [
    (C.DELETE_PLAYBACK_STREAM, {}), (C.CORK_PLAYBACK_STREAM, {"cork": True}), (C.FLUSH_PLAYBACK_STREAM, {}),
    (C.TRIGGER_PLAYBACK_STREAM, {}), (C.PREBUF_PLAYBACK_STREAM, {}), (C.DRAIN_PLAYBACK_STREAM, {}),
    (C.GET_PLAYBACK_LATENCY, {"time": (0, 0)}), (C.SET_PLAYBACK_STREAM_BUFFER_ATTR, {}),
    (C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, {"rate": 48_000}), (C.DELETE_RECORD_STREAM, {}), (C.FLUSH_RECORD_STREAM, {}),
    (C.CORK_RECORD_STREAM, {"cork": True}), (C.GET_RECORD_LATENCY, {"time": (0, 0)}), (C.FINISH_UPLOAD_STREAM, {}),
    (C.SET_RECORD_STREAM_BUFFER_ATTR, {}), (C.UPDATE_RECORD_STREAM_SAMPLE_RATE, {"rate": 48_000}),
    (C.DELETE_UPLOAD_STREAM, {}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "fields"), OWN, ids=[command.name for command, _ in OWN])
def test_channel_of_another_kind_or_unknown_is_no_entity(command: Command, fields: dict[str, Any]) -> None:
    scene = Scene()
    playback, recorder = scene.play(), scene.record()
    upload = scene.ask(C.CREATE_UPLOAD_STREAM, name="bell", spec=S16, map=STEREO, length=4, props={})["channel"]
    own = playback if "PLAYBACK" in command.name else upload if "UPLOAD" in command.name else recorder
    for channel in {playback, recorder, upload, 12_345} - {own}:
        assert scene.ask(command, channel, **fields) is Err.NOENTITY
    assert set(scene.caller.streams) == {playback} and set(scene.caller.records) == {recorder}
    assert set(scene.caller.uploads) == {upload}


# -- playback ---------------------------------------------------------------------------------


def test_stream_waits_for_prebuffer_unless_triggered_or_reset() -> None:
    scene = Scene()
    channel = scene.play(loud(50), prebuf=ms(100))
    stream = scene.caller.streams[channel]
    assert not stream.node.active
    assert scene.ask(C.TRIGGER_PLAYBACK_STREAM, channel) == {} and stream.node.active
    assert scene.ask(C.PREBUF_PLAYBACK_STREAM, channel) == {} and not stream.node.active and stream.state.prebuffering
    scene.write(channel, loud(60))
    assert stream.node.active


def test_corking_pauses_and_resumes_with_queued_data() -> None:
    scene = Scene()
    channel = scene.play(loud(150), prebuf=0)
    stream = scene.caller.streams[channel]
    assert scene.ask(C.CORK_PLAYBACK_STREAM, channel, cork=True) == {}
    assert stream.corked and not stream.node.active and stream.queue.length == ms(150)
    assert scene.ask(C.CORK_PLAYBACK_STREAM, channel, cork=False) == {} and stream.node.active


def test_flush_discards_queued_data_and_requests_it_again() -> None:
    scene = Scene()
    channel = scene.play(loud(200), prebuf=0)
    stream = scene.caller.streams[channel]
    assert scene.ask(C.FLUSH_PLAYBACK_STREAM, channel) == {} and stream.queue.length == 0
    assert [told["bytes"] for told in scene.caller.named(C.REQUEST)] == [ms(200)]


def test_synchronised_streams_are_corked_flushed_and_triggered_together() -> None:
    scene = Scene()
    first, second, other = (
        scene.play(sync_id=7, corked=True),
        scene.play(sync_id=7, corked=True),
        scene.play(sync_id=8),
    )
    one, two, alone = (scene.caller.streams[channel] for channel in (first, second, other))
    for channel in (first, second, other):
        scene.write(channel, loud(20))
    assert scene.ask(C.CORK_PLAYBACK_STREAM, second, cork=False) == {}
    assert (one.corked, two.corked, alone.corked) == (False, False, False)
    assert scene.ask(C.TRIGGER_PLAYBACK_STREAM, first) == {}
    assert (one.node.active, two.node.active, alone.node.active) == (True, True, False)
    assert scene.ask(C.PREBUF_PLAYBACK_STREAM, first) == {}
    assert (one.state.prebuffering, two.state.prebuffering) == (True, True)
    assert scene.ask(C.FLUSH_PLAYBACK_STREAM, first) == {}
    assert (one.queue.length, two.queue.length, alone.queue.length) == (0, 0, ms(20))
    scene.write(first, loud(20))
    scene.write(second, loud(20))
    # One is drained: the others begin with it, and only its end is waited for.
    tag = scene.caller.send(C.DRAIN_PLAYBACK_STREAM, channel=first)
    assert one.node.active and two.node.active and two.state.drain is None and one.state.drain is not None
    assert tag not in scene.caller.answers and not alone.node.active


def test_drain_is_answered_when_all_is_heard_and_fails_with_its_stream() -> None:
    scene = Scene()
    scene.capture()
    channel = scene.play(loud(50), prebuf=ms(100))
    tag = scene.caller.send(C.DRAIN_PLAYBACK_STREAM, channel=channel)
    scene.run(0.03)
    assert tag not in scene.caller.answers
    scene.run(0.2)
    assert scene.caller.answers[tag] == {}
    scene.write(channel, loud(50))
    tag = scene.caller.send(C.DRAIN_PLAYBACK_STREAM, channel=channel)
    assert scene.ask(C.DELETE_PLAYBACK_STREAM, channel) == {}
    assert scene.caller.answers[tag] is Err.NOENTITY and not scene.graph.streams


def test_drain_after_pause_plays_frames_already_pulled() -> None:
    scene = Scene()
    heard = scene.capture()
    channel = scene.play(loud(60), tlength=ms(400), prebuf=ms(20))
    scene.run(0.005)
    stream = scene.caller.streams[channel]
    assert not stream.queue.length and scene.graph.ahead(stream.node)
    for cork in (True, False):
        scene.ask(C.CORK_PLAYBACK_STREAM, channel, cork=cork)
    drain = scene.caller.send(C.DRAIN_PLAYBACK_STREAM, channel=channel)
    scene.run(0.5)
    assert scene.caller.answers[drain] == {} and np.count_nonzero(heard.sound[:, 0]) == 60 * 48


def test_latency_is_pulled_and_mixed_frames_and_path_behind_sink() -> None:
    scene = Scene()
    scene.capture()
    channel = scene.play(loud(200), prebuf=0)
    scene.sink.outlet_latency_ns = 30 * NS_PER_MS
    stream = scene.caller.streams[channel]
    told = scene.ask(C.GET_PLAYBACK_LATENCY, channel, time=(12, 34))
    assert (told["playing"], told["playing_for"], told["underrun_for"]) == (False, 0, 2**64 - 1)
    assert (told["write_index"], told["read_index"], told["sink_usec"]) == (ms(200), 0, 30_000)
    scene.run(0.1)
    scene.caller.now_ns = scene.now_ns
    told = scene.ask(C.GET_PLAYBACK_LATENCY, channel, time=(12, 34))
    assert told["time"] == (12, 34) and told["source_usec"] == 0 and told["playing"]
    assert told["now"] == (scene.now_ns // 10**9, scene.now_ns % 10**9 // 1000)
    assert told["read_index"] == stream.queue.read_index == told["playing_for"] > 0 and told["underrun_for"] == 0
    # What was read and is not heard at the sink yet: that comes to the read index, less what has been heard.
    heard_usec = told["read_index"] // 4 * 1000 // 48 - told["sink_usec"] + 30_000
    assert abs(heard_usec - 100_000) < 50


def test_late_clients_silence_is_counted_in_its_own_bytes() -> None:
    scene = Scene()
    scene.capture(clocked=True)
    channel = scene.play(loud(50), prebuf=ms(10))
    scene.run(0.2)
    scene.caller.now_ns = scene.now_ns
    told = scene.ask(C.GET_PLAYBACK_LATENCY, channel, time=(0, 0))
    assert not told["playing"] and told["playing_for"] == 0
    assert abs(told["underrun_for"] - ms(150)) <= ms(40) and told["underrun_for"] % 4 == 0


def test_new_attributes_are_adjusted_returned_and_applied() -> None:
    scene = Scene()
    channel = scene.play(loud(50), prebuf=ms(100))
    stream = scene.caller.streams[channel]
    scene.caller.told.clear()
    asked = {"maxlength": NO_INDEX, "tlength": ms(400) - 1, "prebuf": ms(40), "minreq": ms(20), "adjust_latency": False}
    told = scene.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, channel, **asked, early_requests=False)
    assert told == {
        "maxlength": 4 * 1024 * 1024, "tlength": ms(400), "prebuf": ms(40), "minreq": ms(20),
        "latency": stream.attr.sink_ns // 1000,
    }  # fmt: skip
    assert (stream.attr.tlength, stream.queue.maxlength) == (ms(400), 4 * 1024 * 1024)
    assert stream.node.active, "its prebuffer is full now"
    assert sum(fields["bytes"] for fields in scene.caller.named(C.REQUEST)) == ms(200)
    early = scene.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, channel, **asked, early_requests=True)
    assert early["latency"] == 20_000
    shorter = scene.ask(C.SET_PLAYBACK_STREAM_BUFFER_ATTR, channel, **(asked | {"adjust_latency": True}))
    assert shorter["tlength"] < ms(400)


@pytest.mark.parametrize(("rate", "answer"), [(44_100, {}), (1, {}), (0, Err.INVALID), (10**9, Err.INVALID)])
def test_rates_are_changed_within_supported_range(rate: int, answer: Any) -> None:
    scene = Scene()
    stream, record = scene.caller.streams[scene.play()], scene.caller.records[scene.record()]
    assert scene.ask(C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, stream.channel, rate=rate) == answer
    assert scene.ask(C.UPDATE_RECORD_STREAM_SAMPLE_RATE, record.channel, rate=rate) == answer
    assert stream.format.rate == record.format.rate == (48_000 if answer else rate)


# -- recording --------------------------------------------------------------------------------


def test_recorder_is_corked_flushed_and_deleted() -> None:
    scene = Scene()
    channel = scene.record(fragsize=ms(2_000))
    record = scene.caller.records[channel]
    assert scene.ask(C.CORK_RECORD_STREAM, channel, cork=True) == {} and record.corked and not record.node.active
    assert scene.ask(C.CORK_RECORD_STREAM, channel, cork=False) == {} and record.node.active
    scene.run(0.03)
    assert record.queued_bytes > 0
    assert scene.ask(C.FLUSH_RECORD_STREAM, channel) == {} and record.queued_bytes == 0
    assert scene.ask(C.DELETE_RECORD_STREAM, channel) == {}
    assert not scene.caller.records and not scene.graph.taps and not scene.door.records


def test_recorder_latency_reports_written_and_sent_bytes() -> None:
    scene = Scene()
    channel = scene.record(fragsize=ms(100))
    scene.run(0.09)
    record = scene.caller.records[channel]
    told = scene.ask(C.GET_RECORD_LATENCY, channel, time=(5, 6))
    sent = sum(len(data) for _, data in scene.caller.sent)
    assert told["write_index"] == record.state.write_index > told["read_index"] == sent > 0
    assert told["playing"] is True and told["time"] == (5, 6) and told["monitor_usec"] == 0
    assert told["source_usec"] == scene.graph.quantum_ns // 1000
    record.set_corked(True)
    assert scene.ask(C.GET_RECORD_LATENCY, channel, time=(5, 6))["playing"] is False


def test_recorder_attributes_take_effect() -> None:
    scene = Scene()
    channel = scene.record(fragsize=ms(2_000))
    record = scene.caller.records[channel]
    asked = {"maxlength": ms(100), "fragsize": ms(50) + 3}
    told = scene.ask(C.SET_RECORD_STREAM_BUFFER_ATTR, channel, **asked, adjust_latency=False, early_requests=False)
    assert told == {"maxlength": ms(100), "fragsize": ms(50), "latency": 40_000}
    assert (record.attr.maxlength, record.attr.fragsize) == (ms(100), ms(50))
    told = scene.ask(C.SET_RECORD_STREAM_BUFFER_ATTR, channel, **asked, adjust_latency=True, early_requests=False)
    assert told["fragsize"] == ms(40)
    told = scene.ask(C.SET_RECORD_STREAM_BUFFER_ATTR, channel, **asked, adjust_latency=True, early_requests=True)
    assert told["fragsize"] == ms(50)


# -- samples ----------------------------------------------------------------------------------


def upload(scene: Scene, data: bytes = b"", name: str | None = "bell", **changes: Any) -> Any:
    """Announce a sample, and bring `data`; the answer, or the channel."""
    fields = {"name": name, "spec": S16, "map": STEREO, "length": len(data), "props": {}} | changes
    answer = scene.ask(C.CREATE_UPLOAD_STREAM, **fields)
    if isinstance(answer, Err):
        return answer
    assert answer["length"] == fields["length"]
    scene.caller.uploads[answer["channel"]].write(memoryview(data))
    return answer["channel"]


def test_finished_upload_becomes_a_sample() -> None:
    scene = Scene()
    published: list[Any] = []
    scene.door.samples._publish = lambda *change: published.append(change)
    channel = upload(scene, loud(10), props={"media.role": b"game\0"})
    assert scene.door.samples.get("bell") is None
    assert scene.ask(C.FINISH_UPLOAD_STREAM, channel) == {}
    sample = scene.door.samples.get("bell")
    assert sample is not None and bytes(sample.data) == loud(10) and sample.format.rate == 48_000
    assert published == [(Facility.SAMPLE_CACHE, Change.NEW, sample.index)]
    assert sample.props == {"media.role": b"game\0"} and scene.caller.account.part(("upload", channel)) == 0
    # What says no other role is an event, and the name may be in the properties.
    scene.ask(C.FINISH_UPLOAD_STREAM, upload(scene, loud(1), None, props={"event.id": b"gong\0"}))
    gong = scene.door.samples.get("gong")
    assert gong is not None and gong.props["media.role"] == b"event\0"


def test_cancelled_upload_leaves_nothing() -> None:
    scene = Scene()
    held = scene.graph.budget.held
    channel = upload(scene, loud(10))
    assert scene.graph.budget.held > held + ms(10)
    assert scene.ask(C.DELETE_UPLOAD_STREAM, channel) == {} and scene.graph.budget.held == held
    assert scene.ask(C.FINISH_UPLOAD_STREAM, upload(scene, b"", length=ms(1))) is Err.TOOLARGE, "nothing was received"
    assert not list(scene.door.samples) and not scene.caller.uploads


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"name": None}, Err.INVALID), ({"name": ""}, Err.INVALID), ({"length": 0}, Err.INVALID),
        ({"length": 6}, Err.INVALID), ({"length": 16 * 1024 * 1024 + 4}, Err.TOOLARGE), ({"map": (1,)}, Err.INVALID),
        ({"spec": Spec(SampleFormat.S16LE, 2, 0)}, Err.INVALID),
    ],
)  # fmt: skip
def test_invalid_sample_is_refused_and_takes_no_channel(changes: dict[str, Any], answer: Err) -> None:
    scene = Scene()
    assert upload(scene, **({"length": 4} | changes)) is answer
    assert not scene.caller.uploads and scene.caller.state.next_channel == 0


def test_sample_has_at_least_one_frame_and_at_most_16_mib() -> None:
    scene = Scene()
    mono = {"name": "bell", "spec": Spec(SampleFormat.U8, 1, 8_000), "map": (0,), "props": {}}
    for length in (1, 16 * 1024 * 1024):
        assert scene.ask(C.CREATE_UPLOAD_STREAM, **mono, length=length)["length"] == length


def test_concurrent_uploads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "UPLOADS_MAX", 100)
    scene = Scene()
    first = upload(scene, length=60)
    assert upload(scene, length=44) is Err.TOOLARGE
    assert isinstance(upload(scene, length=40), int)
    scene.ask(C.DELETE_UPLOAD_STREAM, first)
    assert isinstance(upload(scene, length=60), int)


def play_sample(scene: Scene, **changes: Any) -> Any:
    fields = {"sink_index": NO_INDEX, "sink_name": None, "volume": NO_INDEX, "name": "bell", "props": {}} | changes
    return scene.ask(C.PLAY_SAMPLE, **fields)


@pytest.mark.parametrize("spec", [S16, MONO], ids=["as it is", "resampled"])
def test_sample_is_played_completely_on_named_sink_and_then_removed(spec: Spec) -> None:
    scene = Scene()
    music = scene.graph.add_sink("music")
    taken = scene.capture(music)
    data = loud(100)[: spec.rate // 10 * 2 * spec.channels]
    scene.ask(
        C.FINISH_UPLOAD_STREAM, upload(scene, data, spec=spec, map=STEREO[: spec.channels] if spec is S16 else (0,))
    )
    answer = play_sample(scene, sink_name="music", props={"media.name": b"ding\0"})
    node = scene.stream_at(answer["index"])
    assert node.name == "bell" and node.active and node.sink is music and node.props["media.name"] == "ding"
    stream = scene.door.playback[node.id]
    assert stream.state.end_is_drain, "its tail is played"
    assert stream.props["event.id"] == b"bell\0" and stream.props["application.name"] == b"player\0"
    assert stream.owner.client_index == NO_INDEX and stream.owner.program is None
    scene.run(0.5)
    assert not scene.graph.streams and not scene.door.playback
    # A resampler has a tail of its own; without one, it is the very frames.
    frames = len(taken.trimmed())
    assert frames == 4_800 if spec is S16 else abs(frames - 4_800) < 480
    assert abs(float(np.median(taken.trimmed())) - 0.5) < 0.01


def test_sample_has_requested_volume_else_saved_one() -> None:
    scene = Scene()
    scene.ask(C.FINISH_UPLOAD_STREAM, upload(scene, loud(10)))
    for volume, gains, chosen in (
        (NO_INDEX, (1.0, 1.0), ()),
        (0x10000, (1.0, 1.0), ()),
        (0x8000, (0.125,) * 2, ("volume",)),
    ):
        node = scene.stream_at(play_sample(scene, volume=volume)["index"])
        assert node.props["media.name"] == "bell", "it is named after the sample by default"
        assert (node.gains, node.chosen) == (gains, chosen)


def test_missing_sample_or_sink_is_no_entity() -> None:
    scene = Scene()
    scene.ask(C.FINISH_UPLOAD_STREAM, upload(scene, loud(10)))
    assert play_sample(scene, name="gong") is Err.NOENTITY
    assert play_sample(scene, name=None) is play_sample(scene, name="a b") is Err.INVALID
    assert play_sample(scene, sink_name="nowhere") is Err.NOENTITY
    assert scene.ask(C.REMOVE_SAMPLE, name="gong") is Err.NOENTITY
    assert scene.ask(C.REMOVE_SAMPLE, name=None) is Err.INVALID
    node = scene.stream_at(play_sample(scene)["index"])
    assert scene.ask(C.REMOVE_SAMPLE, name="bell") == {} and play_sample(scene) is Err.NOENTITY
    assert node.state is not NodeState.ERROR and node.active, "a playing sample is played to its end"
