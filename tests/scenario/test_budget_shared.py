"""What a guest's connections, names, lists and machines take of its memory budget."""

from __future__ import annotations

import gc

import pytest

from millrace.budget import MIB, Budget
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Stream
from millrace.units import default_map
from millrace.wire.pulse.client import Failed, record_fields
from millrace.wire.pulse.constants import Command, Err
from tests.budgetguest import S16, STEREO, Guest, sound

# -- other memory held for a guest ---------------------------------------------------------------


def test_properties_of_all_streams_share_the_budget() -> None:
    guest = Guest(32 * MIB)
    props = {f"p{n}": bytes(60_000) for n in range(4)}
    refused = 0
    for _ in range(8):
        client = guest.rig.client()
        for _ in range(16):
            tag = client.send(Command.CREATE_PLAYBACK_STREAM, **playing(props))
            if isinstance(reply := client.replies[tag], Failed):
                assert reply.code == Err.TOOLARGE
                refused += 1
    streams = len(guest.rig.graph.streams)
    assert 50 < streams < 100 and refused == 128 - streams
    held = guest.rig.graph.budget.held
    assert streams * 240_000 < held <= guest.rig.graph.budget.limit
    for client in list(guest.rig.clients[1:]):
        client.close()
    assert guest.state() == guest.before


def playing(props: dict[str, bytes]) -> dict[str, object]:
    from millrace.wire.pulse.client import playback_fields

    return playback_fields(S16, STEREO, tlength=4096, corked=True) | {"props": props}


def test_names_modules_and_client_properties_count_and_are_refused() -> None:
    guest = Guest()
    client = guest.rig.client()
    budget = guest.rig.graph.budget
    budget.limit = (budget.held + 300_000) * 8 // 7
    big = {"a": bytes(60_000), "b": bytes(60_000), "c": bytes(60_000), "d": bytes(60_000)}
    client.ask(Command.UPDATE_CLIENT_PROPLIST, mode=1, props=big)
    second = guest.rig.client()
    assert second.error(Command.UPDATE_CLIENT_PROPLIST, mode=1, props=big) == Err.TOOLARGE
    spaces = {"name": "module-null-sink", "argument": " " * 200_000}
    assert second.error(Command.LOAD_MODULE, **spaces) == Err.MODINITFAILED
    assert second.error(Command.CREATE_PLAYBACK_STREAM, **playing({})) == Err.TOOLARGE
    client.ask(Command.REMOVE_CLIENT_PROPLIST, keys=["a", "b", "c", "d"])
    index = second.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=n" + " " * 5_000)["index"]
    second.ask(Command.UNLOAD_MODULE, index=index)
    client.close()
    second.close()
    assert guest.state() == guest.before


def test_unfinished_command_is_charged_and_connection_beyond_budget_ends() -> None:
    guest = Guest()
    budget = guest.rig.graph.budget
    # A quarter of it may be unfinished messages, and half of that the guest's own.
    budget.limit = budget.held + 17 * MIB
    hungry = [guest.rig.client(login=False) for _ in range(4)]
    header = (MIB).to_bytes(4, "big") + b"\xff" * 4 + bytes(12)
    ended = 0
    for client in hungry:
        try:
            client.server.receive(header + bytes(1000), guest.rig.now_ns)
        except Exception as error:
            assert "no room" in str(error)
            ended += 1
    assert ended == 2
    for client in hungry:
        client.close()
    assert guest.state() == guest.before


def test_list_too_large_for_a_reply_is_refused_and_client_continues() -> None:
    guest = Guest()
    client = guest.rig.client()
    for _ in range(30):
        client.ask(Command.CREATE_PLAYBACK_STREAM, **playing({f"p{n}": bytes(60_000) for n in range(3)}))
    assert client.error(Command.GET_SINK_INPUT_INFO_LIST) == Err.TOOLARGE
    assert client.ask(Command.GET_SERVER_INFO)


