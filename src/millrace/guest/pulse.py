"""A guest's PulseAudio server: its door, with the sockets and the cookie that programs use to get there."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from millrace.doors.frozen import decoded
from millrace.doors.ingress import Program
from millrace.doors.programs import DoorState, FrozenDoor, ProgramDoor
from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.clients import Client
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.doorstate import PulseDoorState, freeze_door, resume_door
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import ClientState, read_client
from millrace.errors import ConfigError, GraphError
from millrace.graph.model import Sink
from millrace.guest.home import Home
from millrace.io.clock import wall_ns
from millrace.io.descriptors import Descriptors
from millrace.io.listeners import Acceptor, Listeners, Runners, bind_tcp, bind_unix
from millrace.io.runner import Connection, Released
from millrace.io.senderidentity import SenderIdentity
from millrace.io.sockets import peer_subject
from millrace.remembered.memory import Memory
from millrace.rights.model import Admits
from millrace.text import parse_address, printable, show_address
from millrace.wire.contract import Runner
from millrace.wire.pulse.constants import COOKIE_BYTES

log = logging.getLogger("millrace.guest")


class Owner(Home, Protocol):
    """The guest, as its PulseAudio server sees it."""

    directory: Path

    def client_changed(self, change: str, client: Program) -> None:
        """A client is new, has changed or has gone; `change` is new, change or remove."""
        ...

    def in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        """See `InTurns`."""
        ...


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _encoded(state: PulseDoorState | ClientState) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(state))


class PulseServer(ProgramDoor):
    """The PulseAudio server of one guest."""

    kind = "pulse"

    def __init__(self, guest: Owner, listeners: Listeners, memory: Memory | None = None) -> None:
        self._guest, self._name, self._listeners = guest, guest.name, listeners
        self._whose = f"guest {guest.name}, PulseAudio"
        self.path, self.cookie_path = guest.directory / "pulse", guest.directory / "cookie"
        self.tcp: list[str] = []
        """Its TCP addresses, if any."""
        cookie = secrets.token_bytes(COOKIE_BYTES)
        host = printable(f"{_user()}@{socket.gethostname()}")
        self.door = PulseDoor(guest.graph, guest.admission, self, cookie, host, wall_ns, memory)
        self.acceptors: list[Acceptor] = []
        self._connections: Runners = {}
        self._accepts = True
        self._files: list[Path] = []
        """Files to delete when the guest stops."""

    @property
    def clients(self) -> Mapping[int, Client]:
        """See `ProgramDoor`."""
        return self.door.clients

    def mixes(self) -> Iterable[Sink]:
        """See `ProgramDoor`."""
        return (mix for module in self.door.modules.values() for mix in module.mixes)

    def made(self, id_: int) -> bool:
        """See `ProgramDoor`."""
        return id_ in self.door.made_by

    def open(self) -> None:
        """See `ProgramDoor`."""
        self._serve(bind_unix(self.path, watched=True), Admits.PROGRAMS)
        self._files.append(self.path)
        self._write_cookie()
        for address in self._guest.config.pulse_tcp:
            try:
                bound = bind_tcp(*parse_address(address, "pulse_tcp"))
            except OSError as error:
                raise ConfigError(f"pulse_tcp: can't listen on {address}: {error.strerror}") from None
            for sock in bound:
                self.tcp.append(show_address(*sock.getsockname()[:2]))
                self._serve(sock, Admits.NOBODY)

    def close(self) -> None:
        """See `ProgramDoor`: clients first get a kill for each stream, then the end of the connection."""
        self.door.close()
        for acceptor in self.acceptors:
            acceptor.close()
        for path in self._files:
            path.unlink(missing_ok=True)

    # -- handing on ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """See `ProgramDoor`."""
        self._accepts = False
        for acceptor in self.acceptors:
            acceptor.close()
        await asyncio.gather(*(runner.settle() for runner in self._connections))

    # Connections that are about to end, or whose clients do not read, end here.
    def freeze(self) -> FrozenDoor:
        """See `ProgramDoor`."""
        clients: list[ClientState] = []
        fds: list[int] = []
        for runner, core in list(self._connections.items()):
            assert isinstance(core, PulseClient)
            released = runner.hand_on()
            if released is not None:
                clients.append(core.freeze(released.received))
                fds.append(released.sock.detach())
        own = freeze_door(self.door)
        nodes = own.nodes.union(*(client.playback for client in clients), *(client.records for client in clients))
        return FrozenDoor(DoorState(_encoded(own), [_encoded(client) for client in clients]), fds, frozenset(nodes))

    def resume(self, frozen: FrozenDoor) -> None:
        """See `ProgramDoor`. What its connections have received is processed in turns."""
        with Descriptors(frozen.fds) as fds:
            resume_door(self.door, decoded(frozen.state.own, PulseDoorState, "guest"))
            for data in frozen.state.connections:
                self._resume(read_client(data), socket.socket(fileno=fds.give()))

    def _resume(self, state: ClientState, sock: socket.socket) -> None:
        received, state.received = state.received, b""
        released, turns = Released(sock, received), self._guest.turns
        try:
            make = partial(PulseClient, self.door, HANDLERS, state)
            self._listeners.resume_core(released, turns, make, self._watch, self._whose, self._connections)
        except GraphError as error:
            log.warning("%s: connection ended: %s", self._whose, error)
            sock.close()

    # -- what the door needs: see `clients.Host` -----------------------------------------------

    def client_changed(self, change: str, client: Client) -> None:
        """See `Host`."""
        self._guest.client_changed(change, client)

    def in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        """See `Host`."""
        return self._guest.in_turns(steps)

    def module_failed(self, module: str, why: str) -> None:
        """See `Host`."""
        log.warning("guest %s: module %s was not loaded: %s", self._name, printable(module), printable(why, len(why)))

    def module_idle(self, module: str, why: str) -> None:
        """See `Host`."""
        log.info("guest %s: module %s: %s", self._name, printable(module), printable(why, len(why)))

    # -- sockets -------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, admits: Admits) -> None:
        """Serve a socket. Peers that it does not admit on kernel credentials need the cookie."""
        turns, connect = self._guest.turns, partial(self._connect, admits)
        self.acceptors.append(
            self._listeners.serve_cores(sock, turns, connect, self._watch, self._whose, self._connections)
        )

    def _write_cookie(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(self.cookie_path, flags, 0o600), "wb") as file:
                self._files.append(self.cookie_path)
                file.write(self.door.cookie)
        except OSError as error:
            raise ConfigError(f"{self.cookie_path}: {error.strerror}") from None

    def _connect(self, admits: Admits, transport: asyncio.Transport, runner: Runner) -> PulseClient | None:
        if not self._accepts:
            return None
        try:
            subject = peer_subject(transport.get_extra_info("socket"), admits)
            return PulseClient(self.door, HANDLERS, ClientState(self._guest.graph.ids.take(), subject), runner)
        except GraphError as error:
            log.warning("guest %s: connection refused: %s", self._name, error)
            return None

    def _watch(self, transport: asyncio.Transport, core: Connection) -> SenderIdentity | None:
        """Watch the sender: a program's rules apply to the program that sends, not to the one that connected."""
        assert isinstance(core, PulseClient)
        identity = core.subject.identity
        if not identity.unproven:
            return None
        return SenderIdentity(transport.get_extra_info("socket").fileno(), identity, core.identified)
