"""QEMU's end of the listener of a console, in memory: sends what QEMU sends, and parses the replies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from millrace.sim.qemu import ServerWire
from millrace.units import HostNs
from millrace.wire.qemu.dbus import ERROR, PROPERTIES
from millrace.wire.qemu.display import LISTENER, MAP, ScreenPeer
from millrace.wire.qemu.values import Writer

PATH = "/org/qemu/Display1/Listener"
XRGB, ARGB, RGB565 = 0x20020888, 0x20028888, 0x10020565
"""Pixman's numbers of formats."""

Pixels = NDArray[np.uint8]
"""(rows, columns, 4)."""


def _numbers(signature: str, *values: int) -> Writer:
    out = Writer()
    for code, value in zip(signature, values, strict=True):
        out.number(code, value)
    return out


class FakeConsole:
    """One registered listener, from QEMU's side."""

    def __init__(self) -> None:
        self.wire = ServerWire()
        self.properties: dict[str, object] | None = None
        """What the listener has answered to GetAll."""
        self.answered: list[int] = []
        self.refused: list[str] = []
        self._asked = self.wire.send_call(PATH, PROPERTIES, "GetAll", "s", Writer().text("s", LISTENER).bytes())

    def receive(self, data: bytes, now_ns: HostNs = 0) -> None:
        """Bytes from the listener."""
        self.wire.receive(data, now_ns)
        for message in self.wire.events():
            if message.kind == ERROR:
                self.refused.append(message.error)
            elif message.reply_to == self._asked:
                self.properties = message.values()[0]
            elif message.reply_to is not None:
                self.answered.append(message.reply_to)

    def data_to_send(self) -> bytes:
        """Bytes to the listener."""
        return b"".join(bytes(chunk.data) for chunk in self.wire.data_to_send())

    def call(
        self, member: str, signature: str, body: Writer, interface: str = LISTENER, fds: tuple[int, ...] = ()
    ) -> int:  # fmt: skip
        """Call the listener; returns the serial of the call."""
        return self.wire.send_call(PATH, interface, member, signature, body.bytes(), fds=fds)

    def scanout(self, picture: Pixels, format_: int = XRGB) -> int:
        """The whole picture."""
        height, width, depth = picture.shape
        body = _numbers("uuuu", width, height, width * depth, format_).blob(picture.tobytes())
        return self.call("Scanout", "uuuuay", body)

    def update(self, x: int, y: int, part: Pixels, format_: int = XRGB) -> int:
        """A part of the picture."""
        height, width, depth = part.shape
        body = _numbers("iiiiuu", x, y, width, height, width * depth, format_).blob(part.tobytes())
        return self.call("Update", "iiiiuuay", body)

    def scanout_map(self, fd: int, width: int, height: int, stride: int, offset: int = 0, format_: int = XRGB) -> int:
        """The picture is in shared memory; the test passes the descriptor on."""
        body = _numbers("huuuuu", 0, offset, width, height, stride, format_)
        return self.call("ScanoutMap", "huuuuu", body, MAP, (fd,))

    def update_map(self, x: int, y: int, width: int, height: int) -> int:
        """A part of the shared picture has changed."""
        return self.call("UpdateMap", "iiii", _numbers("iiii", x, y, width, height), MAP)

    def cursor(self, shape: Pixels, hot_x: int = 0, hot_y: int = 0) -> int:
        """What the pointer looks like."""
        height, width, _ = shape.shape
        return self.call("CursorDefine", "iiiiay", _numbers("iiii", width, height, hot_x, hot_y).blob(shape.tobytes()))

    def mouse(self, x: int, y: int, shown: bool) -> int:
        """Where the pointer is."""
        return self.call("MouseSet", "iii", _numbers("iii", x, y, shown))

    def disable(self) -> int:
        """The console shows nothing."""
        return self.call("Disable", "", Writer())


def exchange(console: FakeConsole, to: ScreenPeer, take: Callable[[], object], rounds: int = 8) -> None:
    """Pass bytes both ways until nothing is left to be said; `take` takes what was received."""
    for _ in range(rounds):
        there, back = b"".join(bytes(chunk.data) for chunk in to.data_to_send()), console.data_to_send()
        if not there and not back:
            return
        if there:
            console.receive(there)
        if back:
            to.receive(back, 0)
            take()
