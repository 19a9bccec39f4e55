"""The door of one guest: resolving names, notifying clients, and what ends together."""

from __future__ import annotations

import pytest

from millrace.budget import BudgetError
from millrace.doors.pulse.door import MODULES_MAX, STREAM_RESTORE
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.loaded import Feed, feed
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Tap
from millrace.media.format import AudioFormat
from millrace.remembered.streams import Rule
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Capture
from millrace.units import default_map
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Facility
from tests.caller import Caller
from tests.doorscene import Scene

# -- names ------------------------------------------------------------------------------------


def test_sink_is_found_by_index_name_or_default() -> None:
    scene = Scene()
    door, music = scene.door, scene.music
    assert door.find_sink(1, None) is door.find_sink(NO_INDEX, "music") is music
    assert door.find_sink(NO_INDEX, "1") is music and door.find_sink(1, "millrace") is music
    for name in (None, "", "@DEFAULT_SINK@", "default"):
        assert door.find_sink(NO_INDEX, name) is scene.sink
    for index, name, code in (
        (12_345, "music", Err.NOENTITY), (2, None, Err.NOENTITY), (NO_INDEX, "microphone", Err.NOENTITY),
        (NO_INDEX, "\x1b[2J", Err.INVALID), (NO_INDEX, "a b", Err.INVALID), (NO_INDEX, "x" * 129, Err.INVALID),
    ):  # fmt: skip
        with pytest.raises(CommandError) as refused:
            door.find_sink(index, name)
        assert refused.value.code is code and "\x1b" not in str(refused.value)


def test_source_or_monitor_is_found_by_any_of_its_names() -> None:
    scene = Scene()
    door, music = scene.door, scene.music
    assert door.find_source(2, None) is door.find_source(NO_INDEX, "microphone") is scene.source
    assert door.find_source(NO_INDEX, "2") is scene.source
    for index, name in ((1, None), (NO_INDEX, "music.monitor"), (NO_INDEX, "1")):
        assert door.find_source(index, name) is music
    for name in (None, "", "@DEFAULT_SOURCE@"):
        assert door.find_source(NO_INDEX, name) is scene.source
    assert (
        door.find_source(NO_INDEX, "@DEFAULT_MONITOR@") is door.find_source(NO_INDEX, "default.monitor") is scene.sink
    )
    for name in ("music", "nothing", "nothing.monitor", "12345", "microphone.monitor", "²", "@NONE@"):
        with pytest.raises(CommandError) as refused:
            door.find_source(NO_INDEX, name)
        assert refused.value.code is (Err.INVALID if name in ("²", "@NONE@") else Err.NOENTITY)


def test_name_of_sink_source_or_monitor_is_taken() -> None:
    taken = Scene().door.name_taken
    assert taken("music") and taken("music.monitor") and taken("microphone") and taken("default")
    assert not taken("musi") and not taken("monitor")


def test_sources_are_named_and_described_for_programs() -> None:
    scene = Scene()
    assert [scene.door.source_name(mix) for mix in scene.graph.mixes()] == [
        "millrace.monitor", "music.monitor", "microphone",
    ]  # fmt: skip
    assert scene.door.source_description(scene.music) == "Monitor of Music"
    assert scene.door.source_description(scene.source) == "Microphone"


def test_sink_format_is_from_its_module_or_the_graph() -> None:
    scene = Scene()
    assert scene.door.sink_format == AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
    told = AudioFormat(SampleFormat.U8, 8_000, default_map(2))
    scene.door.declared[scene.music.id] = told
    assert scene.door.format_of(scene.music) is told
    scene.graph.remove_sink(scene.music)
    assert scene.door.declared == {}


# -- the default source -----------------------------------------------------------------------


def test_default_source_is_chosen_one_else_source_else_default_monitor() -> None:
    scene = Scene()
    door = scene.door
    assert door.recorded_by_default() is scene.source
    door.set_default_source(scene.music)
    assert door.recorded_by_default() is scene.music and door.recorded_by_default(without=scene.music) is scene.source
    scene.graph.remove_sink(scene.music)
    assert door.default_source is None and door.recorded_by_default() is scene.source
    assert door.recorded_by_default(without=scene.source) is scene.sink
    scene.graph.remove_source(scene.source)
    assert door.recorded_by_default() is scene.sink


