"""Browsers' sessions and the links that begin them: what they let in, where, and until when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from millrace.control import tokens as access_module
from millrace.control.storefile import NotSaved
from millrace.errors import RightsError
from millrace.lab.impair import Impairment
from millrace.rights.model import OWNER, Right
from millrace.server.http.authentication import CREDENTIAL, SUBPROTOCOL
from millrace.sim.net import Path as ImpairedPath
from millrace.wire.peer.messages import Hello, encode_message
from tests.identityrig import Rig, bearer, running, session_of
from tests.nativebus import eventually

# -- sessions and links --------------------------------------------------------------------------------------


def test_session_ends_with_its_token_immediately(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token("see", ("alice",))
        status, mine = await rig.enter(secret)
        assert status == 200 and secret not in str(mine)
        status, text = await rig.ask(**mine)
        assert status == 200 and "bob" not in text
        new = await rig.daemon.worker.access.rotate(number)
        assert (await rig.ask(**mine))[0] == 401, "holders of the old secret may have lost access permanently"
        _, mine = await rig.enter(str(new))
        assert await rig.daemon.worker.access.revoke(number)
        assert (await rig.ask(**mine))[0] == 401

    running(tmp_path, test)


def test_session_is_recognised_and_creates_no_other(tmp_path: Path) -> None:
    """A second session would remain when the first is signed out."""

    async def test(rig: Rig) -> None:
        number, secret = await rig.token("see", ("alice",))
        _, mine = await rig.enter(secret)
        status, text = await rig.ask("/session", "POST", Origin=rig.url, **mine)
        assert (status, json.loads(text)) == (200, {"you": f"token/{number}"})

    running(tmp_path, test)


def test_session_can_not_be_forged(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, mine = await rig.enter((await rig.token("see", ("alice",)))[1])
        word, number, proof = session_of(mine).removeprefix("ms_").split(".")
        owner = "b3duZXI"
        for forged in (
            f"{owner}.{number}.{proof}", f"{word}.{number}.", f"{word}.{number}", word, "", "é", f"{word}.x.{proof}",
            f"{owner}..", "....", "dG9rZW4vwrI.a.b", f"{word}.{number}.{proof}x", f"{word}.{number}.é",
        ):  # fmt: skip
            assert (await rig.ask(**bearer(f"ms_{forged}")))[0] in (401, 429), forged
        assert (await rig.ask(**bearer(f"{word}.{number}.{proof}")))[0] in (401, 429)
        assert (await rig.ask(**mine))[0] == 200

    running(tmp_path, test)


def test_cookie_is_no_credential(tmp_path: Path) -> None:
    """Browsers send cookies to every port of a host, whoever listens there (RFC 6265, section 8.5)."""

    async def test(rig: Rig) -> None:
        _, mine = await rig.enter(rig.daemon.worker.access.key)
        for value in (session_of(mine), session_of(mine).removeprefix("ms_"), rig.daemon.worker.access.key):
            for name in ("millrace", "session", f"millrace-{'0' * 10}"):
                assert (await rig.ask(Cookie=f"{name}={value}"))[0] == 401
        # A cookie left over from Millrace 0.1 does no harm beside a session.
        assert (await rig.ask(Cookie="millrace-0123456789=b3duZXI.a.b", **mine))[0] == 200

    running(tmp_path, test)


def test_ended_session_never_locks_its_user_out(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        number, secret = await rig.token()
        _, mine = await rig.enter(secret)
        await rig.daemon.worker.access.revoke(number)
        assert {(await rig.ask(**mine))[0] for _ in range(40)} == {401}
        assert (await rig.enter((await rig.token())[1]))[0] == 200
        assert (await rig.ask(**bearer("wrong")))[0] == 401, "none of them counts as a guess"

    running(tmp_path, test)


def test_session_survives_daemon_restart_unless_signed_out(tmp_path: Path) -> None:
    kept: list[dict[str, str]] = []

    async def first(rig: Rig) -> None:
        for secret in ((await rig.token("see"))[1], rig.daemon.worker.access.key):
            kept.extend([(await rig.enter(secret))[1] for _ in range(2)])
        for mine in kept[::2]:
            assert (await rig.ask("/session", "DELETE", **mine))[0] == 200
            assert (await rig.ask(**mine))[0] == 401

    async def second(rig: Rig) -> None:
        assert [(await rig.ask(**mine))[0] for mine in kept] == [401, 200, 401, 200]
        assert (rig.daemon.config.runtime / "key").stat().st_mode & 0o777 == 0o600

    running(tmp_path, first)
    running(tmp_path, second)


def test_signing_out_ends_that_sessions_connections_only(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, secret = await rig.token("hear", ("alice",))
        (_, mine), (_, other) = await rig.enter(secret), await rig.enter(secret)
        gone, stays = await rig.watch(session_of(mine)), await rig.watch(session_of(other))
        offered = (SUBPROTOCOL, CREDENTIAL + session_of(mine))
        listener = await rig.http.ws_connect(f"{rig.url}/alice", protocols=offered)
        await listener.send_str(encode_message(Hello()))
        assert "welcome" in (await listener.receive(5)).data
        for line in (gone, stays):
            assert line.protocol == SUBPROTOCOL and "synced" in (await line.receive(5)).data
        assert (await rig.ask("/session", "DELETE", **mine))[0] == 200
        for line in (gone, listener):
            async with asyncio.timeout(5):
                while (await line.receive()).type is aiohttp.WSMsgType.TEXT:
                    continue
        assert not stays.closed and (await rig.ask(**other))[0] == (await rig.ask(**bearer(secret)))[0] == 200
        assert (await rig.ask("/session", "DELETE", **bearer(secret)))[0] == 400, (
            "only token administrators revoke tokens"
        )
        assert (await rig.ask("/session", "DELETE"))[0] == 401
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await rig.watch(session_of(mine))
        await stays.close()

    running(tmp_path, test)


def test_nothing_can_start_with_a_signed_out_session(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        access = rig.daemon.worker.access
        principal = access.admit(session_of((await rig.enter(access.key))[1]), "127.0.0.1")
        await access.sign_out(principal)
        with pytest.raises(RightsError, match="signed out"):
            access.enter(principal, lambda why: None, lambda guest: None)
        assert not list(access._live_sessions)

    running(tmp_path, test)


def test_sign_out_that_can_not_be_stored_is_stored_once_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "SAVE_AGAIN_S", 0.02)

    async def test(rig: Rig) -> None:
        daemon, full, tries = rig.daemon, [True], []
        store, access = daemon.worker.store, daemon.worker.access
        keep = store.keep_ended

        def kept(*args: Any) -> None:
            tries.append(args)
            if full[0]:
                raise NotSaved("the disk is read-only")
            keep(*args)

        monkeypatch.setattr(store, "keep_ended", kept)
        session = session_of((await rig.enter(access.key))[1])
        principal = access.admit(session, "127.0.0.1")
        with pytest.raises(NotSaved):
            await access.sign_out(principal)
        assert access.by_session(session) is None
        await eventually(lambda: len(tries) > 2)
        assert not store.ended()
        full[0] = False
        await eventually(lambda: store.ended() == [(principal.secret, principal.session)])
        await eventually(lambda: not access._unsaved and access._again is None)
        full[0] = True
        with pytest.raises(NotSaved):
            await access.sign_out(access.admit(session_of((await rig.enter(access.key))[1]), "127.0.0.1"))
        again = access._again
        access.close()
        assert again is not None and again.cancelled()

    running(tmp_path, test)


def test_changes_of_others_do_not_wait_for_one_flooding_requester(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that may only hear signs out on fifty connections, and a guest sets fifty levels; the disk is slow."""

    async def test(rig: Rig) -> None:
        daemon, kept = rig.daemon, []
        _, secret = await daemon.worker.access.new("theirs", Right.HEAR, ("alice",), 0)
        sessions = [session_of((await rig.enter(secret))[1]) for _ in range(50)]
        store = daemon.worker.store

        def slowly(what: str, change: Callable[..., Any]) -> Callable[..., Any]:
            def kept_at_last(*args: Any) -> Any:
                time.sleep(0.01)
                kept.append(what)
                return change(*args)

            return kept_at_last

        for what in ("keep_ended", "keep_level", "add_token"):
            monkeypatch.setattr(store, what, slowly(what, getattr(store, what)))
        louder = {"target": "sink/default", "guest": "alice", "settings": {"volume": "50%"}}
        async with asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(daemon.worker.access.sign_out(daemon.worker.access.admit(session, "127.0.0.1")))
                tasks.create_task(daemon.plane.run(OWNER, "set", louder))
            await asyncio.sleep(0.05)
            assert "add_token" not in kept
            before = len(kept)
            await daemon.worker.access.new("the owner's", Right.HEAR, ("bob",), 0)
            assert kept.index("add_token") - before <= 4, kept
        assert kept.count("keep_ended") == kept.count("keep_level") == 50
        assert all(daemon.worker.access.by_session(session) is None for session in sessions)

    running(tmp_path, test)


