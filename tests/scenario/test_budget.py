"""A guest's budget on a virtual clock: whatever a guest starts, and however it ends, all memory is released."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

import numpy as np
import pytest

from millrace.budget import MIB, Budget
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.dsp.convert import SampleFormat, encode
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Stream
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Player, Rig, RigClient
from millrace.sim.signals import count, sine
from millrace.units import default_map
from millrace.wire.pulse.client import Failed, Reply, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec

S16 = Spec(SampleFormat.S16LE, 2, 44_100)
STEREO = (1, 2)
SECOND = 44_100 * 4


def sound(seconds: float) -> bytes:
    return encode(SampleFormat.S16LE, sine(seconds))


class Guest:
    """A rig whose first client ends things, and whose state is compared with the state before."""

    def __init__(self, limit: int | None = None) -> None:
        self.rig = Rig()
        if limit is not None:
            self.rig.graph.budget.limit = limit
        self.other = self.rig.client()
        self.module = self.other.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra")["index"]
        self.extra = self.other.ask(Command.GET_SINK_INFO, index=NO_INDEX, name="extra")["index"]
        self.before = self.state()

    def state(self) -> dict[str, object]:
        """The guest's limited resources, which must all be released again."""
        rig, door = self.rig, self.rig.door
        return {
            "held": rig.graph.budget.held, "shares": rig.graph.budget.shares(), "streams": dict(rig.graph.streams),
            "taps": dict(rig.graph.taps), "lanes": len(rig.graph._lanes), "observers": len(rig.graph.observers),
            "playback": dict(door.playback), "records": dict(door.records), "clients": sorted(door.clients),
            "known": [sorted(c.server._sinks) for c in rig.clients],
            "taps of sinks": [len(mix.taps) for mix in rig.graph.mixes()],
        }  # fmt: skip

    def play(self, client: RigClient, **changes: object) -> Player:
        return client.play(S16, STEREO, sound(3.0), **changes)


def kill(guest: Guest, client: RigClient, player: Player) -> None:
    guest.other.ask(Command.KILL_SINK_INPUT, index=player.index)


def kill_client(guest: Guest, client: RigClient, player: Player) -> None:
    guest.other.ask(Command.KILL_CLIENT, index=client.server.index)
    assert client.server.closing
    client.close()


def by_api(guest: Guest, client: RigClient, player: Player) -> None:
    guest.rig.graph.remove_stream(guest.rig.graph.streams[player.index])


def delete(guest: Guest, client: RigClient, player: Player) -> None:
    client.ask(Command.DELETE_PLAYBACK_STREAM, channel=player.channel)


def drain_then_delete(guest: Guest, client: RigClient, player: Player) -> None:
    player.drain()
    guest.rig.run(6.0)
    delete(guest, client, player)


def delete_while_draining(guest: Guest, client: RigClient, player: Player) -> None:
    tag = player.drain()
    delete(guest, client, player)
    assert isinstance(client.replies[tag], Failed)


def cork_then_kill(guest: Guest, client: RigClient, player: Player) -> None:
    client.ask(Command.CORK_PLAYBACK_STREAM, channel=player.channel, cork=True)
    kill(guest, client, player)


def flush_then_lose(guest: Guest, client: RigClient, player: Player) -> None:
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=player.channel)
    client.close()


def lose(guest: Guest, client: RigClient, player: Player) -> None:
    client.close()


def underrun_then_delete(guest: Guest, client: RigClient, player: Player) -> None:
    guest.rig.run(8.0)
    assert client.named(Command.UNDERFLOW) or guest.rig.door.playback[player.index].corked
    delete(guest, client, player)


def resized_then_killed(guest: Guest, client: RigClient, player: Player) -> None:
    client.ask(
        Command.SET_PLAYBACK_STREAM_BUFFER_ATTR, channel=player.channel, maxlength=NO_INDEX, tlength=4 * SECOND,
        prebuf=NO_INDEX, minreq=NO_INDEX, adjust_latency=False, early_requests=False,
    )  # fmt: skip
    client.ask(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, channel=player.channel, rate=48_000)
    kill(guest, client, player)


def renamed_then_killed(guest: Guest, client: RigClient, player: Player) -> None:
    client.ask(Command.SET_PLAYBACK_STREAM_NAME, channel=player.channel, name="n" * 5000)
    props = {"application.icon": bytes(60_000)}
    client.ask(Command.UPDATE_PLAYBACK_STREAM_PROPLIST, channel=player.channel, mode=1, props=props)
    kill(guest, client, player)


def sink_gone(guest: Guest, client: RigClient, player: Player) -> None:
    guest.other.ask(Command.MOVE_SINK_INPUT, index=player.index, sink_index=guest.extra, sink_name=None)
    guest.rig.run(0.1)
    guest.other.ask(Command.UNLOAD_MODULE, index=guest.module)
    guest.rig.run(0.1)
    delete(guest, client, player)
    guest.other.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra")


