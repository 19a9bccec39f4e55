"""The native protocol against a running daemon: sound arrives unchanged, and who may see and hear what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.client.bus import Change, connect
from millrace.daemon.app import Daemon
from millrace.errors import ConfigError, GraphError, MillraceError, NoDaemon, PeerLost, RightsError
from millrace.graph.model import Stream
from millrace.guest.config import GuestConfig
from millrace.rights.model import Right, parse_rights
from millrace.units import default_map
from millrace.wire.native.messages import Call, frame
from tests.nativebus import eventually, greeted, heard, in_virtual_time, noise, of_daemon, of_guest, running

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
            with pytest.raises(ConfigError, match="an array of floats, or bytes, is expected, not list"):
                await stream.write([0.0, 0.0])
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
            # Its first listing rests for up to 3 s while it is behind; a fast machine makes many rounds meanwhile.
            for round_ in range(5_000):
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


def test_missing_guest_and_missing_daemon_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("MILLRACE_SOCKET", raising=False)

    async def asked(error: type[MillraceError], words: str) -> None:
        with pytest.raises(error, match=words):
            await connect(guest="nobody").__aenter__()

    running(tmp_path, lambda daemon: asked(GraphError, "no guest 'nobody'"), runtime=tmp_path / "millrace")
    asyncio.run(asked(NoDaemon, "start `millrace serve`"))
