"""The socket on which descriptors are handed over: what it takes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError
from millrace.io.handover import Handover
from millrace.io.listeners import Listeners


def asked(path: Path, data: bytes, fds: list[int]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        socket.send_fds(sock, [data], fds)
        answer: dict[str, Any] = json.loads(sock.recv(4096))
        return answer


def test_descriptors_are_taken_with_their_request_and_closed_where_they_are_refused(tmp_path: Path) -> None:
    taken: list[int] = []

    def take(request: dict[str, Any], fd: int) -> dict[str, Any]:
        if request.get("guest") == "nobody":
            raise ConfigError("there is no guest 'nobody'")
        taken.append(fd)
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
            (b"not json", [reader, writer], "expected"),
            (b'{"guest": "vm"}', [], "expected"),
            (b"[]", [reader], "expected"),
        ):
            answer = await loop.run_in_executor(None, asked, path, data, fds)
            assert expected in json.dumps(answer)
        os.close(reader), os.close(writer), os.close(taken[0])
        assert len(taken) == 1
        assert len(os.listdir("/proc/self/fd")) <= open_before + 1
        assert path.stat().st_mode & 0o777 == 0o600
        handover.close()
        assert not path.exists()

    asyncio.run(main())
