"""Descriptors that accompany messages: code that refuses them, or fails on them, closes them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from millrace.client.bus import connect
from millrace.errors import ConfigError, GraphError, MillraceError, RemoteProtocolError
from millrace.io.descriptors import Descriptors
from millrace.io.handover import Handover
from millrace.io.listeners import Listeners
from millrace.wire.native.messages import Fault, Message, Notice, Reply, Welcome, frame


def asked(path: Path, data: bytes, fds: list[int]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        socket.send_fds(sock, [data], fds)
        answer: dict[str, Any] = json.loads(sock.recv(4096))
        return answer


def test_descriptors_are_taken_with_their_request_and_closed_if_refused(tmp_path: Path) -> None:
    taken: list[int] = []

    def take(request: dict[str, Any], fd: int) -> dict[str, Any]:
        if request.get("guest") == "odd":
            raise ValueError("a bug of ours")
        if request.get("guest") == "nobody":
            raise ConfigError("there is no guest 'nobody'")
        taken.append(os.dup(fd))
        return {"id": "door/1"}

    async def main() -> None:
        path = tmp_path / "s"
        handover = Handover(path, take, Listeners())
        open_before = len(os.listdir("/proc/self/fd"))
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        for data, fds, expected in (
            (b'{"guest": "vm"}\n', [reader], "id"),
            (b'{"guest": "nobody"}\n', [reader], "no guest"),
            (b'{"guest": "odd"}\n', [reader, writer, reader], "internal error"),
            (b"not json", [reader, writer], "expected"),
            (b'{"guest": "vm"}', [], "expected"),
            (b"[]", [reader], "expected"),
        ):
            answer = await loop.run_in_executor(None, asked, path, data, fds)
            assert expected in json.dumps(answer)
        os.close(reader), os.close(writer), os.close(taken[0])
        assert len(taken) == 1
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert path.stat().st_mode & 0o777 == 0o600
        handover.close()
        assert not path.exists()

    asyncio.run(main())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_not_given_away_are_closed_however_block_ends() -> None:
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="odd"), Descriptors((reader, writer)) as owned:
        assert owned.give() == reader
        raise ValueError("odd")
    os.fstat(reader)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(writer)
    with Descriptors() as owned:
        owned.add(reader)
        assert owned.give_all() == (reader,) and len(owned) == 0
    os.close(reader)


@pytest.mark.parametrize(
    ("answer", "count", "error"),
    [
        (Fault(1, "graph", "there is no such sink"), 3, GraphError),
        (Reply(1, {"stream": 4, "rate": 48_000}), 2, MillraceError),
        (Reply(1, {"nothing": "of a stream"}), 3, RemoteProtocolError),
        (Notice(4, "ended", ""), 3, MillraceError),
    ],
)
def test_client_closes_descriptors_that_it_does_not_take(
    answer: Message, count: int, error: type[Exception], tmp_path: Path
) -> None:
    async def daemon(listener: socket.socket, fds: list[int]) -> None:
        loop = asyncio.get_running_loop()
        sock, _ = await loop.sock_accept(listener)
        with sock:
            await loop.sock_recv(sock, 4096)
            socket.send_fds(sock, [frame(Welcome(1, "guest/alice", [], ["alice"]), 1)], fds[:1])
            await loop.sock_recv(sock, 4096)
            socket.send_fds(sock, [frame(answer, count)], fds[:count])

    async def main() -> None:
        path = tmp_path / "native"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.setblocking(False)
            reader, writer = os.pipe()
            before = open_descriptors()
            task = asyncio.create_task(daemon(listener, [reader, writer, reader]))
            async with asyncio.timeout(10), connect(path, name="test") as bus:
                with pytest.raises(error):
                    async with bus.play(guest="alice"):
                        pass
            await task
            assert open_descriptors() == before
            os.close(reader), os.close(writer)

    asyncio.run(main())
