"""Saved settings of sinks and sources are applied when these are created, and undone if they can't be saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace.doors.pulse.guestdevices import Door, GuestDevices
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Sink
from millrace.remembered.devices import Devices, DeviceUpdate
from tests.bare import bare

LEVEL = ((0.5, 0.25), True)
PLAIN = ((1.0, 1.0), False)


class Scene:
    """A graph with two sinks and a source, a minimal `Door`, and the pending saves."""

    def __init__(self) -> None:
        self.graph = Graph("guest", Ids())
        self.first, self.music = self.graph.add_first_sink(), self.graph.add_sink("music")
        self.source = self.graph.add_source("microphone", "Microphone")
        self.default: list[Sink | None] = []
        door: Door = bare(
            Door, graph=self.graph, source_name=lambda sink: sink.name if sink.capture else f"{sink.name}.monitor",
            set_recorded=self._set_recorded, set_default_source=self.default.append,
        )  # fmt: skip
        self.updates: list[DeviceUpdate] = []
        self.devices = GuestDevices(door, self._keep)

    def _keep(self, table: Devices) -> Callable[[DeviceUpdate], None]:
        return self.updates.append

    @staticmethod
    def _set_recorded(sink: Sink, gains: tuple[float, ...], mute: bool) -> None:
        sink.recorded.gains, sink.recorded.mute = gains, mute


def ignored(kept: bool) -> None:
    """Ignores whether it was saved."""


def test_levels_are_saved_by_kind_and_name_and_recorder_levels_by_source() -> None:
    scene = Scene()
    scene.music.gains, scene.music.mute = LEVEL
    scene.source.recorded.gains, scene.source.recorded.mute = LEVEL
    scene.devices.keep_level(scene.music, ignored)
    scene.devices.keep_level(scene.source, ignored)
    scene.devices.keep_source_level(scene.music, ignored)
    scene.devices.keep_source_level(scene.source, ignored)
    assert scene.devices.now == {
        ("sink", "music"): LEVEL, ("source", "microphone"): PLAIN, ("recorded", "music.monitor"): PLAIN,
        ("recorded", "microphone"): LEVEL,
    }  # fmt: skip


def test_defaults_are_saved_by_pulseaudio_name() -> None:
    scene = Scene()
    names: Callable[[], Any] = lambda: (scene.devices.default("sink"), scene.devices.default("source"))  # noqa: E731
    scene.devices.keep_default(scene.music, "sink", ignored)
    scene.devices.keep_default(scene.music, "source", ignored)
    assert names() == ("music", "music.monitor")
    scene.devices.keep_default(scene.source, "source", ignored)
    scene.devices.keep_default(None, "sink", ignored)
    assert names() == ("", "microphone")


def test_saved_settings_are_applied_to_existing_devices() -> None:
    scene = Scene()
    scene.devices.load({
        ("sink", "music"): LEVEL, ("source", "microphone"): ((0.5, 0.5), True), ("recorded", "music.monitor"): LEVEL,
        ("recorded", "microphone"): ((0.125, 0.125), False), ("sink", "elsewhere"): LEVEL,
        ("default", "sink"): "music", ("default", "source"): "millrace.monitor",
    })  # fmt: skip
    scene.devices.restore_all()
    assert (scene.music.gains, scene.music.mute) == LEVEL and (scene.first.gains, scene.first.mute) == PLAIN
    assert (scene.music.recorded.gains, scene.music.recorded.mute) == LEVEL
    assert (scene.source.gains, scene.source.mute) == ((0.5, 0.5), True)
    assert (scene.source.recorded.gains, scene.source.recorded.mute) == ((0.125, 0.125), False)
    assert scene.graph.default is scene.music and scene.default == [scene.first]


def test_sink_matches_its_name_before_former_names() -> None:
    scene = Scene()
    scene.devices.load({("sink", "default"): ((0.5, 0.5), False)})
    scene.devices.restore(scene.first)
    assert scene.first.gains == (0.5, 0.5)
    scene.devices.load({("sink", "default"): ((0.5, 0.5), False), ("sink", "millrace"): ((0.25, 0.25), False)})
    scene.devices.restore(scene.first)
    assert scene.first.gains == (0.25, 0.25)
    # A default of that name is the first sink's too.
    scene.graph.default = scene.music
    scene.devices.load({("default", "sink"): "default"})
    scene.devices.restore(scene.first)
    assert scene.graph.default is scene.first


def test_source_with_name_of_default_sink_is_not_the_default_sink() -> None:
    scene = Scene()
    scene.devices.load({("default", "sink"): "microphone"})
    scene.devices.restore(scene.source)
    assert scene.graph.default is scene.first


def test_only_settings_of_loaded_restore_modules_are_applied() -> None:
    for restores, expected in (({"volume"}, (LEVEL[0], False)), ({"muted"}, (PLAIN[0], True)), (set(), PLAIN)):
        scene = Scene()
        scene.devices.load({("sink", "music"): LEVEL, ("recorded", "music.monitor"): LEVEL})
        scene.devices.restores = frozenset(restores)
        scene.devices.restore(scene.music)
        assert (scene.music.gains, scene.music.mute) == expected, restores
        assert (scene.music.recorded.gains, scene.music.recorded.mute) == expected


def not_kept(scene: Scene) -> None:
    """The pending changes can't be saved."""
    scene.devices.was_not_kept({update.key: scene.devices.now[update.key] for update in scene.updates})


