"""Attacks on a running daemon with two tenants: each is refused with the right message, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from millrace.client.bus import Bus
from millrace.errors import GraphError
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attach import DOORS_MAX
from millrace.rights.grants import Permission, Verdict
from millrace.server.http import api
from millrace.server.http.api import arguments_of
from tests.scenario.tenants import Rig, joined, running

# (rights of alice's token, method, path, body, expected status). {names} are filled in from the running daemon.
ATTEMPTS: list[tuple[str, str, str, Any, int]] = [
    ("hear", "POST", "/api/v1/set", {"target": "sink/default", "settings": {"volume": "0%"}}, 403),
    ("hear", "POST", "/api/v1/set", {"target": "sink/default", "settings": {"mute": "on"}, "guest": "alice"}, 403),
    ("hear", "POST", "/api/v1/set", {"target": "sink/default", "settings": {"mute": "on"}, "guest": "bob"}, 404),
    ("hear", "POST", "/api/v1/set", {"target": "{bob_sink}", "settings": {"mute": "on"}}, 404),
    ("hear", "POST", "/api/v1/move", {"target": "stream/1", "to": "sink/default"}, 404),
    ("hear", "POST", "/api/v1/links", {"source": "sink/default", "to": "sink/default"}, 403),
    ("hear", "DELETE", "/api/v1/links", {"source": "sink/default", "to": "sink/default"}, 403),
    ("hear", "POST", "/api/v1/guests", {"name": "eve"}, 403),
    ("hear", "DELETE", "/api/v1/guests/alice", None, 403),
    ("hear", "DELETE", "/api/v1/guests/bob", None, 403),
    ("hear", "POST", "/api/v1/guests/alice/sinks", {"name": "x"}, 403),
    ("hear", "POST", "/api/v1/guests/bob/sinks", {"name": "x"}, 404),
    ("hear", "DELETE", "/api/v1/guests/alice/sinks/default", None, 403),
    ("hear", "POST", "/api/v1/guests/alice/doors", {"door": "qmp:/tmp/x"}, 403),
    ("hear", "POST", "/api/v1/guests/bob/doors", {"door": "qmp:/tmp/x"}, 404),
    ("hear", "DELETE", "/api/v1/doors/{bob_door}", None, 404),
    ("hear", "GET", "/api/v1/tokens", None, 403),
    ("hear", "POST", "/api/v1/tokens", {"may": "all"}, 403),
    ("hear", "POST", "/api/v1/tokens/1/rotate", None, 403),
    ("hear", "DELETE", "/api/v1/tokens/1", None, 403),
    ("hear", "POST", "/api/v1/guests/alice/grants", {"what": "microphone", "allow": True}, 403),
    ("hear", "POST", "/api/v1/guests/bob/grants", {"what": "microphone", "allow": True}, 404),
    ("control", "POST", "/api/v1/guests/alice/grants", {"what": "monitor", "allow": None}, 403),
    ("admin", "POST", "/api/v1/guests/bob/grants", {"what": "monitor", "allow": True}, 404),
    ("admin", "POST", "/api/v1/guests/alice/grants", {"what": "speakers", "allow": True}, 400),
    ("admin", "POST", "/api/v1/guests/alice/grants", {"what": "monitor", "allow": "yes"}, 400),
    ("hear", "GET", "/bob", None, 404),
    ("hear", "GET", "/nobody", None, 404),
    ("see", "GET", "/alice", None, 403),
    ("see", "POST", "/api/v1/set", {"target": "sink/default", "settings": {"mute": "on"}}, 403),
    ("control", "GET", "/alice", None, 403),
    ("control", "POST", "/api/v1/set", {"target": "{bob_sink}", "settings": {"mute": "on"}}, 404),
    ("control", "POST", "/api/v1/set", {"target": "{bob_source}", "settings": {"mute": "on"}}, 404),
    ("control", "POST", "/api/v1/links", {"source": "sink/default", "to": "source/microphone"}, 403),
    ("control", "POST", "/api/v1/guests/alice/sinks", {"name": "x"}, 403),
    ("control", "POST", "/api/v1/tokens", {"may": "all"}, 403),
    ("link", "POST", "/api/v1/links", {"source": "{bob_sink}", "to": "sink/default"}, 404),
    ("link", "POST", "/api/v1/links", {"source": "sink/default", "to": "{bob_sink}"}, 404),
    ("link", "POST", "/api/v1/set", {"target": "sink/default", "settings": {"mute": "on"}}, 403),
    ("link", "POST", "/api/v1/guests/alice/doors", {"door": "qmp:/tmp/x"}, 403),
    ("speak", "GET", "/alice", None, 403),
    ("admin", "POST", "/api/v1/guests", {"name": "eve"}, 403),
    ("admin", "DELETE", "/api/v1/guests/bob", None, 403),
    ("admin", "POST", "/api/v1/tokens", {"may": "all", "guests": ["bob"]}, 403),
    ("admin", "GET", "/api/v1/tokens", None, 403),
    ("admin", "POST", "/api/v1/guests/bob/doors", {"door": "qmp:/tmp/x"}, 404),
    ("admin", "DELETE", "/api/v1/doors/{bob_door}", None, 404),
    ("hear", "POST", "/api/v1/set", {"target": "../../bob", "settings": {}}, 404),
    ("hear", "POST", "/api/v1/set", {"target": "sink/²", "settings": {}}, 404),
    ("hear", "POST", "/api/v1/set", [1, 2], 400),
    ("hear", "DELETE", "/api/v1/tokens/²", None, 403),
]


def test_every_attempt_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        bob = rig.daemon.worker.guest("bob")
        door = rig.daemon.worker.attach(rig.daemon.worker.guests["bob"], parse_door("qmp:/nowhere"))
        names = {
            "{bob_sink}": next(iter(bob.graph.sinks.values())).key, "{bob_door}": door.key.split("/")[1],
            "{bob_source}": bob.microphone.key,
        }  # fmt: skip
        for may in {attempt[0] for attempt in ATTEMPTS}:
            await rig.token(may, may, ["alice"])
        before = await rig.ask("GET", "/api/v1/state", "")
        for may, method, path, body, expected in ATTEMPTS:
            for place, name in names.items():
                path = path.replace(place, name)
                body = {k: name if v == place else v for k, v in body.items()} if isinstance(body, dict) else body
            status, text = await rig.ask(method, path, rig.tokens[may], body)
            assert status == expected, (may, method, path, body, status, text)
            assert "bob" not in text or "bob" in f"{path}{body}", text
        # The right that is lacking is told as a value, and where.
        for method, path, body, lacks in (
            ("POST", "/api/v1/set", {"target": "sink/default", "settings": {}, "guest": "alice"}, ("control", "alice")),
            ("GET", "/api/v1/tokens", None, ("admin", "")),
        ):
            told = json.loads((await rig.ask(method, path, rig.tokens["hear"], body))[1])
            assert (told["right"], told["guest"]) == lacks and told["error"]
        after = await rig.ask("GET", "/api/v1/state", "")
        assert strip(before[1]) == strip(after[1])

    running(tmp_path, test)


def strip(text: str) -> Any:
    state = json.loads(text)
    state.pop("refused")
    for guest in state["guests"]:
        for door in guest["doors"]:
            door.pop("error")
    return state


def test_token_sees_only_its_guests(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.token("a", "see", ["alice"])
        status, text = await rig.ask("GET", "/api/v1/state", rig.tokens["a"])
        assert status == 200 and "alice" in text and "bob" not in text and "refused" not in json.loads(text)

    running(tmp_path, test)


@pytest.mark.parametrize("secret", ["", "mr_", "x" * 50, "é", "mr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"])
def test_wrong_tokens_are_refused_even_on_loopback(secret: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        headers = {"Authorization": f"Bearer {secret}".encode().decode("latin-1")}
        async with rig.http.get(f"http://{rig.daemon.serving.address}/api/v1/state", headers=headers) as answer:
            assert answer.status == 401
            assert set(await answer.json()) == {"error"}, "as the API's description says"
        assert rig.daemon.plane.commands.refused() == 1

    running(tmp_path, test)


def test_guessing_is_throttled_but_valid_token_is_always_accepted(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        good = await rig.token("a", "see", ["alice"])
        seen = [(await rig.ask("GET", "/api/v1/state", f"mr_{n}"))[0] for n in range(12)]
        assert seen[:10] == [401] * 10 and seen[10:] == [429] * 2
        # A valid token from the same address is not delayed.
        assert (await rig.ask("GET", "/api/v1/state", good))[0] == 200

    running(tmp_path, test)


def test_revoking_a_token_ends_its_playback_within_100_ms_and_others_continue(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        lines = [await joined(rig, await rig.token(name, "hear", ["alice"])) for name in ("a", "b")]
        first = next(t for t in rig.daemon.worker.access.tokens if t.name == "a")
        began = time.monotonic()
        assert await rig.daemon.worker.access.revoke(first.id)
        while (message := await lines[0].receive(5)).type is aiohttp.WSMsgType.TEXT:
            ended = "revoked" in message.data
        assert ended and time.monotonic() - began < 2.0
        assert [s.principal.key for s in rig.daemon.worker.guest("alice").sessions if not s.closing] == ["token/2"]
        status, _ = await rig.ask("GET", "/api/v1/state", rig.tokens["a"])
        assert status == 401
        assert not lines[1].closed

    running(tmp_path, test)


def test_rotating_keeps_playback_and_invalidates_old_secret(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        old = await rig.token("a", "hear", ["alice"])
        line = await joined(rig, old)
        new = await rig.daemon.worker.access.rotate(1)
        assert new and new != old
        assert (await rig.ask("GET", "/api/v1/state", old))[0] == 401
        assert (await rig.ask("GET", "/api/v1/state", new))[0] == 200
        assert not line.closed and len(rig.daemon.worker.guest("alice").sessions) == 1
        assert await rig.daemon.worker.access.rotate(99) is None

    running(tmp_path, test)


def test_request_body_that_arrives_after_rotation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        known, rotated = asyncio.Event(), asyncio.Event()

        async def arguments(request: Any) -> Any:
            known.set()
            return await arguments_of(request)

        async def body() -> AsyncIterator[bytes]:
            yield b'{"what": "camera", '
            await rotated.wait()
            yield b'"allow": true}'

        monkeypatch.setattr(api, "arguments_of", arguments)
        secret = await rig.token("a", "admin", ["alice"])
        url = f"http://{rig.daemon.serving.address}/api/v1/guests/alice/grants"
        answer = asyncio.ensure_future(rig.http.post(url, data=body(), headers={"Authorization": f"Bearer {secret}"}))
        await known.wait()
        await rig.daemon.worker.access.rotate(1)
        rotated.set()
        async with await answer as refused:
            assert refused.status == 401 and "rotated" in (await refused.json())["error"]
            assert "invalid_token" in refused.headers["WWW-Authenticate"]
        assert not list(rig.daemon.worker.guest("alice").admission.grants)

    running(tmp_path, test)


def test_listener_without_speak_right_is_refused_a_microphone(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        deaf = await joined(rig, await rig.token("a", "hear", ["alice"]), microphone=True)
        both = await joined(rig, await rig.token("b", "hear,speak", ["alice"]), microphone=True)
        states = [session.microphone_state for session in rig.daemon.worker.guest("alice").sessions]
        assert states == ["forbidden", "ready"] and not deaf.closed and not both.closed
        key = rig.daemon.worker.guest("alice").sessions[0].outlet.key
        status, text = await rig.ask("POST", "/api/v1/set", "", {"target": key, "settings": {"mic": "on"}})
        assert status == 400 and "no right to speak" in text

    running(tmp_path, test)


def test_acknowledged_changes_survive_restart(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        assert (await rig.ask("POST", "/api/v1/guests", "", {"name": "carol", "rate": 44100}))[0] == 200
        body = {"target": "sink/default", "settings": {"volume": "50%", "mute": "on"}, "guest": "carol"}
        assert (await rig.ask("POST", "/api/v1/set", "", body))[0] == 200
        await rig.token("kept", "hear", ["carol"])
        rig.daemon.worker.writer.store._db.execute("PRAGMA wal_checkpoint")
        secrets.append(rig.tokens["kept"])

    async def second(rig: Rig) -> None:
        carol = rig.daemon.worker.guest("carol")
        sink = carol.graph.default
        assert carol.graph.rate == 44_100 and sink is not None and sink.mute and abs(sink.gains[0] - 0.125) < 0.001
        assert (await rig.ask("GET", "/api/v1/state", secrets[0]))[0] == 200
        assert (await rig.ask("DELETE", "/api/v1/guests/carol", ""))[0] == 200

    async def third(rig: Rig) -> None:
        assert "carol" not in rig.daemon.worker.guests

    secrets: list[str] = []
    for test in (first, second, third):
        running(tmp_path, test)


def test_successor_guest_is_separate_for_holders_of_shared_tokens(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        secret = await rig.token("a", "hear,control", ["alice", "bob"])
        headers = {"Authorization": f"Bearer {secret}"}
        events = f"ws://{rig.daemon.serving.address}/api/v1/events"
        native = rig.daemon.config.runtime / "native.sock"
        async with rig.http.ws_connect(events, headers=headers) as line, Bus(native, "t", secret) as program:
            listener = await joined(rig, secret)
            await rig.daemon.worker.remove_guest("bob")
            bob = await rig.daemon.worker.add_guest("bob", {})
            await rig.daemon.worker.add_sink(bob, "secret", "")
            body = {"target": "sink/secret", "settings": {"mute": "on"}}
            assert (await rig.ask("POST", "/api/v1/set", secret, body))[0] == 404
            with pytest.raises(GraphError, match="no sink/secret"):
                await program.call("set", **body)
            # Its remaining rights continue to work.
            await rig.daemon.worker.add_sink(rig.daemon.worker.guest("alice"), "known", "")
            told = ""
            while "known" not in told:
                told += (await line.receive(5)).data
            assert "secret" not in told and not listener.closed
            assert [guest["name"] for guest in (await program.call("state"))["guests"]] == ["alice"]

    running(tmp_path, test)


def test_grants_survive_restart(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        body = {"what": "monitor", "program": "pacat", "allow": False}
        assert (await rig.ask("POST", "/api/v1/guests/alice/grants", "", body))[0] == 200
        assert (await rig.ask("POST", "/api/v1/guests/alice/grants", "", body | {"program": "x"}))[0] == 200
        assert (await rig.ask("POST", "/api/v1/guests/alice/grants", "", body | {"program": "x", "allow": None}))[
            0
        ] == 200

    async def second(rig: Rig) -> None:
        assert list(rig.daemon.worker.guest("alice").admission.grants) == [(Permission.MONITOR, "pacat", Verdict.DENY)]
        assert not list(rig.daemon.worker.guest("bob").admission.grants)
        see = await rig.token("a", "see", ["bob"])
        assert (await rig.ask("GET", "/api/v1/grants", see))[1] == "[]"

    for test in (first, second):
        running(tmp_path, test)


def test_simultaneous_changes_of_one_requester_delay_nobody_else(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = await rig.token("alice", "admin", ["alice"])
        bob = await rig.token("bob", "admin", ["bob"])
        done: list[str] = []

        async def change(guest: str, secret: str) -> None:
            body = {"target": "sink/millrace", "settings": {"volume": "50%"}, "guest": guest}
            status, text = await rig.ask("POST", "/api/v1/set", secret, body)
            assert status == 200, text
            done.append(guest)

        async with rig.daemon.worker.writer.turn:
            flood = [asyncio.create_task(change("alice", alice)) for _ in range(40)]
            await asyncio.sleep(0.5)
            other = asyncio.create_task(change("bob", bob))
            await asyncio.sleep(0.2)
        await asyncio.gather(*flood, other)
        assert done.index("bob") <= 3

    running(tmp_path, test)


def test_unsaved_settings_wait_for_no_disk(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        body = {"target": "sink/millrace", "settings": {"volume": "50%"}, "guest": "alice"}
        async with rig.daemon.worker.writer.turn:
            kept = asyncio.create_task(rig.ask("POST", "/api/v1/set", "", body))
            await asyncio.sleep(0.2)
            async with asyncio.timeout(10):
                status, _ = await rig.ask("POST", "/api/v1/set", "", body | {"target": "stream/1"})
                assert status == 404
                status, _ = await rig.ask("POST", "/api/v1/page-links", "", {})
                assert status == 200
            assert not kept.done()
        assert (await kept)[0] == 200

    running(tmp_path, test)


def test_doors_per_guest_are_limited(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        for number in range(DOORS_MAX):
            rig.daemon.worker.attach(rig.daemon.worker.guests["alice"], parse_door(f"qmp:{tmp_path}/{number}"))
        with pytest.raises(GraphError, match="the maximum"):
            rig.daemon.worker.attach(rig.daemon.worker.guests["alice"], parse_door(f"qmp:{tmp_path}/more"))
        rig.daemon.worker.attach(rig.daemon.worker.guests["bob"], parse_door(f"qmp:{tmp_path}/more"))

    running(tmp_path, test)


@pytest.mark.parametrize("path", ["api/v1/events", "alice"])
def test_websockets_are_never_compressed(path: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        headers = {"Authorization": f"Bearer {await rig.token('a', 'see,hear', ['alice'])}"}
        async with rig.http.ws_connect(
            f"ws://{rig.daemon.serving.address}/{path}", headers=headers, compress=15
        ) as line:
            assert line.compress == 0

    running(tmp_path, test)
