"""Native clients of a daemon in this process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from millrace.client.bus import Bus, connect
from millrace.client.nativestream import Recording
from millrace.daemon.app import Daemon
from millrace.wire.native.messages import Hello, Message, Welcome, frame
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
