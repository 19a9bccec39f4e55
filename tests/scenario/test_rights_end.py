"""What ends together with its owner's rights, what nobody is told, and what a tenant's admin may attach."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from millrace.client.bus import Bus
from millrace.errors import MillraceError
from millrace.guest.machines.address import parse_door
from millrace.server.http.events import WebSocket
from millrace.wire.peer.messages import Hello, encode_message
from millrace.wire.peer.pictures import SCREEN_SUBPROTOCOL, Watch, encode_picture_message
from tests.identityrig import STATE, Rig, bearer, running

# -- what ends together with its owner's rights --------------------------------------------------------------


async def everything(rig: Rig, secret: str) -> tuple[dict[str, str], list[Any], Bus]:
    """One of everything that depends on a token: a session, a listener, watchers, a viewer, a wall, a native line."""
    _, mine = await rig.enter(secret)
    listener = await rig.http.ws_connect(f"{rig.url}/alice", headers=bearer(secret))
    await listener.send_str(encode_message(Hello()))
    assert "welcome" in (await listener.receive(5)).data
    watchers = [await rig.http.ws_connect(f"{rig.url}/api/v1/events", headers=h) for h in (bearer(secret), mine)]
    for watcher in watchers:
        assert "synced" in (await watcher.receive(5)).data
    viewer = await rig.http.ws_connect(
        f"{rig.url}/alice/screen", headers=bearer(secret), protocols=(SCREEN_SUBPROTOCOL,)
    )
    await viewer.send_str(encode_picture_message(Watch()))
    assert "watching" in (await viewer.receive(5)).data
    wall = await rig.http.ws_connect(f"{rig.url}/api/v1/thumbnails", headers=bearer(secret))
    await wall.send_json({"show": ["alice", "bob"]})
    assert (await wall.receive_json(timeout=5))["guest"] == "bob"
    bus = await Bus(rig.daemon.config.runtime / "native.sock", "t", secret).__aenter__()
    await bus.call("set", target="sink/default", settings={"volume": "50%"}, guest="alice")
    return mine, [listener, *watchers, viewer, wall], bus


async def ended(rig: Rig, mine: dict[str, str], lines: list[Any], bus: Bus, secret: str, number: int) -> None:
    for line in lines:
        async with asyncio.timeout(5):
            while (await line.receive()).type is aiohttp.WSMsgType.TEXT:
                continue
        assert line.closed
    with pytest.raises(MillraceError):
        await bus.call("set", target="sink/default", settings={"mute": "on"}, guest="alice")
    await bus.__aexit__(None, None, None)
    alice = rig.daemon.worker.guest("alice")
    assert not [s for s in (*alice.sessions, *alice.viewers.sessions) if not s.closing]
    assert not rig.daemon.worker.registry._watchers and not list(rig.daemon.worker.access._live_sessions)
    assert (await rig.ask(**mine))[0] == (await rig.ask(**bearer(secret)))[0] == 401


def test_everything_using_a_token_ends_when_it_is_revoked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token("hear,watch,control", ("alice",))
        things = await everything(rig, secret)
        assert await rig.daemon.worker.access.revoke(number)
        await ended(rig, *things, secret, number)

    running(tmp_path, test)


@pytest.mark.parametrize(
    ("how", "told"), [("revoked", "the token was revoked"), ("guest removed", "guest alice was removed")]
)
def test_rights_lost_during_handshake_admit_no_listener(
    how: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token("hear", ("alice",))
        alice, prepare = rig.daemon.worker.guest("alice"), WebSocket.prepare

        async def meanwhile(self: WebSocket, request: web.BaseRequest) -> AbstractStreamWriter | None:
            writer = await prepare(self, request)
            if how == "revoked":
                await rig.daemon.worker.access.revoke(number)
            else:
                await rig.daemon.worker.remove_guest("alice")
                await rig.daemon.worker.add_guest("alice", {})
            return writer

        monkeypatch.setattr(WebSocket, "prepare", meanwhile)
        async with rig.http.ws_connect(f"{rig.url}/alice", headers=bearer(secret)) as line:
            message = await line.receive_json()
            assert (message["type"], message["fatal"]) == ("error", True) and told in message["message"]
            assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE
        assert not alice.sessions and not list(rig.daemon.worker.access._live_sessions)

    running(tmp_path, test)


@pytest.mark.parametrize("listening", [True, False])
def test_everything_using_a_token_ends_when_it_expires(listening: bool, tmp_path: Path) -> None:
    """Also without a listener, since listeners are checked periodically anyway."""

    async def test(rig: Rig) -> None:
        number, secret = await rig.token("hear,watch,control", ("alice",), lasts_s=2)
        mine, lines, bus = await everything(rig, secret)
        if not listening:
            await lines[0].close()
        await ended(rig, mine, lines[0 if listening else 1 :], bus, secret, number)

    running(tmp_path, test)


def test_expiry_is_rechecked_soon_in_case_wall_clock_is_set(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        access = rig.daemon.worker.access
        number, secret = await rig.token("hear", ("alice",), lasts_s=86_400)
        principal = access.let_in(secret, "127.0.0.1")
        assert principal.key == f"token/{number}"
        leave = access.enter(principal, lambda why: None, lambda guest: None)
        assert access._timer is not None
        assert access._timer.when() - asyncio.get_running_loop().time() <= 10
        leave()

    running(tmp_path, test)


def test_ended_connections_are_forgotten(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, secret = await rig.token("hear,watch,control", ("alice",))
        _, lines, bus = await everything(rig, secret)
        for line in lines:
            await line.close()
        await bus.__aexit__(None, None, None)
        async with asyncio.timeout(5):
            while list(rig.daemon.worker.access._live_sessions):
                await asyncio.sleep(0.01)

    running(tmp_path, test)


# -- information disclosure ----------------------------------------------------------------------------------


def test_health_checks_need_no_token_and_reveal_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        for headers in ({}, bearer("wrong"), {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert await rig.ask("/health", **headers) == (200, '{"ok": true}')
            assert await rig.ask("/ready", **headers) == (200, '{"ready": true}')
        rig.daemon.worker.store.trouble = "/secret/path: disk is full"
        assert await rig.ask("/ready") == (503, '{"ready": false}')
        assert (await rig.ask("/metrics"))[0] == (await rig.ask("/alice"))[0] == 401
        assert rig.daemon.plane.commands.refused() == 2

    running(tmp_path, test)


def test_invisible_guest_is_reported_like_missing_one(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        mine = bearer((await rig.token("see", ("alice",)))[1])
        for path in (STATE, "/api/v1/incidents"):
            assert (await rig.ask(f"{path}?guest=alice", **mine))[0] == 200
            for name in ("nobody", "bob"):
                status, text = await rig.ask(f"{path}?guest={name}", **mine)
                assert (status, json.loads(text)) == (404, {"error": f"there is no guest {name!r}; there are: alice"})
        for method, path, refused in (("GET", "/api/v1/nothing", 404), ("GET", "/api/v1/tokens/9", 405)):
            status, text = await rig.ask(path, method, **mine)
            told = f"there is no {method} {path}; GET /api/v1/openapi.json lists what there is"
            assert (status, json.loads(text)) == (refused, {"error": told})
        _, text = await rig.ask(f"{STATE}?guest=alice", **mine)
        assert [guest["name"] for guest in json.loads(text)["guests"]] == json.loads(text)["names"] == ["alice"]

    running(tmp_path, test)


def test_incidents_of_removed_guest_can_be_listed(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.daemon.worker.diagnosis.incidents.record("rights", "refused", 1, "carol", "somebody", {})
        owner = bearer(rig.daemon.worker.access.key)
        status, text = await rig.ask("/api/v1/incidents?guest=carol", **owner)
        assert status == 200 and [one["guest"] for one in json.loads(text)] == ["carol"]

    running(tmp_path, test)


def test_every_api_operation_has_its_own_short_summary(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, text = await rig.ask("/api/v1/openapi.json", **bearer(rig.daemon.worker.access.key))
        operations = [one for path in json.loads(text)["paths"].values() for one in path.values()]
        summaries = {one["summary"] for one in operations}
        assert len(summaries) == len(operations) == len(rig.daemon.plane.commands.table)
        for one in operations:
            assert 5 <= len(one["summary"]) <= 60 and one["summary"][0].isupper(), one["operationId"]
            assert not one["summary"].endswith(".") and " " in one["summary"], one["operationId"]

    running(tmp_path, test)


WRITTEN = [
    "/page%2Fx",
    "/page%2F..%2Fapi%2Fv1%2Fstate",
    "//api/v1/state",
    "/page/../api/v1/state",
    "/%61pi/v1/state",
    "/api/v1/state/",
    "/health/../api/v1/state",
    "/health%2F",
    "/session/",
    "/%73ession",
    "/page/..",
    "/page/app.js/../../api/v1/state",
    "/PAGE/app.js",
    "http://x/api/v1/state",
    "/page/%2e%2e/x",
    "/;/api/v1/state",
    "/alice",
    "/%61lice",
    "/page%2Falice",
    "/health;x",
    "/health%00",
]


@pytest.mark.parametrize("path", WRITTEN)
def test_no_spelling_of_a_path_bypasses_authentication(path: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        host, port = rig.daemon.serving.address.split(":")
        for method in ("GET", "POST", "HEAD"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            got = await reader.read()
            writer.close()
            status = int(got.split()[1])
            assert status in (400, 401, 403, 404, 405), (method, got)
            assert b"guests" not in got and b"alice" not in got.replace(b"/alice", b"")

    running(tmp_path, test)


# -- a tenant's admin ----------------------------------------------------------------------------------------


def test_guest_admin_attaches_what_configuration_allows(tmp_path: Path) -> None:
    mine = tmp_path / "alices"
    mine.mkdir()

    async def test(rig: Rig) -> None:
        admin = bearer((await rig.token("admin", ("alice",)))[1])
        run = rig.daemon.config.runtime

        async def attach(door: str, **more: str) -> int:
            status, _ = await rig.ask("/api/v1/guests/alice/doors", "POST", {"door": door} | more, **admin)
            return status

        for door in (
            f"qmp:{run}/native.sock", f"qmp:{run}/api.sock", f"qmp:{run}/bob/pulse", "qmp:/etc/passwd", "qmp:relative",
            f"qmp:{mine}/../run/api.sock", f"qmp:{mine}", f"qmp:{mine}2/x", f"dbus:unix:path={run}/api.sock",
            "dbus:unix:abstract=/tmp/bobs", f"spice+unix://{run}/api.sock", f"vnc+unix://{run}/bob/native",
            "spice://127.0.0.1:5901", "vnc://localhost", "spice://vm7:5901", "vnc://vm8:5900", "x11::1",
            f"x11:{run}/api.sock", f"x11:{mine}/../X1",
        ):  # fmt: skip
            assert await attach(door) == 403, door
        assert await attach("spice+tls://vm7:5900", ca_file="/etc/shadow") == 403
        assert await attach(f"vnc+unix://{mine}/x", password_file="/etc/shadow") == 403
        assert not rig.daemon.worker.guest("alice").machines
        for door in (f"qmp:{mine}/vm.sock", f"dbus:unix:path={mine}/bus", f"vnc+unix://{mine}/a/b", "spice://VM7"):
            assert await attach(door) == 200, door
        everybody = bearer((await rig.token("admin"))[1])
        body = {"door": f"qmp:{tmp_path}/elsewhere"}
        assert (await rig.ask("/api/v1/guests/alice/doors", "POST", body, **everybody))[0] == 200

    running(tmp_path, test)


def test_guest_admin_does_not_learn_what_others_have_attached(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        admin, everybody = bearer((await rig.token("admin", ("alice",)))[1]), bearer((await rig.token("admin"))[1])
        door = "vnc://10.0.0.9:5900"
        before = await rig.ask("/api/v1/guests/alice/doors", "POST", {"door": door}, **admin)
        assert (await rig.ask("/api/v1/guests/bob/doors", "POST", {"door": door}, **everybody))[0] == 200
        assert await rig.ask("/api/v1/guests/alice/doors", "POST", {"door": door}, **admin) == before
        assert before[0] == 403

    running(tmp_path, test)


def test_link_in_guest_folder_does_not_lead_outside(tmp_path: Path) -> None:
    """The guest can write to the folder and could replace a file after a check, so the check is made when opening."""
    mine = tmp_path / "alices"
    mine.mkdir()
    reached: list[str] = []

    async def serve(path: Path) -> asyncio.AbstractServer:
        return await asyncio.start_unix_server(lambda reader, writer: reached.append(path.name), path)

    async def test(rig: Rig) -> None:
        servers = [await serve(tmp_path / "host"), await serve(mine / "own")]
        (mine / "link").symlink_to(tmp_path / "host")
        (mine / "up").symlink_to(tmp_path)
        (mine / "inside").symlink_to("own")
        admin = bearer((await rig.token("admin", ("alice",)))[1])
        doors = [f"qmp:{mine}/link", f"vnc+unix://{mine}/link", f"spice+unix://{mine}/up/host", f"qmp:{mine}/nothing"]
        for door in (*doors, f"x11:{mine}/up/host", f"vnc+unix://{mine}/own", f"qmp:{mine}/inside", f"x11:{mine}/own"):
            assert (await rig.ask("/api/v1/guests/alice/doors", "POST", {"door": door}, **admin))[0] == 200
        async with asyncio.timeout(5):
            while reached.count("own") < 3:
                await asyncio.sleep(0.01)
        assert "host" not in reached
        said = {a.spec.text: a.error for a in rig.daemon.worker.guest("alice").machines}
        assert {said[door].replace(door.partition(":")[2].removeprefix("//"), "") for door in doors[:1]} == {
            said[doors[3]].replace(f"{mine}/nothing", "")
        }, "it does not reveal whether a file exists elsewhere"
        for server in servers:
            server.close()

    running(tmp_path, test)


def test_owner_door_may_be_anywhere(tmp_path: Path) -> None:
    assert parse_door("qmp:/run/x").below == ()
