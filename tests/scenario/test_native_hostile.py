"""Hostile native clients: each ends at most its own connection."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.client.nativestream import NativeStream
from millrace.daemon.app import Daemon
from millrace.errors import BudgetError, ConfigError, GraphError, MillraceError, RightsError
from millrace.units import NS_PER_MS
from millrace.wire.native.messages import HEADER, Call, Fault, Hello, Kind, Message, frame
from millrace.wire.native.session import NativeWire
from tests.nativebus import Raw, eventually, greeted, heard, in_virtual_time, noise, of_daemon, of_guest, running

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
