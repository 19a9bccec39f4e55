"""Machines reached by a network protocol: what SPICE and VNC share."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from millrace.absent import nothing
from millrace.clock.jitter import JitterProfile
from millrace.doors.pushed import PROFILE, REMOTE_PROFILE
from millrace.errors import ConfigError, LoginRefused, PasswordRefused, PeerLost
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec, read_password
from millrace.guest.machines.attached import AttachedMachine, DemandPlace
from millrace.guest.machines.hold import Hold
from millrace.guest.machines.whereabouts import of_connection, of_spec
from millrace.io.client import CHUNK_BYTES_MAX, ClientConnection, Core, Mute
from millrace.io.clock import now_ns
from millrace.units import NS_PER_S, HostNs

LOOK_S = 2.0
CLOSE_TOGETHER_S = 0.3
"""What a server closes together, as when it ends, is closed within this time."""


# `ends` counts the failures of a session, since the way in which a SPICE server closes its channels says why it did.
class NetworkMachine(AttachedMachine):
    """What SPICE and VNC share: a password, and connections to a server. When any of them ends, the session ends."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.password = ""
        self._accepted: str | None = None
        """The last password that the server accepted."""
        self._displaced = Hold("displaced")
        """To leave the server to the viewer that may have displaced us: we would displace that one."""
        self._unwelcome = Hold("waiting")
        """Not to have the server refuse us so often that it refuses everybody of this host."""

    def _begin(self) -> None:
        super()._begin()
        self.connections: list[ClientConnection] = []
        self.ends = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def _session(self) -> None:
        await self._until_due()
        self.password = await self._read_password()
        try:
            await self._serve()
        except LoginRefused as error:
            what = f"{error}: {self._what_password()}" if isinstance(error, PasswordRefused) else str(error)
            self._unwelcome.begin(what)
            raise PeerLost(what) from None

    async def _read_password(self) -> str:
        file = self.spec.password_file
        return await asyncio.to_thread(read_password, Path(file)) if file else self.spec.password

    async def _until_due(self) -> None:
        """Wait until another attempt is due; PeerLost if it is known that there is no server any more."""
        for hold in (self._displaced, self._unwelcome):
            hold_s, told = hold.take()
            until = now_ns() + round(hold_s * NS_PER_S)
            while now_ns() < until:
                await self._look()
                self._show(hold.state, told)
                if await self._asked_within(LOOK_S) or await self._has_another_password():
                    break

    async def _has_another_password(self) -> bool:
        """Whether the password file has another one than was tried last."""
        try:
            return await self._read_password() != self.password
        except (ConfigError, OSError):
            # The next attempt says what is wrong with it.
            return True

    async def _look(self) -> None:
        """PeerLost if the server is gone; does nothing where looking is no better than another attempt."""

    def retake(self, spec: DoorSpec, demand_place: DemandPlace) -> bool:
        """See `AttachedMachine`."""
        self._displaced.drop()
        self._unwelcome.reset()
        return super().retake(spec, demand_place)

    async def _probe(self, heard: Callable[[HostNs], None] = lambda now: None) -> ClientConnection:
        """A connection that sends nothing, so it displaces nobody; PeerLost if there is no server.

        `heard` is called when the server has sent something.
        """
        probe = ClientConnection(Mute(), heard, lambda why: None)
        await self._connect(probe, None)
        return probe

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
        self._unwelcome.reset()
        super()._attached()

    def _end(self, why: Exception) -> None:
        self.ends += 1
        super()._end(why)

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
        relieved: Callable[[], None] = nothing,
    ) -> ClientConnection:
        """A connection of the session, charged to the guest."""
        may_wait, partial = self._may_wait(), self._partial()
        turns, label = self.guest.turns, self.label
        return ClientConnection(core, after, ended, turns, label, may_wait, partial, chunk_bytes_max, relieved)

    async def _open(self, connection: ClientConnection, tls: ssl.SSLContext | None) -> None:
        self.connections.append(connection)
        await self._connect(connection, tls)

    async def _connect(self, connection: ClientConnection, tls: ssl.SSLContext | None) -> None:
        spec = self.spec
        await connection.connect(spec.host, spec.port, spec.address, tls, spec.below)
        ends = connection.ends
        self._reached(of_connection(*ends) if spec.host and ends is not None else of_spec(spec))

    async def _until_ended(self) -> None:
        before = self.sessions
        try:
            await super()._until_ended()
        finally:
            if self.sessions > before:
                self._displaced.lasted((now_ns() - self._attached_ns) / NS_PER_S)

    def _parts(self) -> Iterator[Callable[[], None]]:
        for task in list(self.tasks):
            task.cancel()
        yield from super()._parts()
        yield from [connection.close for connection in self.connections]
        self.connections.clear()

    @property
    def profile(self) -> JitterProfile:
        """The jitter profile; smaller where there is no network in between."""
        host = self.spec.host
        try:
            near = not host or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            near = False
        return PROFILE if near else REMOTE_PROFILE
