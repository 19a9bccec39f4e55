"""Machines over VNC, and whether a viewer of theirs has displaced us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from millrace.doors.pushed import REMOTE_PROFILE
from millrace.doors.vnc.door import SessionEvent, VncDoor
from millrace.doors.vnc.screen import VncScreen
from millrace.errors import PeerLost
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.attached import Displaced
from millrace.guest.machines.network import CLOSE_TOGETHER_S, NetworkMachine
from millrace.guest.machines.paced import Paced
from millrace.io.client import ClientConnection, Closed, Reset
from millrace.io.clock import now_ns
from millrace.io.crypto import trusting, vnc_answer
from millrace.io.paths import runtime_dir
from millrace.units import NS_PER_S, HostNs
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import COMPRESSED, PLAIN, SoundOffered, TlsWanted

GREETS_S = 1.0
DISPLACED = (
    "the VNC server closed the connection and still answers, as it does when another viewer connects that has it to"
    " itself"
)
DISPLACED_ADVICE = (
    ". To allow both, have the server share its screen (Xtigervnc -AlwaysShared), or the viewer ask for that (-Shared)"
)
INSISTS_NS: HostNs = 60 * NS_PER_S
"""Whoever displaces us so soon after we have come back was displaced by that."""
PICTURE_CHUNK_BYTES = 64 * 1024
"""A raw picture of 1920 × 1080 is 8 MB, and would take 2,000 chunks of the usual size."""


# A VNC server that grants its screen to one viewer at a time closes the connection of the one before (Xtigervnc
# -NeverShared; a viewer that asks for exclusive access). It does not say so. What is gone by is that it still answers
# then, which one that has ended does not. What we had sent and it did not read makes a reset of its close.
#
# What follows depends on the server, and it does not say that either. Most let us in again, beside that viewer, as we
# ask to share the screen (Xtigervnc without options). With others we displace that viewer in turn (-NeverShared), who
# comes back. So we come back soon, and after a wait that is ever longer if we are displaced soon after that.
#
# QEMU refuses us as long as a viewer has exclusive access, so asking it again displaces nobody.
class VncMachine(NetworkMachine):
    """A machine over VNC: its screen, and its sound if it is QEMU's."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self._wire: VncClient | None = None
        self._paced: Paced | None = None
        self._came_back = False
        """A viewer has displaced us before."""
        self._trouble = ""
        """Why there is no picture, as was told last."""

    async def _serve(self) -> None:
        pictures = COMPRESSED if self.profile is REMOTE_PROFILE else PLAIN
        rate, channels = self.guest.graph.rate, self.spec.channels
        # Whoever names a CA expects its certificates.
        tls = self.spec.tls or bool(self.spec.ca_file)
        self._wire = wire = VncClient(rate, channels, self.password, vnc_answer, now_ns(), pictures, tls)

        def told(event: SessionEvent) -> None:
            if isinstance(event, TlsWanted):
                self._later(partial(self._into_tls, wire, connection))
                return
            if isinstance(event, SoundOffered):
                self._changed()
                return
            self.machine = door.name
            wire.send_release()
            self._up()

        def wake() -> None:
            connection.wake()
            paced.go_on()

        screen = VncScreen(self.guest.screens, wire, self.key, wake, lambda: connection.congested)
        self._paced = paced = Paced(screen.room)
        door = VncDoor(self.guest.graph, wire, told, self.profile, self.spec.text, screen)
        self.doors.append(door)
        looks = self._refitted(screen), self._refitted(door.room)

        def after(now: HostNs) -> None:
            door.receive(now)
            for look in looks:
                look()
            if wire.trouble != self._trouble:
                self._trouble = wire.trouble
                self._changed()

        def relieved() -> None:
            paced.relieved()
            connection.wake()

        connection = self._new_connection(wire, after, self._end, PICTURE_CHUNK_BYTES, relieved)
        await self._open(connection, None)
        try:
            await self._until_ended()
        except (Closed, Reset):
            if self.ready.done() and not wire.is_qemu and await self._answers():
                self._leave_to_another()
            if not wire.joining:
                raise
            self._accepted = self.password
            raise Displaced(
                "the VNC server accepts the login but disconnects when asked to share its screen: another"
                " viewer has exclusive access. retrying; close that viewer or make it share"
            ) from None

    def _leave_to_another(self) -> None:
        """Another viewer has displaced us."""
        insists = self._came_back and now_ns() - self._attached_ns < INSISTS_NS
        self._came_back = True
        self._displaced.begin(DISPLACED, DISPLACED_ADVICE, soon=not insists)

    # The door has the last word: it releases what is down.
    def _parts(self) -> Iterator[Callable[[], None]]:
        connections = list(self.connections)
        self.connections.clear()
        yield from super()._parts()
        for connection in connections:
            self._left = left = asyncio.Event()
            yield partial(connection.linger, left.set)
        if self._paced is not None:
            yield self._paced.close
            self._paced = None

    # Once: servers that lock out whoever fails to log in (TigerVNC) count connections. It must have greeted: what
    # accepts a connection may be a tunnel to a server that is gone.
    async def _answers(self) -> bool:
        """Whether the server is still there."""
        await asyncio.sleep(CLOSE_TOGETHER_S)
        greeted = asyncio.Event()
        try:
            probe = await self._probe(lambda now: greeted.set())
        except PeerLost:
            return False
        try:
            async with asyncio.timeout(GREETS_S):
                await greeted.wait()
        except TimeoutError:
            return False
        finally:
            probe.close()
        return True

    async def _into_tls(self, wire: VncClient, connection: ClientConnection) -> None:
        context = await asyncio.to_thread(trusting, self.spec.ca_file)
        wire.tls_begins()
        await connection.start_tls(context, self.spec.host or "localhost")
        wire.tls_ready()

    def hint(self) -> str:
        """See `AttachedMachine`."""
        if advice := super().hint():
            return advice
        if self.state != "attached" or self._wire is None:
            return ""
        if self._wire.trouble:
            return self._wire.trouble
        if not self._wire.sound:
            none = "this VNC server has a picture but no sound"
            if self.machine.startswith("QEMU"):
                return f"{none}; QEMU has sound with -vnc …,audiodev=ID"
            return f"{none}; let its programs play to PULSE_SERVER=unix:{runtime_dir() / self.guest.name / 'pulse'}"
        return ""
