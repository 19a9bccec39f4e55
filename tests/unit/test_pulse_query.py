"""Commands that query: finding objects by name, lists in steps, and the answer for missing objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.query import HANDLERS
from millrace.doors.pulse.samples import Sample
from millrace.dsp.convert import SampleFormat
from millrace.media.format import AudioFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.units import default_map
from millrace.version import __version__
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.session import Request
from millrace.wire.pulse.tagstruct import Spec
from tests.caller import Caller, Furnished

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
STEREO = (1, 2)
FMT = AudioFormat(SampleFormat.S16LE, 44_100, default_map(2))


class Scene(Furnished):
    """A guest with a second sink, a source, a sample, and a program that plays and records; `ask` asks this table."""

    def __init__(self) -> None:
        super().__init__()
        self.program = Caller(self, props={"application.name": b"player\0"})
        self.stream: int = self.program.play(S16, STEREO, tlength=9_600)["index"]
        self.recorder: int = self.program.record(S16, STEREO)["index"]
        self.door.samples.store(Sample(self.graph.ids.take(), "bell", FMT, bytes(400), {}))
        self.caller = Caller(self, HANDLERS)

    def ask(self, command: Command, index: int = NO_INDEX, name: str | None = None, **fields: Any) -> Any:
        """The answer."""
        return self.caller.ask(command, index=index, name=name, **fields)


def names(records: Any) -> list[str]:
    return [record["name"] for record in records]


def test_server_info_identifies_the_server() -> None:
    answer = Scene().ask(Command.GET_SERVER_INFO)
    assert (answer["user"], answer["host"], answer["default_sink"]) == ("user", "host", "millrace")
    assert __version__ in answer["package"]


def test_sinks_and_sources_are_found_by_index_name_and_default_alias() -> None:
    scene = Scene()
    sinks = [(scene.music, (NO_INDEX, "music")), (scene.music, (1, None)), (scene.sink, (NO_INDEX, None)),
             (scene.sink, (NO_INDEX, "@DEFAULT_SINK@"))]  # fmt: skip
    for sink, given in sinks:
        (record,) = scene.ask(Command.GET_SINK_INFO, *given)
        assert record["index"] == [scene.sink, scene.music].index(sink) and record["description"] == sink.description
    sources = [("microphone", (NO_INDEX, None)), ("music.monitor", (NO_INDEX, "music.monitor")),
               ("millrace.monitor", (0, None)), ("microphone", (2, None))]  # fmt: skip
    for name, given in sources:
        assert names(scene.ask(Command.GET_SOURCE_INFO, *given)) == [name]
    assert scene.ask(Command.LOOKUP_SINK, name="music") == {"index": 1}
    assert scene.ask(Command.LOOKUP_SOURCE, name="music.monitor") == {"index": 1}
    assert scene.ask(Command.LOOKUP_SOURCE, name="microphone") == {"index": 2}


@pytest.mark.parametrize(
    "command",
    ["GET_SINK_INFO", "GET_SOURCE_INFO", "GET_SAMPLE_INFO", "LOOKUP_SINK", "LOOKUP_SOURCE", "GET_SINK_INPUT_INFO",
     "GET_SOURCE_OUTPUT_INFO", "GET_CLIENT_INFO", "GET_MODULE_INFO", "GET_CARD_INFO"],
)  # fmt: skip
def test_missing_object_is_no_entity(command: str) -> None:
    scene = Scene()
    for index in (12_345, NO_INDEX):
        assert scene.ask(Command[command], index, "nothing") is Err.NOENTITY


def test_streams_are_found_by_index_of_their_own_kind() -> None:
    scene = Scene()
    found = {
        Command.GET_SINK_INPUT_INFO: scene.stream, Command.GET_SOURCE_OUTPUT_INFO: scene.recorder,
        Command.GET_CLIENT_INFO: scene.program.client_index, Command.GET_MODULE_INFO: scene.door.own_module.index,
    }  # fmt: skip
    for command, index in found.items():
        assert [record["index"] for record in scene.ask(command, index)] == [index] == [0], command.name
        assert scene.ask(command, 77) is Err.NOENTITY, command.name


def test_samples_are_found_by_name_or_index() -> None:
    scene = Scene()
    scene.door.samples.store(Sample(77, "gong", FMT, bytes(800), {}))
    assert names(scene.ask(Command.GET_SAMPLE_INFO, name="bell")) == ["bell"]
    assert names(scene.ask(Command.GET_SAMPLE_INFO, 77)) == ["gong"]
    assert names(scene.ask(Command.GET_SAMPLE_INFO_LIST)) == ["bell", "gong"]


def test_lists_are_complete_with_one_item_per_step() -> None:
    scene = Scene()
    lists = {
        Command.GET_SINK_INFO_LIST: ["millrace", "music"],
        Command.GET_SOURCE_INFO_LIST: ["millrace.monitor", "music.monitor", "microphone"],
        Command.GET_SINK_INPUT_INFO_LIST: ["player"],
        Command.GET_SOURCE_OUTPUT_INFO_LIST: ["player"],
        Command.GET_CLIENT_INFO_LIST: ["player", ""],
        Command.GET_MODULE_INFO_LIST: [module.name for module in scene.door.modules.values()],
        Command.GET_SAMPLE_INFO_LIST: ["bell"],
    }
    for command, expected in lists.items():
        scene.caller.steps = 0
        assert names(scene.ask(command)) == expected
        assert scene.caller.steps == len(expected), command.name
    assert scene.ask(Command.GET_CARD_INFO_LIST) == {}


@pytest.mark.parametrize("command", [c for c in HANDLERS if c.name.endswith("_LIST")], ids=lambda c: c.name)
def test_object_removed_during_listing_is_skipped(command: Command) -> None:
    scene = Scene()
    rows = len(scene.ask(command))
    ended: list[bool] = []

    def end_all() -> bool:
        if not ended:
            ended.append(True)
            Caller(scene)
            scene.graph.remove_sink(scene.music)
            scene.graph.remove_source(scene.source)
            scene.program.closed()
            scene.door.samples.drop("bell")
            scene.door.unload(next(m for m in scene.door.modules.values() if not m.fixed))
        return False

    scene.caller.over = end_all
    assert len(scene.ask(command)) <= rows + 1 and (ended or not rows)


def test_error_in_unfinished_request_leaves_nothing_of_its_client(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()

    def listing(client: PulseClient, request: Request) -> Iterator[None]:
        yield
        raise AssertionError("an error in the daemon")

    caller = Caller(scene, {Command.GET_SINK_INFO_LIST: listing})
    caller.over = lambda: True
    caller.send(Command.GET_SINK_INFO_LIST)
    assert caller.unfinished and caller.account.held
    assert caller.closed()
    assert caller.account.held == 0 and caller.index not in scene.door.clients
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_forbidden_microphone_is_not_listed() -> None:
    scene = Scene()
    scene.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    assert names(scene.ask(Command.GET_SOURCE_INFO_LIST)) == ["millrace.monitor", "music.monitor"]


def test_source_streams_are_not_listed_as_sink_inputs() -> None:
    scene = Scene()
    scene.graph.move_stream(scene.stream_at(scene.stream), scene.source)
    assert scene.ask(Command.GET_SINK_INPUT_INFO_LIST) == []


def test_statistics_count_queued_and_cached_bytes() -> None:
    scene = Scene()
    scene.playback_at(scene.stream).queue.write(bytes(1_000))
    answer = scene.ask(Command.STAT)
    assert answer == {"blocks": 1, "bytes": 1_000, "allocated": 1, "allocated_bytes": 1_000, "cache_bytes": 400}


def test_core_lists_message_handlers_and_others_are_missing() -> None:
    scene = Scene()

    def message(path: str, text: str) -> Any:
        return scene.caller.ask(Command.SEND_OBJECT_MESSAGE, path=path, message=text, parameters=None)

    (listed,) = json.loads(message("/core", "list-handlers")["response"])
    assert listed == {"name": "/core", "description": "Core message handler"}
    assert message("/core", "reboot") is Err.NOTIMPLEMENTED
    assert message("/card/0", "list-handlers") is Err.NOENTITY