def connect_forbidden(guest: Guest, client: RigClient, player: Player) -> None:
    guest.rig.admission.grants.set(Permission.CONNECT, ANY, Verdict.DENY)
    guest.rig.admission.enforce()
    assert client.server.closing
    client.close()


ENDS = [
    delete, kill, kill_client, by_api, drain_then_delete, delete_while_draining, cork_then_kill, flush_then_lose, lose,
    underrun_then_delete, resized_then_killed, renamed_then_killed, sink_gone, connect_forbidden,
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("corked", [False, True])
def test_stream_releases_everything_however_it_ends(
    end: Callable[[Guest, RigClient, Player], None], corked: bool
) -> None:
    guest = Guest()
    client = guest.rig.client()
    before = guest.state()
    player = guest.play(client, corked=corked)
    guest.rig.run(0.3)
    assert guest.rig.graph.budget.held > int(str(before["held"])) + SECOND
    end(guest, client, player)
    guest.rig.run(0.5)
    if client in guest.rig.clients:
        client.close()
    after = guest.state()
    assert {k: v for k, v in after.items() if k != "shares"} == {k: v for k, v in guest.before.items() if k != "shares"}
    assert guest.rig.graph.budget.held == sum(guest.rig.graph.budget.shares().values())


@pytest.mark.parametrize("how", ["delete", "kill", "kill client", "lose", "deny", "api", "unread then killed"])
def test_recorder_releases_everything_however_it_ends(how: str) -> None:
    guest = Guest()
    client = guest.rig.client()
    made = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, STEREO, source_name="@DEFAULT_MONITOR@"))
    record = guest.rig.door.records[made["index"]]
    guest.rig.run(0.5)
    assert guest.rig.graph.budget.shares()["tap"]
    if how == "delete":
        client.ask(Command.DELETE_RECORD_STREAM, channel=made["channel"])
    elif how == "kill":
        guest.other.ask(Command.KILL_SOURCE_OUTPUT, index=made["index"])
    elif how == "kill client":
        guest.other.ask(Command.KILL_CLIENT, index=client.server.index)
    elif how == "deny":
        guest.rig.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
        guest.rig.admission.enforce()
    elif how == "api":
        guest.rig.graph.remove_tap(record.node)
    elif how == "unread then killed":
        client.server.congested = True
        guest.rig.run(3.0)
        assert record.node.account.part("queue") >= record.queued_bytes > 2 * SECOND
        guest.rig.graph.remove_tap(record.node)
    if how not in ("kill client", "lose"):
        assert not guest.rig.door.records and not guest.rig.graph.taps
    client.close()
    assert guest.state() == guest.before


def test_unread_recording_is_bounded_by_budget() -> None:
    guest = Guest()
    client = guest.rig.client()
    made = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, STEREO, source_name="@DEFAULT_MONITOR@"))
    record = guest.rig.door.records[made["index"]]
    budget = guest.rig.graph.budget
    budget.limit = (budget.held + 200_000) * 8 // 7
    client.server.congested = True
    guest.rig.run(5.0)
    assert 150_000 < record.queued_bytes < 200_000
    client.server.congested = False
    guest.rig.run(0.5)
    assert record.queued_bytes < SECOND // 10 and record.node.account.part("queue") == 0


# -- samples -------------------------------------------------------------------------------------


def upload(client: RigClient, name: str, data: bytes, props: dict[str, bytes] | None = None) -> int:
    made = client.ask(
        Command.CREATE_UPLOAD_STREAM, name=name, spec=S16, map=STEREO, length=len(data), props=props or {}
    )
    client.wire.send_block(made["channel"], memoryview(data))
    client.exchange()
    return int(made["channel"])


def play_sample(client: RigClient, name: str) -> int:
    fields = {"sink_index": NO_INDEX, "sink_name": None, "volume": NO_INDEX, "name": name, "props": {}}
    return int(client.ask(Command.PLAY_SAMPLE, **fields)["index"])


def test_repeatedly_cancelled_samples_leave_guest_its_sound() -> None:
    guest = Guest(8 * MIB)
    client = guest.rig.client()
    client.ask(Command.FINISH_UPLOAD_STREAM, channel=upload(client, "bell", sound(5.0)))
    held = guest.rig.graph.budget.held
    for _ in range(20):
        index = play_sample(client, "bell")
        client.ask(Command.KILL_SINK_INPUT, index=index)
    assert guest.rig.graph.budget.held == held
    play_sample(client, "bell")
    guest.rig.run(7.0)
    assert guest.rig.graph.budget.held == held and not guest.rig.door.playback
    heard = guest.rig.capture()
    guest.play(guest.rig.client())
    guest.rig.run(1.0)
    assert np.abs(heard.sound).max() > 0.1


