"""A desktop without a virtual machine: an X display of a container or a user, seen and typed into by a client of it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from millrace.budget import MACHINES, PROGRAMS
from millrace.doors.x11.door import X11Door
from millrace.errors import ConfigError, PeerLost
from millrace.graph.pictures import PIXEL_BYTES
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.whereabouts import of_spec
from millrace.io.clock import now_ns
from millrace.io.fdstream import FdStream
from millrace.io.lookup import found_below
from millrace.io.shared import shared_memory
from millrace.io.sockets import why_not_unix
from millrace.wire.x11.client import X11Client
from millrace.wire.x11.events import Ready
from millrace.wire.x11.setup import find_cookie

log = logging.getLogger("millrace.attach")
AUTHORITY_BYTES_MAX = 64 * 1024
CONNECT_S = 5.0


class X11Machine(AttachedMachine):
    """An X display on a unix socket."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self._display = Path(spec.address).name.removeprefix("X")
        self.machine = f"X display :{self._display}"
        self._stream: FdStream | None = None
        self._wire: X11Client | None = None

    async def _session(self) -> None:
        cookie = b""
        if self.spec.password_file:
            cookie = await asyncio.to_thread(read_cookie, Path(self.spec.password_file), self._display)
        self._wire = wire = X11Client(cookie, now_ns())

        def told(event: Ready) -> None:
            log.info("%s: X server of %s", self.label, event.vendor or "an unnamed vendor")
            self._up()

        sock = await self._connected()
        try:
            self._reached(of_spec(self.spec))
        except BaseException:
            sock.close()
            raise
        door = X11Door(
            self.guest.screens, wire, self.machine, self.key, self._memory, told, lambda: stream.flush_soon(),
            self.guest.turns.over, lambda: stream.congested,
        )  # fmt: skip
        self.doors.append(door)
        self._stream = stream = self._served(sock, wire, door)
        await self._until_ended()

    def _served(self, sock: socket.socket, wire: X11Client, door: X11Door) -> FdStream:
        look = self._refitted(door)
        holds, fits = self._partial(), self._may_wait()
        self._left = left = asyncio.Event()

        def may_wait(unsent: int) -> bool:
            if not unsent:
                door.room.tell()
            return fits(unsent)

        def after() -> None:
            holds(wire.partial_bytes)
            door.receive(now_ns())
            holds(wire.partial_bytes)
            look()

        return FdStream(
            sock, wire, after, self._end, turns=self.guest.turns, may_wait=may_wait, whose=self.label,
            unfinished=lambda: wire.unfinished or door.busy, gone=left.set,
        )  # fmt: skip

    # The mapping lives as long as something refers to it. What stands for a picture without room needs none itself.
    def _memory(self, size: int) -> tuple[int, memoryview]:
        """Memory to share with the server, charged to the session in place of the one before."""
        self._account.hold("copies", size, MACHINES if size <= PIXEL_BYTES else PROGRAMS)
        fd, mapping = shared_memory(size)
        return fd, memoryview(mapping)

    async def _connected(self) -> socket.socket:
        path = self.spec.address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_S):
                with found_below(path, self.spec.below) as found:
                    await asyncio.get_running_loop().sock_connect(sock, found)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            raise PeerLost(f"no X server at {path} yet: {why_not_unix(error, path)}") from None
        return sock

    def hint(self) -> str:
        """See `AttachedMachine`."""
        if advice := super().hint():
            return advice
        if self.state == "attached" and self._wire is not None and not self._wire.takes_input:
            return "this X server accepts no keys and no pointer: it lacks the extension XTEST (Xorg: leave out -tst)"
        silent = max((door.silent_s for door in self.doors if isinstance(door, X11Door)), default=0)
        if silent:
            return f"the X server has answered nothing for {silent} s: it is stopped, or hangs"
        if self.state == "attached" and self._wire is not None and self._wire.lacks_layout:
            return "this X server does not report its keyboard layout: keys are pressed where they are on a US keyboard"
        return ""

    # The door has the last word: it releases what is down.
    def _parts(self) -> Iterator[Callable[[], None]]:
        yield from super()._parts()
        if self._stream is not None:
            yield self._stream.linger
        self._stream = self._wire = None


def read_cookie(path: Path, display: str) -> bytes:
    """A display's cookie in an authority file; ConfigError if there is none, or if others can read the file."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"authority file {path} can be read by others; run `chmod 600 {path}`")
            cookie = find_cookie(file.read(AUTHORITY_BYTES_MAX), display)
    except OSError as error:
        raise ConfigError(f"authority file {path}: {error.strerror}") from None
    if not cookie:
        raise ConfigError(f"authority file {path} has no cookie for display :{display}; `xauth list` shows what it has")
    return cookie