def test_new_default_source_takes_recorders_without_explicit_source() -> None:
    scene = Scene()
    plain, placed, pinned = scene.record(), scene.record(source_name="microphone"), scene.record(no_move=True)
    elsewhere = scene.record()
    scene.graph.move_tap(elsewhere.node, scene.sink)
    scene.news()
    scene.door.set_default_source(scene.music)
    assert [one.node.sink for one in (plain, placed, pinned, elsewhere)] == [
        scene.music, scene.source, scene.source, scene.sink,
    ]  # fmt: skip
    assert (Facility.SERVER, Change.CHANGE, NO_INDEX) in scene.news()
    scene.door.set_default_source(scene.music)
    assert scene.news() == []
    scene.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    scene.door.set_default_source(None)
    assert plain.node.sink is scene.music, "its client may not record the microphone"
    # Choosing what was already the default is no change.
    scene.news()
    scene.door.set_default_source(scene.source)
    assert scene.news() == []


def test_recorders_of_removed_source_move_to_default_source() -> None:
    scene = Scene()
    record, pinned = scene.record(source_name="music.monitor"), scene.record(source_name="music.monitor", no_move=True)
    scene.graph.remove_sink(scene.music)
    assert record.node.sink is scene.source and not record.node.placed and record.node.id in scene.door.records
    assert pinned.node.id not in scene.door.records
    scene.graph.remove_source(scene.source)
    assert record.node.sink is scene.sink


# -- levels of sources ------------------------------------------------------------------------


def test_source_level_applies_to_recorders_and_changes_are_announced() -> None:
    scene = Scene()
    _, other = scene.record(source_name="music.monitor"), scene.record()
    scene.news()
    scene.door.set_recorded(scene.music, (0.5, 0.25), True)
    assert (scene.music.recorded.gains, scene.music.recorded.mute) == ((0.5, 0.25), True)
    assert scene.news() == [
        (Facility.SOURCE_OUTPUT, Change.CHANGE, 0), (Facility.SOURCE, Change.CHANGE, 1),
    ]  # fmt: skip
    scene.door.set_recorded(scene.music, (0.5, 0.25), True)
    assert scene.news() == [] and other.node.sink is scene.source


def test_recording_modules_apply_source_level_as_their_kind_requires() -> None:
    scene = Scene()
    module = scene.module()
    for target, recorded in (("recorded", True), ("plain", False)):
        module.feeds.append(Feed(scene.music, scene.graph.add_sink(target), None, recorded))
        feed(scene.graph, module.feeds[-1])
    scene.door.set_recorded(scene.music, (0.5, 0.25), False)
    matrices = {link.target.name: link.matrix for link in scene.music.links}
    assert matrices["recorded"] is not None and matrices["recorded"].tolist() == [[0.5, 0.0], [0.0, 0.25]]
    assert matrices["plain"] is None


# -- modules ----------------------------------------------------------------------------------


def test_guest_has_builtin_modules_of_which_two_are_permanent() -> None:
    scene = Scene()
    names = {module.name: module.fixed for module in scene.door.modules.values()}
    assert names == {
        "module-millrace": True, "module-native-protocol-unix": True, "module-stream-restore": False,
        "module-device-restore": False, "module-default-device-restore": False, "module-always-sink": False,
    }  # fmt: skip
    assert len({module.index for module in scene.door.modules.values()}) == 6 < MODULES_MAX
    by_name = {module.name: module for module in scene.door.modules.values()}
    scene.door.unload(by_name["module-stream-restore"])
    assert not scene.door.rules.restores and scene.door.devices.restores and scene.door.devices.keeps_defaults
    scene.door.unload(by_name["module-device-restore"])
    assert not scene.door.devices.restores and scene.door.devices.keeps_defaults
    scene.door.unload(by_name["module-default-device-restore"])
    assert not scene.door.devices.keeps_defaults


def test_module_is_charged_and_announced_from_loading_to_unloading() -> None:
    scene = Scene()
    tones = [scene.tone(scene.sink) for _ in range(3)]
    held, undone = scene.graph.budget.held, []
    made = scene.graph.add_sink("made")
    scene.news()
    module = scene.module(made, end=lambda: undone.append(True))
    assert scene.door.account.part(("module", module.index)) > 4 * len("a=b")
    assert scene.door.modules[module.index] is module
    assert scene.news() == [(Facility.MODULE, Change.NEW, module.index)]
    ids = [tone.id for tone in tones]
    scene.door.made_by |= {ids[0]: module, ids[1]: scene.door.own_module}
    scene.door.unload(module)
    scene.door.unload(module)
    assert undone == [True] and made.id not in scene.graph.sinks and scene.graph.budget.held == held
    assert scene.news().count((Facility.MODULE, Change.REMOVE, module.index)) == 1
    assert scene.door.made_by == {ids[1]: scene.door.own_module}
    assert {scene.door.module_of(tone) for tone in tones} == {scene.door.own_module}


def test_module_beyond_budget_is_not_loaded() -> None:
    scene = Scene()
    scene.graph.budget.limit = 0
    with pytest.raises(BudgetError):
        scene.module()
    assert len(scene.door.modules) == 6 and scene.news() == []


