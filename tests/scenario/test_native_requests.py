"""The native protocol: pending requests, claimed names and ducking."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from millrace.daemon.app import Daemon
from millrace.errors import ConfigError, GraphError, PeerLost, RightsError
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.units import NS_PER_MS
from tests.nativebus import eventually, of_daemon, of_guest, running

# -- pending requests ----------------------------------------------------------------------------------


async def waiting(daemon: Daemon) -> str:
    await eventually(lambda: list(daemon.worker.prompts))
    return next(iter(daemon.worker.prompts)).key


@pytest.mark.parametrize("always", [False, True])
def test_unknown_program_sees_nothing_until_allowed(tmp_path: Path, always: bool) -> None:
    async def test(daemon: Daemon) -> None:
        grants = daemon.worker.guest("alice").admission.grants
        grants.set(Permission.CONNECT, ANY, Verdict.PROMPT)
        told: list[str] = []
        bus = of_guest(daemon)
        bus.on_wait = lambda request, what: told.append(what)
        entering = asyncio.create_task(bus.__aenter__())
        async with of_daemon(daemon) as owner:
            key = await waiting(daemon)
            requests = await owner.call("requests")
            assert [r["id"] for r in requests] == [key] and requests[0]["what"] == "connect"
            assert "python" in requests[0]["program"] and not entering.done()
            await owner.call("decide", request=key, allow=True, always=always)
            await entering
            assert told == ["connect"] and bus.rights
            with pytest.raises(GraphError, match="answered"):
                await owner.call("decide", request=key, allow=False)
        bus.close()
        again = of_guest(daemon)
        entering = asyncio.create_task(again.__aenter__())
        if always:
            await entering
            assert Verdict.ALLOW in {verdict for _, _, verdict in grants}
        else:
            daemon.worker.prompts.decide(daemon.worker.prompts.get(await waiting(daemon)), False)  # type: ignore[arg-type]
            with pytest.raises(RightsError, match="denied"):
                await entering
        again.close()

    running(tmp_path, test)


def test_unanswered_request_is_denied_and_withdrawn_when_client_leaves(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        daemon.worker.prompts._timeout_ns = 50 * NS_PER_MS
        daemon.worker.guest("alice").admission.grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
        async with of_guest(daemon) as bus:
            with pytest.raises(RightsError, match="no grant"):
                await bus.record("source/microphone", guest="alice").__aenter__()
            async with bus.record("sink/default", guest="alice"):
                pass
        daemon.worker.prompts._timeout_ns = 10_000 * NS_PER_MS
        leaver = of_guest(daemon)
        await leaver.__aenter__()
        task = asyncio.create_task(leaver.record("source/microphone", guest="alice").__aenter__())
        await waiting(daemon)
        leaver.close()
        await eventually(lambda: not list(daemon.worker.prompts))
        with pytest.raises(PeerLost):
            await task

    running(tmp_path, test)


def test_revoked_grant_ends_its_recorders(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as owner, of_guest(daemon) as bus:
            async with bus.record("source/microphone", guest="alice") as recording:
                await owner.call("grant", guest="alice", what="microphone", allow=False)
                with pytest.raises(PeerLost, match="grant"):
                    while True:
                        await recording.read()
            with pytest.raises(RightsError, match="no grant"):
                await bus.record("source/microphone", guest="alice").__aenter__()
            await owner.call("grant", guest="alice", what="connect", allow=False)
            await eventually(lambda: bus._lost)
            with pytest.raises(RightsError):
                await of_guest(daemon).__aenter__()
            async with of_guest(daemon, "bob"):
                pass

    running(tmp_path, test)


def test_camera_permission_is_requested(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon) as bus:
            assert await bus.call("ask", what="camera", guest="alice") is True
            daemon.worker.guest("alice").admission.grants.set(Permission.CAMERA, ANY, Verdict.PROMPT)
            asked = asyncio.create_task(bus.call("ask", what="camera", guest="alice"))
            daemon.worker.prompts.decide(daemon.worker.prompts.get(await waiting(daemon)), False)  # type: ignore[arg-type]
            assert await asked is False

    running(tmp_path, test)


# -- names and ducking -----------------------------------------------------------------------------------


def test_claimed_name_passes_to_next_in_queue(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        heard_of: list[tuple[str, bool]] = []
        async with of_daemon(daemon, on_claim=lambda *claim: heard_of.append(claim)) as first:
            assert await first.claim("policy")
            second = await of_daemon(daemon).__aenter__()
            assert not await second.claim("policy")
            third = await of_daemon(daemon).__aenter__()
            assert await third.claim("policy", replace=True)
            await eventually(lambda: heard_of == [("policy", False)])
            third.close()
            await eventually(lambda: heard_of[-1] == ("policy", True))
            second.close()

    running(tmp_path, test)


def test_ducking_ends_with_its_connection(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as player, player.play(guest="alice") as stream:
            node = daemon.worker.guest("alice").graph.streams[stream.id]
            async with of_daemon(daemon) as policy:
                await policy.call("duck", target=stream.key, db=-20)
                assert abs(node.effective_gains[0] - 0.1) < 1e-6 and node.gains[0] == 1.0
                with pytest.raises(ConfigError, match="only streams can be attenuated"):
                    await policy.call("duck", target="sink/default", db=-20, guest="alice")
                with pytest.raises(ConfigError, match="db"):
                    await policy.call("duck", target=stream.key, db=6)
            await eventually(lambda: node.effective_gains[0] == 1.0)

    running(tmp_path, test)


def test_each_connection_keeps_its_own_ducking_when_another_leaves(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as player, player.play(guest="alice") as stream:
            node = daemon.worker.guest("alice").graph.streams[stream.id]
            async with of_daemon(daemon) as stays:
                async with of_daemon(daemon) as goes:
                    await stays.call("duck", target=stream.key, db=-20)
                    await goes.call("duck", target=stream.key, db=-40)
                    await stays.call("duck", target=stream.key, db=-6)
                    assert abs(node.effective_gains[0] - 0.01) < 1e-6
                    await stays.call("duck", target=stream.key, db=-20)
                await eventually(lambda: abs(node.effective_gains[0] - 0.1) < 1e-6)
                await stays.call("duck", target=stream.key, db=0)
                assert node.effective_gains[0] == 1.0

    running(tmp_path, test)