def test_unsaved_level_reverts_to_previous_or_none() -> None:
    scene = Scene()
    scene.devices.load({("sink", "music"): ((0.5, 0.5), True)})
    scene.devices.restore_all()
    for mix in (scene.music, scene.source):
        scene.graph.set_gains(mix, (0.25,))
        scene.graph.set_mute(mix, not mix.mute)
        scene.devices.keep_level(mix, ignored)
        scene.graph.set_gains(mix, (0.125,)) if mix is scene.source else None
    scene.music.recorded.gains, scene.music.recorded.mute = LEVEL
    scene.devices.keep_source_level(scene.music, ignored)
    not_kept(scene)
    assert (scene.music.gains, scene.music.mute) == ((0.5, 0.5), True)
    assert (scene.source.gains, scene.source.mute) == PLAIN
    assert (scene.music.recorded.gains, scene.music.recorded.mute) == PLAIN
    assert (scene.first.gains, scene.first.recorded.gains) == (PLAIN[0], PLAIN[0])


def test_unsaved_default_reverts_to_previous_or_first_sink() -> None:
    scene = Scene()
    scene.devices.load({("default", "sink"): "music", ("default", "source"): "music.monitor"})
    for what, mix in (("sink", scene.first), ("source", scene.source)):
        scene.devices.keep_default(mix, what, ignored)
    not_kept(scene)
    assert scene.graph.default is scene.music and scene.default == [scene.music]
    scene = Scene()
    scene.devices.load({("default", "sink"): "gone", ("default", "source"): "gone"})
    scene.graph.set_default(scene.music)
    for what in ("sink", "source"):
        scene.devices.keep_default(scene.music, what, ignored)
    not_kept(scene)
    assert scene.graph.default is scene.first and scene.default == [None]


def test_without_restore_module_levels_apply_but_are_not_saved() -> None:
    scene = Scene()
    told: list[bool] = []
    scene.devices.stop()
    scene.music.gains = (0.5, 0.5)
    scene.devices.keep_level(scene.music, told.append)
    scene.devices.keep_default(scene.music, "sink", told.append)
    assert told == [True] and [update.key for update in scene.updates] == [("default", "sink")]
    scene.devices.stop_defaults()
    scene.devices.keep_default(scene.first, "sink", told.append)
    assert told == [True, True] and len(scene.updates) == 1
    assert scene.devices.default("sink") == "millrace"
