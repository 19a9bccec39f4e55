"""The native protocol against a running daemon: sound arrives unchanged, and hostile clients harm no others."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.client.bus import Bus, Change, connect
from millrace.client.nativestream import NativeStream, Recording
from millrace.daemon.app import Daemon
from millrace.errors import BudgetError, ConfigError, GraphError, MillraceError, NoDaemon, PeerLost, RightsError
from millrace.graph.model import Stream
from millrace.guest.config import GuestConfig
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.rights.model import Right, parse_rights
from millrace.units import NS_PER_MS, default_map
from millrace.wire.native.messages import HEADER, Call, Fault, Hello, Kind, Message, Welcome, frame
from millrace.wire.native.session import NativeWire
from tests import bus, virtual

running = partial(bus.running, guests=bus.BOTH)
in_virtual_time = partial(bus.running, guests=bus.BOTH, run=virtual.run)


def of_daemon(daemon: Daemon, **options: Any) -> Bus:
    return connect(daemon.config.runtime / "native.sock", name="test", **options)


def of_guest(daemon: Daemon, guest: str = "alice") -> Bus:
    return connect(daemon.config.runtime / guest / "native", name="test")


def noise(frames: int, channels: int = 2, seed: int = 1) -> Any:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


async def heard(recording: Recording, frames: int) -> Any:
    """`frames` frames from the first that is not silent."""
    blocks: list[Any] = []
    have = 0
    while have < frames:
        block = await recording.read()
        if not blocks:
            loud = np.flatnonzero(block.any(axis=1))
            if not len(loud):
                continue
            block = block[loud[0] :]
        blocks.append(block)
        have += len(block)
    return np.concatenate(blocks)[:frames]


async def eventually(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


# -- sound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32le", "s16le", "s24le", "s32be"])
def test_every_frame_arrives_unchanged(tmp_path: Path, name: str) -> None:
    async def test(daemon: Daemon) -> None:
        sound = noise(24_000)
        async with of_guest(daemon) as bus, bus.record("sink/default", guest="alice") as recording:
            async with bus.play(guest="alice", format=name, latency_ms=40) as stream:
                task = asyncio.create_task(heard(recording, len(sound)))
                await stream.write(sound)
                await stream.drain()
                got = await task
                assert stream.underruns == 0
            assert recording.missed == 0
        scale = {"float32le": 0.0, "s16le": 2.0**-16, "s24le": 2.0**-24, "s32be": 2.0**-24}[name]
        assert np.abs(got - sound).max() <= scale

    in_virtual_time(tmp_path, test)


def test_other_rate_is_resampled_to_its_last_frame_repeatedly(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(22_050) / 44_100).astype(np.float32)[:, None]
        async with of_guest(daemon) as bus, bus.record("sink/default", guest="alice", channels=1) as recording:
            async with bus.play(guest="alice", rate=44_100, channels=1, latency_ms=50) as stream:
                for _ in range(2):
                    task = asyncio.create_task(heard(recording, 23_900))
                    await stream.write(tone)
                    await stream.drain()
                    got = await task
                    want = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(got)) / 48_000)
                    middle = slice(2_000, 20_000)
                    apart = [np.abs(got[middle, 0] - np.roll(want, k)[middle]).max() for k in range(-48, 48)]
                    assert min(apart) < 0.04
                    await asyncio.sleep(0.3)

    in_virtual_time(tmp_path, test)


def test_starved_stream_resumes_with_its_client(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        sound = noise(4_800)
        async with of_guest(daemon) as bus, bus.record("sink/default", guest="alice") as recording:
            async with bus.play(guest="alice", latency_ms=50) as stream:
                await stream.write(sound)
                await eventually(lambda: stream.underruns == 1)
                first = await heard(recording, 4_800)
                await stream.write(sound)
                await eventually(lambda: stream.underruns == 2)
                second = await heard(recording, 4_800)
                assert np.array_equal(first, sound) and np.array_equal(second, sound)

    in_virtual_time(tmp_path, test)


def test_cork_flush_and_levels(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon) as bus, bus.play(guest="alice", latency_ms=500) as stream:
            node = next(iter(daemon.worker.guest("alice").graph.streams.values()))
            await stream.cork()
            await stream.write(noise(20_000))
            await asyncio.sleep(0.05)
            assert not node.active
            await stream.flush()
            assert stream.room == stream.target
            await stream.level(volume="-6dB", mute=True)
            assert node.mute and abs(node.gains[0] - 0.5012) < 1e-3
            with pytest.raises(ConfigError, match="volume"):
                await stream.level(volume="loud")
            await stream.cork(False)
            await stream.write(noise(20_000))
            await eventually(lambda: node.active)

    running(tmp_path, test)


def test_reader_that_pauses_skips_missed_frames_and_continues(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon) as bus, bus.record("sink/default", guest="alice", latency_ms=20) as recording:
            await recording.read()
            await asyncio.sleep(0.3)
            await recording.read()
            assert recording.missed > 4_800
            missed = recording.missed
            for _ in range(10):
                await recording.read()
            assert recording.missed - missed < 4_800

    running(tmp_path, test)


# -- the registry ------------------------------------------------------------------------------------


async def first_look(changes: AsyncIterator[Change]) -> list[Change]:
    out = []
    async for change in changes:
        if change.what == "synced":
            break
        out.append(change)
    return out


def test_watchers_see_objects_appear_change_and_disappear(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as watcher, of_daemon(daemon) as bus:
            changes = watcher.watch()
            there = await first_look(changes)
            assert {c.object.kind for c in there if c.object} == {"guest", "sink", "source"}
            async with bus.play(guest="alice", name="song", props={"media.role": "music"}) as stream:
                change = await anext(changes)
                assert change.what == "added" and change.object and change.object.key == stream.key
                assert change.object.props["role"] == "music" and change.object.guest == "alice"
                await bus.set(stream.key, volume="50%")
                change = await anext(changes)
                assert change.what == "changed" and change.object and change.object.props["volume"] == 50
            change = await anext(changes)
            assert change.what == "removed" and change.object and change.object.key == stream.key
            await bus.call("guest.add", name="carol")
            added = [await anext(changes) for _ in range(3)]
            assert {c.object.guest for c in added if c.object} == {"carol"}
            await bus.call("guest.remove", guest="carol")
            gone = [await anext(changes) for _ in range(3)]
            assert {c.what for c in gone} == {"removed"}

    running(tmp_path, test)


def test_guest_programs_see_only_their_guest(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon, "bob") as watcher, of_daemon(daemon) as owner:
            changes = watcher.watch()
            there = await first_look(changes)
            assert {c.object.guest for c in there if c.object} == {"bob"}
            async with owner.play(guest="alice"), owner.play(guest="bob") as own:
                change = await anext(changes)
                assert change.object and change.object.key == own.key
            assert list(watcher.guests) == ["bob"]
            for attempt in (
                watcher.call("state"),
                watcher.call("set", target="sink/default", settings={"mute": True}, guest="alice"),
            ):  # fmt: skip
                answer: Any = None
                with contextlib.suppress(GraphError):
                    answer = await attempt
                assert "alice" not in str(answer)
            assert not daemon.worker.guest("alice").graph.default.mute  # type: ignore[union-attr]

    running(tmp_path, test)


def test_many_objects_are_sent_in_slices_without_loss(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        graph = daemon.worker.guest("alice").graph
        assert graph.default is not None
        for n in range(1_000):
            graph.add_stream(Stream(graph.ids.take(), f"s{n}", default_map(2)), graph.default)
        async with of_daemon(daemon) as watcher:
            there = await first_look(watcher.watch())
            assert len(there) == 1_000 + 6

    running(tmp_path, test)


def test_watcher_that_does_not_read_is_disconnected_and_others_continue(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        raw = await greeted(daemon)
        raw.sock.send(frame(Call(1, "watch", {})))
        graph = daemon.worker.guest("alice").graph
        async with of_daemon(daemon) as watcher:
            changes = watcher.watch()
            await first_look(changes)
            sinks = [graph.add_sink(f"s{n}") for n in range(200)]
            for sink in sinks:
                sink.description = "x" * 4000
            last = sinks[-1].key
            for round_ in range(500):
                for sink in sinks:
                    graph.set_mute(sink, round_ % 2 == 0)
                # Wait until the reader has seen this round, so that it can't fall behind on a loaded machine.
                async for change in changes:
                    told = change.object
                    if told and told.key == last and told.props.get("mute") is (round_ % 2 == 0):
                        break
                if len(daemon._native[None].sessions) == 1:
                    break
            assert len(daemon._native[None].sessions) == 1
            graph.set_mute(sinks[0], False)
            graph.set_mute(sinks[0], True)
            assert (await anext(changes)).object

    running(tmp_path, test)


# -- rights ------------------------------------------------------------------------------------------


def test_unauthorized_native_calls_are_refused(tmp_path: Path) -> None:
    """From alice's socket: (method, arguments, error)."""
    attempts: list[tuple[str, dict[str, Any], type[MillraceError]]] = [
        ("play", {"guest": "bob"}, GraphError),
        ("record", {"guest": "bob", "at": "sink/default"}, GraphError),
        ("record", {"guest": "bob", "at": "source/microphone"}, GraphError),
        ("record", {"guest": "alice", "at": "{bob_sink}"}, GraphError),
        ("play", {"guest": "alice", "at": "{bob_sink}"}, GraphError),
        ("play", {"guest": "alice", "at": "source/microphone"}, GraphError),
        ("play", {"guest": "alice", "rate": 10**9}, ConfigError),
        ("play", {"guest": "alice", "channels": 10**6}, ConfigError),
        ("play", {"guest": "alice", "latency_ms": 1e12}, ConfigError),
        ("play", {"guest": "alice", "latency_ms": float("nan")}, ConfigError),
        ("play", {"guest": "alice", "format": "mp3"}, ConfigError),
        ("play", {"guest": "alice", "rate": "fast"}, ConfigError),
        ("close", {"stream": 0}, GraphError),
        ("flush", {"stream": -1}, GraphError),
        ("drain", {"stream": 2**62}, GraphError),
        ("cork", {"stream": 1, "corked": "maybe"}, ConfigError),
        ("set", {"target": "{bob_sink}", "settings": {"mute": True}}, GraphError),
        ("set", {"target": "{bob_stream}", "settings": {"volume": "0%"}}, GraphError),
        ("move", {"target": "{bob_stream}", "to": "sink/default"}, GraphError),
        ("link", {"source": "sink/default", "to": "{bob_sink}"}, GraphError),
        ("guest.add", {"name": "eve"}, RightsError),
        ("guest.remove", {"guest": "bob"}, RightsError),
        ("attach", {"guest": "alice", "door": "qmp:/tmp/x"}, RightsError),
        ("tokens", {}, RightsError),
        ("token.new", {"may": "all"}, RightsError),
        ("grant", {"guest": "alice", "what": "microphone", "allow": True}, RightsError),
        ("grant", {"guest": "bob", "what": "microphone", "allow": True}, GraphError),
        ("decide", {"request": "request/1", "allow": True}, GraphError),
        ("claim", {"name": "policy"}, RightsError),
        ("duck", {"target": "{bob_stream}", "db": -20}, GraphError),
        ("duck", {"target": "{bob_stream}", "db": -20, "guest": "bob"}, GraphError),
        ("remember", {"key": "volume/x", "value": "1"}, RightsError),
        ("recall", {}, RightsError),
        ("ask", {"what": "microphone"}, GraphError),
        ("ask", {"what": "camera", "guest": "bob"}, GraphError),
        ("exec", {"command": "sh"}, ConfigError),
        ("", {}, ConfigError),
        ("set", {"target": 7, "settings": []}, ConfigError),
    ]

    async def test(daemon: Daemon) -> None:
        bob = daemon.worker.guest("bob")
        async with of_daemon(daemon) as owner, owner.play(guest="bob") as stream, of_guest(daemon) as bus:
            assert bob.graph.default is not None
            names = {"{bob_sink}": bob.graph.default.key, "{bob_stream}": stream.key}
            before = strip(await owner.call("state"))
            for method, args, error in attempts:
                args = {
                    key: names.get(value, value) if isinstance(value, str) else value for key, value in args.items()
                }
                with pytest.raises(error) as refused:
                    await bus.call(method, **args)
                assert "bob" not in str(refused.value) or "bob" in str(args), (method, refused.value)
            assert strip(await owner.call("state")) == before
            assert "alice" in (await bus.call("state"))["guests"][0]["name"]

    running(tmp_path, test)