def test_websocket_credential_is_neither_echoed_nor_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(rig: Rig) -> None:
        session = session_of((await rig.enter(rig.daemon.worker.access.key))[1])
        for offered, more, status in (
            ((CREDENTIAL + session,), {}, 400), ((CREDENTIAL + session, "other"), {}, 400),
            ((SUBPROTOCOL, CREDENTIAL + session, CREDENTIAL + session), {}, 400),
            ((SUBPROTOCOL, CREDENTIAL + session), bearer(session), 400),
            ((SUBPROTOCOL, CREDENTIAL + session), {"Origin": "http://127.0.0.1:1"}, 403),
            ((SUBPROTOCOL, CREDENTIAL), {}, 401), ((SUBPROTOCOL,), {}, 401),
        ):  # fmt: skip
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await rig.http.ws_connect(f"{rig.url}/api/v1/events", protocols=offered, headers=more)
            assert refused.value.status == status, offered
        line = await rig.watch(session, Origin=rig.url)
        assert line.protocol == SUBPROTOCOL
        await line.close()
        assert session not in caplog.text

    running(tmp_path, test)


def test_key_readable_by_others_is_replaced(tmp_path: Path) -> None:
    seen = []

    async def test(rig: Rig) -> None:
        seen.append(rig.daemon.worker.access.key)
        (rig.daemon.config.runtime / "key").chmod(0o640)

    running(tmp_path, test)
    running(tmp_path, test)
    assert seen[0] != seen[1]


