"""A machine over QEMU's D-Bus interface."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from millrace.doors.clipboard import ClipboardDoor
from millrace.doors.qemu.door import EndedVoices, QemuPlayback, QemuRecord
from millrace.errors import PeerLost
from millrace.guest.home import Home, MachineView
from millrace.guest.machines.address import DoorSpec, bus_path
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.consoles import Consoles
from millrace.guest.machines.whereabouts import of_spec
from millrace.io.clock import now_ns
from millrace.io.fdstream import CHUNK_BYTES_MAX, RECEIVE_BYTES, FdStream
from millrace.io.lookup import found_below
from millrace.io.sockets import why_not_unix
from millrace.text import quoted
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.qemu.client import (
    Console,
    ConsoleLights,
    ConsoleSize,
    DisplayClient,
    Machine,
    NotThere,
    PointerKind,
    Refusal,
    Registered,
    console_number,
)
from millrace.wire.qemu.display import ScreenPeer
from millrace.wire.qemu.qmp import QmpHandover

log = logging.getLogger("millrace.attach")
Lost = Callable[[Exception], None]
After = Callable[[], None]
NAMED_MAX = 10
"""Machines of a bus listed in the error when the requested one is missing."""


# `_kept` belongs to the machine and not to a session: QEMU may be restarted, or the daemon's connection lost, and its
# cards come back under the same numbers with the volume, the sink and the clock that they had.
class QemuMachine(AttachedMachine):
    """A machine over D-Bus: by way of QMP, a bus, or a connection that was handed over."""

    slow_tick = (
        "QEMU delivers {:.1f} % of real time, as its default timing does:"
        " add timer-period=5000 to -audiodev dbus if it is missing"
    )

    def __init__(self, id_: int, guest: Home, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.machine = "QEMU"
        self._kept = EndedVoices()
        self._streams: list[FdStream] = []
        self._consoles: Consoles | None = None
        self._silent = ""
        """Why no listener for sound may be registered with this QEMU."""
        self._accepted: set[str] = set()
        """Listeners for sound that QEMU has accepted."""
        self._no_sound: PeerLost | None = None
        """Why there is none."""

    async def _session(self) -> None:
        control = await self._connected()
        client = DisplayClient(os.getuid(), self.spec.kind == "dbus", now_ns(), self.spec.vm or None)

        def after() -> None:
            for event in client.events():
                if isinstance(event, Machine):
                    self.machine = event.name or "QEMU"
                    self._no_sound = PeerLost(self._silent) if self._silent else None
                    for kind in () if self._silent else ("Out", "In"):
                        self._register(client, kind)
                    consoles.describe(event.consoles)
                    client.send_register_clipboard()
                elif isinstance(event, Registered):
                    if self._registered(event, consoles):
                        self._up()
                elif isinstance(event, Console):
                    consoles.came(event)
                elif isinstance(event, ConsoleSize):
                    consoles.sized(event)
                elif isinstance(event, PointerKind):
                    consoles.pointer(event)
                elif isinstance(event, ConsoleLights):
                    consoles.lit(event)
                elif isinstance(event, Refusal):
                    self._refused(event, consoles)
                elif isinstance(event, NotThere):
                    self._end(PeerLost(self._not_there(event)))
            consoles.answered()
            clipboard.receive(now_ns())
            if self._no_sound is not None and not consoles.registered and not consoles.awaited:
                self._end(self._no_sound)

        consoles = self._consoles = Consoles(self, client, lambda: stream.flush_soon(), self._changed)
        clipboard = ClipboardDoor(
            self.guest.screens, client.clipboard, self.key, lambda: _woken(stream, client), lambda: stream.congested
        )
        self.doors.append(clipboard)
        self._no_sound, self._accepted = None, set()
        stream = self._stream(control, client, after, self._end, lambda: client.unfinished)
        await self._until_ended()

    def _registered(self, event: Registered, consoles: Consoles) -> bool:
        """A listener was accepted. Whether the session is up with that, be it its sound or a screen."""
        number = console_number(event.kind)
        if number is not None:
            consoles.accepted(number)
        else:
            self._accepted.add(event.kind)
        return event.kind != "In"

    # Without a microphone the machine can still be heard, so a refused In listener costs only a warning. Without an
    # Out listener there may still be screens.
    def _refused(self, refusal: Refusal, consoles: Consoles) -> None:
        number = console_number(refusal.what)
        if number is not None:
            consoles.refused(number, refusal)
        elif refusal.what == "In":
            if self._no_sound is None:
                log.warning("%s: no microphone for this machine: %s", self.label, refusal.text)
        elif refusal.error.endswith(".Invalid"):
            why = "QEMU accepts one listener: close the other program that displays this machine"
            self._end(PeerLost(f"QEMU refused ({refusal.text or refusal.error}); {why}"))
        elif "UnknownMethod" in refusal.error or "UnknownObject" in refusal.error:
            self._no_sound = PeerLost(
                "QEMU has no sound on D-Bus: run it with -display dbus,…,audiodev=ID -audiodev dbus,id=ID"
            )
            log.warning("%s: %s", self.label, self._no_sound)
        else:
            self._end(PeerLost(f"QEMU refused: {refusal.text or refusal.error}"))

    def _not_there(self, event: NotThere) -> str:
        if event.names:
            named = ", ".join(map(quoted, event.names[:NAMED_MAX])) + (" and more" if event.names[NAMED_MAX:] else "")
            return f"no machine {quoted(self.spec.vm)} on this bus; there are: {named}"
        return "no QEMU on this bus yet"

    def _register(self, client: DisplayClient, kind: str) -> None:
        """Register a listener with QEMU, passing it one end of a socket pair.

        Our end is served before the call is sent, because QEMU waits on it.
        """
        mine, theirs = socket.socketpair()
        peer = AudioPeer(os.getuid())
        door = self._door(kind, peer)
        self.doors.append(door)

        # A listener that QEMU refuses ends too, perhaps before QEMU says so. That is not the end of the session.
        def ended(why: Exception) -> None:
            if kind in self._accepted:
                self._end(why)
            elif door in self.doors:
                self.doors.remove(door)
                door.close()

        look = self._refitted(door.room)

        def after() -> None:
            door.receive(now_ns())
            look()

        self._stream(mine, peer, after, ended, lambda: peer.unfinished)
        client.send_register(kind, theirs.detach())

    def screen_stream(
        self, sock: socket.socket, peer: ScreenPeer, after: After, lost: Lost, busy: Callable[[], bool]
    ) -> FdStream:  # fmt: skip
        """See `consoles.Owner`."""
        return self._stream(sock, peer, after, lost, busy)

    def _stream(
        self, sock: socket.socket, core: DisplayClient | AudioPeer | ScreenPeer, after: After, lost: Lost,
        busy: Callable[[], bool],
    ) -> FdStream:  # fmt: skip
        """A connection of the session, charged to the guest."""
        holds, fits = self._partial(), self._may_wait()
        pictures = core if isinstance(core, ScreenPeer) else None

        def may_wait(unsent: int) -> bool:
            if not unsent and busy():
                # It has read what it was sent, and is to be sent more.
                stream.go_on()
            return fits(unsent)

        # What is shown is charged until it is; then as much less.
        def weighed() -> None:
            holds(core.partial_bytes)
            after()
            holds(core.partial_bytes)

        # The session may go on without it.
        def ended(why: Exception) -> None:
            holds(0)
            fits(0)
            self._streams = [one for one in self._streams if not one.closed]
            lost(why)

        stream = FdStream(
            sock, core, weighed, ended, turns=self.guest.turns, may_wait=may_wait, whose=self.label,
            take_fds=pictures.receive_fds if pictures else None,
            chunk_max=RECEIVE_BYTES if pictures else CHUNK_BYTES_MAX, unfinished=busy,
        )  # fmt: skip
        self._streams.append(stream)
        return stream

    def _door(self, kind: str, peer: AudioPeer) -> QemuPlayback | QemuRecord:
        graph = self.guest.graph
        if kind == "Out":
            return QemuPlayback(graph, peer, self.machine, self._kept, self.spec.text)
        return QemuRecord(graph, self.guest.microphone, peer, self.machine)

    async def _connected(self) -> socket.socket:
        """A socket on which QEMU, or a bus, is ready to authenticate us."""
        if self.spec.connection is not None:
            return self.spec.connection
        if self.spec.kind == "dbus":
            return await self._unix(bus_path(self.spec.address), "no bus")
        qmp = await self._unix(self.spec.address, "no QEMU")
        mine, theirs = socket.socketpair()
        try:
            await self._hand_over(qmp, theirs)
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        return mine

    async def _unix(self, path: str, what: str) -> socket.socket:
        sock = await _unix(path, what, self.spec.below)
        try:
            self._reached(of_spec(self.spec))
        except BaseException:
            sock.close()
            raise
        return sock

    # QMP is needed only to pass the socket. The connection to it is closed as soon as QEMU has taken it, since a QMP
    # socket serves one client at a time and the machine's owner needs it too. QEMU has its own copy of `theirs` by
    # then (SCM_RIGHTS duplicates it), so the caller closes ours in any case; otherwise the end of QEMU would never be
    # seen on `mine`.
    async def _hand_over(self, qmp: socket.socket, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        core = QmpHandover(theirs.fileno(), now_ns())

        def after() -> None:
            for event in core.events():
                self._silent = event.silent
                if not done.done():
                    done.set_result(None)

        def lost(why: Exception) -> None:
            if not done.done():
                done.set_exception(why)

        stream = FdStream(
            qmp, core, after, lost, turns=self.guest.turns, may_wait=self._may_wait(), whose=self.label,
        )  # fmt: skip
        try:
            await done
        finally:
            stream.close()

    # The doors release the keys that are held, if QEMU is still there to be told.
    def _parts(self) -> Iterator[Callable[[], None]]:
        if self._consoles is not None:
            yield from self._consoles.parts()
        yield from super()._parts()
        for stream in self._streams:
            yield from (stream.flush, stream.close)
        self._streams.clear()
        self._consoles = None

    def hint(self) -> str:
        """See `AttachedMachine.hint`."""
        silent = str(self._no_sound) if self._no_sound is not None else ""
        return super().hint() or (self._consoles.hint() if self._consoles else "") or silent

    def view(self) -> MachineView:
        """See `AttachedMachine.view`."""
        reads = sum(door.reads for door in self.doors if isinstance(door, QemuRecord))
        return replace(super().view(), machine=self.machine, reads=reads)


def _woken(stream: FdStream, client: DisplayClient) -> None:
    """There is something to send, and perhaps more of it than is made yet."""
    stream.flush_soon()
    if client.unfinished:
        stream.go_on()


async def _unix(path: str, what: str, below: tuple[str, ...]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with found_below(path, below) as found:
            await asyncio.get_running_loop().sock_connect(sock, found)
    except BaseException as error:
        sock.close()
        if not isinstance(error, OSError):
            raise
        raise PeerLost(f"{what} at {path.replace(chr(0), '@')} yet: {why_not_unix(error, path)}") from None
    return sock
