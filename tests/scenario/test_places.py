"""Places for listeners, viewers and watchers: one principal's many connections keep nobody else out of a guest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

import millrace.guest.viewers
from millrace.budget import LISTENERS, MIB, PROGRAMS, VIEWERS, WATCHERS, Account
from millrace.client.endpoint import hindrance
from millrace.client.options import ListenerOptions
from millrace.codec.parameters import CodecParameters
from millrace.graph import accounts
from millrace.guest.listener import LISTENER_BYTES
from millrace.io.clock import now_ns
from millrace.server.http.watchers import DISPLACED, WATCHER_BYTES
from millrace.wire.peer.messages import (
    Bye,
    Configured,
    Fault,
    FormatChanged,
    Microphone,
    decode_from_daemon,
    encode_message,
)
from millrace.wire.peer.pictures import KeyboardHeld, TakeKeyboard
from tests.nativebus import eventually
from tests.scenario.tenants import Rig, joined, running
from tests.scenario.watchers import painter_of, watching


def crowded(rig: Rig) -> list[dict[str, Any]]:
    """The evidence of places that were short."""
    incidents = rig.daemon.worker.diagnosis.incidents
    return [dict(one.evidence) for one in incidents if (one.stage, one.cause) == ("guest", "crowded")]


async def events(rig: Rig, secret: str) -> aiohttp.ClientWebSocketResponse:
    """Somebody who watches the objects, and has been sent all of them."""
    headers = {"Authorization": f"Bearer {secret}"}
    line = await rig.http.ws_connect(f"ws://{rig.daemon.serving.address}/api/v1/events", headers=headers)
    while not (await line.receive_json(timeout=5)).get("synced"):
        pass
    return line


def fill(rig: Rig, reach: float) -> Account:
    """Connections of one class use up what their class may hold, but for half of one. Returns what they hold."""
    budget = rig.daemon.worker.guests["alice"].graph.budget
    filler, size = budget.open("queue", {"": 0}, reach), 1 << 30
    while size >= WATCHER_BYTES // 2:
        if not filler.fits("", filler.held + size, reach):
            size //= 2
    return filler


def test_one_tokens_viewers_keep_neither_the_owner_nor_who_may_type_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(millrace.guest.viewers, "VIEWERS_MAX", 4)

    async def test(rig: Rig) -> None:
        painter = painter_of(rig, "alice", 11)
        crowd, worker = [await rig.token(name, right, ["alice"]) for name, right in (("c", "watch"), ("w", "type"))]
        here = [await watching(rig, crowd) for _ in range(4)]
        for secret, last in ((worker, here[3]), ("", here[2])):
            here.append(await watching(rig, secret))
            await here[-1].shows(painter)
            bye = await last.until(Bye)
            assert bye.again is False and "made room for another" in bye.reason
            await last.ends()
        # Now it has no two more than the others, and those who were there before have stayed.
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await watching(rig, crowd)
        said = hindrance(ListenerOptions(), "ws://x/alice", refused.value)
        assert said == "guest alice has 4 viewers, the maximum" and refused.value.status == 409
        await here[0].shows(painter)
        assert crowded(rig) == [
            {"who": "token/1", "its_viewers": has, "of": 4, "for": who}
            for has, who in ((4, "token/2"), (3, "owner"), (2, "token/1"))
        ]
        assert len(rig.daemon.worker.guests["alice"].viewers.connected) == 4

    running(tmp_path, test)


def test_memory_that_one_tokens_viewers_and_listeners_hold_is_given_up_for_others(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        guest = rig.daemon.worker.guests["alice"]
        crowd, other = [await rig.token(name, "hear,watch", ["alice"]) for name in ("c", "o")]
        seen = [await watching(rig, crowd, settings={"picture": "off"}) for _ in range(2)]
        heard = [await joined(rig, crowd) for _ in range(2)]
        fill(rig, VIEWERS)
        fill(rig, LISTENERS)
        others = await watching(rig, other, settings={"picture": "off"}), await joined(rig, other)
        await seen[1].until(Bye)
        await seen[1].ends()
        told = [message.data async for message in heard[1]]
        assert "made room for another" in told[-1]
        assert len(guest.sessions) == len(guest.viewers.sessions) == len(others)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await joined(rig, other)
        assert "no room for this listener" in hindrance(ListenerOptions(), "ws://x/alice", refused.value)

    running(tmp_path, test)


def test_watchers_of_the_state_hold_their_share_only(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        see = await rig.token("s", "see", ["alice"])
        fill(rig, WATCHERS)
        budget = rig.daemon.worker.guests["alice"].graph.budget
        assert budget.held < budget.limit / 2
        status, text = await rig.ask("GET", "/api/v1/events", see, Upgrade="websocket", Connection="Upgrade")
        assert status == 507 and "no room for this watcher" in text
        await watching(rig, settings={"picture": "off"})

    running(tmp_path, test)


def test_whoever_types_is_asked_for_its_place_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(millrace.guest.viewers, "VIEWERS_MAX", 3)

    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        first, second = [await rig.token(name, "type", ["alice"]) for name in "fs"]
        here = [await watching(rig, first) for _ in range(3)]
        await here[2].say(TakeKeyboard(True))
        while not (await here[2].until(KeyboardHeld)).mine:
            pass
        other = await watching(rig, second)
        await here[1].until(Bye)
        left = list(rig.daemon.worker.guests["alice"].viewers.connected)
        assert [one.keyboard.held for one in left] == [False, True, False] and not other.socket.closed

    running(tmp_path, test)


def test_one_tokens_watchers_leave_another_token_of_the_guest_a_place(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "see", ["alice"]) for name in "co"]
        here = [await events(rig, crowd) for _ in range(6)]
        filler = fill(rig, WATCHERS)
        # There is room for what changes, but not for another watcher.
        filler.hold("", filler.held - 11_000, WATCHERS)
        one = await events(rig, other)
        closed = await here[5].receive(5)
        assert (closed.type, closed.extra) == (aiohttp.WSMsgType.CLOSE, DISPLACED)
        assert not one.closed and not here[0].closed
        told = crowded(rig)[0]
        assert told == {"who": "token/1", "its_watchers": 6, "of": 6, "for": "token/2"}
        with pytest.raises(aiohttp.WSServerHandshakeError, match="507"):
            await events(rig, crowd)

    running(tmp_path, test)


def test_what_one_tokens_watchers_leave_unread_keeps_no_changes_from_another_token(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "see", ["alice"]) for name in "co"]
        deaf, reads = await events(rig, crowd), await events(rig, other)
        assert rig.daemon._web is not None
        watchers = rig.daemon._web._watchers
        first, second = watchers._watchers
        while watchers._hold(first, first.account.part("waiting") + 64 * 1024):
            pass
        assert watchers._hold(second, 100_000) and not first.account.held
        assert watchers._hold(second, 0)
        closed = await deaf.receive(5)
        assert closed.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED) and not reads.closed
        assert list(watchers._watchers) == [second] and {one["who"] for one in crowded(rig)} == {"token/1"}

    running(tmp_path, test)


def test_one_tokens_listeners_leave_others_an_encoder_and_are_told_which_settings_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TAPS_MAX", 4)

    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "hear", ["alice"]) for name in "co"]
        here = [await joined(rig, crowd, settings={"bitrate": f"{rate}k"}) for rate in (16, 32, 64, 96)]
        await joined(rig, other, settings={"bitrate": "128k"})
        guest = rig.daemon.worker.guests["alice"]
        assert [session.outlet.shares.bitrate // 1000 for session in guest.sessions] == [16, 32, 64, 64, 128]
        assert all(session.outlet.group is not None for session in guest.sessions)
        guest.sessions[3].tick(now_ns())
        now = (await told(here[3], Configured)).settings
        assert now["bitrate"] == 64_000 and "made room" in now["reason"]
        assert crowded(rig) == [{"who": "token/1", "its_encoders": 4, "of": 4, "for": "token/2"}]

    running(tmp_path, test)


async def speaks(line: aiohttp.ClientWebSocketResponse) -> None:
    """It says the format of its microphone."""
    await line.send_str(encode_message(FormatChanged(CodecParameters(1, "opus", 48_000, ["mono"]))))


async def told(line: aiohttp.ClientWebSocketResponse, kind: type) -> Any:
    """The next message of that kind."""
    while not isinstance(one := decode_from_daemon((await line.receive(5)).data), kind):
        pass
    return one


def test_one_tokens_microphones_leave_another_tokens_room(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "hear,speak", ["alice"]) for name in "co"]
        guest = rig.daemon.worker.guests["alice"]
        here = [await joined(rig, secret, microphone=True) for secret in (crowd, crowd, crowd, other)]
        for line in here[:3]:
            await speaks(line)
        await eventually(lambda: guest.graph.budget.shares()["stream"] > 9 * MIB)
        filler = fill(rig, LISTENERS)
        await speaks(here[3])
        assert "made room for another" in (await told(here[2], Fault)).message
        await eventually(lambda: [one.microphone is not None for one in guest.sessions] == [True, True, False, True])
        assert guest.graph.budget.shares()["stream"] > 9 * MIB and not any(line.closed for line in here)
        its = {"its_microphones": 3, "its_encoders": 1, "its_listeners": 3}
        assert crowded(rig) == [{"who": "token/1", **its, "of": 10, "for": "token/2"}]
        # Now there is no room, and nobody has so much more. Its listener plays on.
        filler.hold("", filler.held - MIB // 4, LISTENERS)
        await rig.ask("POST", "/api/v1/set", "", {"target": guest.sessions[2].key, "settings": {"mic": "on"}})
        assert guest.sessions[2].microphone is not None
        await speaks(here[2])
        fault = await told(here[2], Fault)
        assert fault.code == "limit" and not fault.fatal and not here[2].closed
        assert guest.sessions[2].outlet.group is not None and guest.sessions[2].microphone is None

    running(tmp_path, test)


async def no_sound(line: aiohttp.ClientWebSocketResponse) -> str:
    """What its listener is told when it ends; empty if it is sent a format."""
    while (message := await line.receive(5)).type is aiohttp.WSMsgType.TEXT:
        one = decode_from_daemon(message.data)
        if isinstance(one, FormatChanged):
            return ""
        if isinstance(one, Fault):
            return one.message
    return str(message.type)


@pytest.mark.parametrize("microphones", [0, 2])
def test_memory_for_listeners_is_shared_whatever_kind_each_uses_it_for(microphones: int, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "hear,speak", ["alice"]) for name in "co"]
        guest = rig.daemon.worker.guests["alice"]
        here = [await joined(rig, crowd, microphone=True, settings={"bitrate": "17k"}) for _ in range(8)]
        for line in here[:microphones]:
            await speaks(line)
        tapes = microphones * 3 * MIB
        await eventually(lambda: guest.graph.budget.shares()["stream"] > tapes)
        fill(rig, LISTENERS)
        # Another needs an encoder of its own, and then a microphone. All that share the crowd's one encoder keep it.
        line = await joined(rig, other, settings={"bitrate": "64k"})
        assert await no_sound(line) == "" and len(guest.outlets.groups) == 2
        left = [one for one in guest.sessions if one.principal.key == "token/1" and not one.closing]
        lost = sum(one.microphone is None for one in left)
        assert len(left) == 8 and lost == 1 if microphones else 5 <= len(left) < 8
        told = crowded(rig)
        assert {(one["who"], one["for"]) for one in told} == {("token/1", "token/2")}
        assert told[0]["its_listeners"] == 8 and told[0]["its_encoders"] == 1

    running(tmp_path, test)


def test_connections_alone_do_not_take_somebodys_only_microphone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "hear,speak", ["alice"]) for name in "co"]
        guest = rig.daemon.worker.guests["alice"]
        victim = await joined(rig, other, microphone=True)
        await speaks(victim)
        await eventually(lambda: guest.graph.budget.shares()["stream"] > 3 * MIB)
        here = [await joined(rig, crowd, microphone=True) for _ in range(40)]
        fill(rig, LISTENERS)
        await speaks(here[0])
        fault = await told(here[0], Fault)
        assert fault.code == "limit" and not fault.fatal
        assert [one.microphone is not None for one in guest.sessions[:2]] == [True, False]
        assert crowded(rig)[0]["who"] == "token/1"

    running(tmp_path, test)


@pytest.mark.parametrize("lacks", ["memory", "streams"])
def test_a_microphone_that_is_offered_without_room_is_refused_and_its_listener_plays_on(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        guest = rig.daemon.worker.guests["alice"]
        secret = await rig.token("a", "hear,speak", ["alice"])
        first = await joined(rig, secret)
        if lacks == "memory":
            filler = fill(rig, LISTENERS)
            filler.hold("", filler.held - LISTENER_BYTES, LISTENERS)
        else:
            monkeypatch.setattr(accounts, "STREAMS_MAX", 0)
        line = await joined(rig, secret, microphone=True)
        assert not (await told(line, Microphone)).allowed
        fault = await told(line, Fault)
        assert not fault.fatal and ("no room" if lacks == "memory" else "0 streams, the maximum") in fault.message
        session = guest.sessions[1]
        assert session.outlet.group is not None and session.microphone_state == "forbidden" and not line.closed
        # It may be switched on once there is room.
        monkeypatch.undo()
        await first.close()
        guest.graph.budget.limit *= 2
        asked = {"target": session.key, "settings": {"mic": "on"}}
        assert (await rig.ask("POST", "/api/v1/set", "", asked))[0] == 200
        assert (await told(line, Microphone)).allowed and session.microphone is not None

    running(tmp_path, test)


def test_a_tape_of_another_format_takes_what_it_needs_more(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "hear,speak", ["alice"]) for name in "co"]
        guest = rig.daemon.worker.guests["alice"]
        here = [await joined(rig, secret, microphone=True) for secret in (crowd, crowd, crowd, other)]
        for line in here:
            await speaks(line)
        await eventually(lambda: guest.graph.budget.shares()["stream"] > 12 * MIB)
        fill(rig, LISTENERS)
        await speaks(here[3])
        await rig.ask("GET", "/api/v1/guests", "")
        assert all(one.microphone is not None for one in guest.sessions) and not crowded(rig)

    running(tmp_path, test)


def test_a_listener_is_told_once_that_it_shares_an_encoder_and_once_that_it_has_its_own_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TAPS_MAX", 2)

    async def test(rig: Rig) -> None:
        crowd, other = [await rig.token(name, "hear", ["alice"]) for name in "co"]
        hello = {"settings": {"codec": "s16"}, "codecs": ["opus", "s16"]}
        here = [await joined(rig, crowd), await joined(rig, crowd, **hello)]
        guest = rig.daemon.worker.guests["alice"]
        newcomer = await joined(rig, other, settings={"bitrate": "64k"})
        session = guest.sessions[1]
        for _ in range(3):
            session.tick(now_ns())
        now = (await told(here[1], Configured)).settings
        assert now["codec"] == "opus" and "made room" in now["reason"] and session.outlet.settings.codec == "s16"
        changes = [
            one for one in rig.daemon.worker.diagnosis.incidents if (one.stage, one.cause) == ("encoder", "changed")
        ]
        assert [one.subject for one in changes] == [session.key]
        await newcomer.close()
        await eventually(lambda: session.outlet.shares.codec == "s16")
        for _ in range(3):
            session.tick(now_ns())
        await rig.ask("POST", "/api/v1/set", "", {"target": session.key, "settings": {"latency": "robust"}})
        again = [(await told(here[1], Configured)).settings for _ in range(2)]
        assert [("reason" in one, one["codec"], one["latency"]) for one in again] == [
            (False, "s16", "normal"),
            (False, "s16", "robust"),
        ]

    running(tmp_path, test)


def test_refused_watchers_are_recorded_too_and_another_guests_give_up_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alices, bobs = await rig.token("a", "see", ["alice"]), await rig.token("b", "see", ["bob"])
        crowd = [await events(rig, bobs) for _ in range(6)]
        fill(rig, WATCHERS)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="507"):
            await events(rig, alices)
        told = [one for one in rig.daemon.worker.diagnosis.incidents if one.stage == "guest"]
        assert [(one.cause, one.evidence["for"], one.evidence["by"]) for one in told] == [
            ("no memory", "watcher", "watchers")
        ], "nobody has anything that is counted"
        assert rig.daemon._web is not None
        await rig.ask("GET", "/api/v1/guests", "")
        assert len(rig.daemon._web._watchers._watchers) == len(crowd) == 6

    running(tmp_path, test)


def test_a_watcher_that_may_type_is_asked_last_and_one_that_is_behind_is_cut_untold(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        crowd, typist, other = [
            await rig.token(name, right, ["alice"]) for name, right in (("c", "see"), ("t", "see,type"), ("o", "see"))
        ]
        typing = [await events(rig, typist) for _ in range(4)]
        here = [await events(rig, crowd) for _ in range(3)]
        assert rig.daemon._web is not None
        watchers = rig.daemon._web._watchers
        monkey, last = pytest.MonkeyPatch(), [*watchers._watchers.items()][6]
        filler = fill(rig, WATCHERS)
        filler.hold("", filler.held - 11_000, WATCHERS)
        with monkey.context() as patch:
            patch.setattr(last[1], "is_behind", lambda: True)
            one = await events(rig, other)
        closed = await here[2].receive(5)
        assert closed.extra != DISPLACED and closed.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert not any(line.closed for line in (*typing, *here[:2], one))

    running(tmp_path, test)


def test_who_has_one_in_any_case_hears_sees_and_watches_a_guest_that_its_programs_have_filled(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        guest = rig.daemon.worker.guests["alice"]
        budget = guest.graph.budget
        typist, other = await rig.token("t", "hear,watch,see,type", ["alice"]), await rig.token("o", "hear", ["alice"])
        for reach in (LISTENERS, VIEWERS, WATCHERS):
            budget.open("queue", {"": budget.limit // 64}, reach)
        budget.open("stream", {"": int(budget.limit * PROGRAMS) - budget.held})
        with pytest.raises(aiohttp.WSServerHandshakeError, match="507"):
            await joined(rig, other)
        lines = await joined(rig, typist), await watching(rig, typist, settings={"picture": "off"})
        assert [one.outlet.group is not None for one in guest.sessions] == [True]
        assert not (await events(rig, typist)).closed and len(lines) == 2

    running(tmp_path, test)