def test_repeatedly_killed_streams_leave_guest_its_sound() -> None:
    guest = Guest(8 * MIB)
    client = guest.rig.client()
    for _ in range(20):
        player = client.play(S16, STEREO, bytes(4 * SECOND), tlength=4 * SECOND)
        guest.other.ask(Command.KILL_SINK_INPUT, index=player.index)
    client.close()
    assert guest.state() == guest.before


def test_connecting_for_each_sound_leaves_nothing_and_no_gap_in_others() -> None:
    guest = Guest()
    heard, signal, dice = guest.rig.capture(), count(48_000 * 2), random.Random(1)
    music = guest.rig.client()
    song = music.play(Spec(SampleFormat.S16LE, 2, 48_000), STEREO, encode(SampleFormat.S16LE, signal))
    tag = song.drain()
    for _ in range(200):
        game = guest.rig.client()
        # Like OpenAL, which queries the sink's format first with a stream that it deletes.
        fixed = {"fix_format": True, "fix_rate": True, "fix_channels": True}
        probe = game.play(S16, STEREO, corked=True, **fixed)
        game.ask(Command.DELETE_PLAYBACK_STREAM, channel=probe.channel)
        spec = Spec(SampleFormat.S16LE, 2, dice.choice((22_050, 44_100, 48_000)))
        attr = {"tlength": dice.choice((4_096, 24_576)), "prebuf": dice.choice((0, 2**32 - 1))}
        game.play(spec, STEREO, sound(0.05), muted=True, muted_set=True, **attr)
        guest.rig.run(dice.uniform(0.0, 0.02))
        game.close()
    guest.rig.run(4.0)
    assert np.array_equal(heard.trimmed(), signal) and isinstance(music.replies[tag], Reply)
    music.close()
    for tap in [tap for tap in guest.rig.graph.taps.values() if tap.consumer is heard]:
        guest.rig.graph.remove_tap(tap)
    assert guest.state() == guest.before


@pytest.mark.parametrize(
    "how", ["finish and remove", "delete", "lose", "finish empty", "replace and remove", "refused"]
)
def test_upload_releases_everything_however_it_ends(how: str) -> None:
    guest = Guest()
    client = guest.rig.client()
    budget = guest.rig.graph.budget
    held = budget.held
    channel = upload(client, "bell", b"" if how == "finish empty" else sound(1.0)) if how != "finish empty" else None
    if how == "finish empty":
        made = client.ask(Command.CREATE_UPLOAD_STREAM, name="bell", spec=S16, map=STEREO, length=SECOND, props={})
        assert client.error(Command.FINISH_UPLOAD_STREAM, channel=made["channel"]) == Err.TOOLARGE
    elif how == "delete":
        assert budget.held > held + SECOND
        client.ask(Command.DELETE_UPLOAD_STREAM, channel=channel)
    elif how in ("finish and remove", "replace and remove"):
        client.ask(Command.FINISH_UPLOAD_STREAM, channel=channel)
        assert held + SECOND < budget.held < held + 2 * SECOND
        if how == "replace and remove":
            client.ask(Command.FINISH_UPLOAD_STREAM, channel=upload(client, "bell", sound(0.5)))
            assert budget.held < held + SECOND
        client.ask(Command.REMOVE_SAMPLE, name="bell")
    elif how == "refused":
        budget.limit = budget.held
        for n in range(3):
            fields = {"name": f"b{n}", "spec": S16, "map": STEREO, "length": SECOND, "props": {}}
            assert client.error(Command.CREATE_UPLOAD_STREAM, **fields) == Err.TOOLARGE
        client.ask(Command.DELETE_UPLOAD_STREAM, channel=channel)
    if how != "lose":
        assert budget.held == held
    client.close()
    assert guest.state() == guest.before


def test_uploads_of_all_connections_share_the_budget() -> None:
    guest = Guest()
    begun = 0
    for _ in range(22):
        client = guest.rig.client()
        for n in range(2):
            fields = {"name": f"s{n}", "spec": S16, "map": STEREO, "length": 16 * MIB, "props": {}}
            reply = client.replies[client.send(Command.CREATE_UPLOAD_STREAM, **fields)]
            begun += not isinstance(reply, Failed)
            assert not isinstance(reply, Failed) or reply.code == Err.TOOLARGE
    assert begun == 13
    for client in list(guest.rig.clients[1:]):
        client.close()
    assert guest.state() == guest.before


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
    budget.limit = (budget.held + 3 * MIB) * 16 // 15
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
    budget.limit = (budget.held + 4 * MIB) * 16 // 15
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
    budget.limit = (budget.held + 40 * 1024) * 16 // 15
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