def strip(state: dict[str, Any]) -> dict[str, Any]:
    state.pop("refused")
    return state


def test_guest_programs_limited_to_speaking(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon) as bus:
            assert set(bus.rights) == {"see", "speak"}
            with pytest.raises(RightsError):
                await bus.record("sink/default", guest="alice").__aenter__()
            with pytest.raises(RightsError):
                await bus.set("sink/default", mute=True)
            with pytest.raises(RightsError):
                await bus.call("sink.add", guest="alice", name="x")
            async with bus.play(guest="alice") as stream:
                await stream.level(volume="50%")

    guests = (GuestConfig("alice", rights=parse_rights("speak")), GuestConfig("bob"))
    running(tmp_path, test, guests=guests)


def test_token_gives_its_rights_and_its_end_ends_connection(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        token, secret = await daemon.worker.access.new("t", Right.SEE | Right.HEAR, ["alice"], 0)
        with pytest.raises(RightsError, match="wrong, expired or revoked"):
            await of_daemon(daemon, token=secret + "x").__aenter__()
        async with of_daemon(daemon, token=secret) as bus, bus.record("sink/default", guest="alice") as recording:
            assert bus.you == token.principal.key and bus.rights == ("see", "hear")
            with pytest.raises(RightsError):
                await bus.play(guest="alice").__aenter__()
            await daemon.worker.access.revoke(token.id)
            with pytest.raises(PeerLost):
                while True:
                    await recording.read()
            with pytest.raises(RightsError, match="revoked"):
                await bus.call("state")
        assert not daemon.worker.guest("alice").native.records

    running(tmp_path, test)


def test_token_guessing_is_throttled(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        for _ in range(10):
            with pytest.raises(RightsError, match="wrong, expired or revoked"):
                await of_daemon(daemon, token="mr_guess").__aenter__()
        with pytest.raises(RightsError, match="wait"):
            await of_daemon(daemon, token="mr_guess").__aenter__()

    running(tmp_path, test)


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
        async with of_daemon(daemon) as first:
            first.on_claim = lambda name, have: heard_of.append((name, have))
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


# -- hostile clients -------------------------------------------------------------------------------------


class Raw:
    """A socket and a wire session, without the library, which keeps to the protocol."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(path))
        self.sock.setblocking(False)
        self.wire = NativeWire(daemon=False, close_fd=os.close)
        self.messages: deque[Message] = deque()

    async def next(self) -> Message | None:
        """The next message; None if the daemon has closed the connection."""
        loop = asyncio.get_running_loop()
        while not self.messages:
            data = await loop.sock_recv(self.sock, 65536)
            if not data:
                return None
            self.wire.receive(data, 0)
            self.messages += [message for message, _ in self.wire.events()]
        return self.messages.popleft()


async def greeted(daemon: Daemon) -> Raw:
    raw = Raw(daemon.config.runtime / "native.sock")
    raw.sock.send(frame(Hello()))
    assert isinstance(await raw.next(), Welcome)
    return raw


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    os.urandom(64),
    HEADER.pack(2**32 - 1, Kind.CALL, 0, 0),
    HEADER.pack(4, Kind.CALL, 3, 0) + b"abcd",
    HEADER.pack(4, Kind.WELCOME, 0, 0) + b"abcd",
    HEADER.pack(4, Kind.HELLO, 0, 0) + b"\xc1\xc1\xc1\xc1",
    HEADER.pack(3, Kind.CALL, 0, 7) + b"\x80\x80\x80",
    HEADER.pack(65536, Kind.HELLO, 0, 0) + b"\x91" * 65536,
    frame(Hello(version=0)),
    frame(Hello()) + frame(Hello()),
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_malformed_messages_end_only_their_own_connection(tmp_path: Path, data: bytes) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_daemon(daemon) as other:
            raw = Raw(daemon.config.runtime / "native.sock")
            raw.sock.sendall(data)
            last: Message | None = None
            with contextlib.suppress(ConnectionError):
                while (message := await raw.next()) is not None:
                    last = message
            assert isinstance(last, Fault) and (last.serial, last.code) == (0, "protocol")
            assert (await other.call("state"))["guests"]

    running(tmp_path, test)


def test_log_names_guest_and_door_of_failed_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(daemon: Daemon) -> None:
        for place in ("alice/native", "alice/pulse", "native.sock"):
            raw = Raw(daemon.config.runtime / place)
            raw.sock.sendall(b"\xff" * 64)
            with contextlib.suppress(ConnectionError):
                while await asyncio.get_running_loop().sock_recv(raw.sock, 4096):
                    pass

    with caplog.at_level(logging.WARNING):
        running(tmp_path, test)
    said = [record.getMessage() for record in caplog.records]
    for door in (
        "guest alice, native: connection of",
        "guest alice, PulseAudio: connection ended",
        "the daemon's native",
    ):
        assert [line for line in said if line.startswith(door)], said


def test_nothing_is_answered_before_welcome_and_silent_client_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.wire.native.session.HELLO_TIMEOUT_NS", 100 * NS_PER_MS)

    async def test(daemon: Daemon) -> None:
        raw = Raw(daemon.config.runtime / "native.sock")
        raw.sock.send(frame(Call(7, "state", {})))
        answer = await raw.next()
        assert isinstance(answer, Fault) and answer.serial == 7 and answer.code == "rights"
        answer = await raw.next()
        assert isinstance(answer, Fault) and answer.serial == 0
        assert await raw.next() is None

    running(tmp_path, test)


def test_kinds_and_fields_of_newer_version_are_skipped(tmp_path: Path) -> None:
    import msgspec

    async def test(daemon: Daemon) -> None:
        raw = await greeted(daemon)
        raw.sock.send(HEADER.pack(5, 99, 0, 0) + b"later")
        body = msgspec.msgpack.encode({"serial": 3, "method": "state", "args": {}, "colour": "blue"})
        raw.sock.send(HEADER.pack(len(body), Kind.CALL, 0, 0) + body)
        answer = await raw.next()
        assert not isinstance(answer, Fault) and answer is not None

    running(tmp_path, test)


def test_descriptors_from_clients_are_closed(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        raw = await greeted(daemon)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            socket.send_fds(raw.sock, [frame(Call(1, "state", {}))], [0, 1, 2])
            await raw.next()
        assert len(os.listdir("/proc/self/fd")) == before

    running(tmp_path, test)


def opened(stream: NativeStream) -> tuple[Any, Any, Any]:
    """The parts of a stream that its client can manipulate."""
    assert stream._ring is not None and stream._bell is not None
    return stream._ring, stream._memory, stream._bell


@pytest.mark.parametrize("position", [2**64 - 1, 2**63, 10**9, 0])
def test_corrupted_positions_end_only_that_stream(tmp_path: Path, position: int) -> None:
    async def test(daemon: Daemon) -> None:
        sound = noise(24_000)
        async with of_guest(daemon) as bus, bus.record("sink/default", guest="alice") as recording:
            async with bus.play(guest="alice", latency_ms=40) as good, bus.play(guest="alice", latency_ms=40) as evil:
                await evil.write(np.zeros((4_800, 2), np.float32))
                task = asyncio.create_task(heard(recording, len(sound)))
                writing = asyncio.create_task(good.write(sound))
                await asyncio.sleep(0.05)
                opened(evil)[0].written = position
                opened(evil)[2].ring()
                await eventually(lambda: evil.why)
                assert "impossible" in evil.why
                await writing
                await good.drain()
                assert np.array_equal(await task, sound)

    in_virtual_time(tmp_path, test)


def test_corrupted_samples_are_sanitised(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon) as bus, bus.record("sink/default", guest="alice") as recording:
            async with bus.play(guest="alice", latency_ms=40) as evil:
                await evil.write(np.full((9_600, 2), np.nan, np.float32).tobytes())
                await evil.write(np.full((9_600, 2), np.inf, np.float32).tobytes())
                await evil.write(np.full((9_600, 2), 1e38, np.float32).tobytes())
                for _ in range(5):
                    block = await recording.read()
                    assert np.isfinite(block).all() and np.abs(block).max(initial=0) <= 1.0

    running(tmp_path, test)


def test_repeatedly_corrupted_position_page_is_survived(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        random = np.random.default_rng(5)
        async with of_daemon(daemon) as other, other.record("sink/default", guest="alice") as recording:
            async with of_guest(daemon) as bus:
                for _ in range(20):
                    for stream in (bus.play(guest="alice", latency_ms=10), bus.record("sink/default", guest="alice")):
                        await stream.__aenter__()
                        memory, bell = opened(stream)[1:]
                        for _ in range(5):
                            if stream.why:
                                break
                            memory[:4096] = random.bytes(4096)
                            bell.ring()
                            await asyncio.sleep(0.002)
                        if not stream.why:
                            with contextlib.suppress(MillraceError):
                                await stream.__aexit__(None, None, None)
            for _ in range(5):
                assert np.isfinite(await recording.read()).all()
            assert (await other.call("state"))["guests"]

    running(tmp_path, test)


def test_shared_memory_can_not_be_shrunk_or_grown(tmp_path: Path) -> None:
    kept: list[int] = []

    async def test(daemon: Daemon) -> None:
        import millrace.client.nativestream as module

        real = module.mapped

        def keeping(fd: int, size: int) -> Any:
            kept.append(os.dup(fd))
            return real(fd, size)

        module.mapped = keeping  # type: ignore[assignment]
        try:
            async with of_guest(daemon) as bus, bus.play(guest="alice"):
                for size in (0, 4096, 1 << 30):
                    with pytest.raises(PermissionError):
                        os.ftruncate(kept[0], size)
                with pytest.raises(PermissionError):
                    fcntl.fcntl(kept[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        finally:
            module.mapped = real  # type: ignore[assignment]
            os.close(kept[0])

    running(tmp_path, test)


def test_client_with_blocking_pipes_that_never_reads_blocks_nobody(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        sound = noise(24_000)
        async with of_guest(daemon) as evil, of_guest(daemon) as bus:
            async with (
                evil.play(guest="alice", latency_ms=10) as lazy,
                bus.record("sink/default", guest="alice") as rec,
            ):
                bell = opened(lazy)[2]
                asyncio.get_running_loop().remove_reader(bell._hear_fd)
                for fd in (bell._hear_fd, bell._ring_fd):
                    os.set_blocking(fd, True)
                playback = daemon.worker.guest("alice").native.playback[lazy.id]
                for _ in range(1_000):
                    for _ in range(100):
                        playback._wake()
                    # The daemon runs in this loop too, and would be late because of the test instead of the client.
                    await asyncio.sleep(0)
                async with bus.play(guest="alice", latency_ms=200) as stream:
                    task = asyncio.create_task(heard(rec, len(sound)))
                    await stream.write(sound)
                    await stream.drain()
                    assert np.array_equal(await task, sound)
                asyncio.get_running_loop().add_reader(bell._hear_fd, lambda: None)

    in_virtual_time(tmp_path, test)


def test_killed_client_ends_its_streams_and_leaves_nothing(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        alice = daemon.worker.guest("alice")
        held = alice.graph.budget.held
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            bus = await of_guest(daemon).__aenter__()
            for _ in range(4):
                await bus.play(guest="alice").__aenter__()
                await bus.record("sink/default", guest="alice").__aenter__()
            assert len(alice.native.playback) == len(alice.native.records) == 4
            bus.close()
            await eventually(lambda: not alice.native.playback and not alice.native.records)
        await eventually(lambda: len(os.listdir("/proc/self/fd")) == before)
        assert alice.graph.budget.held == held and not alice.graph.streams

    running(tmp_path, test)


def test_streams_calls_and_memory_are_bounded(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        alice = daemon.worker.guest("alice")
        async with of_guest(daemon) as bus:
            for _ in range(64):
                await bus.play(guest="alice", latency_ms=10).__aenter__()
            with pytest.raises(GraphError, match="64 streams"):
                await bus.play(guest="alice").__aenter__()
        await eventually(lambda: not alice.native.playback)
        async with of_guest(daemon) as bus:
            alice.graph.budget.limit = 500_000
            with pytest.raises(BudgetError, match="memory"):
                await bus.play(guest="alice", latency_ms=4000).__aenter__()
        raw = await greeted(daemon)
        with contextlib.suppress(BlockingIOError):
            raw.sock.send(b"".join(frame(Call(n, "state", {})) for n in range(1, 3_000)))
        codes = [getattr(await raw.next(), "code", "ok") for _ in range(1_500)]
        assert "busy" in codes

    running(tmp_path, test)


def test_exhausted_descriptors_are_reported_and_recovered_from(tmp_path: Path) -> None:
    import resource

    async def test(daemon: Daemon) -> None:
        async with of_guest(daemon) as bus:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, hard))
            try:
                with pytest.raises(GraphError, match=r"descriptor|memory"):
                    await bus.play(guest="alice").__aenter__()
                assert not daemon.worker.guest("alice").native.playback
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with bus.play(guest="alice"):
                pass

    running(tmp_path, test)


def test_symlink_in_place_of_socket_or_directory_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for link in ("r", "r/alice", "r/native.sock", "r/alice/native"):
        place = tmp_path / link
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(elsewhere if link.endswith(("r", "alice")) else tmp_path / "target")
        if not link.endswith(("r", "alice")):
            (tmp_path / "target").write_text("precious")

        async def never(daemon: Daemon) -> None:
            raise AssertionError("it started")

        with pytest.raises(ConfigError, match=r"must be a directory|is not a socket"):
            running(tmp_path, never)
        place.unlink()
    assert (tmp_path / "target").read_text() == "precious" and not list(elsewhere.iterdir())


def test_truncated_messages_of_every_length(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        whole = frame(Hello(name="x")) + frame(Call(1, "state", {}))
        for size in range(0, len(whole), 3):
            raw = Raw(daemon.config.runtime / "native.sock")
            raw.sock.send(whole[:size])
            raw.sock.close()
        async with of_daemon(daemon) as bus:
            assert (await bus.call("state"))["guests"]
        await eventually(lambda: not daemon._native[None].sessions)

    running(tmp_path, test)


ODD: list[Any] = [
    None, True, -1, 0, 1, 2**63 - 1, 1.5, float("inf"), "", "default", "sink/default", "stream/0", "sink/²", "../..",
    "x" * 5000, [], ["alice"], {}, {"volume": "50%"}, {"mute": 7}, b"\x00\xff", [[0.0] * 3], [["a"]], "alice", "50%",
    "-inf", "nan%", "off", "float32le", "microphone", "source/microphone", 2.5, [[1.0, 0.0], [0.0, 1.0]],
]  # fmt: skip


def test_random_commands_never_cause_internal_error(tmp_path: Path) -> None:
    import random

    import msgspec

    async def test(daemon: Daemon) -> None:
        dice = random.Random(7)
        done = 0
        async with of_daemon(daemon) as bus:
            await eventually(lambda: daemon._native[None].sessions)
            (session,) = daemon._native[None].sessions
            takes = {name: command.takes for name, command in daemon.plane.commands.table.items()}
            takes |= {name: kind for name, (kind, _) in session.streams.methods.items()}
            for _ in range(4_000):
                method = dice.choice(sorted(takes))
                fields = [field.name for field in msgspec.structs.fields(takes[method])]
                args = {name: dice.choice(ODD) for name in fields if dice.random() < 0.9}
                try:
                    await bus.call(method, **args)
                    done += 1
                except (ConfigError, GraphError, RightsError):
                    continue
            assert (await bus.call("state"))["you"] == "owner"
        assert done > 100

    running(tmp_path, test)


def test_random_bytes_are_messages_or_refused() -> None:
    import random

    from millrace.errors import RemoteProtocolError

    dice = random.Random(3)
    refused = 0
    for _ in range(3_000):
        wire = NativeWire(daemon=True)
        good = bytearray(frame(Hello(name="a")) + frame(Call(1, "set", {"target": "x", "settings": {"a": 1}})))
        for _ in range(dice.randrange(4)):
            good[dice.randrange(len(good))] = dice.randrange(256)
        try:
            while good:
                size = dice.randrange(1, 20)
                wire.receive(bytes(good[:size]), 0)
                del good[:size]
        except RemoteProtocolError:
            refused += 1
    assert refused > 500


def test_missing_guest_and_missing_daemon_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("MILLRACE_SOCKET", raising=False)

    async def asked(error: type[MillraceError], words: str) -> None:
        with pytest.raises(error, match=words):
            await connect(guest="nobody").__aenter__()

    running(tmp_path, lambda daemon: asked(GraphError, "no guest 'nobody'"), runtime=tmp_path / "millrace")
    asyncio.run(asked(NoDaemon, "start `millrace serve`"))
