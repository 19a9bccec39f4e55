"""Attachments: a guest's machine, looked for until it is there, and again whenever it has gone."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from millrace.daemon.doorspec import DoorSpec, bus_path
from millrace.daemon.guest import Guest
from millrace.doors.pushed import PushedStream
from millrace.doors.qemu.door import QemuDoor
from millrace.errors import MillraceError, PeerLost
from millrace.io.clock import now_ns
from millrace.io.fdstream import FdStream
from millrace.wire.qemu.audio import AudioPeer, DisplayClient, Machine, NotThere, Refusal, Registered
from millrace.wire.qemu.qmp import QmpHandover

log = logging.getLogger("millrace.attach")
RETRY_FIRST_S, RETRY_MAX_S = 0.25, 1.0
ANSWER_S = 10.0
Lost = Callable[[Exception], None]
REAL_TIME_PERCENT = (99.0, 101.0)
SLOW_TICK_PERCENT = (97.0, 99.5)


class Attachment(ABC):
    """One door of one guest. Subclasses serve one session, which ends with an exception."""

    kind = ""

    def __init__(self, id_: int, guest: Guest, spec: DoorSpec) -> None:
        self.id, self.guest, self.spec = id_, guest, spec
        self.state = "waiting"
        self.error = ""
        self.sessions = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        """The name users and the API use."""
        return f"door/{self.id}"

    def start(self) -> None:
        """Look for the machine from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.key)

    async def stop(self) -> None:
        """Let go of the machine."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._forget()

    def _forget(self) -> None:
        if self in self.guest.attachments:
            self.guest.attachments.remove(self)
            self.guest.on_door("remove", self)

    async def _run(self) -> None:
        wait = RETRY_FIRST_S
        while True:
            before = self.sessions
            try:
                await self._session()
            except (MillraceError, OSError, TimeoutError, EOFError) as error:
                self._lost(error)
            except asyncio.CancelledError:
                self._gone()
                raise
            except Exception as error:
                # A bug of ours must cost at most this session.
                log.exception("%s: session ended by an internal error", self.spec.text)
                self._lost(error)
            wait = RETRY_FIRST_S if self.sessions > before else min(wait * 2, RETRY_MAX_S)
            if self.spec.kind == "p2p":
                self._forget()
                return
            await asyncio.sleep(wait)

    def _attached(self) -> None:
        """The session is up."""
        self.state, self.error = "attached", ""
        self.sessions += 1
        self.guest.on_door("change", self)
        log.info("guest %s: %s attached", self.guest.name, self.spec.text)

    def _lost(self, error: Exception) -> None:
        text = str(error) or "no answer in time"
        if self.state == "attached" or text != self.error:
            log.warning("guest %s: %s: %s", self.guest.name, self.spec.text, text)
        if self.state == "attached" and self.guest.doctor is not None:
            self.guest.doctor.machine_lost(self.guest, self.key, text)
        self.state, self.error = "waiting", text
        self.guest.on_door("change", self)
        self._gone()

    @abstractmethod
    async def _session(self) -> None:
        """Find the machine and serve it until that ends, with an error that says why."""

    @abstractmethod
    def _gone(self) -> None:
        """The session has ended: take its streams away."""

    def retake(self) -> bool:
        """Asked for again: whether that is something to do, rather than a mistake."""
        return False

    def streams(self) -> list[PushedStream]:
        """What the machine plays."""
        return []

    def stream(self, node_id: int) -> PushedStream | None:
        """The stream of a node, if it is one of this door's."""
        return next((s for s in self.streams() if s.node.id == node_id), None)

    def hint(self) -> str:
        """What the user should know or do."""
        percents = [p for s in self.streams() if s.node.active and (p := s.speed.percent(s.format.rate)) is not None]
        if not percents:
            return ""
        percent = min(percents)
        if self.spec.kind in ("qmp", "dbus", "p2p") and SLOW_TICK_PERCENT[0] <= percent < SLOW_TICK_PERCENT[1]:
            return (
                f"QEMU delivers {percent:.1f} % of real time; its default timing does that:"
                " add timer-period=5000 to -audiodev dbus"
            )
        if not REAL_TIME_PERCENT[0] <= percent <= REAL_TIME_PERCENT[1]:
            return f"guest is at {percent:.0f} % of real time; give it more CPU"
        return ""

    def view(self) -> dict[str, Any]:
        """What `ls` shows."""
        return {
            "id": self.key, "door": self.spec.text, "state": self.state, "error": self.error,
            "machine": "", "sessions": self.sessions, "recording": False, "hint": self.hint(),
        }  # fmt: skip


