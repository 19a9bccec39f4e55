"""A machine reached by SPICE: its sound, its screens, its keyboard and pointer."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from millrace.absent import nothing
from millrace.budget import MACHINES
from millrace.doors.clipboard import ClipboardDoor
from millrace.doors.pushed import REMOTE_PROFILE
from millrace.doors.spice.door import SpicePlayback, SpiceRecord
from millrace.doors.spice.screen import Controls, SpiceScreen
from millrace.errors import BudgetError, GraphError, PasswordRefused, PeerLost, RemoteProtocolError
from millrace.guest.home import Home
from millrace.guest.machines.address import DoorSpec
from millrace.guest.machines.network import CLOSE_TOGETHER_S, NetworkMachine
from millrace.guest.machines.paced import Paced
from millrace.io.client import ClientConnection, Closed, Core
from millrace.io.clock import now_ns
from millrace.io.crypto import spice_ticket, trusting
from millrace.media.packet import Kind
from millrace.units import HostNs
from millrace.wire.spice.channel import ChannelKind, SpiceChannel
from millrace.wire.spice.cursor import SpiceCursor
from millrace.wire.spice.display import SpiceDisplay
from millrace.wire.spice.inputs import SpiceInputs
from millrace.wire.spice.main import SpiceMain
from millrace.wire.spice.messages import (
    MOUSE_ABSOLUTE,
    OPUS_CAP,
    PLAYBACK_CAPS,
    RECORD_CAPS,
    ChannelsList,
    MainInit,
    MouseMode,
)

log = logging.getLogger("millrace.attach")
DISPLACED = (
    "the SPICE server closed all channels at once and still answers, as it does when another viewer connects (it allows"
    " one at a time)"
)
DISPLACED_ADVICE = ". To allow both, run QEMU with SPICE_DEBUG_ALLOW_MC=1"
DISPLAYS_MAX = 4
"""Display channels of one machine: one for each card."""
AGAIN_FIRST_S, AGAIN_MAX_S = 2.0, 120.0
"""Backoff before a channel of the picture is opened again, because part of it was not understood, or had no room."""
SCREEN_BYTES = 64 * 1024
"""What a display channel takes besides its pixels."""
TOLD_MAX = 16
Serve = Callable[[ssl.SSLContext | None], Coroutine[Any, Any, None]]
Reopen = Callable[[], Coroutine[Any, Any, None]]


class SpiceMachine(NetworkMachine):
    """A machine over SPICE. A SPICE server serves one viewer at a time: a later one displaces the earlier one.

    spice-server (0.15) does not tell the displaced viewer. It closes all of that viewer's channels cleanly, within
    milliseconds, and keeps running. On exactly that pattern we back off for a while, because reconnecting would
    displace the other viewer, and then try again regardless. A channel that is reset, or that closes alone, is treated
    as an ordinary lost connection.
    """

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.machine = "SPICE"
        self._screens: dict[int, SpiceScreen] = {}
        self.untold = ""
        """What is wrong with the picture."""

    def _begin(self) -> None:
        super()._begin()
        self._channels: set[tuple[int, int]] = set()
        self._number = 0
        self._controls = Controls()
        self._paced = Paced(self._controls.room)
        self._displays: dict[int, ClientConnection] = {}
        self._due: set[str] = set()
        """Channels of the picture that are opened again, by name."""
        self._wait_s: dict[str, float] = {}
        self._told: set[str] = set()
        self.untold = ""

    async def _serve(self) -> None:
        tls = await asyncio.to_thread(trusting, self.spec.ca_file) if self.spec.tls else None
        main = SpiceMain(self.password, spice_ticket, now_ns())
        main_end: list[Exception] = []

        clipboard = ClipboardDoor(
            self.guest.screens, main.agent, self.key, lambda: connection.wake(), lambda: connection.congested
        )
        self.doors.append(clipboard)

        def after(now: HostNs) -> None:
            clipboard.receive(now)
            for event in main.events():
                if isinstance(event, MainInit):
                    self._number = event.session
                    self._pointed(event.mouse)
                elif isinstance(event, MouseMode):
                    self._pointed(event)
                elif isinstance(event, ChannelsList):
                    self._list(event, tls)
                    self._up()

        def main_ended(why: Exception) -> None:
            main_end.append(why)
            self._end(why)

        connection = self._new_connection(main, after, main_ended, relieved=lambda: connection.wake())
        await self._open(connection, tls)
        try:
            await self._until_ended()
        except PeerLost:
            if self.ready.done():
                await asyncio.sleep(CLOSE_TOGETHER_S)
                # Only the main channel must close cleanly: the others are reset if they had unread data.
                closed = bool(main_end) and isinstance(main_end[0], Closed)
                if closed and self.ends == len(self.connections):
                    self._displaced.begin(DISPLACED, DISPLACED_ADVICE)
            raise

    # PeerLost if the server is gone, at which the next one is attached at once.
    async def _look(self) -> None:
        (await self._probe()).close()

    def _parts(self) -> Iterator[Callable[[], None]]:
        yield from (self._controls.close, self._paced.close)
        yield from super()._parts()
        self._screens.clear()

    def hint(self) -> str:
        """See `AttachedMachine`."""
        unseen = next((screen.trouble for screen in self._screens.values() if screen.trouble), "")
        return self.untold or unseen or super().hint()

    def _pointed(self, mouse: MouseMode) -> None:
        self._controls.relative = mouse.current != MOUSE_ABSOLUTE
        for screen in self._screens.values():
            screen.set_relative()

    # -- its channels --------------------------------------------------------------------------------

    # A server lists its channels when the main channel opens, and sends a list of the new ones alone when a card
    # appears later, so a list adds channels and never takes any away.
    def _list(self, event: ChannelsList, tls: ssl.SSLContext | None) -> None:
        for kind, number in event.channels:
            serve = self._server(kind, number)
            if serve is not None and (kind, number) not in self._channels:
                self._channels.add((kind, number))
                self._later(partial(serve, tls))

    def _server(self, kind: int, number: int) -> Serve | None:
        """What serves a channel; None if it is not needed."""
        if number < DISPLAYS_MAX and kind in (ChannelKind.DISPLAY, ChannelKind.CURSOR):
            return partial(self._display if kind == ChannelKind.DISPLAY else self._cursor, number)
        single: dict[int, Serve] = {
            ChannelKind.PLAYBACK: self._playback, ChannelKind.RECORD: self._record, ChannelKind.INPUTS: self._inputs,
        }  # fmt: skip
        return None if number else single.get(kind)

    def _channel(self, kind: ChannelKind, caps: int) -> SpiceChannel:
        return SpiceChannel(kind, self._number, caps, self.password, spice_ticket, now_ns())

    async def _playback(self, tls: ssl.SSLContext | None) -> None:
        # Opus costs CPU and saves nothing on the same host; over a network it saves bandwidth.
        caps = PLAYBACK_CAPS | (OPUS_CAP if self.profile is REMOTE_PROFILE else 0)
        channel = self._channel(ChannelKind.PLAYBACK, caps)
        door = SpicePlayback(self.guest.graph, channel, "SPICE", self.profile, self.spec.text)
        self.doors.append(door)
        await self._open(self._new_connection(channel, self._heard(door), self._end), tls)

    def _heard(self, door: SpicePlayback | SpiceRecord) -> Callable[[HostNs], None]:
        """What processes what the channel of a door has received."""
        look = self._refitted(door.room)

        def after(now: HostNs) -> None:
            door.receive(now)
            look()

        return after

    async def _record(self, tls: ssl.SSLContext | None) -> None:
        channel = self._channel(ChannelKind.RECORD, RECORD_CAPS)
        door = SpiceRecord(self.guest.graph, self.guest.microphone, channel, "SPICE", lambda: connection.wake())
        connection = self._new_connection(channel, self._heard(door), self._end)
        self.doors.append(door)
        await self._open(connection, tls)

    # -- its screens ---------------------------------------------------------------------------------

    async def _display(self, number: int, tls: ssl.SSLContext | None) -> None:
        near = self.profile is not REMOTE_PROFILE
        wire = SpiceDisplay(self._number, number, self.password, spice_ticket, now_ns(), near)
        screen = self._screens.get(number)
        if screen is None:
            try:
                account = self.guest.admission.account({"itself": SCREEN_BYTES}, MACHINES)
            except BudgetError as error:
                self._missed(number, tls, str(error))
                return
            screen = self._screens[number] = SpiceScreen(
                self.guest.screens, wire, self._controls, account, f"SPICE {number}" if number else "SPICE", self.key,
                number, lambda: self.guest.tracks.add(Kind.VIDEO), lambda why: self._missed(number, tls, why),
            )  # fmt: skip
            self.doors.append(screen)
        else:
            screen.restart(wire)
        self._displays[number] = await self._picture(
            _screen(number), wire, partial(self._draw, screen), nothing, partial(self._redisplay, number, tls), tls
        )

    def _draw(self, screen: SpiceScreen, now: HostNs) -> None:
        """A display channel has received something."""
        before = screen.trouble
        screen.receive(now)
        if screen.trouble != before:
            self._changed()

    async def _cursor(self, number: int, tls: ssl.SSLContext | None) -> None:
        wire = SpiceCursor(self._number, number, self.password, spice_ticket, now_ns())

        def after(now: HostNs) -> None:
            # The display channel is listed and opened on its own.
            if number in self._screens:
                self._screens[number].receive_cursor(wire)

        await self._picture(f"cursor {number}", wire, after, nothing, partial(self._cursor, number, tls), tls)

    def _lit(self, wire: SpiceInputs) -> None:
        """The machine may have told of its lights."""
        for lights in wire.events():
            self._controls.lights = lights.on
            for screen in self._screens.values():
                screen.lit()

    async def _inputs(self, tls: ssl.SSLContext | None) -> None:
        wire = SpiceInputs(self._number, self.password, spice_ticket, now_ns())
        again = partial(self._inputs, tls)
        connection = await self._picture(
            "keyboard", wire, lambda now: self._lit(wire), self._controls.close, again, tls, self._paced.relieved
        )
        if connection not in self.connections:
            # It has ended before this had its turn: what is typed would wait there for ever.
            return

        def wake() -> None:
            connection.wake()
            self._paced.go_on()

        self._controls.connect(wire, wake, lambda: connection.congested)

    # What a channel of the picture sends may be wrong, or too large for the guest. That costs this channel for a while
    # and leaves the sound alone. Any other end is that of the whole session, of which the sound's channels know too.
    async def _picture(
        self, what: str, wire: Core, after: Callable[[HostNs], None], failed: Callable[[], None], again: Reopen,
        tls: ssl.SSLContext | None, relieved: Callable[[], None] = nothing,
    ) -> ClientConnection:  # fmt: skip
        """Connect a channel of the picture, and open it `again` if it has failed."""

        def ended(why: Exception) -> None:
            if connection not in self.connections:
                return
            if not isinstance(why, RemoteProtocolError | GraphError) or isinstance(why, PasswordRefused):
                self._end(why)
                return
            self.connections.remove(connection)
            self._tell(f"{what}: {why}")
            failed()
            self._again(what, again)

        connection = self._new_connection(wire, after, ended, relieved=relieved)
        await self._open(connection, tls)
        return connection

    def _missed(self, number: int, tls: ssl.SSLContext | None, why: str) -> None:
        """A picture is not as it was drawn. The server sends all of it to a display channel that is opened anew."""
        what = _screen(number)
        self._tell(f"{what}: {why}")
        self._again(what, partial(self._redisplay, number, tls))

    def _again(self, what: str, again: Reopen) -> None:
        if what not in self._due:
            self._due.add(what)
            self._later(partial(self._reopen, what, again))

    async def _reopen(self, what: str, again: Reopen) -> None:
        wait_s = self._wait_s.get(what, AGAIN_FIRST_S)
        self._wait_s[what] = min(wait_s * 2, AGAIN_MAX_S)
        await asyncio.sleep(wait_s)
        while any(_screen(number) == what and not screen.has_room() for number, screen in self._screens.items()):
            await asyncio.sleep(AGAIN_FIRST_S)
        self._due.discard(what)
        # What is wrong with another channel stays to be told.
        if self.untold.startswith(f"{what}: "):
            self.untold = ""
        await again()

    async def _redisplay(self, number: int, tls: ssl.SSLContext | None) -> None:
        old = self._displays.pop(number, None)
        if old is not None and old in self.connections:
            # Removed first: this end is not the session's.
            self.connections.remove(old)
            old.close()
        await self._display(number, tls)

    def _tell(self, text: str) -> None:
        """Show what is wrong with the picture, and log it once a session."""
        self.untold = text
        self._changed()
        if text not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(text)
            log.warning("%s: %s", self.label, text)


def _screen(number: int) -> str:
    """What a display channel is called where its trouble is told."""
    return f"screen {number}"
