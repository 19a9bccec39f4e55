"""The door uses only what the protocols of its host, its memory and its clients define."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from millrace.doors.admission import Admission
from millrace.doors.pulse.clients import Client, Host, Recorder
from millrace.doors.pulse.door import STREAM_RESTORE, PulseDoor
from millrace.doors.pulse.infos import client_info
from millrace.graph.graph import Graph
from millrace.graph.model import Ids
from millrace.remembered.devices import DeviceUpdate
from millrace.remembered.memory import Memory
from millrace.remembered.streams import Rule, RuleUpdate
from millrace.rights.grants import ANY, Permission, Subject, Verdict
from millrace.rights.prompts import Prompts
from millrace.wire.pulse.constants import Change, Command, Facility
from tests.bare import bare, members_of
from tests.caller import Caller
from tests.unit.test_pulse_control import Scene


class Bench:
    """A door with a host, a memory and clients that have exactly the members of their protocols."""

    def __init__(self) -> None:
        self.rules: list[RuleUpdate] = []
        self.devices: list[DeviceUpdate] = []
        self.turns: list[Callable[[], Iterator[None]]] = []
        self.told: list[tuple[Command, dict[str, Any]]] = []
        self.woken = 0
        host = bare(
            Host, client_changed=None, module_failed=None, module_idle=None, in_turns=self._in_turns
        )  # fmt: skip
        memory = bare(
            Memory, keep_rules=lambda table: self.rules.append, keep_devices=lambda table: self.devices.append
        )
        self.graph = Graph("guest", Ids())
        self.graph.add_first_sink()
        self.admission = Admission("guest", self.graph.budget, Prompts(lambda: 0), lambda symptom: None)
        self.door = PulseDoor(self.graph, self.admission, host, bytes(256), "user@host", lambda: 0, memory)

    def _in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        self.turns.append(steps)
        return lambda: None

    def client(self, **members: Any) -> Client:
        """A client that was admitted."""
        made: Client = bare(
            Client, **({
                "index": 107, "client_index": 7, "props": {"application.name": b"player\0"}, "closing": False,
                "wake": self._wake, "now_ns": 0, "extensions": set(), "version": 35, "recording": {}, "name": "player",
                "notice": lambda command, **values: self.told.append((command, values)), "subject": Subject(),
            } | members)
        )  # fmt: skip
        self.door.clients[made.index] = made
        return made

    def _wake(self) -> None:
        self.woken += 1


def test_notifications_are_delivered_in_turns_of_the_host() -> None:
    bench = Bench()
    assert bench.turns == [bench.door.news.spreading]


def test_settings_are_stored_by_memory_and_apply_when_saved() -> None:
    bench = Bench()
    client = bench.client(extensions={STREAM_RESTORE})
    other = bench.client(index=108)
    bench.door.rules.submit(RuleUpdate(lambda: {"a": Rule(device="music")}, lambda kept: None))
    bench.door.devices.keep_level(bench.door.default_sink, lambda kept: None)
    assert len(bench.rules) == len(bench.devices) == 1 and bench.door.rules.kept == {} and bench.told == []
    bench.door.rules.take(bench.rules[0].changes())
    (told,) = bench.told
    assert told[0] is Command.EXTENSION and told[1]["name"] == STREAM_RESTORE and told[1]["event"] == 5
    assert client.extensions and not other.extensions


def test_client_without_permission_is_closed_and_woken() -> None:
    bench = Bench()
    client = bench.client()
    bench.door.end_forbidden()
    assert not client.closing and bench.woken == 0
    bench.admission.grants.set(Permission.CONNECT, ANY, Verdict.DENY)
    bench.door.end_forbidden()
    assert client.closing and bench.woken == 1


def test_client_info_shows_its_properties() -> None:
    bench = Bench()
    record = client_info(bench.door, bench.client(version=13))
    assert (record["index"], record["name"]) == (7, "player")
    assert record["props"]["native-protocol.version"] == b"13\0"
    bench.door.publish(Facility.CLIENT, Change.NEW, 7)


@pytest.mark.parametrize(("protocol", "made"), [(Client, Caller), (Host, Scene), (Recorder, Caller)])
def test_stand_ins_have_exactly_the_protocols_members(protocol: type, made: type) -> None:
    scene = Scene()
    one = scene if made is Scene else scene.caller
    assert [name for name in members_of(protocol) if not hasattr(one, name)] == []
    with pytest.raises(AssertionError, match=protocol.__name__):
        bare(protocol, nonsense=1)
