"""The streams of one connection, by channel; and notifications of changes that were made elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.budget import Budget
from millrace.doors.pulse import clientstreams
from millrace.doors.pulse.clientstreams import ClientStreams
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.samples import Upload
from millrace.doors.pulse.state import ClientState, weights
from millrace.dsp.convert import SampleFormat
from millrace.media.format import AudioFormat
from millrace.rights.grants import Subject
from millrace.sim.rig import Rig
from millrace.units import default_map
from millrace.wire.pulse.constants import Change, Command, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Spec
from tests.caller import Caller

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
FMT = AudioFormat(SampleFormat.S16LE, 48_000, default_map(2))
STEREO = (1, 2)


def at(channel: int) -> Request:
    return Request(Command.FLUSH_PLAYBACK_STREAM, 1, {"channel": channel})


class Scene(Rig):
    """A guest with two sinks and a client."""

    def __init__(self) -> None:
        super().__init__()
        self.music = self.graph.add_sink("music", "Music")
        self.caller = Caller(self)

    def play(self, **changes: Any) -> PlaybackStream:
        return self.caller.streams[self.caller.play(S16, STEREO, **changes)["channel"]]

    def record(self, **changes: Any) -> RecordStream:
        return self.caller.records[self.caller.record(S16, STEREO, **changes)["channel"]]


def test_channels_are_never_reused() -> None:
    scene = Scene()
    first, second = scene.play(), scene.record()
    scene.caller.forget_playback(first)
    scene.caller.forget_record(second)
    assert [first.channel, second.channel, scene.caller.take_channel()] == [0, 1, 2]


def test_streams_of_all_kinds_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clientstreams, "STREAMS_PER_CLIENT_MAX", 3)
    scene = Scene()
    stream = scene.play()
    scene.record()
    scene.caller.keep_upload(scene.caller.take_channel(), Upload("bell", FMT, 4, {}))
    with pytest.raises(CommandError, match="3 streams per connection") as refused:
        scene.caller.take_channel()
    assert refused.value.code is Err.TOOLARGE
    scene.caller.forget_playback(stream)
    scene.caller.take_channel()


def test_look_up_of_channel_checks_its_kind() -> None:
    scene = Scene()
    stream, record = scene.play(), scene.record()
    assert scene.caller.stream_at(at(stream.channel)) is stream
    assert scene.caller.record_at(at(record.channel)) is record
    for wrong in (
        lambda: scene.caller.stream_at(at(record.channel)),
        lambda: scene.caller.record_at(at(stream.channel)),
        lambda: scene.caller.take_upload(at(stream.channel)),
        lambda: scene.caller.group_at(at(99)),
    ):
        with pytest.raises(CommandError) as refused:
            wrong()
        assert refused.value.code is Err.NOENTITY


def test_remaining_stream_of_synchronised_pair_is_independent() -> None:
    scene = Scene()
    one, two, other = scene.play(sync_id=7, corked=True), scene.play(sync_id=7, corked=True), scene.play(sync_id=8)
    assert scene.caller.group_at(at(one.channel)) == [one, two] and scene.caller.synchronised(9) == []
    assert one.node.pinned and two.node.pinned and not other.node.pinned
    scene.caller.forget_playback(two)
    assert scene.caller.group_at(at(one.channel)) == [one] and not one.node.pinned
    again = scene.play(sync_id=7, corked=True)
    assert one.node.pinned
    scene.graph.remove_stream(again.node)
    assert not one.node.pinned, "whatever ended it"


def test_upload_is_charged_until_it_is_taken() -> None:
    scene = Scene()
    upload = Upload("bell", FMT, 4_000, {})
    scene.caller.keep_upload(5, upload)
    assert scene.caller.account.part(("upload", 5)) == upload.weight
    assert scene.caller.take_upload(at(5)) is upload
    assert scene.caller.account.part(("upload", 5)) == 0 and not scene.caller.uploads
    scene.graph.budget.limit = 0
    with pytest.raises(Exception, match="no room"):
        scene.caller.keep_upload(6, upload)
    assert not scene.caller.uploads


def test_continued_connection_is_charged_for_its_uploads() -> None:
    class Bare(ClientStreams):
        def notice(self, command: Command, **values: Any) -> None:
            """See `ClientStreams`."""

    upload = Upload("bell", FMT, 4_000, {})
    state = ClientState(7, Subject(), uploads={5: upload}, next_channel=6)
    account = Budget().open("client", weights(state))
    made = Bare(Rig().door, account, state)
    assert (
        account.part(("upload", 5)) == upload.weight and made.take_channel() == 6 and made.take_upload(at(5)) is upload
    )


def test_moved_stream_announces_new_sink_once() -> None:
    scene = Scene()
    stream = scene.play(tlength=9_600)
    scene.graph.set_mute(stream.node, True)
    assert scene.caller.named(Command.PLAYBACK_STREAM_MOVED) == []
    scene.graph.move_stream(stream.node, scene.music)
    scene.graph.touch(stream.node)
    attr = stream.attr
    assert scene.caller.named(Command.PLAYBACK_STREAM_MOVED) == [{
        "channel": stream.channel, "index": 1, "name": "music", "suspended": False,
        "maxlength": attr.maxlength, "tlength": attr.tlength, "prebuf": attr.prebuf, "minreq": attr.minreq,
        "latency": attr.sink_ns // 1000,
    }]  # fmt: skip
    assert scene.caller.state.told_sinks == {stream.node.id: scene.music.id}


def test_stream_waiting_on_suspended_sink_plays_after_move() -> None:
    scene = Scene()
    scene.graph.suspend(scene.sink, True)
    stream = scene.play(prebuf=0)
    stream.queue.write(bytes(4_800))
    stream.check_ready()
    assert not stream.node.active
    scene.graph.move_stream(stream.node, scene.music)
    assert stream.node.active


def test_moved_recorder_announces_new_source_once() -> None:
    scene = Scene()
    record = scene.record()
    scene.graph.touch(record.node)
    assert scene.caller.named(Command.RECORD_STREAM_MOVED) == []
    scene.graph.move_tap(record.node, scene.music)
    scene.graph.touch(record.node)
    assert scene.caller.named(Command.RECORD_STREAM_MOVED) == [{
        "channel": record.channel, "index": 1, "name": "music.monitor", "suspended": False,
        "maxlength": record.attr.maxlength, "fragsize": record.attr.fragsize,
        "latency": record.node.latency_ask_ns // 1000,
    }]  # fmt: skip


def test_client_is_told_of_killed_streams_but_not_of_those_it_ended() -> None:
    scene = Scene()
    killed, ended, shot, gone = scene.play(), scene.play(), scene.record(), scene.record()
    scene.caller.forget_playback(ended)
    scene.caller.forget_record(gone)
    assert scene.caller.told == []
    scene.graph.remove_stream(killed.node)
    scene.graph.remove_tap(shot.node)
    assert scene.caller.told == [
        (Command.PLAYBACK_STREAM_KILLED, {"channel": killed.channel}),
        (Command.RECORD_STREAM_KILLED, {"channel": shot.channel}),
    ]
    assert not scene.caller.streams and not scene.caller.records and scene.caller.state.told_sinks == {}
    assert not scene.graph.streams and not scene.graph.taps


def test_changes_of_other_clients_streams_are_ignored() -> None:
    scene = Scene()
    stream, record, other = scene.play(), scene.record(), Caller(scene)
    for kind in Change:
        other.playback_changed(stream, kind)
        other.record_changed(record, kind)
    scene.caller.record_changed(record, Change.NEW)
    assert other.told == scene.caller.told == [] and record.channel in scene.caller.records
