"""A guest's budget on a virtual clock: whatever a guest starts, and however it ends, all memory is released."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from millrace.budget import MIB
from millrace.dsp.convert import SampleFormat, encode
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Player, RigClient
from millrace.sim.signals import count
from millrace.wire.pulse.client import Failed, Reply, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.budgetguest import S16, STEREO, Guest, sound

SECOND = 44_100 * 4


def kill(guest: Guest, client: RigClient, player: Player) -> None:
    guest.other.ask(Command.KILL_SINK_INPUT, index=player.index)


def kill_client(guest: Guest, client: RigClient, player: Player) -> None:
    guest.other.ask(Command.KILL_CLIENT, index=client.server.client_index)
    assert client.server.closing
    client.close()


def by_api(guest: Guest, client: RigClient, player: Player) -> None:
    guest.rig.graph.remove_stream(guest.rig.stream_at(player.index))


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
    assert client.named(Command.UNDERFLOW) or guest.rig.playback_at(player.index).corked
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
    record = guest.rig.record_at(made["index"])
    guest.rig.run(0.5)
    assert guest.rig.graph.budget.shares()["tap"]
    if how == "delete":
        client.ask(Command.DELETE_RECORD_STREAM, channel=made["channel"])
    elif how == "kill":
        guest.other.ask(Command.KILL_SOURCE_OUTPUT, index=made["index"])
    elif how == "kill client":
        guest.other.ask(Command.KILL_CLIENT, index=client.server.client_index)
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
    record = guest.rig.record_at(made["index"])
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
    assert begun == 14
    for client in list(guest.rig.clients[1:]):
        client.close()
    assert guest.state() == guest.before
