"""Commands that change things: their effect on the guest, what is saved, and what is refused without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from millrace.budget import Budget
from millrace.doors.pulse import control
from millrace.doors.pulse.control import HANDLERS, guarded, merge_props, refused
from millrace.doors.pulse.formats import CommandError
from millrace.dsp.convert import SampleFormat
from millrace.errors import BudgetError, GraphError
from millrace.graph.model import Stream
from millrace.remembered.devices import DeviceUpdate
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig
from millrace.units import default_map
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err, Facility
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import PROPS_MAX, Spec
from tests.caller import Caller, Furnished
from tests.unit.test_graph import Tone

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
STEREO = (1, 2)
HALF = 0x8000
C = Command


class Scene(Furnished):
    """A guest with a second sink and a source, a program that plays and records, and one that changes things."""

    def __init__(self) -> None:
        self.changed: list[tuple[str, int]] = []
        super().__init__()
        self.program = Caller(self)
        self.channel: int = self.program.play(S16, STEREO, tlength=9_600)["channel"]
        self.record_channel: int = self.program.record(S16, STEREO, source_name="millrace.monitor")["channel"]
        self.stream, self.record = self.program.streams[self.channel], self.program.records[self.record_channel]
        self.caller = Caller(self, HANDLERS)
        indexes = self.door.indexes
        self.input, self.output = indexes.inputs.of(self.stream.node), indexes.outputs.of(self.record.node)
        self.published: list[tuple[Facility, Change, int]] = []
        self.door.publish = lambda *change: self.published.append(change)  # type: ignore[method-assign]
        self.changed.clear()

    def client_changed(self, change: str, client: Any) -> None:
        """See `clients.Host`."""
        self.changed.append((change, client.index))

    def ask(self, command: Command, index: int = NO_INDEX, name: str | None = None, **fields: Any) -> Any:
        """The answer to a request of the client that changes things."""
        return self.caller.ask(command, index=index, name=name, **fields)

    def kept_later(self) -> list[DeviceUpdate]:
        """From now on, device settings are saved when the test says so."""
        updates: list[DeviceUpdate] = []
        self.door.devices._submit = updates.append
        return updates


# -- levels -----------------------------------------------------------------------------------


def test_levels_of_sinks_and_sources_are_set_and_saved_separately() -> None:
    scene = Scene()
    assert scene.ask(C.SET_SINK_VOLUME, name="music", volume=(HALF,)) == {}
    assert scene.ask(C.SET_SINK_MUTE, 1, mute=True) == {}
    assert (scene.music.gains, scene.music.mute) == ((0.125, 0.125), True)
    assert (scene.music.recorded.gains, scene.music.recorded.mute) == ((1.0, 1.0), False)
    assert scene.ask(C.SET_SOURCE_VOLUME, name="music.monitor", volume=(0x10000, HALF)) == {}
    assert scene.ask(C.SET_SOURCE_MUTE, 2, mute=True) == {}
    assert scene.music.recorded.gains == (1.0, 0.125) and scene.source.recorded.mute and not scene.source.mute
    assert scene.door.devices.kept == {
        ("sink", "music"): ((0.125, 0.125), True), ("recorded", "music.monitor"): ((1.0, 0.125), False),
        ("recorded", "microphone"): ((1.0, 1.0), True),
    }  # fmt: skip


def test_volume_and_mute_of_source_are_independent() -> None:
    scene = Scene()
    scene.ask(C.SET_SOURCE_MUTE, name="microphone", mute=True)
    scene.ask(C.SET_SOURCE_VOLUME, name="microphone", volume=(HALF, HALF))
    assert scene.source.recorded.mute and scene.source.recorded.gains == (0.125, 0.125)
    scene.ask(C.SET_SOURCE_MUTE, name="microphone", mute=False)
    assert not scene.source.recorded.mute and scene.source.recorded.gains == (0.125, 0.125)


CHANGES: list[tuple[Command, dict[str, Any]]] = [
    (C.SET_SINK_VOLUME, {"name": "music", "volume": (HALF,)}),
    (C.SET_SINK_MUTE, {"name": "music", "mute": True}),
    (C.SET_SOURCE_VOLUME, {"name": "microphone", "volume": (HALF,)}),
    (C.SET_SOURCE_MUTE, {"name": "microphone", "mute": True}),
    (C.SET_DEFAULT_SINK, {"name": "music"}),
    (C.SET_DEFAULT_SOURCE, {"name": "microphone"}),
]


@pytest.mark.parametrize(("command", "fields"), CHANGES, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize(("kept", "answer"), [(True, {}), (False, Err.IO)])
def test_saved_change_is_acknowledged_when_saved_and_refused_otherwise(
    command: Command, fields: dict[str, Any], kept: bool, answer: Any
) -> None:
    scene = Scene()
    updates = scene.kept_later()
    tag = scene.caller.send(command, **({"index": NO_INDEX} | fields))
    (update,) = updates
    assert tag not in scene.caller.answers
    update.done(kept)
    assert scene.caller.answers[tag] == answer
    tag = scene.caller.send(command, **({"index": NO_INDEX} | fields))
    scene.caller.closed()
    updates[-1].done(kept)
    assert tag not in scene.caller.answers, "a client that left is not notified"


def test_levels_of_streams_and_recorders_are_set_immediately() -> None:
    scene = Scene()
    stream, record = scene.stream.node, scene.record
    assert scene.ask(C.SET_SINK_INPUT_VOLUME, scene.input, volume=(HALF,)) == {} and stream.gains == (0.125, 0.125)
    assert scene.ask(C.SET_SINK_INPUT_MUTE, scene.input, mute=True) == {} and stream.mute
    scene.published.clear()
    assert scene.ask(C.SET_SOURCE_OUTPUT_VOLUME, scene.output, volume=(HALF, 0x10000)) == {}
    assert scene.ask(C.SET_SOURCE_OUTPUT_MUTE, scene.output, mute=True) == {}
    assert record.state.gains == (0.125, 1.0) and record.state.mute
    assert scene.published == [(Facility.SOURCE_OUTPUT, Change.CHANGE, scene.output)] * 2
    assert scene.ask(C.SET_SOURCE_OUTPUT_MUTE, scene.output, mute=False) == {} and not record.state.mute


@pytest.mark.parametrize("command", ["SET_SINK_VOLUME", "SET_SOURCE_VOLUME", "SET_SINK_INPUT_VOLUME"])
def test_volume_for_other_channel_count_is_refused(command: str) -> None:
    scene = Scene()
    index = scene.input if command == "SET_SINK_INPUT_VOLUME" else scene.sink.id
    assert scene.ask(C[command], index, volume=(1, 2, 3)) is Err.INVALID
    assert scene.sink.gains == scene.sink.recorded.gains == scene.stream.node.gains == (1.0, 1.0)


OF_INPUTS = [("SET", "_VOLUME"), ("SET", "_MUTE"), ("KILL", ""), ("MOVE", "")]

# -- missing objects --------------------------------------------------------------------------

NOT_THERE = [
    ("SET_SINK_VOLUME", {"volume": (1,)}), ("SET_SINK_MUTE", {"mute": True}), ("SET_SOURCE_VOLUME", {"volume": (1,)}),
    ("SET_SOURCE_MUTE", {"mute": True}), ("SET_SINK_INPUT_VOLUME", {"volume": (1,)}), ("KILL_CLIENT", {}),
    ("SET_SINK_INPUT_MUTE", {"mute": True}), ("SET_SOURCE_OUTPUT_VOLUME", {"volume": (1,)}), ("KILL_SINK_INPUT", {}),
    ("SET_SOURCE_OUTPUT_MUTE", {"mute": True}), ("KILL_SOURCE_OUTPUT", {}), ("SUSPEND_SINK", {"suspend": True}),
    ("SUSPEND_SOURCE", {"suspend": True}), ("SET_SINK_PORT", {"port": "x"}), ("SET_SOURCE_PORT", {"port": "x"}),
    ("MOVE_SINK_INPUT", {"sink_index": NO_INDEX, "sink_name": "music"}), ("SET_CARD_PROFILE", {"profile": "off"}),
    ("MOVE_SOURCE_OUTPUT", {"source_index": NO_INDEX, "source_name": "microphone"}),
    ("SET_PORT_LATENCY_OFFSET", {}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "fields"), NOT_THERE, ids=[name for name, _ in NOT_THERE])
def test_missing_object_is_no_entity(command: str, fields: dict[str, Any]) -> None:
    assert Scene().ask(C[command], 12_345, **fields) is Err.NOENTITY


@pytest.mark.parametrize(
    "command", ["SET_SINK_INPUT_VOLUME", "SET_SINK_INPUT_MUTE", "KILL_SINK_INPUT", "MOVE_SINK_INPUT"]
)
def test_source_stream_can_not_be_changed_or_moved(command: str) -> None:
    scene = Scene()
    voice = Stream(scene.graph.ids.take(), "voice", default_map(2), feed=Tone())
    scene.graph.add_stream(voice, scene.source)
    fields = {"volume": (1,), "mute": True, "sink_index": NO_INDEX, "sink_name": "music"}
    assert scene.ask(C[command], voice.id, **fields) is Err.NOENTITY
    assert voice.sink is scene.source and voice.id in scene.graph.streams and not voice.mute


def test_setting_a_port_is_not_implemented() -> None:
    scene = Scene()
    assert scene.ask(C.SET_SINK_PORT, scene.sink.id, port="x") is Err.NOTIMPLEMENTED
    assert scene.ask(C.SET_SOURCE_PORT, scene.sink.id, port="x") is Err.NOTIMPLEMENTED


# -- places -----------------------------------------------------------------------------------


def test_stream_is_moved_by_name_or_index_and_its_client_notified() -> None:
    scene = Scene()
    stream = scene.stream.node

    def move(index: int, name: str | None) -> Any:
        return scene.ask(C.MOVE_SINK_INPUT, scene.input, sink_index=index, sink_name=name)

    assert move(NO_INDEX, "music") == {} and stream.sink is scene.music and stream.placed
    assert [told["index"] for told in scene.program.named(C.PLAYBACK_STREAM_MOVED)] == [1]
    assert move(0, None) == {} and stream.sink is scene.sink and not stream.placed
    assert move(12_345, None) is Err.NOENTITY
    stream.pinned = "its client asked for it not to be moved"
    assert move(NO_INDEX, "music") is Err.INVALID and stream.sink is scene.sink


def test_recorder_is_moved_only_where_its_client_may_record() -> None:
    scene = Scene()
    record = scene.record.node

    def move(name: str) -> Any:
        return scene.ask(C.MOVE_SOURCE_OUTPUT, scene.output, source_index=NO_INDEX, source_name=name)

    assert move("microphone") == {} and record.sink is scene.source and not record.placed
    assert move("music.monitor") == {} and record.sink is scene.music and record.placed
    scene.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    assert move("microphone") is Err.ACCESS and record.sink is scene.music and record.placed
    assert move("nothing") is Err.NOENTITY
    record.pinned = "it records one stream"
    assert move("millrace.monitor") is Err.INVALID and record.sink is scene.music


def test_loopback_can_not_be_moved_where_it_hears_itself() -> None:
    scene = Scene()
    loader = Caller(scene)
    loader.ask(C.LOAD_MODULE, name="module-loopback", argument="source=millrace.monitor sink=music")
    stream = next(one for one in scene.door.playback.values() if one is not scene.stream)
    record = next(one for one in scene.door.records.values() if one is not scene.record)
    to = {"sink_index": NO_INDEX, "source_index": NO_INDEX}
    assert scene.ask(C.MOVE_SINK_INPUT, scene.input + 1, **to, sink_name="millrace") is Err.INVALID
    assert scene.ask(C.MOVE_SOURCE_OUTPUT, scene.output + 1, **to, source_name="music.monitor") is Err.INVALID
    assert stream.node.sink is scene.music and record.node.sink is scene.sink
    assert scene.ask(C.MOVE_SOURCE_OUTPUT, scene.output + 1, **to, source_name="microphone") == {}
    assert scene.ask(C.MOVE_SINK_INPUT, scene.input + 1, **to, sink_name="millrace") == {}


def test_sink_is_suspended_once_and_its_users_notified() -> None:
    scene = Scene()
    suspended = {"channel": scene.channel, "suspended": True}
    assert scene.ask(C.SUSPEND_SINK, scene.sink.id, suspend=True) == {} and scene.sink.suspended
    assert scene.program.named(C.PLAYBACK_STREAM_SUSPENDED) == [suspended]
    assert scene.program.named(C.RECORD_STREAM_SUSPENDED) == [suspended | {"channel": scene.record_channel}]
    assert scene.ask(C.SUSPEND_SINK, scene.sink.id, suspend=True) == {}
    assert scene.ask(C.SUSPEND_SINK, name="music", suspend=True) == {} and scene.music.suspended
    assert len(scene.program.named(C.PLAYBACK_STREAM_SUSPENDED)) == 1, "that is not their sink"
    assert scene.ask(C.SUSPEND_SINK, name="millrace", suspend=False) == {} and not scene.sink.suspended
    assert scene.program.named(C.PLAYBACK_STREAM_SUSPENDED)[-1]["suspended"] is False


def test_monitor_is_suspended_only_with_its_sink() -> None:
    """Whoever suspends sources one by one silences nothing that plays."""
    scene = Scene()
    assert scene.ask(C.SUSPEND_SOURCE, name="millrace.monitor", suspend=True) is Err.INVALID
    assert scene.ask(C.SUSPEND_SOURCE, name="microphone", suspend=True) == {}
    assert [mix.suspended for mix in scene.graph.mixes()] == [False, False, True]


@pytest.mark.parametrize("name", [None, ""])
@pytest.mark.parametrize(
    ("command", "suspended"), [("SUSPEND_SINK", [True, True, False]), ("SUSPEND_SOURCE", [False, False, True])]
)
def test_suspend_without_name_suspends_all_sinks_or_sources_in_steps(
    command: str, suspended: list[bool], name: str | None
) -> None:
    scene = Scene()
    scene.caller.steps = 0
    assert scene.ask(C[command], name=name, suspend=True) == {}
    assert [mix.suspended for mix in scene.graph.mixes()] == suspended and scene.caller.steps == sum(suspended)
    assert scene.ask(C[command], name=name, suspend=False) == {}
    assert not any(mix.suspended for mix in scene.graph.mixes())


def test_defaults_are_set_by_name_and_unset() -> None:
    scene = Scene()
    default: Callable[[], str] = lambda: scene.door.recorded_by_default().name  # noqa: E731
    assert scene.ask(C.SET_DEFAULT_SINK, name="music") == {} and scene.graph.default is scene.music
    assert scene.stream.node.sink is scene.music, "it named no sink, and follows"
    assert scene.ask(C.SET_DEFAULT_SOURCE, name="music.monitor") == {} and default() == "music"
    assert (scene.door.devices.default("sink"), scene.door.devices.default("source")) == ("music", "music.monitor")
    assert scene.ask(C.SET_DEFAULT_SINK, name="@NONE@") == {} and scene.graph.default is scene.sink
    assert scene.graph.default.name == "millrace"
    assert scene.ask(C.SET_DEFAULT_SOURCE, name="@NONE@") == {} and default() == "microphone"
    assert (scene.door.devices.default("sink"), scene.door.devices.default("source")) == ("", "")


@pytest.mark.parametrize("name", [None, "", "@DEFAULT_SINK@", "@DEFAULT_SOURCE@", "a b", "x" * 129, "\x1b[2J", "a/b"])
def test_malformed_device_name_is_invalid_and_unknown_one_no_entity(name: str | None) -> None:
    scene = Scene()
    for command in (C.SET_DEFAULT_SINK, C.SET_DEFAULT_SOURCE):
        assert scene.ask(command, name=name) is Err.INVALID
        assert scene.ask(command, name="nothing") is Err.NOENTITY
    assert scene.graph.default is not scene.music and scene.door.devices.kept == {}


# -- ends -------------------------------------------------------------------------------------


def test_clients_streams_and_recorders_are_killed_by_index() -> None:
    scene = Scene()
    woken: list[bool] = []
    scene.program.wake = lambda: woken.append(scene.program.closing)
    assert scene.ask(C.KILL_SINK_INPUT, scene.input) == {}
    assert scene.ask(C.KILL_SOURCE_OUTPUT, scene.output) == {}
    assert scene.program.named(C.PLAYBACK_STREAM_KILLED) == [{"channel": scene.channel}]
    assert scene.program.named(C.RECORD_STREAM_KILLED) == [{"channel": scene.record_channel}]
    assert not scene.program.streams and not scene.program.records and not woken
    assert scene.ask(C.KILL_CLIENT, scene.program.client_index) == {}
    assert woken == [True], "it is closed when its connection next checks"
    assert scene.ask(C.KILL_CLIENT, scene.caller.client_index) == {}, "itself too, with an answer"
    assert scene.caller.closing


def test_client_can_not_exit_the_server() -> None:
    scene = Scene()
    assert scene.ask(C.EXIT) is Err.ACCESS and not scene.caller.closing


# -- properties -------------------------------------------------------------------------------


def test_client_name_is_set_and_subscribers_notified() -> None:
    scene = Scene()
    told = [(Facility.CLIENT, Change.CHANGE, scene.caller.client_index)], [("change", scene.caller.index)]
    news: Callable[[], Any] = lambda: (scene.published.copy(), scene.changed.copy())  # noqa: E731
    asks: list[tuple[Command, dict[str, Any]]] = [
        (C.SET_CLIENT_NAME, {"props": {"application.name": b"player\0", "a": b"1\0"}}),
        (C.UPDATE_CLIENT_PROPLIST, {"mode": 2, "props": {"a": b"2\0"}}),
        (C.REMOVE_CLIENT_PROPLIST, {"keys": ["application.name", "nothing"]}),
    ]
    for command, fields in asks:
        scene.published.clear()
        scene.changed.clear()
        answer = scene.ask(command, **fields)
        assert answer == ({"index": scene.caller.client_index} if command is C.SET_CLIENT_NAME else {})
        assert news() == told, command.name
    assert scene.caller.props == {"a": b"2\0"}
    scene.published.clear()
    assert scene.ask(C.REMOVE_CLIENT_PROPLIST, keys=["application.name"]) == {}
    assert scene.published == [], "nothing was removed"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0, {"a": b"2\0", "b": b"2\0"}), (1, {"a": b"1\0", "b": b"2\0", "c": b"1\0"}),
     (2, {"a": b"2\0", "b": b"2\0", "c": b"1\0"})],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PLAYBACK_STREAM", "RECORD_STREAM", "CLIENT"])
def test_properties_are_set_merged_or_replaced(kind: str, mode: int, expected: dict[str, bytes]) -> None:
    scene = Scene()
    caller = scene.program
    target, channel = {
        "PLAYBACK_STREAM": (scene.stream.props, scene.channel), "CLIENT": (caller.props, None),
        "RECORD_STREAM": (scene.record.props, scene.record_channel),
    }[kind]  # fmt: skip
    target.clear()
    target |= {"a": b"1\0", "c": b"1\0"}
    update, new = C[f"UPDATE_{kind}_PROPLIST"], {"a": b"2\0", "b": b"2\0"}
    assert caller.ask(update, channel=channel, mode=mode, props=new) == {}
    assert target == expected
    assert caller.ask(update, channel=channel, mode=3, props={"d": b"3\0"}) is Err.INVALID and target == expected
    assert caller.ask(C[f"REMOVE_{kind}_PROPLIST"], channel=channel, keys=["a", "z"]) == {}
    assert target == {key: value for key, value in expected.items() if key != "a"}


def test_subscribers_are_notified_of_changed_properties_and_names() -> None:
    scene = Scene()
    for kind, channel, node, index in (
        ("PLAYBACK", scene.channel, scene.stream.node, scene.input),
        ("RECORD", scene.record_channel, scene.record.node, scene.output),
    ):
        facility = Facility.SINK_INPUT if kind == "PLAYBACK" else Facility.SOURCE_OUTPUT
        for command, fields in (
            (f"UPDATE_{kind}_STREAM_PROPLIST", {"mode": 2, "props": {"a": b"1\0"}}),
            (f"REMOVE_{kind}_STREAM_PROPLIST", {"keys": ["a"]}),
            (f"SET_{kind}_STREAM_NAME", {"name": "song"}),
        ):
            scene.published.clear()
            assert scene.program.ask(C[command], channel=channel, **fields) == {}
            assert scene.published == [(facility, Change.CHANGE, index)], command
        scene.published.clear()
        assert scene.program.ask(C[f"REMOVE_{kind}_STREAM_PROPLIST"], channel=channel, keys=["a"]) == {}
        assert scene.published == [], "nothing was removed"
        assert node.name == "song" and node.account.part("name") > 4
    assert scene.stream.props["media.name"] == scene.record.props["media.name"] == b"song\0"
    assert scene.program.ask(C.SET_PLAYBACK_STREAM_NAME, channel=scene.channel, name=None) == {}
    assert scene.stream.node.name == ""
    assert scene.program.ask(C.SET_RECORD_STREAM_NAME, channel=scene.channel + 99, name="x") is Err.NOENTITY


def test_properties_are_limited_in_number_and_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Budget().open("client")
    props = {"a": b"1"}
    with pytest.raises(CommandError) as error:
        merge_props(account, props, {str(number): b"" for number in range(PROPS_MAX)})
    assert error.value.code is Err.TOOLARGE and props == {"a": b"1"}
    merge_props(account, props, {str(number): b"" for number in range(PROPS_MAX)}, keep=False)
    assert len(props) == PROPS_MAX
    monkeypatch.setattr(control, "PROPS_BYTES_MAX", 10)
    merge_props(account, props, {"b": b"12345678"}, keep=False)
    with pytest.raises(CommandError):
        merge_props(account, props, {"b": b"1234567890"})
    merge_props(account, props, {"b": b"123456789"})
    assert props == {"b": b"123456789"}
    assert account.part("props") > 10
    merge_props(account, props, {"c": b""}, keep=False)
    assert props == {"c": b""}


def test_properties_beyond_budget_change_nothing() -> None:
    account = Budget(limit=200).open("client")
    props = {"a": b"1"}
    with pytest.raises(BudgetError):
        merge_props(account, props, {"b": b"1", "c": b"1"})
    assert props == {"a": b"1"} and account.held == 0


# -- common to all commands -------------------------------------------------------------------


def test_subscription_mask_takes_effect_and_zero_ends_it() -> None:
    scene = Scene()
    assert scene.ask(C.SUBSCRIBE, mask=1 << Facility.SINK) == {}
    assert scene.door.news.subscriptions == {scene.caller.index: scene.caller.subscription}
    assert scene.ask(C.SUBSCRIBE, mask=0) == {} and scene.door.news.subscriptions == {}


def test_auth_passes_cookie_to_authentication() -> None:
    scene = Scene()
    asked: list[Any] = []
    scene.caller.authenticate = lambda request: asked.append(request.fields["cookie"])  # type: ignore[method-assign]
    scene.ask(C.AUTH, version=35, cookie=b"secret")
    assert asked == [b"secret"]


def test_refusals_and_graph_errors_become_pulseaudio_errors() -> None:
    caller, request = Caller(Rig()), Request(C.EXIT, 1, {})
    with pytest.raises(CommandError) as error:
        refused(Err.BUSY)(caller, request)
    assert error.value.code is Err.BUSY

    def full(client: Any, request: Request) -> None:
        raise BudgetError("no room")

    def wrong(client: Any, request: Request) -> None:
        raise GraphError("it would make a loop")

    with pytest.raises(BudgetError):
        guarded(full)(caller, request)
    with pytest.raises(CommandError, match="it would make a loop") as error:
        guarded(wrong)(caller, request)
    assert error.value.code is Err.INVALID
