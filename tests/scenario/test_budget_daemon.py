"""A guest's budget in a running daemon: listeners, watchers, native streams and answers release their memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from millrace.budget import MIB
from millrace.client.bus import Bus, connect
from millrace.codec.parameters import CodecParameters
from millrace.daemon.config import load
from millrace.errors import BudgetError, ConfigError
from millrace.graph.model import Stream
from millrace.guest.guest import Guest
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.server.http.api import BODY_COPIES, REQUEST_BYTES
from millrace.wire.native.messages import HEADER, Fault, frame
from millrace.wire.native.messages import Hello as NativeHello
from millrace.wire.native.session import NativeWire
from millrace.wire.peer.messages import Configure, FormatChanged, encode_message
from tests.nativebus import eventually
from tests.scenario.tenants import Rig, end, joined, running


def state(guest: Guest) -> dict[str, Any]:
    """The guest's limited resources, which must all be released again."""
    return {
        "held": guest.graph.budget.held, "shares": guest.graph.budget.shares(), "streams": set(guest.graph.streams),
        "taps": set(guest.graph.taps), "lanes": len(guest.graph._lanes), "observers": len(guest.graph.observers),
        "groups": len(guest.outlets.groups), "outlets": set(guest.outlets.outlets), "sessions": list(guest.sessions),
        "native": set(guest.native.playback) | set(guest.native.records), "clients": set(guest.pulse.door.clients),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


def settled(guest: Guest, before: dict[str, Any]) -> Any:
    return eventually(lambda: state(guest) == before)


# -- listeners ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bye", "abort", "revoked", "guest removed", "bad message", "refused"])
def test_listener_releases_everything_however_it_ends(how: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        secret = await rig.token("a", "hear,speak", ["alice"])
        with contextlib.suppress(Exception):
            await (await rig.http.get(f"http://{rig.daemon.serving.address}/health")).read()
        await rig.http.connector.close()  # type: ignore[union-attr]
        before = state(alice)
        async with aiohttp.ClientSession() as http:
            own = Rig(rig.daemon, http)
            if how == "refused":
                alice.graph.budget.limit = before["held"] + 1000
                with pytest.raises(aiohttp.WSServerHandshakeError, match="507"):
                    await joined(own, secret)
                alice.graph.budget.limit = 256 * MIB
            else:
                line = await joined(own, secret, microphone=True)
                await line.send_str(encode_message(FormatChanged(CodecParameters(1, "opus", 48_000, ["mono"]))))
                await line.send_str(encode_message(Configure({"bitrate": "32k"})))
                await eventually(lambda: alice.graph.budget.shares().get("tap", 0) and alice.sessions[0].microphone)
                await eventually(lambda: alice.graph.budget.shares()["stream"] > 3 * MIB)
                await end(how, rig, line)
                assert how != "guest removed" or not (alice.graph.streams or alice.graph.taps)
        if how == "guest removed":
            await eventually(lambda: not alice.sessions and not alice.outlets.groups)
            assert set(alice.graph.budget.shares()) == {"sink", "source", "cache"}
            await eventually(lambda: len(os.listdir("/proc/self/fd")) < before["descriptors"])
        else:
            await settled(alice, before)

    running(tmp_path, test)


def test_settings_beyond_budget_are_refused_and_listener_plays_on(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        line = await joined(rig, await rig.token("a", "hear", ["alice"]))
        session = alice.sessions[0]
        group = session.outlet.group
        assert group is not None
        alice.graph.budget.limit = alice.graph.budget.held + 1000
        body = {"target": session.outlet.key, "settings": {"codec": "opus", "channels": "mono"}}
        status, text = await rig.ask("POST", "/api/v1/set", "", body)
        assert status == 507 and "no room" in text, text
        assert session.outlet.group is group and session.outlet.settings.channels != "mono"
        assert group.outlets == [session.outlet] and not line.closed

    running(tmp_path, test)


# -- watchers ----------------------------------------------------------------------------------------


async def deaf_watcher(rig: Rig, secret: str) -> socket.socket:
    """A WebSocket that watches but never reads."""
    host, _, port = rig.daemon.serving.address.rpartition(":")
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(line, (host, int(port)))
    upgrade = (
        f"GET /api/v1/events HTTP/1.1\r\nHost: {rig.daemon.serving.address}\r\nAuthorization: Bearer {secret}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await loop.sock_sendall(line, upgrade.encode())
    return line


def churn(guest: Guest, count: int, name: str = "x" * 3000) -> list[Stream]:
    assert guest.graph.default is not None
    streams = [Stream(guest.graph.ids.take(), "", guest.graph.positions) for _ in range(count)]
    for stream in streams:
        # Longer than a program can make it.
        stream.name = name
        guest.graph.add_stream(stream, guest.graph.default)
    return streams


def test_watcher_that_never_reads_is_disconnected_and_its_backlog_released(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        streams = churn(alice, 200)
        secret = await rig.token("a", "see", ["alice"])
        held = alice.graph.budget.held
        line = await deaf_watcher(rig, secret)
        await eventually(lambda: "watcher" in alice.graph.budget.shares())
        most = 0
        for round_ in range(60):
            for stream in streams:
                alice.graph.set_mute(stream, round_ % 2 == 0)
            await asyncio.sleep(0.01)
            most = max(most, alice.graph.budget.shares().get("watcher", 0))
            if not rig.daemon.worker.registry._watchers:
                break
        assert not rig.daemon.worker.registry._watchers and MIB < most < 9 * MIB
        await eventually(lambda: alice.graph.budget.held == held)
        line.close()

    running(tmp_path, test)


def test_unread_events_are_bounded_by_guest_budget(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        streams = churn(alice, 100)
        secret = await rig.token("a", "see", ["alice"])
        budget = alice.graph.budget
        held = budget.held
        budget.limit = held + 4 * MIB
        lines = [await deaf_watcher(rig, secret) for _ in range(6)]
        await eventually(lambda: len(rig.daemon.worker.registry._watchers) == 6)
        for round_ in range(40):
            for stream in streams:
                alice.graph.set_mute(stream, round_ % 2 == 0)
            await asyncio.sleep(0.01)
            assert budget.held <= held + 4 * MIB
        assert len(rig.daemon.worker.registry._watchers) < 6
        for line in lines:
            line.close()
        await eventually(lambda: budget.held == held)

    running(tmp_path, test)


def test_unread_answer_is_charged_and_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.server.http.reading.READ_S", 0.5)

    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        churn(alice, 500, "x" * 14_000)
        secret = await rig.token("a", "see", ["alice"])
        status, text = await rig.ask("GET", "/api/v1/state", secret)
        assert status == 200 and json.loads(text)["guests"] and len(text) > MIB
        budget = alice.graph.budget
        held = budget.held
        host, _, port = rig.daemon.serving.address.rpartition(":")
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect((host, int(port)))
        here = rig.daemon.serving.address
        request = f"GET /api/v1/state HTTP/1.1\r\nHost: {here}\r\nAuthorization: Bearer {secret}\r\n\r\n"
        line.sendall(request.encode())
        await eventually(lambda: budget.shares().get("answer", 0) > MIB)
        await eventually(lambda: budget.held == held)
        line.close()
        budget.limit = held
        status, text = await rig.ask("GET", "/api/v1/state", secret)
        assert status == 507 and "no room" in text

    running(tmp_path, test)


def test_body_is_charged_while_its_request_waits_for_a_turn(tmp_path: Path) -> None:
    size, come = 60_000, asyncio.Event()

    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        secret = await rig.token("a", "hear", ["alice"])
        budget, do = alice.graph.budget, alice.turns.do
        held = budget.held

        async def waiting(work: Coroutine[Any, Any, Any]) -> Any:
            await come.wait()
            return await do(work)

        alice.turns.do = waiting  # type: ignore[method-assign]
        host, _, port = rig.daemon.serving.address.rpartition(":")
        lines = [socket.create_connection((host, int(port))) for _ in range(3)]
        for line in lines:
            head = f"POST /api/v1/set HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {secret}\r\n"
            line.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode() + bytes(1000))
        each = REQUEST_BYTES + BODY_COPIES * size
        await eventually(lambda: budget.held == held + 3 * each)
        assert budget.shares()["request"] == 3 * each
        come.set()
        for line in lines:
            line.close()
        await eventually(lambda: budget.held == held)

    running(tmp_path, test)


# -- native ------------------------------------------------------------------------------------------


def of_guest(rig: Rig) -> Bus:
    return connect(rig.daemon.config.runtime / "alice" / "native", name="test")


@pytest.mark.parametrize(
    "how", ["close", "connection", "killed", "recorder killed", "grant", "refused", "guest removed"]
)
def test_native_streams_release_everything_however_they_end(how: str, tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        before = state(alice)
        bus = await of_guest(rig).__aenter__()
        playing = await bus.play(guest="alice", rate=44_100).__aenter__()
        recording = await bus.record("sink/default", guest="alice").__aenter__()
        assert alice.graph.budget.held > before["held"] + 100_000
        if how == "close":
            await bus.call("close", stream=playing.id)
            await bus.call("close", stream=recording.id)
        elif how == "killed":
            alice.graph.remove_stream(alice.graph.streams[playing.id])
        elif how == "recorder killed":
            alice.graph.remove_tap(alice.graph.taps[recording.id])
        elif how == "grant":
            alice.admission.grants.set(Permission.MONITOR, ANY, Verdict.DENY)
            for session in list(rig.daemon.worker.sessions):
                session.end_forbidden("alice")
        elif how == "refused":
            alice.graph.budget.limit = alice.graph.budget.held + 1000
            for _ in range(5):
                with pytest.raises(BudgetError, match="no room"):
                    await bus.play(guest="alice").__aenter__()
                with pytest.raises(BudgetError, match="no room"):
                    await bus.record("sink/default", guest="alice").__aenter__()
        elif how == "guest removed":
            await rig.daemon.worker.remove_guest("alice")
        bus.close()
        if how == "guest removed":
            await eventually(lambda: set(alice.graph.budget.shares()) == {"sink", "source", "cache"})
            assert not alice.native.playback and not alice.native.records
            await eventually(lambda: len(os.listdir("/proc/self/fd")) < before["descriptors"])
        else:
            await settled(alice, before)

    running(tmp_path, test)


def test_pending_calls_and_unfinished_messages_are_charged(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        budget = alice.graph.budget
        held = budget.held
        budget.limit = held + 4 * MIB
        path = str(rig.daemon.config.runtime / "alice" / "native")
        lines, codes = [], []
        for _ in range(8):
            line = socket.socket(socket.AF_UNIX)
            line.setblocking(False)
            line.connect(path)
            line.send(frame(NativeHello()) + HEADER.pack(MIB, 2, 0, 0))
            lines.append(line)
            for _ in range(8):
                await asyncio.sleep(0.002)
                with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                    line.send(bytes(120_000))
            assert budget.held <= held + 4 * MIB
        for line in lines:
            wire = NativeWire(daemon=False)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                wire.receive(line.recv(65_536), 0)
            codes += [message.code for message, _ in wire.events() if isinstance(message, Fault)]
            line.close()
        assert set(codes) == {"limit"}
        await eventually(lambda: budget.held == held)
        async with of_guest(rig) as bus:
            with pytest.raises(BudgetError, match="arguments of 400"):
                await bus.call("set", target="x" * 400_000)
        await eventually(lambda: budget.held == held)

    running(tmp_path, test)


def test_memory_limit_is_configured_and_shown(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[guest.alice]\nmemory = "64M"\n[guest.bob]\n')
    alice, bob = load(tmp_path / "c.toml").guests
    assert (alice.memory, bob.memory) == (64_000_000, 256 * MIB)
    for wrong in ('"1k"', '"lots"', "true", "-1"):
        (tmp_path / "c.toml").write_text(f"[guest.alice]\nmemory = {wrong}\n")
        with pytest.raises(ConfigError, match=r"guest\.alice\.memory"):
            load(tmp_path / "c.toml")

    async def test(rig: Rig) -> None:
        budget = rig.daemon.worker.guest("alice").graph.budget
        state = json.loads((await rig.ask("GET", "/api/v1/state", ""))[1])
        memory = next(guest for guest in state["guests"] if guest["name"] == "alice")["memory"]
        assert memory == {"held": budget.held, "max": 256 * MIB, "refused": 0, "for": budget.shares()}
        metrics = (await rig.ask("GET", "/metrics", ""))[1]
        assert 'millrace_guest_held_bytes{guest="alice"}' in metrics and "millrace_guest_held_bytes_max" in metrics

    running(tmp_path, test)


def test_refusal_for_lack_of_memory_is_reported(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = rig.daemon.worker.guest("alice")
        alice.graph.budget.limit = alice.graph.budget.held + 1000
        with pytest.raises(BudgetError):
            churn(alice, 1)
        told = [i for i in rig.daemon.worker.diagnosis.incidents if (i.stage, i.cause) == ("guest", "no memory")]
        assert len(told) == 1 and told[0].guest == "alice" and told[0].evidence["for"] == "stream"

    running(tmp_path, test)