def test_module_is_unloaded_with_its_device_or_stream() -> None:
    scene = Scene()
    on_music, on_source = scene.module(masters=[scene.music]), scene.module(masters=[scene.source])
    player = scene.module()
    node = scene.tone(scene.sink)
    scene.door.made_by[node.id] = player
    scene.graph.touch(node)
    scene.graph.remove_sink(scene.music)
    assert on_music.index not in scene.door.modules and on_source.index in scene.door.modules
    assert player.index in scene.door.modules
    scene.graph.remove_stream(node)
    assert player.index not in scene.door.modules


def test_waiting_modules_are_notified_of_new_devices() -> None:
    scene = Scene()
    greeted: list[str] = []
    scene.module(greet=lambda mix: greeted.append(mix.name))
    made = scene.graph.add_sink("new")
    scene.graph.add_source("line", "Line")
    scene.graph.touch(made)
    scene.graph.remove_sink(made)
    assert greeted == ["new", "line"]


def test_tone_plays_only_where_it_is_heard() -> None:
    scene = Scene()
    on_sink, on_source = scene.tone(scene.sink), scene.tone(scene.source)
    module = scene.module(streams=[on_sink, on_source])
    scene.door.sound_tones(module)
    assert on_sink.active and not on_source.active
    tap = Tap(scene.graph.ids.take(), "tap", default_map(2), consumer=Capture())
    scene.graph.add_tap(tap, scene.source)
    assert on_source.active, "something in the guest is recording now"
    scene.graph.remove_tap(tap)
    assert not on_source.active and on_sink.active
    scene.graph.suspend(scene.sink, True)
    assert not on_sink.active
    scene.graph.suspend(scene.sink, False)
    assert on_sink.active


# -- notifications -------------------------------------------------------------------------------------


def test_each_change_is_announced_with_its_facility() -> None:
    scene = Scene()
    made = scene.graph.add_sink("made")
    scene.graph.add_source("line", "Line")
    assert scene.news() == [
        (Facility.SINK, Change.NEW, 2), (Facility.SOURCE, Change.NEW, 3), (Facility.SOURCE, Change.NEW, 4),
    ]  # fmt: skip
    stream, record = scene.play(), scene.record()
    assert scene.news() == [
        (Facility.SINK_INPUT, Change.NEW, 0), (Facility.SOURCE_OUTPUT, Change.NEW, 0),
        (Facility.SOURCE, Change.CHANGE, 2),
    ], "a recorded source is running"  # fmt: skip
    scene.graph.set_mute(stream.node, True)
    scene.graph.remove_tap(record.node)
    scene.graph.remove_sink(made)
    scene.graph.set_default(scene.music)
    news = scene.news()
    for change in (
        (Facility.SINK_INPUT, Change.CHANGE, 0), (Facility.SOURCE_OUTPUT, Change.REMOVE, 0),
        (Facility.SINK, Change.REMOVE, 2), (Facility.SOURCE, Change.REMOVE, 3),
        (Facility.SERVER, Change.CHANGE, NO_INDEX),
    ):  # fmt: skip
        assert change in news


def test_internal_taps_and_source_streams_are_not_announced() -> None:
    scene = Scene()
    scene.capture()
    voice = scene.tone(scene.source)
    scene.graph.set_mute(voice, True)
    scene.graph.remove_stream(voice)
    assert scene.news() == []


def test_sink_level_is_announced_for_sink_only_and_state_for_monitor_too() -> None:
    scene = Scene()
    scene.graph.set_mute(scene.music, True)
    assert scene.news() == [(Facility.SINK, Change.CHANGE, 1)]
    scene.graph.suspend(scene.music, True)
    assert scene.news() == [(facility, Change.CHANGE, 1) for facility in (Facility.SINK, Facility.SOURCE)]
    scene.graph.set_mute(scene.music, False)
    assert scene.news() == [(Facility.SINK, Change.CHANGE, 1)]
    scene.graph.remove_sink(scene.music)
    assert scene.music.id not in scene.door._source_states
    assert scene.door.sink_indexes.of(scene.music) == scene.door.source_indexes.of(scene.music) == NO_INDEX


def test_rule_changes_are_announced_to_subscribers_while_module_is_loaded() -> None:
    scene = Scene()
    other = Caller(scene)
    scene.caller.extensions.add(STREAM_RESTORE)
    module = next(one for one in scene.door.modules.values() if one.name == STREAM_RESTORE)
    scene.door.rules.take({"a": Rule()})
    assert (
        scene.caller.told == [(Command.EXTENSION, {"index": module.index, "name": STREAM_RESTORE, "event": 5})]
        and not other.told
    )
    scene.door.unload(module)
    scene.door.rules.take({"b": Rule()})
    assert len(scene.caller.told) == 1
