"""The policy program against a running daemon: it restores, ducks, answers requests, reconnects, and hands over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from millrace.client.bus import Bus, Change, Object
from millrace.daemon.app import Daemon
from millrace.errors import BudgetError, RightsError
from millrace.policy.config import PolicyConfig, Rule
from millrace.policy.model import Policy
from millrace.policy.program import STEP, Program
from millrace.rights.grants import ANY, Permission, Verdict
from tests.nativebus import eventually, noise, of_daemon, of_guest, running


@contextlib.asynccontextmanager
async def policy(daemon: Daemon, config: PolicyConfig | None = None, replace: bool = False) -> AsyncIterator[Program]:
    """Run a policy for the duration of the block."""
    program = Program(daemon.config.runtime / "native.sock", config or PolicyConfig(), replace)
    before = daemon.worker.claims.holder("policy")
    task = asyncio.create_task(program.run())
    await eventually(lambda: daemon.worker.claims.holder("policy") not in (None, before))
    await asyncio.sleep(0.05)
    try:
        yield program
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def played(bus: Bus, daemon: Daemon, role: str = "music", name: str = "mpv") -> tuple[Any, Any]:
    """A stream and its node."""
    stream = await bus.play(guest="alice", props={"application.name": name, "media.role": role}).__aenter__()
    return stream, daemon.worker.guest("alice").graph.streams[stream.id]


def test_level_is_remembered_across_streams_and_restarts(tmp_path: Path) -> None:
    async def first(daemon: Daemon) -> None:
        daemon.worker.guest("alice").graph.add_sink("music")
        async with of_daemon(daemon) as bus:
            async with policy(daemon):
                stream, node = await played(bus, daemon)
                await bus.set(stream.key, volume="30%")
                await bus.move(stream.key, "sink/music", guest="alice")
                await asyncio.sleep(0.1)
                await stream.__aexit__(None, None, None)
                _, node = await played(bus, daemon)
                await eventually(lambda: abs(node.gains[0] - 0.027) < 0.001 and node.sink.name == "music")
                _, other = await played(bus, daemon, role="", name="vlc")
                await asyncio.sleep(0.1)
                assert other.gains[0] == 1.0
            assert await bus.call("recall", prefix="stream/alice/sink-input-by-media-role:music")

    async def second(daemon: Daemon) -> None:
        async with of_daemon(daemon) as bus, policy(daemon):
            _, node = await played(bus, daemon)
            await eventually(lambda: abs(node.gains[0] - 0.027) < 0.001)

    running(tmp_path, first)
    running(tmp_path, second)


def test_call_ducks_and_killed_policy_releases_ducking(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as bus:
            _, music = await played(bus, daemon)
            call, _ = await played(bus, daemon, role="phone", name="phone")
            async with policy(daemon):
                await call.write(noise(9_600))
                await eventually(lambda: abs(music.effective_gains[0] - 0.1) < 1e-6)
                await eventually(lambda: music.effective_gains[0] == 1.0)
                await call.write(noise(9_600))
                await eventually(lambda: music.effective_gains[0] < 1.0)
            await eventually(lambda: music.effective_gains[0] == 1.0)

    running(tmp_path, test)


def test_rules_answer_programs_that_prompt(tmp_path: Path) -> None:
    rules = (Rule("allow", what=("microphone",)), Rule("deny", what=("monitor",)))

    async def test(daemon: Daemon) -> None:
        for what in (Permission.MICROPHONE, Permission.MONITOR):
            daemon.worker.guest("alice").admission.grants.set(what, ANY, Verdict.PROMPT)
        async with policy(daemon, PolicyConfig(rules=rules)), of_guest(daemon) as bus:
            async with bus.record("source/microphone", guest="alice"):
                pass
            with pytest.raises(RightsError):
                await bus.record("sink/default", guest="alice").__aenter__()
            # A one-time grant applied only to that connection.
            assert not [v for _, name, v in daemon.worker.guest("alice").admission.grants if name != ANY]

    running(tmp_path, test)


def test_another_policy_takes_over_and_hands_back(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as bus, policy(daemon) as first:
            embedded = daemon.worker.claims.holder("policy")
            async with policy(daemon, PolicyConfig(roles=(("music", "sink/other"),)), replace=True):
                daemon.worker.guest("alice").graph.add_sink("other")
                await asyncio.sleep(0.1)
                _, node = await played(bus, daemon)
                await eventually(lambda: node.sink.name == "other")
                assert daemon.worker.claims.holder("policy") is not embedded
            await eventually(lambda: daemon.worker.claims.holder("policy") is not None)
            _, node = await played(bus, daemon, name="third")
            await asyncio.sleep(0.1)
            assert node.sink.name == "millrace" and first.commands == 0

    running(tmp_path, test)


def test_without_policy_unknown_programs_wait_and_known_ones_play(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        daemon.worker.prompts._timeout_ns = 50_000_000
        daemon.worker.guest("alice").admission.grants.set(Permission.CONNECT, ANY, Verdict.PROMPT)
        with pytest.raises(RightsError):
            await of_guest(daemon).__aenter__()
        async with of_guest(daemon, "bob") as bus, bus.play(guest="bob") as stream:
            await stream.write(noise(9_600))
            await stream.drain()

    running(tmp_path, test)


class Told:
    """A bus on which a thousand objects have arrived already."""

    def __init__(self) -> None:
        self.looked_at = 0

    async def watch(self) -> AsyncIterator[Change]:
        """See `Bus`."""
        for number in range(1000):
            self.looked_at += 1
            yield Change("added", Object(number, "client", "alice"))


def test_sound_continues_while_policy_processes_thousands_of_changes() -> None:
    async def test() -> None:
        bus = Told()
        program = Program(Path("none"), PolicyConfig())
        watching = asyncio.create_task(program._watch(cast(Bus, bus), Policy(PolicyConfig())))
        while not watching.done():
            before = bus.looked_at
            await asyncio.sleep(0)
            assert bus.looked_at - before <= STEP
        await watching
        assert bus.looked_at == 1000

    asyncio.run(test())


def test_waiting_policy_names_the_one_in_charge(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(daemon: Daemon) -> None:
        async with policy(daemon):
            second = asyncio.create_task(Program(daemon.config.runtime / "native.sock", PolicyConfig()).run())
            await eventually(lambda: "the policy is held by millrace-policy (process " in caplog.text)
            assert "use --replace" in caplog.text
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)

    running(tmp_path, test)


def test_policy_disconnected_for_falling_behind_reconnects(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with policy(daemon):
            holder = daemon.worker.claims.holder("policy")
            holder.connection._send_away(BudgetError("9556159 bytes were left unread"))
            await eventually(lambda: daemon.worker.claims.holder("policy") not in (None, holder))

    running(tmp_path, test)