def test_long_lists_are_charged_while_they_are_written() -> None:
    guest = Guest()
    one = guest.rig.client()
    for _ in range(20):
        one.ask(Command.CREATE_PLAYBACK_STREAM, **playing({"p": bytes(50_000)}))
    before, budget = guest.state(), guest.rig.graph.budget
    clients = [guest.rig.client() for _ in range(20)]
    budget.limit = budget.held + 4 * MIB
    for client in clients:
        client.server.over = lambda: True
        client.send(Command.GET_SINK_INPUT_INFO_LIST)
    # One turn for each, and one object per turn, so that all lists are being written at the same time.
    while unfinished := [client for client in clients if client.server.unfinished]:
        assert budget.held <= budget.limit
        for client in unfinished:
            client.server.receive(b"", guest.rig.now_ns)
    for client in clients:
        client.exchange()
    answers = [next(iter(reversed(client.replies.values()))) for client in clients]
    refused = [answer for answer in answers if isinstance(answer, Failed)]
    assert all(answer.code == Err.TOOLARGE for answer in refused)
    assert 14 <= len(refused) <= 18, "20 lists of a megabyte in 4 MiB"
    for client in clients:
        client.close()
    assert guest.state() == before


def test_silent_connections_count_too() -> None:
    guest = Guest()
    budget = guest.rig.graph.budget
    budget.limit = budget.held + 40 * 1024
    taken = [guest.rig.client(login=False) for _ in range(2)]
    with pytest.raises(Exception, match="no room"):
        guest.rig.client(login=False)
    for client in taken:
        client.close()
    assert guest.state() == guest.before


# -- machines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fini", "lost", "killed"])
def test_machine_voices_release_everything_however_they_end(how: str) -> None:
    from tests.scenario.test_machines import Machine

    machine = Machine()
    budget = machine.rig.graph.budget
    held, taps = budget.held, len(machine.rig.graph.taps)
    machine.begin()
    machine.mic.init(rate=44_100)
    machine.mic.enable(True)
    machine.play(0.3)
    assert budget.shares()["stream"] > 1.5 * MIB and len(machine.rig.graph.taps) == taps + 1
    if how == "fini":
        machine.out.fini()
        machine.mic.fini()
        machine.exchange()
    elif how == "killed":
        for stream in list(machine.rig.graph.streams.values()):
            machine.rig.graph.remove_stream(stream)
        for queue in [voice.queue for voice in machine.record.voices.values()]:
            machine.rig.graph.remove_tap(queue.node)
    machine.close()
    machine.rig.run(0.5)
    assert budget.held == held and not machine.rig.graph.streams and len(machine.rig.graph.taps) == taps
    assert not machine.playback.voices and not machine.record.voices and not len(machine.rig.graph._lanes)


def test_refused_and_killed_streams_leave_nothing_to_collector() -> None:
    guest = Guest()
    client = guest.rig.client()
    budget = guest.rig.graph.budget
    gc.collect()
    gc.disable()
    try:
        limit, budget.limit = budget.limit, budget.held
        for _ in range(5):
            assert client.error(Command.CREATE_PLAYBACK_STREAM, **playing({})) == Err.TOOLARGE
            record = record_fields(S16, STEREO, source_name="@DEFAULT_MONITOR@")
            assert client.error(Command.CREATE_RECORD_STREAM, **record) == Err.TOOLARGE
        budget.limit = limit
        for _ in range(5):
            player = client.play(S16, STEREO, sound(0.1))
            guest.other.ask(Command.KILL_SINK_INPUT, index=player.index)
            client.players.clear()
        guest.rig.run(0.5)
        left = [one for one in gc.get_objects() if isinstance(one, PlaybackStream | RecordStream)]
    finally:
        gc.enable()
    assert not left


def test_lanes_are_wide_only_if_budget_has_room() -> None:
    def lane_bytes(limit: int) -> int:
        graph = Graph("x", Ids(), budget=Budget("guest x", limit))
        graph.set_default(graph.add_sink("default"))
        stream = Stream(graph.ids.take(), "x", default_map(2), bulk_frames=48_000)
        assert graph.default is not None
        graph.add_stream(stream, graph.default)
        graph.activate(stream)
        assert graph.budget.held <= limit
        return sum(pool.data.nbytes for pool in graph._lanes.pools)

    assert lane_bytes(200_000) < 100_000 < 200_000 < lane_bytes(10_000_000)
