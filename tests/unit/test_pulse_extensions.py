"""EXTENSION, with its subcommands: what they read, write and apply at once, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.doors.pulse import extensions
from millrace.doors.pulse.door import STREAM_RESTORE
from millrace.doors.pulse.extensions import DEVICE_RESTORE, HANDLERS, apply
from millrace.dsp.convert import SampleFormat
from millrace.remembered.streams import Rule, RuleUpdate
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.rights.model import Principal, Right
from millrace.units import default_map
from millrace.wire.pulse.constants import NO_INDEX, Command, Encoding, Err
from millrace.wire.pulse.tagstruct import FormatInfo, Reader, Spec, Writer
from tests.caller import Caller, Furnished

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
STEREO = (1, 2)
HALF, FULL = 0x8000, 0x10000
SET, MERGE, REPLACE = range(3)
PLAYER, TAKER = "sink-input-by-application-name:player", "source-output-by-application-name:player"
LOUD = Rule((HALF, FULL), default_map(2), True, "music")
OTHER = Rule((FULL,), ("mono",), False, "")


class Scene(Furnished):
    """A guest with a second sink and a source, and a client that may only ask extensions."""

    def __init__(self) -> None:
        super().__init__()
        self.program = Caller(self, props={"application.name": b"player\0"})
        self.caller = Caller(self, HANDLERS)

    def ask(self, module: str, number: int, *values: tuple[str, Any], index: int = NO_INDEX, end: bytes = b"") -> Any:
        """The answer: a reader of what it says, or the error."""
        writer = Writer()
        writer.u32(number)
        for kind, value in values:
            getattr(writer, kind)(value)
        answer = self.caller.ask(Command.EXTENSION, index=index, name=module, rest=bytes(writer.data) + end)
        return Reader(answer["rest"]) if isinstance(answer, dict) else answer

    def write(self, mode: int, rules: dict[str, Rule], at_once: bool = False) -> Any:
        values: list[tuple[str, Any]] = [("u32", mode), ("boolean", at_once)]
        for name, rule in rules.items():
            values += entry(name, rule)
        answer = self.ask(STREAM_RESTORE, 2, *values)
        return answer if isinstance(answer, Err) or answer is None else {}

    def read(self) -> dict[str, Rule]:
        reader, rules = self.ask(STREAM_RESTORE, 1), {}
        names = {0: "mono", 1: "front-left", 2: "front-right"}
        while not reader.at_end:
            name, positions = reader.string(), tuple(names[number] for number in reader.channel_map())
            levels, device, mute = reader.cvolume(), reader.string(), reader.boolean()
            rules[name] = Rule(levels, positions, mute, device or "")
        return rules

    def later(self) -> list[RuleUpdate]:
        """From now on, rules are saved when the test says so."""
        updates: list[RuleUpdate] = []
        self.door.rules.submit = updates.append
        return updates


def entry(name: str, rule: Rule) -> list[tuple[str, Any]]:
    numbers = tuple({"mono": 0, "front-left": 1, "front-right": 2}[one] for one in rule.positions)
    return [("string", name), ("channel_map", numbers), ("cvolume", rule.levels), ("string", rule.device or None),
            ("boolean", bool(rule.mute))]  # fmt: skip


def test_module_is_addressed_by_index_or_name() -> None:
    scene = Scene()
    numbers = {module.name: module.index for module in scene.door.modules.values()}
    for name in (STREAM_RESTORE, DEVICE_RESTORE):
        assert scene.ask(name, 0).u32() == scene.ask("", 0, index=numbers[name]).u32() == 1
        # A number comes first, and a name beside it means nothing.
        assert scene.ask(STREAM_RESTORE, 0, index=numbers["module-always-sink"]) is Err.NOEXTENSION
    assert scene.ask(STREAM_RESTORE, 0, index=12_345) is Err.NOEXTENSION


WRONG: list[tuple[str, int, list[tuple[str, Any]], bytes]] = [
    ("module-nothing", 0, [], b""), ("module-always-sink", 0, [], b""), (STREAM_RESTORE, 5, [], b""),
    (DEVICE_RESTORE, 2, [], b""), (STREAM_RESTORE, 0, [], b"B"), (STREAM_RESTORE, 1, [("u32", 1)], b""),
    (STREAM_RESTORE, 2, [("u32", 3), ("boolean", False)], b""), (STREAM_RESTORE, 2, [("u32", 0)], b""),
    (STREAM_RESTORE, 4, [], b""), (STREAM_RESTORE, 4, [("boolean", True), ("u32", 1)], b""),
    (STREAM_RESTORE, 3, [("u32", 1)], b""), (DEVICE_RESTORE, 4, [("u32", 1), ("u32", 0)], b""),
    (DEVICE_RESTORE, 4, [("u32", 0), ("u32", 0), ("u32", 0)], b""),
    (DEVICE_RESTORE, 5, [("u32", 1), ("u32", 0), ("format_infos", [FormatInfo(Encoding.PCM)])], b""),
    (DEVICE_RESTORE, 5, [("u32", 0), ("u32", 0), ("format_infos", [FormatInfo(Encoding.PCM)])], b"B"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "number", "values", "end"), WRONG)
def test_malformed_request_is_an_extension_error(
    module: str, number: int, values: list[tuple[str, Any]], end: bytes
) -> None:
    scene = Scene()
    assert scene.ask(module, number, *values, end=end) is Err.NOEXTENSION
    assert scene.door.rules.kept == {} and not scene.caller.extensions


@pytest.mark.parametrize(
    ("name", "rule"),
    [("", OTHER), ("x" * 129, OTHER), ("x", Rule((1, 2), ("mono",))), ("x", Rule((1,), ("mono",), False, "y" * 129))],
)  # fmt: skip
def test_rule_has_a_name_and_volumes_matching_its_map(name: str, rule: Rule) -> None:
    scene = Scene()
    assert scene.write(SET, {"fine": OTHER, name: rule}) is Err.NOEXTENSION and scene.read() == {}
    assert scene.write(SET, {"x" * 128: Rule((1,), ("mono",), False, "y" * 128)}) == {} and len(scene.read()) == 1


def test_rule_without_volumes_may_have_a_channel_map() -> None:
    """As mixers write it that have none to give."""
    scene = Scene()
    assert scene.write(SET, {"a": LOUD}) == {} and scene.write(REPLACE, {"a": Rule((), ("mono",), True)}) == {}
    assert scene.read() == {"a": Rule((), (), True)}


def test_rules_are_set_merged_replaced_and_deleted() -> None:
    scene = Scene()
    assert scene.write(SET, {"a": LOUD, "b": OTHER}) == {} and scene.read() == {"a": LOUD, "b": OTHER}
    assert scene.write(MERGE, {"a": OTHER, "c": OTHER}) == {}
    assert scene.read() == {"a": LOUD, "b": OTHER, "c": OTHER}
    assert scene.write(REPLACE, {"a": OTHER}) == {} and scene.read() == {"a": OTHER, "b": OTHER, "c": OTHER}
    assert not isinstance(scene.ask(STREAM_RESTORE, 3, ("string", "a"), ("string", "z"), ("string", None)), Err)
    assert scene.read() == {"b": OTHER, "c": OTHER}
    scene.caller.extensions.add(STREAM_RESTORE)
    assert not isinstance(scene.ask(STREAM_RESTORE, 3, ("string", "z")), Err)
    assert scene.caller.told == [], "nothing was deleted"
    assert scene.write(SET, {"d": LOUD}) == {} and scene.read() == {"d": LOUD}


def test_rules_beyond_limit_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "RULES_MAX", 2)
    scene = Scene()
    assert scene.write(SET, {"a": OTHER, "b": OTHER, "c": OTHER}) is Err.TOOLARGE and scene.read() == {}
    assert scene.write(SET, {"a": OTHER, "b": OTHER}) == {}
    for mode in (MERGE, REPLACE):
        assert scene.write(mode, {"c": OTHER}, at_once=True) is Err.TOOLARGE
    assert set(scene.read()) == {"a", "b"}
    # What is in the table already takes no further room, nor what replaces all of it.
    assert scene.write(REPLACE, {"a": LOUD}) == {} and scene.write(SET, {"c": OTHER, "d": OTHER}) == {}
    assert set(scene.read()) == {"c", "d"}


def test_writing_and_deleting_need_a_right_and_reading_does_not() -> None:
    scene = Scene()
    scene.write(SET, {"a": LOUD})
    scene.admission.principal = Principal("guest/default", Right.SEE | Right.SPEAK, frozenset({"default"}))
    assert scene.write(SET, {}) is Err.ACCESS
    assert scene.ask(STREAM_RESTORE, 3, ("string", "a")) is Err.ACCESS
    pcm = ("format_infos", [FormatInfo(Encoding.PCM)])
    assert scene.ask(DEVICE_RESTORE, 5, ("u32", 0), ("u32", scene.sink.id), pcm) is Err.ACCESS
    assert scene.read() == {"a": LOUD}


def test_change_is_acknowledged_and_applied_when_saved_and_refused_otherwise() -> None:
    scene = Scene()
    stream = scene.program.streams[scene.program.play(S16, STEREO)["channel"]]
    updates = scene.later()
    for kept, answer, gains in ((False, Err.IO, (1.0, 1.0)), (True, {"rest": b""}, (0.125, 1.0))):
        assert scene.write(SET, {PLAYER: LOUD}, at_once=True) is None
        update = updates.pop()
        update.changes()
        update.done(kept)
        tag = max(scene.caller.answers)
        assert scene.caller.answers[tag] == answer and stream.node.gains == gains
    assert scene.write(SET, {}) is None
    answers = dict(scene.caller.answers)
    scene.caller.closed()
    updates.pop().done(True)
    assert scene.caller.answers == answers, "a client that left is not notified"


def test_change_is_computed_when_its_turn_comes() -> None:
    scene = Scene()
    updates = scene.later()
    scene.write(MERGE, {"a": LOUD})
    scene.door.rules.kept["a"] = OTHER
    assert updates.pop().changes() == {}
    scene.write(SET, {"b": LOUD})
    assert updates.pop().changes() == {"a": None, "b": LOUD}


def test_clients_subscribe_to_each_module_separately() -> None:
    scene = Scene()
    for module in (STREAM_RESTORE, DEVICE_RESTORE):
        number = 4 if module == STREAM_RESTORE else 1
        assert scene.ask(module, number, ("boolean", True)).at_end and module in scene.caller.extensions
    assert scene.ask(STREAM_RESTORE, 4, ("boolean", False)).at_end
    assert scene.caller.extensions == {DEVICE_RESTORE}
    assert scene.ask(STREAM_RESTORE, 4, ("boolean", False)).at_end, "a second time changes nothing"


# -- rules that are given at once -------------------------------------------------------------


def test_matching_streams_get_level_mute_and_sink_immediately() -> None:
    scene = Scene()
    one = scene.program.streams[scene.program.play(S16, STEREO)["channel"]].node
    other = scene.program.streams[scene.program.play(S16, STEREO, props={"media.role": b"game\0"})["channel"]].node
    apply(scene.door, {PLAYER: LOUD})
    assert (one.gains, one.mute, one.sink) == ((0.125, 1.0), True, scene.music)
    assert (other.gains, other.mute, other.sink) == ((1.0, 1.0), False, scene.sink)
    apply(scene.door, {PLAYER: Rule()})
    assert (one.gains, one.mute, one.sink) == ((0.125, 1.0), True, scene.music), (
        "settings absent from a rule are unchanged"
    )
    apply(scene.door, {PLAYER: Rule(mute=False, device="nowhere")})
    assert (one.gains, one.mute, one.sink) == ((0.125, 1.0), False, scene.music)
    one.pinned = "its client asked for that"
    apply(scene.door, {PLAYER: Rule(device="millrace")})
    assert one.sink is scene.music


def test_matching_recorders_get_settings_and_move_only_where_permitted() -> None:
    scene = Scene()
    record = scene.program.records[scene.program.record(S16, STEREO)["channel"]]
    told: list[int] = []
    scene.graph.observers.append(lambda change, node: told.append(node.id))
    apply(scene.door, {TAKER: Rule((HALF, FULL), default_map(2), True, "music.monitor"), PLAYER: OTHER})
    assert (record.state.gains, record.state.mute, record.node.sink) == ((0.125, 1.0), True, scene.music)
    assert record.node.placed and record.node.id in told
    apply(scene.door, {TAKER: Rule(device="microphone")})
    assert record.node.sink is scene.source and not record.node.placed, "that is the default source"
    assert (record.state.gains, record.state.mute) == ((0.125, 1.0), True)
    scene.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    told.clear()
    apply(scene.door, {TAKER: Rule(mute=False, device="music.monitor")})
    assert record.node.sink is scene.source and not record.state.mute and told == [record.node.id]
    scene.admission.grants.set(Permission.MONITOR, ANY, None)
    record.node.pinned = "its client asked for that"
    apply(scene.door, {TAKER: Rule(device="music.monitor")})
    assert record.node.sink is scene.source


# -- device-restore ---------------------------------------------------------------------------


def formats(reader: Reader) -> list[tuple[int, int, list[int]]]:
    told = []
    while not reader.at_end:
        told.append((reader.u32(), reader.u32(), [one.encoding for one in reader.format_infos()]))
    return told


def test_every_sink_accepts_pcm_only() -> None:
    scene = Scene()
    pcm = [int(Encoding.PCM)]
    assert formats(scene.ask(DEVICE_RESTORE, 3)) == [(0, 0, pcm), (0, 1, pcm)]
    assert formats(scene.ask(DEVICE_RESTORE, 4, ("u32", 0), ("u32", 1))) == [(0, 1, pcm)]
    assert scene.ask(DEVICE_RESTORE, 4, ("u32", 0), ("u32", 12_345)) is Err.NOENTITY
    encodings = ([Encoding.PCM], {}), ([Encoding.AC3_IEC61937], Err.NOTSUPPORTED), ([], Err.NOTSUPPORTED)
    for offered, answer in (*encodings, ([Encoding.PCM] * 2, Err.NOTSUPPORTED)):
        infos = ("format_infos", [FormatInfo(one) for one in offered])
        got = scene.ask(DEVICE_RESTORE, 5, ("u32", 0), ("u32", scene.sink.id), infos)
        assert (got if isinstance(got, Err) else {} if isinstance(got, Reader) else None) == answer
    one = ("format_infos", [FormatInfo(Encoding.PCM)])
    assert scene.ask(DEVICE_RESTORE, 5, ("u32", 0), ("u32", 12_345), one) is Err.NOENTITY
