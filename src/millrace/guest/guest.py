"""A guest, assembled: its graph, its PulseAudio door with sockets, its listeners."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import secrets
import socket
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from millrace.budget import MIB, Budget
from millrace.doors.admission import Admission
from millrace.doors.native.door import NativeDoor
from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.clients import Client, Memory
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import ClientState
from millrace.errors import ConfigError, GraphError
from millrace.graph.driver import TimerDriver
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Node, Sink, Tap
from millrace.guest.config import GuestConfig
from millrace.guest.home import Machine
from millrace.guest.listener import ListenerSession
from millrace.io.clock import now_ns, wall_ns
from millrace.io.listeners import Acceptor, Listeners, bind_tcp, bind_unix
from millrace.io.runner import Connection
from millrace.io.senderidentity import SenderIdentity
from millrace.io.sockets import peer_subject, private_dir
from millrace.io.turns import Steps, Turns
from millrace.outlets.peer import Subscriber, Subscribers
from millrace.rights.model import Admits
from millrace.rights.prompts import Prompts
from millrace.symptoms import Evidence, Report, Symptom, kept_waiting
from millrace.text import parse_address, printable, show_address
from millrace.units import NS_PER_MS, HostNs, default_map
from millrace.wire.pulse.constants import COOKIE_BYTES

log = logging.getLogger("millrace.guest")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _recorded(source: Sink, loops: Container[int]) -> bool:
    """Whether a source is recorded, directly or through links; `loops` are recorders that do not clock a graph."""
    if any(tap.active and (tap.clocked or tap.id in loops) for tap in source.taps):
        return True
    return any(not link.target.capture or _recorded(link.target, loops) for link in source.links)


class Reports(Protocol):
    """Receives reports of trouble in guests."""

    def report(self, symptom: Symptom) -> None:
        """See `symptoms.Report`."""
        ...

    def troubled(self, guest: Guest, node: Node, what: str, since_ns: HostNs) -> None:
        """See `graph.reports.Reports`: audible trouble at one of its nodes."""
        ...


class Observer(Protocol):
    """Notified when an object of a guest is added, changed or removed (new, change, remove)."""

    def node_changed(self, change: str, node: Node) -> None:
        """See `nodes.Observer`."""
        ...

    def client_changed(self, change: str, client: Client) -> None:
        """A PulseAudio client."""
        ...

    def listener_changed(self, change: str, session: ListenerSession) -> None:
        """A listener."""
        ...

    def door_changed(self, change: str, door: Machine) -> None:
        """A machine's door."""
        ...


@dataclass(frozen=True, slots=True)
class Common:
    """What all guests of a worker share."""

    ids: Ids
    driver: TimerDriver
    runtime: Path
    listeners: Listeners
    prompts: Prompts
    reports: Reports