def test_session_of_one_daemon_is_invalid_at_another(tmp_path: Path) -> None:
    kept: list[dict[str, str]] = []

    async def first(rig: Rig) -> None:
        kept.append((await rig.enter(rig.daemon.worker.access.key))[1])

    async def second(rig: Rig) -> None:
        assert (await rig.ask(**kept[0]))[0] == 401

    running(tmp_path / "a", first)
    running(tmp_path / "b", second)


def test_link_admits_one_browser_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, code = rig.daemon.page_link().split("#in=")
        assert (await rig.ask(**bearer(code)))[0] == 401, "a link is not a token"
        assert (await rig.enter(code, Origin="http://evil.example"))[0] == 403
        status, mine = await rig.enter(code)
        assert status == 200 and (await rig.ask("/api/v1/tokens", **mine))[0] == 200
        assert rig.daemon.worker.access.key not in str(mine), "the owner's key is never given to a browser"
        assert (await rig.enter(code))[0] == 401
        admin = (await rig.token())[1]
        assert (await rig.ask("/api/v1/page-links", "POST", **bearer(admin)))[0] == 403

    running(tmp_path, test)


def test_link_expires_after_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        _, code = rig.daemon.page_link().split("#in=")
        later = access_module.now_ns() + (access_module.LINK_S + 1) * 10**9
        monkeypatch.setattr(access_module, "now_ns", lambda: later)
        assert (await rig.enter(code))[0] == 401

    running(tmp_path, test)


def test_page_behind_impairing_proxy_authenticates_as_itself(tmp_path: Path) -> None:
    """`lab impair` is in between, and negotiates the WebSocket's subprotocol on behalf of the daemon."""

    async def test(rig: Rig) -> None:
        runner = web.AppRunner(Impairment(f"ws://{rig.daemon.serving.address}", ImpairedPath()).application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        offered = (SUBPROTOCOL, CREDENTIAL + session_of((await rig.enter(rig.daemon.worker.access.key))[1]))
        between = f"http://127.0.0.1:{runner.addresses[0][1]}"
        line = await rig.http.ws_connect(f"{between}/alice", protocols=offered, headers={"Origin": between})
        await line.send_str(encode_message(Hello()))
        assert line.protocol == SUBPROTOCOL and "welcome" in (await line.receive(5)).data
        await line.close()
        await runner.cleanup()

    running(tmp_path, test)


# -- what a page is told -------------------------------------------------------------------------------------


def test_page_is_told_its_rights_and_why_it_is_watched_no_longer(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        _, secret = await rig.token("hear", ("alice",))
        _, mine = await rig.enter(secret)
        assert json.loads((await rig.ask(**mine))[1])["may"] == ["see", "hear"]
        events = await rig.watch(session_of(mine))
        await rig.daemon.stop()
        while (last := await events.receive()).type is aiohttp.WSMsgType.TEXT:
            assert not json.loads(last.data)["gone"], "nothing that the daemon's end removes is told as a change"
        assert (last.type, last.extra) == (aiohttp.WSMsgType.CLOSE, "the daemon is stopping")

    running(tmp_path, test)
