"""The door of one guest: which clients and streams it admits, where streams play, and when they end."""

from __future__ import annotations

import pytest

from millrace.budget import BudgetError
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.state import new_playback, new_record
from millrace.graph.model import NOTHING
from millrace.remembered.streams import Rule
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.units import NS_PER_MS
from millrace.wire.pulse.constants import Command
from tests.doorscene import Scene

# -- rights -----------------------------------------------------------------------------------


def test_forbidden_clients_and_recorders_end_and_others_continue() -> None:
    scene = Scene()
    microphone, monitor = scene.record(), scene.record(source_name="music.monitor")
    recorder = scene.module(recorder=(Permission.MICROPHONE, scene.caller.subject))
    plain = scene.module()
    scene.door.end_forbidden()
    assert len(scene.door.records) == 2 and recorder.index in scene.door.modules
    scene.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    scene.door.end_forbidden()
    assert list(scene.door.records) == [monitor.node.id] and microphone.node.id not in scene.graph.taps
    assert recorder.index not in scene.door.modules and plain.index in scene.door.modules
    assert not scene.caller.closing


def test_client_that_needs_permission_is_closed_unless_allowed() -> None:
    scene = Scene()
    scene.admission.grants.set(Permission.CONNECT, ANY, Verdict.PROMPT)
    woken: list[bool] = []
    scene.caller.wake = lambda: woken.append(True)
    scene.door.end_forbidden_of(scene.caller)
    assert not scene.caller.closing and not woken
    scene.door.end_forbidden_of(scene.caller, Verdict.ALLOW)
    assert scene.caller.closing and woken == [True]


def test_microphone_is_listed_for_clients_that_may_get_permission() -> None:
    scene = Scene()
    for verdict, shown in ((Verdict.ALLOW, True), (Verdict.PROMPT, True), (Verdict.DENY, False)):
        scene.admission.grants.set(Permission.MICROPHONE, ANY, verdict)
        assert (scene.source in scene.door.sources_for(scene.caller)) is shown
        assert scene.music in scene.door.sources_for(scene.caller)
        assert scene.door.may_record(scene.caller, scene.source) is (verdict is Verdict.ALLOW)


# -- streams ----------------------------------------------------------------------------------


def test_stream_group_is_from_client_properties_or_door() -> None:
    scene = Scene()
    pulse = scene.play(props={"media.role": b"music\0"})
    other = scene.tone(scene.sink, props={"application.name": "mpv"})
    assert pulse.node.feed is pulse
    assert scene.door.group(pulse.node) == "sink-input-by-media-role:music"
    assert scene.door.group(other) == "sink-input-by-application-name:mpv"


def test_stream_is_placed_where_its_group_was_unless_that_is_default() -> None:
    scene = Scene()
    scene.door.rules.kept["sink-input-by-media-role:music"] = Rule((0x8000,), ("mono",), True, "music")
    stream = scene.play(props={"media.role": b"music\0"})
    assert stream.node.sink is scene.music and stream.node.placed
    assert stream.node.gains == (0.125, 0.125) and stream.node.mute
    scene.graph.set_default(scene.music)
    assert not scene.play(props={"media.role": b"music\0"}).node.placed
    scene.graph.remove_sink(scene.music)
    assert scene.play(props={"media.role": b"music\0"}).node.sink is scene.sink, "the sink no longer exists"


def test_refused_stream_or_recorder_is_not_registered() -> None:
    scene = Scene()
    one, tap = scene.play(), scene.record()
    scene.caller.forget_playback(one)
    scene.caller.forget_record(tap)
    scene.graph.budget.limit = 0
    again = PlaybackStream(scene.caller, new_playback(9, one.format, one.attr, {}), one.node, scene.graph)
    with pytest.raises(BudgetError):
        scene.door.begin_playback(again, scene.sink)
    taken = RecordStream(scene.caller, new_record(9, tap.format, tap.attr, {}), tap.node, scene.graph)
    with pytest.raises(BudgetError):
        scene.door.begin_record(taken, scene.sink)
    assert scene.door.playback == scene.door.records == {} and again.removed
    assert one.node.feed is NOTHING and tap.node.consumer is NOTHING


def test_any_end_of_a_stream_is_announced_and_its_client_notified() -> None:
    scene = Scene()
    stream, record = scene.play(), scene.record()
    record._queue += b"1234"
    scene.graph.remove_stream(stream.node)
    scene.graph.remove_tap(record.node)
    assert stream.removed and record.queued_bytes == 0 and not scene.door.playback and not scene.door.records
    assert [told for told, _ in scene.caller.told] == [Command.PLAYBACK_STREAM_KILLED, Command.RECORD_STREAM_KILLED]


def test_fail_on_suspend_stream_ends_with_its_own_sink_only() -> None:
    scene = Scene()
    fails, waits = scene.play(fail_on_suspend=True), scene.play()
    records, other = scene.record(fail_on_suspend=True, source_name="millrace.monitor"), scene.record()
    scene.graph.suspend(scene.music, True)
    scene.graph.set_mute(scene.sink, True)
    assert len(scene.door.playback) == len(scene.door.records) == 2
    scene.graph.suspend(scene.sink, True)
    assert list(scene.door.playback) == [waits.node.id] and list(scene.door.records) == [other.node.id]
    assert fails.removed and records.node.id not in scene.graph.taps


def test_streams_of_resumed_sink_continue_if_they_have_data() -> None:
    scene = Scene()
    ready, empty, elsewhere = scene.play(prebuf=4), scene.play(prebuf=4), scene.play(prebuf=4, sink_name="music")
    for stream in (ready, elsewhere):
        stream.queue.write(bytes(400))
    scene.graph.suspend(scene.sink, True)
    scene.graph.suspend(scene.sink, False)
    assert (ready.node.active, empty.node.active, elsewhere.node.active) == (True, False, False)


# -- time -------------------------------------------------------------------------------------


def test_latency_includes_mixed_frames_and_path_behind_sink() -> None:
    scene = Scene()
    scene.music.outlet_latency_ns = 25 * NS_PER_MS
    assert scene.door.monitor_latency_ns(scene.music, scene.now_ns) == 25 * NS_PER_MS
    scene.capture(clocked=True)
    scene.run(0.1)
    due_ns = scene.graph.position * 10**9 // 48_000
    assert scene.door.monitor_latency_ns(scene.music, due_ns - 7) == 25 * NS_PER_MS + 7
    assert scene.door.monitor_latency_ns(scene.sink, due_ns + 1_000) == 0, "a machine that is late"


def test_replies_have_wall_clock_time() -> None:
    scene = Scene()
    assert scene.door.timeval() == (scene.now_ns // 10**9, scene.now_ns % 10**9 // 1000)
    scene.door.wall_ns = lambda: 1_800_000_005 * 10**9 + 123_456_789
    assert scene.door.timeval() == (1_800_000_005, 123_456)
