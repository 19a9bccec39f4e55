"""The daemon: composition root. It opens the sockets, serves connections, and closes everything on shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from millrace.control.local import LocalPlane
from millrace.control.tokens import new_key
from millrace.control.worker import Worker
from millrace.daemon.config import Config
from millrace.daemon.serving import Serving
from millrace.daemon.stallwatch import Spent, StallWatch, moving
from millrace.errors import ConfigError
from millrace.guest.guest import Guest
from millrace.guest.home import MachineView
from millrace.guest.machines.address import DoorSpec
from millrace.io.clock import now_ns, worked_ns
from millrace.io.handover import Handover
from millrace.io.listeners import bind_unix
from millrace.io.load import run_delay_ns
from millrace.io.locks import FileLock
from millrace.io.notify import notify
from millrace.io.paths import API_SOCKET, HANDOVER_SOCKET, KEY_FILE, NATIVE_SOCKET, RUNTIME_LOCK
from millrace.io.sockets import own_secret, private_dir
from millrace.rights.model import Admits
from millrace.server.http.app import Web
from millrace.server.native.server import NativeServer

log = logging.getLogger("millrace.daemon")
TICK_S = 1.0
STOPPING = "the daemon is stopping"


def _spent() -> Spent:
    return worked_ns(), run_delay_ns()


class Daemon:
    """One process: a worker and the servers in front of it."""

    def __init__(self, config: Config) -> None:
        """Take the locks and the database; ConfigError, touching nothing, if another daemon holds them."""
        self.config = config
        private_dir(config.runtime)
        taken = "another daemon runs in this runtime folder: stop it, or set XDG_RUNTIME_DIR to another directory"
        self._lock = FileLock(config.runtime / RUNTIME_LOCK, taken)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            self.worker = Worker(config.runtime, config.state, config.token, self)
            undo.pop_all()
        self.listeners = self.worker.listeners
        self.serving = Serving(config, self.listeners, self.worker.principal_turns.strangers)
        self.plane = LocalPlane(self.worker, self.serving)
        self._web: Web | None = None
        self._bound: dict[Path, socket.socket] = {}
        self._handover: Handover | None = None
        self._native: dict[Guest | None, NativeServer] = {}
        self._ticker: asyncio.Task[None] | None = None

    # The order of the start. The lock and the database were taken before (`__init__`), so a second daemon has failed
    # by now without touching anything. The private sockets are bound first but served only once the guests are there: a
    # command that is started together with the daemon waits in their backlog instead of failing. The owner's key is set
    # before anything is served, since browser sessions are derived from it. The network comes last.
    async def start(self) -> None:
        """Open everything; ConfigError says what prevents it."""
        api = self._bind(API_SOCKET)
        native = self._bind(NATIVE_SOCKET, watched=True)
        self._web = Web(self.plane, self.plane, self.listeners, self.config.addresses, self.config.certificates)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        await self.worker.start(self.config.guests)
        self.worker.access.set_key(own_secret(self.config.runtime / KEY_FILE, new_key))
        self._native[None] = self._native_server(self.config.runtime / NATIVE_SOCKET, native, Admits.OWNER)
        await self.serving.serve(self._web.private(), api)
        self._handover = Handover(self.config.runtime / HANDOVER_SOCKET, self._take_connection, self.listeners)
        await self.serving.listen(self._web.network())

    def _bind(self, name: str, watched: bool = False) -> socket.socket:
        path = self.config.runtime / name
        self._bound[path] = bind_unix(path, watched=watched)
        return self._bound[path]

    async def _tick(self) -> None:
        """Once a second: poll what is not event-driven, and feed the service manager's watchdog."""
        stalls = StallWatch(self.worker.diagnosis.stalled, _spent, asyncio.get_running_loop())
        try:
            while True:
                await asyncio.sleep(TICK_S)
                notify("WATCHDOG=1")
                await self._second(stalls)
        finally:
            stalls.stop()

    async def _second(self, stalls: StallWatch) -> None:
        try:
            await self.worker.second()
            cycles = self.worker.driver.next_timeout() is not None
            stalls.second(not cycles and moving(self.worker.active()), now_ns())
        except Exception:
            # A failure in one guest's view must not stop the watchdog heartbeat.
            log.exception("the flight recorder skipped a second")

    # The descriptor belongs to the handover, which closes it whatever happens here. The machine gets a copy, and from
    # the moment it is attached the copy is the machine's to close.
    def _take_connection(self, request: dict[str, Any], fd: int) -> MachineView:
        """Take over a QEMU connection that another program opened (`millrace attach qemu --p2p`)."""
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ConfigError("fd is not a socket")
        guest = self.worker.guest(str(request.get("guest", "default")))
        copy = socket.socket(fileno=os.dup(fd))
        try:
            machine = self.worker.attach(guest, DoorSpec("p2p", f"fd {copy.fileno()}", connection=copy))
            return machine.view()
        except BaseException:
            copy.close()
            raise

    # The order of the stop. First every change that has begun is finished, and none begins any more, so that no
    # guest is added from here on. The native connections and those who watch the objects go next, so that none takes
    # what follows for a change; then the guests, which notify their clients and listeners; then no more HTTP is
    # accepted and what is left of it is closed. The store closes after everything that may write to it, and the lock
    # goes last: until then a new daemon must not start.
    async def stop(self) -> None:
        """Notify listeners and clients, close sockets, remove files."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self.worker.end_changes()
        for guest in [None, *self.worker.guests.values()]:
            self._close_native(guest, STOPPING)
        if self._web is not None:
            self._web.end_watchers(STOPPING)
        await self.worker.stop(STOPPING)
        self.serving.close()
        if self._web is not None:
            self._web.end_attendants()
        await self.serving.cleanup()
        self.listeners.stop()
        if self._handover is not None:
            self._handover.close()
        self.worker.close()
        for path, bound in self._bound.items():
            bound.close()
            path.unlink(missing_ok=True)
        self._lock.release()

    # -- what serves a guest -----------------------------------------------------------------

    def open_guest(self, guest: Guest) -> None:
        """See `Servers`."""
        bound = bind_unix(guest.native_path, watched=True)
        self._native[guest] = self._native_server(guest.native_path, bound, Admits.PROGRAMS, guest)

    def _native_server(
        self, path: Path, bound: socket.socket, admits: Admits, guest: Guest | None = None
    ) -> NativeServer:
        return NativeServer(self.plane, self.plane, self.listeners, path, bound, admits, guest)

    async def close_guest(self, guest: Guest, why: str) -> None:
        """See `Servers`."""
        if self._web is not None:
            await self._web.end_guest(guest, why)
        self._close_native(guest, "the guest is stopping")

    def _close_native(self, guest: Guest | None, why: str) -> None:
        server = self._native.pop(guest, None)
        if server is not None:
            server.close(why)

    def page_link(self) -> str:
        """See `Commands.page_link`."""
        return self.plane.commands.page_link()
