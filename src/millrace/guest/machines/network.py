"""Machines over a network protocol: SPICE and VNC."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace.clock.jitter import JitterProfile
from millrace.doors.pushed import PROFILE, REMOTE_PROFILE
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.vnc.door import SessionEvent, VncDoor
from millrace.dsp.convert import Buffer
from millrace.errors import PasswordRefused, PeerLost
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec, read_password
from millrace.guest.machines.attached import AttachedMachine, Displaced
from millrace.io.client import ClientLine, Closed, Core
from millrace.io.clock import now_ns
from millrace.io.crypto import spice_ticket, trusting, vnc_answer
from millrace.units import NS_PER_S, HostNs
from millrace.wire.contract import Untimed
from millrace.wire.spice.channel import ChannelKind, SpiceChannel
from millrace.wire.spice.main import SpiceMain
from millrace.wire.spice.messages import OPUS_CAP, PLAYBACK_CAPS, RECORD_CAPS, ChannelsList, MainInit
from millrace.wire.vnc.client import TlsWanted, VncClient

LAST_WORDS_S = 0.3
"""What ends together ends within this."""
HOLD_FIRST_S, HOLD_FACTOR, HOLD_MAX_S = 30.0, 4.0, 1800.0
"""How long a SPICE server that has ended a session is left to the viewer that may have come instead."""
LOOK_S = 2.0


class NetworkMachine(AttachedMachine):
    """What SPICE and VNC share: a password, and lines to a server, any of whose ends ends the session."""

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.password = ""
        self._accepted: str | None = None
        """The last password that was."""
        self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lines: list[ClientLine] = []
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
        """Wait where it is not time for another attempt; PeerLost where there is no server."""

    @abstractmethod
    async def _serve(self) -> None:
        """Connect, and serve until that ends."""

    def _what_password(self) -> str:
        """Neither protocol tells a wrong password from an expired one; what happened before may."""
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

    def _later(self, coroutine: Any) -> None:
        """Run a part of the session; if it fails, so does the session."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._end(error if isinstance(error, Exception) else PeerLost(str(error)))

        task.add_done_callback(done)

    def _line(self, core: Core, after: Callable[[HostNs], None], ended: Callable[[Exception], None]) -> ClientLine:
        """One connection of the session, paid for by the guest."""
        return ClientLine(core, after, ended, self.guest.turns, self.label, self._may_wait(), self._partial())

    async def _open(self, line: ClientLine, tls: ssl.SSLContext | None) -> None:
        self.lines.append(line)
        await self._connect(line, tls)

    async def _connect(self, line: ClientLine, tls: ssl.SSLContext | None) -> None:
        await line.connect(self.spec.host, self.spec.port, self.spec.address, tls, self.spec.below)

    async def _until_ended(self) -> None:
        await asyncio.wait({self.ready, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if not self.ended.done():
            self._attached()
        await self.ended

    def _gone(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        for line in self.lines:
            line.close()
        self.lines.clear()
        # Nobody may be left to ask for it, now or when the lines have closed.
        if not self.ended.cancel() and not self.ended.cancelled():
            self.ended.exception()
        super()._gone()

    @property
    def profile(self) -> JitterProfile:
        """Less is allowed for where no network lies between."""
        host = self.spec.host
        try:
            near = not host or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            near = False
        return PROFILE if near else REMOTE_PROFILE


class SpiceMachine(NetworkMachine):
    """A machine by SPICE. A SPICE server lets one viewer in: one that comes later takes its place.

    spice-server (0.15) says nothing to the one whose place was taken: it closes all channels of that one, in order and
    within milliseconds, and goes on. Only where just that happened the place is left alone for a while, since to take
    it back throws the other out; it is tried again in any case. A channel that breaks, or ends alone, is another thing.
    """

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.machine = "SPICE"
        self._let_go = False
        self._hold_s = HOLD_FIRST_S

    async def _serve(self) -> None:
        self._channels: set[ChannelKind] = set()
        self._number = 0
        tls = await asyncio.to_thread(trusting, self.spec.ca_file) if self.spec.tls else None
        main = SpiceMain(self.password, spice_ticket, now_ns())
        main_end: list[Exception] = []

        def after(now: HostNs) -> None:
            del now
            for event in main.events():
                if isinstance(event, MainInit):
                    self._number = event.session
                elif isinstance(event, ChannelsList):
                    self._list(event, tls)
                    if not self.ready.done():
                        self.ready.set_result(None)

        def main_ended(why: Exception) -> None:
            main_end.append(why)
            self._end(why)

        await self._open(self._line(main, after, main_ended), tls)
        began = now_ns()
        try:
            await self._until_ended()
        except PeerLost:
            if self.ready.done():
                await asyncio.sleep(LAST_WORDS_S)
                # The others may have had something unread, and are reset then.
                closed = bool(main_end) and isinstance(main_end[0], Closed)
                self._let_go = closed and len(self.ends) == len(self.lines)
                if now_ns() - began > self._hold_s * NS_PER_S:
                    self._hold_s = HOLD_FIRST_S
            raise

    async def _until_due(self) -> None:
        """Leave the place to others for a while, until the server goes, or until somebody asks for it again."""
        if not self._let_go:
            return
        self._let_go = False
        hold_s, self._hold_s = self._hold_s, min(self._hold_s * HOLD_FACTOR, HOLD_MAX_S)
        until = now_ns() + round(hold_s * NS_PER_S)
        while now_ns() < until:
            # It says nothing, so nobody is thrown out; PeerLost where there is no server any more.
            probe = ClientLine(SpiceProbe(), lambda now: None, lambda why: None)
            await self._connect(probe, None)
            probe.close()
            self._show(
                "displaced",
                "the SPICE server closed all channels at once and still answers, as it does when another viewer"
                f" connects (it allows one at a time); retrying after {hold_s:.0f} s, or at once if you attach again."
                " To allow both, run QEMU with SPICE_DEBUG_ALLOW_MC=1",
            )
            if await self._asked_within(LOOK_S):
                return

    def _channel(self, kind: ChannelKind, session: int, caps: int) -> SpiceChannel:
        return SpiceChannel(kind, session, caps, self.password, spice_ticket, now_ns())

    def _list(self, event: ChannelsList, tls: ssl.SSLContext | None) -> None:
        for kind in (ChannelKind.PLAYBACK, ChannelKind.RECORD):
            if (kind, 0) in event.channels and kind not in self._channels:
                self._channels.add(kind)
                self._later(self._playback(tls) if kind is ChannelKind.PLAYBACK else self._record(tls))

    async def _playback(self, tls: ssl.SSLContext | None) -> None:
        # Opus saves nothing on this machine, and costs; over a network it is what the line is thin for.
        caps = PLAYBACK_CAPS | (OPUS_CAP if self.profile is REMOTE_PROFILE else 0)
        channel = self._channel(ChannelKind.PLAYBACK, self._number, caps)
        door = SpicePlayback(self.guest.graph, channel, "SPICE", self.profile, self.spec.text)
        self.doors.append(door)
        await self._open(self._line(channel, door.receive, self._end), tls)

    async def _record(self, tls: ssl.SSLContext | None) -> None:
        channel = self._channel(ChannelKind.RECORD, self._number, RECORD_CAPS)
        door = SpiceRecord(self.guest.graph, self.guest.microphone, channel, "SPICE", lambda: line.wake())
        line = self._line(channel, door.receive, self._end)
        self.doors.append(door)
        await self._open(line, tls)


class SpiceProbe(Untimed):
    """Connects and says nothing: a server that answers is still there, and nobody is thrown out."""

    partial_bytes = 0

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Nothing is expected."""

    def data_to_send(self) -> bytes:
        """Nothing is said."""
        return b""


class VncMachine(NetworkMachine):
    """A machine by VNC."""

    async def _serve(self) -> None:
        wire = VncClient(self.guest.graph.rate, self.spec.channels, self.password, vnc_answer, now_ns())

        def told(event: SessionEvent) -> None:
            if isinstance(event, TlsWanted):
                self._later(self._into_tls(wire, line))
                return
            self.machine = door.name
            if not self.ready.done():
                self.ready.set_result(None)

        door = VncDoor(self.guest.graph, wire, told, self.profile, self.spec.text)
        self.doors.append(door)
        line = self._line(wire, door.receive, self._end)
        await self._open(line, None)
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

    async def _into_tls(self, wire: VncClient, line: ClientLine) -> None:
        context = await asyncio.to_thread(trusting, self.spec.ca_file)
        wire.tls_begins()
        await line.start_tls(context, self.spec.host or "localhost")
        wire.tls_ready()
