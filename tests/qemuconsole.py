"""QEMU's console with its door and one viewer: what it paints, and what is sent to it."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from millrace.budget import Budget
from millrace.doors.qemu.input import ConsoleInput
from millrace.doors.qemu.screen import QemuScreen
from millrace.graph.model import Ids
from millrace.graph.screen import Picture, Reader
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.io.sharedpicture import shared_picture
from millrace.rights.model import OWNER
from millrace.sim.qemuscreen import FakeConsole, Pixels, exchange
from millrace.wire.qemu.client import Console, DisplayClient
from millrace.wire.qemu.display import ScreenPeer
from millrace.wire.qemu.values import Reader as Values
from millrace.wire.qemu.values import Writer

MIB = 1024 * 1024


def noise(width: int, height: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


class Sent(DisplayClient):
    """What is sent to QEMU's console, decoded; QEMU answers nothing."""

    def __init__(self) -> None:
        super().__init__(0, False, 0)
        self.calls: list[tuple[str, list[int]]] = []

    def _ask(
        self, what: str, path: str, interface: str, member: str, signature: str = "", body: bytes = b"",
        destination: str | None = None, fds: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        if what == "input":
            assert path == "/org/qemu/Display1/Console_2"
            self.calls.append((member, Values(body).values(signature)))


class Rig:
    """A console with its door, and one viewer once `watch` was called."""

    def __init__(
        self, limit: int = 64 * MIB, label: str = "virtio-vga", over: Callable[[], bool] = lambda: False
    ) -> None:  # fmt: skip
        self.console, self.closed = FakeConsole(), list[int]()
        self.budget = Budget(limit=limit)
        self.screens = Screens("alice", Ids(), self.budget)
        self.peer = ScreenPeer(1000, self._close)
        self.client = Sent()
        self.input = ConsoleInput(self.client, 2, lambda: None)
        self.reports: list[str] = []
        self.woken = 0
        self.door = QemuScreen(
            self.screens, self.peer, Console(2, label, 0, True), "door/1", self.input, shared_picture,
            lambda cause, why: self.reports.append(cause), self._wake, over,
        )  # fmt: skip
        self.screen = self.door.screen
        self.now_ns = 10**9
        self.reader: Reader | None = None
        exchange(self.console, self.peer, self.peer.events)

    def _wake(self) -> None:
        self.woken += 1

    def _close(self, fd: int) -> None:
        self.closed.append(fd)
        os.close(fd)

    def step(self, fds: tuple[int, ...] = ()) -> None:
        self.now_ns += 10**6
        self.peer.receive_fds([os.dup(fd) for fd in fds])
        exchange(self.console, self.peer, self.run)
        self.publish()

    def run(self) -> int:
        """What a connection does in its turns; how many it takes."""
        turns = 0
        while self.door.busy:
            self.door.receive(self.now_ns)
            turns += 1
        return turns

    def publish(self) -> None:
        self.door.publish()
        self.run()

    def watch(self) -> Reader:
        self.reader = self.screen.read(Watcher("viewer/1", OWNER))
        self.run()
        self.publish()
        return self.reader

    def shown(self) -> Pixels:
        assert self.screen.memory is not None
        return self.screen.memory.picture

    def taken(self) -> Picture:
        assert self.reader is not None
        picture = self.reader.take(self.now_ns)
        assert picture is not None
        picture.release()
        return picture


class Memory:
    """A memfd that QEMU paints into."""

    def __init__(self, width: int, height: int, stride: int = 0, offset: int = 0) -> None:
        self.width, self.height, self.stride, self.offset = width, height, stride or width * 4, offset
        self.fd = os.memfd_create("qemu", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, offset + self.stride * height)

    def paint(self, picture: Pixels, y: int = 0) -> None:
        for row, line in enumerate(picture):
            os.pwrite(self.fd, line.tobytes(), self.offset + (y + row) * self.stride)

    def show(self, rig: Rig) -> None:
        rig.console.scanout_map(self.fd, self.width, self.height, self.stride, self.offset)
        rig.step((self.fd,))


def numbers(signature: str, *values: int) -> Writer:
    out = Writer()
    for code, value in zip(signature, values, strict=True):
        out.number(code, value)
    return out


def always() -> bool:
    return True