class Guest:
    """One guest, the unit of isolation."""

    def __init__(self, config: GuestConfig, common: Common, memory: Memory | None = None) -> None:
        self.config, self.name = config, config.name
        self._reports = common.reports
        self.report: Report = common.reports.report
        self._driver, self._listeners = common.driver, common.listeners
        self.turns = Turns(kept_waiting=self._kept_waiting)
        """Its programs' share of the daemon's time."""
        self.observers: list[Observer] = []
        ids, budget = common.ids, Budget(f"guest {config.name}", config.memory, self._no_memory)
        self.admission = Admission(config.name, budget, common.prompts, self.report, config.rights)
        self.graph = Graph(config.name, ids, config.rate, default_map(config.channels), budget, self)
        self.graph.add_first_sink(f"Millrace {config.name}")
        self.microphone = self.graph.add_source("microphone", "Microphone")
        self.machines: list[Machine] = []
        self.directory = common.runtime / config.name
        self.cookie_path = self.directory / "cookie"
        self.pulse_path = self.directory / "pulse"
        self.pulse_tcp: list[str] = []
        """TCP addresses of its PulseAudio server, if any."""
        self.native_path = self.directory / "native"
        self.id = ids.take()
        cookie = secrets.token_bytes(COOKIE_BYTES)
        host = printable(f"{_user()}@{socket.gethostname()}")
        self.door = PulseDoor(self.graph, self.admission, self, cookie, host, wall_ns, memory)
        self.native = NativeDoor(self.graph)
        self.outlets = Subscribers(self.graph, now_ns, self._sent_changed)
        self.graph.observers.append(self._graph_changed)
        self._made: list[Path] = []
        """Files to delete when the guest stops."""
        self.servers: list[Acceptor] = []
        self.sessions: list[ListenerSession] = []

    @property
    def recording(self) -> bool:
        """Whether anything in the guest records the microphone."""
        return _recorded(self.microphone, self.door.made_by)

    def latency_changed(self) -> None:
        """Update the latency that players query from a sink: that of its slowest listener."""
        reports: dict[int, HostNs] = {}
        for session in self.sessions:
            group = session.outlet.group
            if group is not None:
                reports[group.sink.id] = max(reports.get(group.sink.id, 0), session.report.latency_ns)
        for sink in self.graph.sinks.values():
            sink.outlet_latency_ns = reports.get(sink.id, 0)

    def machine_changed(self, change: str, machine: Machine) -> None:
        """See `Home`."""
        if change == "new":
            self.machines.append(machine)
        elif change == "remove":
            self.machines.remove(machine)
        for observer in self.observers:
            observer.door_changed(change, machine)

    # -- observers ---------------------------------------------------------------------------

    def watch(self, observer: Observer) -> None:
        """Report the existing nodes to `observer`, and every later change of the guest."""
        for node in self.graph.nodes():
            observer.node_changed("new", node)
        self.graph.observers.append(observer.node_changed)
        self.observers.append(observer)

    def client_changed(self, change: str, client: Client) -> None:
        """See `clients.Host`."""
        for observer in self.observers:
            observer.client_changed(change, client)

    def listener_changed(self, change: str, session: ListenerSession) -> None:
        """A listener was added, changed or removed: new, change, remove."""
        if change == "new":
            self.sessions.append(session)
        elif change == "remove":
            self.sessions.remove(session)
        for observer in self.observers:
            observer.listener_changed(change, session)

    def in_turns(self, steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
        """See `clients.Host`."""
        worker = Steps(steps, self.turns.over, first=True)
        return lambda: self.turns.wait(worker)

    # -- trouble -----------------------------------------------------------------------------

    def module_failed(self, module: str, why: str) -> None:
        """See `clients.Host`."""
        log.warning("guest %s: module %s was not loaded: %s", self.name, printable(module), printable(why, len(why)))

    def module_idle(self, module: str, why: str) -> None:
        """See `clients.Host`."""
        log.info("guest %s: module %s: %s", self.name, printable(module), printable(why, len(why)))

    def troubled(self, node: Node, what: str, since_ns: HostNs) -> None:
        """See `graph.reports.Reports`."""
        self._reports.troubled(self, node, what, since_ns)

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """See `graph.reports.Reports`: the guest exceeded its share, or all guests together exceeded the processor.

        A host that did not schedule the daemon is neither case; the graph driver detects and reports that.
        """
        evidence: dict[str, float] = {"left_out_ms": round(left_out_ns / NS_PER_MS, 1)}
        if cut:
            evidence["worked_lately_ms"] = round(self.graph.share.recent_ns / NS_PER_MS, 1)
            evidence["streams"] = sum(stream.active for stream in self.graph.streams.values())
            self.report(Symptom("cycle", "cut short", self.name, "", evidence))
        elif self._driver.overloaded(now_ns()):
            self.report(Symptom("cycle", "overran", evidence=evidence))

    def _kept_waiting(self, waited_ns: HostNs, waiting: int) -> None:
        self.report(kept_waiting(self.name, "", waited_ns, waiting))

    def _no_memory(self, what: str) -> None:
        budget = self.admission.budget
        held, limit = round(budget.held / MIB, 1), round(budget.limit / MIB, 1)
        evidence: Evidence = {"for": what, "held_mib": held, "may_hold_mib": limit}
        self.report(Symptom("guest", "no memory", self.name, "", evidence))

    def _sent_changed(self, outlet: Subscriber, before: str, after: str) -> None:
        self.report(Symptom("encoder", "changed", self.name, outlet.key, {"from": before, "to": after}))

    # -- running -----------------------------------------------------------------------------

    def _graph_changed(self, change: str, node: Node) -> None:
        """A recorder came, went or paused: microphones send only while something records."""
        if isinstance(node, Tap) or (isinstance(node, Sink) and node.capture):
            for session in self.sessions:
                session.update_microphone()

    async def start(self) -> None:
        """Open the sockets."""
        private_dir(self.directory)
        self._serve(bind_unix(self.pulse_path, watched=True), Admits.PROGRAMS)
        self._made.append(self.pulse_path)
        self._write_cookie()
        for address in self.config.pulse_tcp:
            try:
                bound = bind_tcp(*parse_address(address, "pulse_tcp"))
            except OSError as error:
                raise ConfigError(f"pulse_tcp: can't listen on {address}: {error.strerror}") from None
            for sock in bound:
                self.pulse_tcp.append(show_address(*sock.getsockname()[:2]))
                self._serve(sock, Admits.NOBODY)
        self._driver.attach(self.graph)

    def _serve(self, sock: socket.socket, admits: Admits) -> None:
        """Serve PulseAudio on a socket. Peers that it does not admit on kernel credentials need the cookie."""
        whose, connect = f"guest {self.name}, PulseAudio", partial(self._connect, admits)
        self.servers.append(self._listeners.serve_cores(sock, self.turns, connect, self._watch, whose))

    def _write_cookie(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(self.cookie_path, flags, 0o600), "wb") as file:
                self._made.append(self.cookie_path)
                file.write(self.door.cookie)
        except OSError as error:
            raise ConfigError(f"{self.cookie_path}: {error.strerror}") from None

    def _connect(self, admits: Admits, transport: asyncio.Transport) -> PulseClient | None:
        try:
            subject = peer_subject(transport.get_extra_info("socket"), admits)
            return PulseClient(self.door, HANDLERS, ClientState(self.graph.ids.take(), subject))
        except GraphError as error:
            log.warning("connection refused: %s", error)
            return None

    def _watch(self, transport: asyncio.Transport, core: Connection) -> SenderIdentity | None:
        """Watch the sender: a program's rules apply to the program that sends, not to the one that connected."""
        assert isinstance(core, PulseClient)
        identity = core.subject.identity
        if not identity.unproven:
            return None
        return SenderIdentity(transport.get_extra_info("socket").fileno(), identity, core.identified)

    async def stop(self) -> None:
        """Close the sockets. Clients first get a kill for each stream, then the end of the connection."""
        self._driver.detach(self.graph)
        for machine in list(self.machines):
            await machine.stop()
        for stream in list(self.graph.streams.values()):
            self.graph.remove_stream(stream)
        for door in self.admission.doors:
            door.close()
        for server in self.servers:
            server.close()
        for path in self._made:
            path.unlink(missing_ok=True)
        await asyncio.sleep(0)
