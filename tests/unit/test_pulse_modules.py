"""Modules: their arguments and channel maps, against what PulseAudio 16.1 takes and refuses; loading and unloading."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from millrace.doors.pulse import infos, modules
from millrace.doors.pulse.channelmaps import map_for, parse_map
from millrace.doors.pulse.formats import CommandError, from_info, sample_format
from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.loading import Loading
from millrace.doors.pulse.modargs import ARGUMENT_MAX, Args, wrong
from millrace.doors.pulse.modkinds import Kind
from millrace.doors.pulse.modules import HANDLERS
from millrace.dsp.convert import SampleFormat
from millrace.errors import GraphError
from millrace.media.format import AudioFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig
from millrace.units import default_map
from millrace.wire.pulse.constants import Command, Encoding, Err
from millrace.wire.pulse.tagstruct import FormatInfo, Spec
from tests.caller import Caller

VALID = ("sink_name", "sink_properties", "rate", "format", "channels", "channel_map", "remix")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stereo", ("front-left", "front-right")),
        ("mono", ("mono",)),
        ("left,right", ("front-left", "front-right")),
        ("surround-21", ("front-left", "front-right", "lfe")),
        ("surround-40", ("front-left", "front-right", "rear-left", "rear-right")),
        ("surround-41", ("front-left", "front-right", "rear-left", "rear-right", "lfe")),
        ("surround-50", ("front-left", "front-right", "rear-left", "rear-right", "front-center")),
        ("surround-51", ("front-left", "front-right", "rear-left", "rear-right", "front-center", "lfe")),
        ("left,right,subwoofer,aux3", ("front-left", "front-right", "lfe", "aux3")),
        ("center,rear-center,top-front-left,aux31", ("front-center", "rear-center", "top-front-left", "aux31")),
        ("mono,mono,", ("mono", "mono")),
        ("front-left , front-right", None),
        ("", None),
        (",", None),
        ("Left", None),
        ("aux32", None),
        (",".join(["mono"] * 33), None),
    ],
)
def test_channel_maps_accept_all_pulseaudio_names(text: str, expected: tuple[str, ...] | None) -> None:
    assert parse_map(text) == expected


def test_channel_count_alone_gives_pulseaudios_default_map() -> None:
    assert map_for(3) == ("front-left", "front-right", "front-center")
    assert map_for(4) == ("front-left", "front-center", "front-right", "rear-center")
    assert map_for(9)[5:] == ("rear-center", "aux0", "aux1", "aux2")
    assert [len(map_for(n)) for n in range(1, 33)] == list(range(1, 33))


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("sink_properties=device.description=O'Brien", "O'Brien"),
        ("sink_properties=\"device.description='My sink' foo.bar=baz\"", "My sink"),
        ("sink_properties='device.description=\"My sink\" foo.bar=baz'", "My sink"),
        ("sink_properties=device.description=A,device.x=y", "A,device.x=y"),
        (r"""sink_properties='device.description="My \"own\" sink"'""", 'My "own" sink'),
        (r"""sink_properties='device.description="My \\ sink"'""", r"My \ sink"),
        (r'sink_properties="device.description=O\"Brien"', r"O\"Brien"),
        (r'sink_properties=device.description="My\ sink"', "My sink"),
        ("sink_properties=device.description=hex:4d7900", "My"),
        ("sink_properties='device.description = \"spaced\"'rate=8000", "spaced"),
    ],
)
def test_property_lists_are_quoted_as_in_pulseaudio(text: str, description: str) -> None:
    props = Args(text, VALID).props("sink_properties")
    assert props["device.description"].rstrip(b"\0").decode() == description
    assert props.get("foo.bar", b"baz\0") == b"baz\0"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense=1", "garbage", "=x", "sink_name=a sink_name=b", "sink_name='open", 'sink_name="open', "a b=c",
        "sink_name=x\\", "sink_name = x", "sink_name=" + "x" * ARGUMENT_MAX,
    ],
)  # fmt: skip
def test_unknown_duplicate_or_malformed_arguments_are_refused(text: str) -> None:
    with pytest.raises(CommandError):
        Args(text, VALID)


@pytest.mark.parametrize(
    "text",
    [
        "device.description", r"device.description=O\'Brien\ x", "a='x", "=x", "ö=x", "a=hex:6", "a=hex:0g",
        r"device.description=\'My\ sink\'", r"""'device.description=\"My sink\"'""",
    ],
)  # fmt: skip
def test_malformed_property_lists_are_refused(text: str) -> None:
    with pytest.raises(CommandError):
        Args(f"sink_properties={text}", VALID).props("sink_properties")


def test_specs_are_applied_and_contradictions_refused() -> None:
    default = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
    made = Args("rate=44100 format=u8 channels=4", VALID).format(default)
    assert (made.rate, made.sample, made.positions) == (44_100, SampleFormat.U8, map_for(4))
    assert Args("channel_map=surround-51", VALID).format(default).positions == default_map(6)
    assert Args("", VALID).format(default) == default
    assert Args("rate=0x5dc0", VALID).format(default).rate == Args("rate=024000", VALID).format(default).rate == 24_000
    refused = ["rate=+48000", "rate=' 48000'", "rate=0x", "rate=0X5dc0", "rate=", "channels=4 channel_map=stereo",
               "channels=33", "channels=0", "channels=x", "rate=1e9", "rate=-1",
               "format=floaty", "channel_map=here", "rate=999999999999999999999"]  # fmt: skip
    for text in refused:
        with pytest.raises(CommandError):
            Args(text, VALID).format(default)


def test_flags_and_formats_have_all_their_names() -> None:
    assert [Args(f"remix={word}", VALID).flag("remix", False) for word in ("1", "YES", "on", "t")] == [True] * 4
    assert not Args("remix=off", VALID).flag("remix", True) and Args("", VALID).flag("remix", True)
    with pytest.raises(CommandError):
        Args("remix=maybe", VALID).flag("remix", True)
    assert sample_format("S16NE") is sample_format("16") is SampleFormat.S16LE
    assert sample_format("float") is SampleFormat.F32LE and sample_format("24") is None


def test_formats_api_knows_the_same_names() -> None:
    default = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
    info = FormatInfo(Encoding.PCM, {"format.channel_map": b'"surround-40"\0', "format.sample_format": b'"s16ne"\0'})
    assert from_info(info, default).positions == ("front-left", "front-right", "rear-left", "rear-right")
    assert from_info(info, default).sample is SampleFormat.S16LE
    with pytest.raises(CommandError):
        from_info(FormatInfo(Encoding.PCM, {"format.channel_map": b'"left, right"\0'}), default)


# -- loading and unloading ---------------------------------------------------------------------


class Scene(Rig):
    """A guest, and a client that may only load and unload."""

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self, HANDLERS)

    def load(self, name: str | None, argument: str | None = None) -> Any:
        """The module, or the error."""
        answer = self.caller.ask(Command.LOAD_MODULE, name=name, argument=argument)
        return self.door.modules[answer["index"]] if isinstance(answer, dict) else answer

    def unload(self, index: int) -> Any:
        return self.caller.ask(Command.UNLOAD_MODULE, index=index)


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    """The table of modules, for a test to put its own in."""
    mine: dict[str, Kind] = {}
    monkeypatch.setattr(modules, "KINDS", mine)
    return mine


def test_loaded_module_shows_its_arguments_and_what_it_created(kinds: dict[str, Kind]) -> None:
    scene = Scene()
    loading: list[int] = []

    def make(given: Loading) -> None:
        loading.append(given.door.loading)
        given.sink(given.door.sink_format, "made", "Made", "abstract")

    kinds["module-made"] = Kind("Makes a sink", ("sink_name",), make)
    module = scene.load("module-made", "sink_name=mine")
    assert (module.name, module.argument, module.description) == ("module-made", "sink_name=mine", "Makes a sink")
    assert [mix.name for mix in module.mixes] == ["mine"] and not module.fixed and scene.modules_told == []
    assert loading == [1] and scene.door.loading == 0, "sinks created while it is loaded belong to it"
    assert scene.load("module-made").mixes[0].name == "made"


@pytest.mark.parametrize("error", [wrong("no"), GraphError("no"), CommandError(Err.NOENTITY, "no")])
def test_module_that_fails_half_way_leaves_nothing_and_says_why(kinds: dict[str, Kind], error: Exception) -> None:
    scene = Scene()
    held, undone = scene.graph.budget.held, []

    def fail(given: Loading) -> None:
        sink = given.sink(given.door.sink_format, "made", "Made", "abstract")
        given.link(sink, scene.sink)
        given.module.loops.append(SimpleNamespace(end=lambda: undone.append(True)))
        raise error

    kinds["module-failing"] = Kind("Fails", ("a",), fail)
    assert scene.load("module-failing", "a=b") is Err.MODINITFAILED
    assert scene.modules_told == ["module-failing a=b: no"]
    assert undone == [True] and len(scene.graph.sinks) == 1 and scene.graph.budget.held == held
    assert scene.door.loading == 0 and len(scene.door.modules) == 6


def test_module_without_permission_is_refused_as_such(kinds: dict[str, Kind]) -> None:
    scene = Scene()
    scene.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    kinds["module-records"] = Kind("Records", (), lambda given: given.records(scene.sink))
    assert scene.load("module-records") is Err.ACCESS and len(scene.modules_told) == 1


def test_module_beyond_budget_leaves_nothing(kinds: dict[str, Kind]) -> None:
    scene = Scene()

    def fill(given: Loading) -> None:
        given.sink(given.door.sink_format, "made", "Made", "abstract")
        scene.graph.budget.limit = 0

    kinds["module-large"] = Kind("Fills all there is", (), fill)
    assert scene.load("module-large") is Err.MODINITFAILED and len(scene.graph.sinks) == 1


def test_unsupported_module_is_refused_with_alternatives() -> None:
    scene = Scene()
    for name in ("module-nothing", "module-pipe-sink", "module-pipe-sink.so", "module-null-sink.so.so"):
        assert scene.load(name) is Err.MODINITFAILED
    assert "module-null-sink" in scene.modules_told[0]
    assert scene.modules_told[1].startswith("module-pipe-sink: it would make the daemon open a file")
    assert scene.modules_told[2].startswith("module-pipe-sink.so: it would make the daemon open a file")
    for name in (None, "", "/usr/lib/pulse/modules/module-null-sink.so", "./module-null-sink"):
        assert scene.load(name) is Err.INVALID
    assert scene.load("module-null-sink", "nonsense=1") is Err.MODINITFAILED


def test_name_of_a_file_loads_its_module_and_is_listed_as_given() -> None:
    """PulseAudio 16.1: `pactl load-module module-null-sink.so`."""
    scene = Scene()
    module = scene.load("module-null-sink.so", "sink_name=mine")
    assert (module.name, module.mixes[0].name) == ("module-null-sink.so", "mine")
    assert infos.sink_info(scene.door, module.mixes[0], 0)["driver"] == "module-null-sink.c"
    (restore,) = [one for one in scene.door.modules.values() if one.name == "module-stream-restore"]
    assert scene.load("module-stream-restore.so") is Err.MODINITFAILED
    scene.unload(restore.index)
    again = scene.load("module-stream-restore.so")
    assert again.end == scene.door.ends["module-stream-restore"], "unloaded, it remembers nothing more"
    assert scene.load("module-stream-restore") is Err.MODINITFAILED, "it is loaded"


def test_some_modules_load_once_and_all_are_limited(kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    kinds["module-once"] = Kind("Once", (), lambda given: None, once=True)
    kinds["module-often"] = Kind("Often", (), lambda given: None)
    once = scene.load("module-once")
    assert scene.load("module-once") is Err.MODINITFAILED and "already loaded" in scene.modules_told[-1]
    assert scene.unload(once.index) == {} and isinstance(scene.load("module-once"), Module)
    monkeypatch.setattr(modules, "MODULES_MAX", 9)
    assert isinstance(scene.load("module-often"), Module) and isinstance(scene.load("module-often"), Module)
    assert scene.load("module-often") is Err.MODINITFAILED and "9 modules" in scene.modules_told[-1]


def test_argument_without_effect_is_accepted_and_noted(kinds: dict[str, Kind]) -> None:
    scene = Scene()
    kinds["module-idle"] = Kind("Idle", ("a",), lambda given: None, {"adjust_time": "there is one clock"})
    assert isinstance(scene.load("module-idle", "a=b"), Module) and scene.modules_told == []
    assert isinstance(scene.load("module-idle", "adjust_time=5"), Module)
    assert scene.modules_told == ["module-idle adjust_time has no effect: there is one clock"]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (("adjust_time=0", "adjust_time=2.5"), ("adjust_time=x", "adjust_time=-1", "adjust_time=")),
        (("resample_method=soxr-vhq", "resample_method=speex-float-10"), ("resample_method=speex-float-11",)),
        (("use_volume_sharing=yes",), ("use_volume_sharing=maybe",)),
    ],
)
def test_argument_without_effect_is_refused_if_pulseaudio_would(
    good: tuple[str, ...], bad: tuple[str, ...], kinds: dict[str, Kind]
) -> None:
    scene = Scene()
    kinds["module-idle"] = Kind("Idle", (), lambda given: None, {good[0].partition("=")[0]: "there is no need"})
    assert all(isinstance(scene.load("module-idle", text), Module) for text in good)
    assert [scene.load("module-idle", text) for text in bad] == [Err.MODINITFAILED] * len(bad)


def test_streams_of_unloaded_module_move_elsewhere_in_steps() -> None:
    scene = Scene()
    module = scene.load("module-null-sink", "sink_name=extra")
    player = Caller(scene)
    played = [player.play(Spec(SampleFormat.S16LE, 2, 48_000), (1, 2), sink_name="extra") for _ in range(3)]
    scene.caller.steps = 0
    assert scene.unload(module.index) == {} and scene.caller.steps == 3
    assert [scene.stream_at(one["index"]).sink for one in played] == [scene.sink] * 3
    assert "extra" not in [sink.name for sink in scene.graph.sinks.values()]
    assert scene.unload(module.index) is Err.NOENTITY
    assert scene.unload(scene.door.own_module.index) is Err.ACCESS and scene.door.own_module.index in scene.door.modules
    source = scene.load("module-null-source", "source_name=line")
    assert scene.unload(source.index) == {} and not scene.graph.sources
