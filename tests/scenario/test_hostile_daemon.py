"""The native client against a daemon that sends nonsense: the program gets one of Millrace's errors, nothing else."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millrace.client import bus as bus_module
from millrace.client.bus import Bus
from millrace.errors import MillraceError, NoDaemon
from millrace.wire.native.messages import Hello, Message, Objects, Reply, Wait, Welcome, frame
from millrace.wire.native.session import NativeWire

STREAM = {
    "stream": 1, "capacity": 4800, "target": 2400, "frame_bytes": 8, "bytes": 45_056, "format": "float32le",
    "rate": 48_000, "positions": ["front-left", "front-right"],
}  # fmt: skip


async def saying(path: Path, answer: Message) -> asyncio.Server:
    """A daemon that answers every call with `answer`; a reply has the call's serial."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = NativeWire(daemon=True)
        while data := await reader.read(65_536):
            wire.receive(data, 0)
            for message, _ in wire.events():
                if isinstance(message, Hello):
                    writer.write(frame(Welcome(1, "you", [], [])))
                elif isinstance(answer, Reply):
                    writer.write(frame(Reply(message.serial, answer.value)))  # type: ignore[union-attr]
                else:
                    writer.write(frame(answer))
        writer.close()

    return await asyncio.start_unix_server(serve, path)


@pytest.mark.parametrize("raw", [b"\x05", b"\x80", b"\xc1", msgspec.msgpack.encode({"n": -1, "kind": 1})])
def test_invalid_objects_end_the_connection(raw: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with await saying(tmp_path / "s", Objects([msgspec.Raw(raw)])), asyncio.timeout(5):
            with pytest.raises(MillraceError, match="not understood"):
                async with Bus(tmp_path / "s", "test", "") as bus:
                    async for _ in bus.watch():
                        pass

    asyncio.run(main())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("value", [None, 5, {}, {"stream": 1}, STREAM | {"capacity": 2**62}, STREAM | {"rate": "x"}])
def test_impossible_stream_is_refused(value: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with await saying(tmp_path / "s", Reply(0, value)), asyncio.timeout(5):
            with pytest.raises(MillraceError, match="not understood"):
                async with Bus(tmp_path / "s", "test", "") as bus, bus.play():
                    pass

    asyncio.run(main())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_stream_without_its_memory_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with await saying(tmp_path / "s", Reply(0, STREAM)), asyncio.timeout(5):
            with pytest.raises(MillraceError, match="3 descriptors, not 0"):
                async with Bus(tmp_path / "s", "test", "") as bus, bus.play():
                    pass

    asyncio.run(main())


async def silent(path: Path, *words: Message, then: float = 0.0, last: Message | None = None) -> asyncio.Server:
    """A daemon that answers a hello with `words`, and sends `last` after a while, or nothing ever again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for word in words:
            writer.write(frame(word))
        await asyncio.sleep(then)
        if last is not None:
            writer.write(frame(last))
        while await reader.read(65_536):
            pass
        writer.close()

    return await asyncio.start_unix_server(serve, path)


@pytest.mark.parametrize("words", [(), (Wait("request/1", "connect"),) * 3])
def test_daemon_that_never_welcomes_times_out(
    words: tuple[Message, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "WELCOME_S", 0.2)
    monkeypatch.setattr(bus_module, "ASKED_S", 0.2)

    async def main() -> None:
        async with await silent(tmp_path / "s", *words), asyncio.timeout(30):
            with pytest.raises(NoDaemon, match="s does not answer; it may be stopped or busy"):
                async with Bus(tmp_path / "s", "test", ""):
                    pass

    asyncio.run(main())


def test_daemon_that_prompts_gets_a_longer_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "WELCOME_S", 1.0)

    async def main() -> None:
        welcome = Welcome(1, "you", [], [])
        wait = Wait("request/1", "connect")
        async with await silent(tmp_path / "s", wait, then=1.3, last=welcome), asyncio.timeout(30):
            waits: list[str] = []
            bus = Bus(tmp_path / "s", "test", "")
            bus.on_wait = lambda request, what: waits.append(what)
            async with bus:
                assert bus.you == "you" and waits == ["connect"]

    asyncio.run(main())


def test_full_socket_backlog_does_not_block_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped daemon accepts no connections: a blocking connect would wait in the kernel, and the program with it."""
    monkeypatch.setattr(bus_module, "WELCOME_S", 0.2)

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as stopped, socket.socket(socket.AF_UNIX) as first:
            stopped.bind(str(tmp_path / "s"))
            stopped.listen(0)
            first.connect(str(tmp_path / "s"))
            with pytest.raises(NoDaemon, match="may be stopped"):
                async with Bus(tmp_path / "s", "test", ""):
                    pass

    asyncio.run(main())