class QemuAttachment(Attachment):
    """A machine by D-Bus: over QMP, a bus, or a connection that was handed to us."""

    def __init__(self, id_: int, guest: Guest, spec: DoorSpec) -> None:
        super().__init__(id_, guest, spec)
        self.door = QemuDoor(guest.graph, guest.microphone)
        self.read_ns_max = 0
        self._streams: list[FdStream] = []
        self._given: dict[str, socket.socket] = {}

    async def _session(self) -> None:
        control = await self._connected()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        client = DisplayClient(os.getuid(), self.spec.kind == "dbus", self.spec.vm or None)
        ready = loop.create_future()

        def lost(why: Exception) -> None:
            if not ended.done():
                ended.set_exception(why)

        def after() -> None:
            for event in client.events():
                if isinstance(event, Machine):
                    self.door.machine = event.name or "QEMU"
                    self._register(client, "Out", lost)
                    self._register(client, "In", lost)
                elif isinstance(event, Registered):
                    # Ours until QEMU has its copy; as long as one is open here its end would not be seen.
                    self._given.pop(event.kind).close()
                    if event.kind == "Out" and not ready.done():
                        ready.set_result(None)
                elif isinstance(event, Refusal):
                    self._refused(event, lost)
                elif isinstance(event, NotThere):
                    lost(PeerLost(self._not_there(event)))

        self._streams.append(FdStream(control, client, after, lost))
        await asyncio.wait({ready, ended}, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done() and not ended.done():
            raise PeerLost("QEMU does not answer on D-Bus: is it stopped?")
        if not ended.done():
            self._attached()
        await ended

    def _refused(self, refusal: Refusal, lost: Lost) -> None:
        if refusal.what == "In":
            log.warning("%s: no microphone for this machine: %s", self.spec.text, refusal.text)
        elif refusal.error.endswith(".Invalid"):
            lost(PeerLost("QEMU has a listener already, and takes one: end the other program that shows this machine"))
        elif "UnknownMethod" in refusal.error or "UnknownObject" in refusal.error:
            lost(PeerLost("QEMU has no sound on D-Bus: run it with -display dbus,…,audiodev=ID -audiodev dbus,id=ID"))
        else:
            lost(PeerLost(f"QEMU refuses: {refusal.text or refusal.error}"))

    def _not_there(self, event: NotThere) -> str:
        if event.names:
            return f"no machine {self.spec.vm!r} on this bus; there are: {', '.join(event.names)}"
        return "no QEMU on this bus yet"

    def _register(self, client: DisplayClient, kind: str, lost: Lost) -> None:
        """One end of a socket pair for QEMU; it is served before anything else, since QEMU waits for it."""
        mine, theirs = socket.socketpair()
        peer = AudioPeer(os.getuid())
        done = self._played(peer) if kind == "Out" else self._recorded(peer)
        self._streams.append(FdStream(mine, peer, done, lost))
        self._given[kind] = theirs
        client.register(kind, theirs.fileno())

    def _played(self, peer: AudioPeer) -> Callable[[], None]:
        return lambda: self.door.played(peer.events(), now_ns())

    def _recorded(self, peer: AudioPeer) -> Callable[[], None]:
        return lambda: self.door.recorded(peer, peer.events())

    async def _connected(self) -> socket.socket:
        """A socket on which QEMU, or a bus, is about to authenticate us."""
        if self.spec.kind == "p2p":
            return socket.socket(fileno=self.spec.fd)
        if self.spec.kind == "dbus":
            return await _unix(bus_path(self.spec.address), "no bus")
        qmp = await _unix(self.spec.address, "no QEMU")
        mine, theirs = socket.socketpair()
        try:
            await self._hand_over(qmp, theirs)
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        return mine

    async def _hand_over(self, qmp: socket.socket, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        core = QmpHandover(theirs.fileno())

        def after() -> None:
            if core.done and not done.done():
                done.set_result(None)

        def lost(why: Exception) -> None:
            if not done.done():
                done.set_exception(why)

        stream = FdStream(qmp, core, after, lost)
        try:
            await asyncio.wait_for(done, ANSWER_S)
        except TimeoutError:
            raise PeerLost(
                "the QMP socket does not answer: another program holds it;"
                " give Millrace one of its own (-qmp unix:PATH,server=on,wait=off)"
            ) from None
        finally:
            stream.close()

    def _gone(self) -> None:
        for stream in self._streams:
            stream.close()
        for given in self._given.values():
            given.close()
        self._streams.clear()
        self._given.clear()
        self.door.lost()

    def streams(self) -> list[PushedStream]:
        """See `Attachment.streams`."""
        return [voice.stream for voice in self.door.outs.values()]

    def view(self) -> dict[str, Any]:
        """See `Attachment.view`."""
        ins = self.door.ins.values()
        return super().view() | {
            "machine": self.door.machine, "recording": any(voice.queue.running for voice in ins),
            "reads": sum(voice.reads for voice in ins),
        }  # fmt: skip


async def _unix(path: str, what: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, path)
    except OSError as error:
        sock.close()
        raise PeerLost(f"{what} at {path.replace(chr(0), '@')} yet: {error.strerror}") from None
    return sock
