"""Attachments over a network protocol: SPICE and VNC."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import Any

from millrace.clock.jitter import JitterProfile
from millrace.daemon.attach import Attachment
from millrace.daemon.doorspec import DoorSpec
from millrace.daemon.guest import Guest
from millrace.doors.pushed import PROFILE, REMOTE_PROFILE, PushedStream
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.vnc.door import VncDoor
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.io.client import ClientLine
from millrace.io.clock import now_ns
from millrace.io.crypto import client_tls, spice_ticket, vnc_answer
from millrace.units import HostNs
from millrace.wire.spice.channel import ChannelKind, SpiceChannel
from millrace.wire.spice.messages import (
    ATTACH_CHANNELS,
    OPUS_CAP,
    PLAYBACK_CAPS,
    RECORD_CAPS,
    ChannelsList,
    MainInit,
    main_event,
)
from millrace.wire.vnc.client import Ready, TlsWanted, VncClient

ANSWER_S = 10.0
DISPLACED_S = 2.0


class NetAttachment(Attachment):
    """What SPICE and VNC share: lines to a server, any of whose ends ends the session."""

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lines: list[ClientLine] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def _end(self, why: Exception) -> None:
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

    async def _open(self, line: ClientLine, tls: ssl.SSLContext | None) -> None:
        self.lines.append(line)
        await line.connect(self.spec.host, self.spec.port, self.spec.address, tls, self.spec.below)

    async def _until_ended(self, silent: str) -> None:
        await asyncio.wait({self.ready, self.ended}, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        if not self.ready.done() and not self.ended.done():
            raise PeerLost(silent)
        if not self.ended.done():
            self._attached()
        await self.ended

    def _close_lines(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        for line in self.lines:
            line.close()
        self.lines.clear()
        # Nobody may be left to ask for it.
        if self.ended.done() and not self.ended.cancelled():
            self.ended.exception()

    @property
    def profile(self) -> JitterProfile:
        """Less is allowed for where no network lies between."""
        host = self.spec.host
        try:
            near = not host or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            near = False
        return PROFILE if near else REMOTE_PROFILE


class SpiceAttachment(NetAttachment):
    """A machine by SPICE. A SPICE server lets one viewer in: who comes later takes the place."""

    def __init__(self, id_: int, guest: Guest, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.playback: SpicePlayback | None = None
        self.record: SpiceRecord | None = None
        self._displaced = False
        self._wanted = asyncio.Event()

    async def _session(self) -> None:
        self._begin()
        if self._displaced:
            await self._until_place_is_free()
        self._channels: set[ChannelKind] = set()
        self._number = 0
        tls = client_tls(self.spec.ca_file) if self.spec.tls else None
        main = self._channel(ChannelKind.MAIN, 0, 0)

        def after(now: HostNs) -> None:
            del now
            for message in main.events():
                event = main_event(message)
                if isinstance(event, MainInit):
                    self._number = event.session
                    main.send(ATTACH_CHANNELS)
                elif isinstance(event, ChannelsList):
                    self._list(event, tls)
                    if not self.ready.done():
                        self.ready.set_result(None)

        await self._open(ClientLine(main, after, self._end), tls)
        try:
            await self._until_ended("the SPICE server does not answer: is it stopped?")
        except PeerLost:
            # A server that goes on without us has let somebody else in.
            self._displaced = self.ready.done()
            raise

    async def _until_place_is_free(self) -> None:
        """After another viewer took the place: taking it back would throw them out, so only a new server will do."""
        self.state = "displaced"
        self.error = (
            "another viewer has taken this SPICE server, which lets in one at a time: end it and attach again,"
            " or run QEMU with SPICE_DEBUG_ALLOW_MC=1"
        )
        while True:
            probe = ClientLine(SpiceProbe(), lambda now: None, lambda why: None)
            try:
                await probe.connect(self.spec.host, self.spec.port, self.spec.address, None, self.spec.below)
            except PeerLost:
                self._displaced = False
                raise
            probe.close()
            try:
                await asyncio.wait_for(self._wanted.wait(), DISPLACED_S)
            except TimeoutError:
                continue
            self._wanted.clear()
            self._displaced = False
            return

    def retake(self) -> bool:
        """The user wants the place back, whoever has it now."""
        if self.state == "displaced":
            self._wanted.set()
        return self.state == "displaced"

    def _channel(self, kind: ChannelKind, session: int, caps: int) -> SpiceChannel:
        return SpiceChannel(kind, session, caps, self.spec.password, spice_ticket)

    def _list(self, event: ChannelsList, tls: ssl.SSLContext | None) -> None:
        for kind in (ChannelKind.PLAYBACK, ChannelKind.RECORD):
            if (kind, 0) in event.channels and kind not in self._channels:
                self._channels.add(kind)
                self._later(self._playback(tls) if kind is ChannelKind.PLAYBACK else self._record(tls))

    async def _playback(self, tls: ssl.SSLContext | None) -> None:
        # Opus saves nothing on this machine, and costs; over a network it is what the line is thin for.
        caps = PLAYBACK_CAPS | (OPUS_CAP if self.profile is REMOTE_PROFILE else 0)
        channel = self._channel(ChannelKind.PLAYBACK, self._number, caps)
        door = self.playback = SpicePlayback(self.guest.graph, channel, "SPICE", self.profile)
        await self._open(ClientLine(channel, door.receive, self._end), tls)

    async def _record(self, tls: ssl.SSLContext | None) -> None:
        channel = self._channel(ChannelKind.RECORD, self._number, RECORD_CAPS)
        line = ClientLine(channel, lambda now: door.receive(), self._end)
        door = SpiceRecord(self.guest.graph, self.guest.microphone, channel, "SPICE", lambda: line.wake())
        self.record = door
        await self._open(line, tls)

    def _gone(self) -> None:
        self._close_lines()
        if self.playback is not None:
            self.playback.lost()
        if self.record is not None:
            self.record.lost()
        self.playback = self.record = None

    def streams(self) -> list[PushedStream]:
        """See `Attachment.streams`."""
        return [self.playback.stream] if self.playback is not None and self.playback.stream is not None else []

    def view(self) -> dict[str, Any]:
        """See `Attachment.view`."""
        queue = self.record.queue if self.record is not None else None
        return super().view() | {
            "machine": "SPICE" if self.state == "attached" else "",
            "recording": queue is not None and queue.running,
        }  # fmt: skip


class SpiceProbe:
    """Connects and says nothing: a server that answers is still there, and nobody is thrown out."""

    def receive(self, data: memoryview, now_ns: HostNs) -> None:
        """Nothing is expected."""

    def data_to_send(self) -> bytes:
        """Nothing is said."""
        return b""


class VncAttachment(NetAttachment):
    """A machine by VNC."""

    door: VncDoor | None = None

    async def _session(self) -> None:
        self._begin()
        wire = VncClient(self.guest.graph.rate, self.spec.channels, self.spec.password, vnc_answer)
        door = self.door = VncDoor(self.guest.graph, wire, self.profile)

        def after(now: HostNs) -> None:
            for event in wire.events():
                if isinstance(event, TlsWanted):
                    self._later(self._into_tls(wire, line))
                    continue
                door.handle(event, now)
                if isinstance(event, Ready) and not self.ready.done():
                    self.ready.set_result(None)

        line = ClientLine(wire, after, self._end)
        await self._open(line, None)
        self._later(self._watch(wire))
        await self._until_ended("the VNC server does not answer: is it stopped?")

    async def _into_tls(self, wire: VncClient, line: ClientLine) -> None:
        await line.start_tls(client_tls(self.spec.ca_file), self.spec.host or "localhost")
        wire.tls_ready()

    async def _watch(self, wire: VncClient) -> None:
        """Keep the wire's one deadline."""
        while not self.ready.done():
            await asyncio.sleep(0.5)
            deadline = wire.next_timeout()
            if deadline is not None and now_ns() >= deadline:
                try:
                    wire.handle_timeout(now_ns())
                except RemoteProtocolError as error:
                    self._end(error)
                    return

    def _gone(self) -> None:
        self._close_lines()
        if self.door is not None:
            self.door.lost()

    def streams(self) -> list[PushedStream]:
        """See `Attachment.streams`."""
        return [self.door.stream] if self.door is not None and self.door.stream is not None else []

    def view(self) -> dict[str, Any]:
        """See `Attachment.view`."""
        name = self.door.name if self.door is not None and self.state == "attached" else ""
        return super().view() | {"machine": name}
