"""Machines reached by a network protocol: what SPICE and VNC share, and VNC."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from millrace.clock.jitter import JitterProfile
from millrace.doors.pushed import PROFILE, REMOTE_PROFILE
from millrace.doors.vnc.door import SessionEvent, VncDoor
from millrace.doors.vnc.screen import VncScreen
from millrace.errors import PasswordRefused, PeerLost
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec, read_password
from millrace.guest.machines.attached import AttachedMachine, Displaced
from millrace.guest.machines.paced import Paced
from millrace.io.client import CHUNK_BYTES_MAX, ClientConnection, Closed, Core
from millrace.io.clock import now_ns
from millrace.io.crypto import trusting, vnc_answer
from millrace.units import HostNs
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import COMPRESSED, PLAIN, SoundOffered, TlsWanted

PICTURE_CHUNK_BYTES = 64 * 1024
"""A raw picture of 1920 × 1080 is 8 MB, and would take 2,000 chunks of the usual size."""


# A session consists of several connections and tasks, any of which may fail first. `ended` gets the first failure,
# which is the one that is reported: the others usually follow from it. `ends` collects all of them, since the way in
# which a SPICE server closes its channels says why it did. Both futures belong to one session and are made anew for
# each.
class NetworkMachine(AttachedMachine):
    """What SPICE and VNC share: a password, and connections to a server. When any of them ends, the session ends."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.password = ""
        self._accepted: str | None = None
        """The last password that the server accepted."""
        self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.connections: list[ClientConnection] = []
        self.ends: list[Exception] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def _session(self) -> None:
        self._begin()
        await self._until_due()
        file = self.spec.password_file
        self.password = await asyncio.to_thread(read_password, Path(file)) if file else self.spec.password
        try:
            await self._serve()
        except PasswordRefused as error:
            raise PeerLost(f"{error}: {self._what_password()}") from None

    async def _until_due(self) -> None:
        """Wait until another attempt is due; PeerLost if there is no server."""

    @abstractmethod
    async def _serve(self) -> None:
        """Connect, and serve until the session ends."""

    def _what_password(self) -> str:
        """Neither protocol distinguishes a wrong password from an expired one, but the history may."""
        known = "it was accepted before, so it has expired or been changed"
        which = known if self.password == self._accepted else "the password is wrong, or has expired"
        file = self.spec.password_file
        return which + (f"; write the current one to {file}, which is read on every attempt" if file else "")

    def _attached(self) -> None:
        self._accepted = self.password
        super()._attached()

    def _end(self, why: Exception) -> None:
        self.ends.append(why)
        if not self.ended.done():
            self.ended.set_exception(why)

    def _later(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run part of the session in a task; if the task fails, so does the session."""
        task = self.guest.turns.task(make)
        self.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._end(error if isinstance(error, Exception) else PeerLost(str(error)))

        task.add_done_callback(done)

    def _new_connection(
        self,
        core: Core,
        after: Callable[[HostNs], None],
        ended: Callable[[Exception], None],
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
    ) -> ClientConnection:
        """A connection of the session, charged to the guest."""
        may_wait, partial = self._may_wait(), self._partial()
        return ClientConnection(core, after, ended, self.guest.turns, self.label, may_wait, partial, chunk_bytes_max)

    async def _open(self, connection: ClientConnection, tls: ssl.SSLContext | None) -> None:
        self.connections.append(connection)
        await self._connect(connection, tls)

    async def _connect(self, connection: ClientConnection, tls: ssl.SSLContext | None) -> None:
        await connection.connect(self.spec.host, self.spec.port, self.spec.address, tls, self.spec.below)

    async def _until_ended(self) -> None:
        await asyncio.wait({self.ready, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if not self.ended.done():
            self._attached()
        await self.ended

    def _gone(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        for connection in self.connections:
            connection.close()
        self.connections.clear()
        # Retrieve the exception: there may be nobody left to await it, and asyncio would log it as never retrieved.
        if not self.ended.cancel() and not self.ended.cancelled():
            self.ended.exception()
        super()._gone()

    @property
    def profile(self) -> JitterProfile:
        """The jitter profile; smaller where there is no network in between."""
        host = self.spec.host
        try:
            near = not host or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            near = False
        return PROFILE if near else REMOTE_PROFILE


class VncMachine(NetworkMachine):
    """A machine over VNC: its screen, and its sound if it is QEMU's."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self._wire: VncClient | None = None
        self._paced: Paced | None = None

    async def _serve(self) -> None:
        pictures = COMPRESSED if self.profile is REMOTE_PROFILE else PLAIN
        rate, channels = self.guest.graph.rate, self.spec.channels
        self._wire = wire = VncClient(rate, channels, self.password, vnc_answer, now_ns(), pictures)

        def told(event: SessionEvent) -> None:
            if isinstance(event, TlsWanted):
                self._later(partial(self._into_tls, wire, connection))
                return
            if isinstance(event, SoundOffered):
                self.guest.machine_changed("change", self)
                return
            self.machine = door.name
            if not self.ready.done():
                self.ready.set_result(None)

        def wake() -> None:
            connection.wake()
            paced.go_on()

        screen = VncScreen(self.guest.screens, wire, self.key, wake, lambda: connection.congested)
        self._paced = paced = Paced(screen.room)
        door = VncDoor(self.guest.graph, wire, told, self.profile, self.spec.text, screen)
        self.doors.append(door)
        connection = self._new_connection(wire, door.receive, self._end, PICTURE_CHUNK_BYTES)

        def relieved() -> None:
            paced.relieved()
            connection.wake()

        connection.relieved = relieved
        await self._open(connection, None)
        try:
            await self._until_ended()
        except Closed:
            if not wire.joining:
                raise
            self._accepted = self.password
            raise Displaced(
                "the VNC server accepts the login but disconnects when asked to share its screen: another"
                " viewer has exclusive access. retrying; close that viewer or make it share"
            ) from None

    def _gone(self) -> None:
        super()._gone()
        if self._paced is not None:
            self._paced.close()
            self._paced = None

    async def _into_tls(self, wire: VncClient, connection: ClientConnection) -> None:
        context = await asyncio.to_thread(trusting, self.spec.ca_file)
        wire.tls_begins()
        await connection.start_tls(context, self.spec.host or "localhost")
        wire.tls_ready()

    def hint(self) -> str:
        """See `AttachedMachine`."""
        if self.state == "attached" and self._wire is not None and not self._wire.sound:
            return "this VNC server has a picture but no sound; QEMU has sound with -vnc …,audiodev=ID"
        return super().hint()
