"""A guest, assembled: its graph, the doors for its programs, its machines and its listeners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from millrace.budget import MIB, Budget, Lack
from millrace.clock.allowance import Allowances
from millrace.clock.jitter import PICTURE_FIRST
from millrace.doors.admission import Admission
from millrace.doors.ingress import Program
from millrace.graph.driver import TimerDriver
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Node, Sink, Stream, Tap
from millrace.graph.reports import Trouble
from millrace.graph.screens import Listed, Screens
from millrace.graph.steps import Steps
from millrace.graph.tracks import Tracks
from millrace.guest.config import GuestConfig
from millrace.guest.doors import Doors
from millrace.guest.encoders import Encoders
from millrace.guest.hearing import Hearing
from millrace.guest.home import Machine
from millrace.guest.listener import ListenerSession
from millrace.guest.pulse import PulseServer
from millrace.guest.state import AdmissionState, FrozenGuest, GuestState
from millrace.guest.thumbnails import Thumbnails
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewers import Viewers
from millrace.io.clock import now_ns
from millrace.io.fairqueue import Customer
from millrace.io.listeners import Listeners
from millrace.io.offload import Item
from millrace.io.sockets import private_dir
from millrace.io.turns import Turns
from millrace.outlets.peer import Subscriber
from millrace.outlets.subscribers import Subscribers
from millrace.remembered.devices import Devices
from millrace.remembered.memory import Memory
from millrace.remembered.streams import Rules
from millrace.rights.model import Principal
from millrace.rights.prompts import Prompts
from millrace.symptoms import Evidence, Report, Symptom, kept_waiting
from millrace.units import NS_PER_MS, HostNs, default_map
from millrace.wire.peer.messages import Bye

log = logging.getLogger("millrace.guest")


def _recorded(source: Sink, loop: Callable[[int], bool]) -> bool:
    """Whether a source is recorded, directly or through links; a `loop` is a recorder that does not clock a graph."""
    if any(tap.active and (tap.clocked or loop(tap.id)) for tap in source.taps):
        return True
    return any(not link.target.capture or _recorded(link.target, loop) for link in source.links)


class Reports(Protocol):
    """Receives reports of trouble in guests."""

    def report(self, symptom: Symptom) -> None:
        """See `symptoms.Report`."""
        ...

    def report_node(self, guest: Guest, node: Node, what: Trouble, since_ns: HostNs) -> None:
        """See `graph.reports.Reports`: audible trouble at one of its nodes."""
        ...


class Observer(Protocol):
    """Notified when an object of a guest is added, changed or removed (new, change, remove)."""

    def node_changed(self, change: str, node: Node) -> None:
        """See `nodes.Observer`."""
        ...

    def client_changed(self, change: str, client: Program) -> None:
        """A program's connection that is shown."""
        ...

    def listener_changed(self, change: str, session: ListenerSession) -> None:
        """A listener."""
        ...

    def door_changed(self, change: str, door: Machine) -> None:
        """A machine's door."""
        ...

    def screen_changed(self, change: str, listed: Listed) -> None:
        """A screen."""
        ...

    def viewer_changed(self, change: str, session: ViewerSession) -> None:
        """A viewer of a screen."""
        ...


class Common(msgspec.Struct, frozen=True):
    """What all guests of a worker share."""

    ids: Ids
    driver: TimerDriver
    runtime: Path
    listeners: Listeners
    prompts: Prompts
    reports: Reports
    encoders: Encoders = msgspec.field(default_factory=Encoders)
    watched: set[str] = msgspec.field(default_factory=set)
    """The names of guests that have a screen or a viewer."""


class Guest:
    """One guest, the unit of isolation."""

    def __init__(
        self, config: GuestConfig, common: Common, memory: Memory | None = None, frozen: FrozenGuest | None = None
    ) -> None:
        """A new guest, or one that continues from another one, whose descriptors it takes over."""
        state = None if frozen is None else frozen.state
        self.config, self.name = config, config.name
        self._reports = common.reports
        self.report: Report = common.reports.report
        self._driver, self._watched = common.driver, common.watched
        self.turns = Turns(kept_waiting=self._kept_waiting)
        """Its programs' share of the daemon's time."""
        self._latencies = Steps(self._renew_latencies, self.turns.over)
        self.observers: list[Observer] = []
        self.troubles = Allowances()
        """How many dropouts its listeners may report, by principal."""
        ids, budget = common.ids, Budget(f"guest {config.name}", config.memory, self._no_memory)
        self.admission = Admission(config.name, budget, common.prompts, self.report, config.rights)
        self.graph = Graph(config.name, ids, config.rate, default_map(config.channels), budget, self)
        if state is None:
            self.graph.add_first_sink(f"Millrace {config.name}")
            self.microphone = self.graph.add_source("microphone", "Microphone")
        else:
            self.graph.resume(state.graph)
            self.microphone = self.graph.sources[state.microphone]
        self.machines: list[Machine] = []
        self.screens = Screens(
            config.name, ids, budget, self._screen_changed, report=self.report, failed=self._door_failed
        )
        self.tracks = Tracks(config.name, ids, self.screens.seat, budget)
        encoders, customer = common.encoders, Customer[Item]()
        make = encoders.of(budget, self.name, self.report, customer)
        self.viewers = Viewers(self, make, changed=self._viewer_changed)
        self.thumbnails = Thumbnails(self.screens, lambda: encoders.lane(customer), budget, now_ns)
        self.directory = common.runtime / config.name
        self.native_path = self.directory / "native"
        self.id = ids.take() if state is None else state.id
        self.doors = Doors(self, common.listeners, memory)
        self.native = self.doors.native
        self.sessions: list[ListenerSession] = []
        self._hearing = Hearing(self.graph, self.sessions, self.report)
        self.outlets = Subscribers(self.graph, now_ns, self._sent_changed, self._hearing.encoder, self.in_turns)
        self._hearing.outlets = self.outlets
        self.graph.observers.append(self._graph_changed)
        if frozen is not None:
            frozen.state.admission.give(self.admission)
            self.doors.resume(frozen.doors())

    @property
    def pulse(self) -> PulseServer:
        """Its PulseAudio server."""
        return self.doors.pulse

    @property
    def clients(self) -> int:
        """How many programs are connected and shown as clients."""
        return sum(len(door.clients) for door in self.doors)

    @property
    def devices(self) -> Devices:
        """What it remembers of its sinks and sources."""
        return self.pulse.door.devices

    @property
    def rules(self) -> Rules:
        """What it remembers of its streams, by group."""
        return self.pulse.door.rules

    def group(self, stream: Stream) -> str:
        """The group under which a stream's settings are remembered."""
        return self.pulse.door.group(stream)

    @property
    def recording(self) -> bool:
        """Whether anything in the guest records the microphone."""
        return _recorded(self.microphone, lambda id_: any(door.made(id_) for door in self.doors))

    def has_listener(self, key: str, principal: Principal) -> bool:
        """See `Home`."""
        return any(one.outlet.key == key and one.principal.key == principal.key for one in self.sessions)

    def bye(self, why: str) -> None:
        """Tell its listeners and viewers that it stops, and that they may come again."""
        for listener in self.sessions:
            listener.bye(why, again=True)
        for viewer in self.viewers.sessions:
            viewer.send(Bye(why, again=True))

    # A thousand listeners report theirs every few seconds, and hundreds of viewers may come or go at once.
    def latency_changed(self) -> None:
        """See `Home`: what players query is renewed soon, once for all that has changed by then."""
        self.turns.wait(self._latencies)

    def _renew_latencies(self) -> Iterator[None]:
        """Update the latency that players query from a sink: that of its slowest listener."""
        waiting = {viewer.listener for viewer in self.viewers.sessions if viewer.settings.picture != "off"}
        reports: dict[int, HostNs] = {}
        # A player in the guest paints each picture so much later as its sound will be heard, and a viewer waits for the
        # sound of the moment of painting: both together would show it late by the whole way to the listener.
        waited: set[int] = set()
        for session in self.sessions:
            group = session.outlet.group
            if group is not None:
                reports[group.sink.id] = max(reports.get(group.sink.id, 0), session.report.latency_ns)
                if session.key in waiting and session.outlet.latency != PICTURE_FIRST:
                    waited.add(group.sink.id)
        for sink in self.graph.sinks.values():
            sink.outlet_latency_ns = 0 if sink.id in waited else reports.get(sink.id, 0)
        yield

    def machine_changed(self, change: str, machine: Machine) -> None:
        """See `Home`."""
        if change == "new":
            self.machines.append(machine)
        elif change == "remove":
            self.machines.remove(machine)
        for observer in self.observers:
            observer.door_changed(change, machine)

    def _door_failed(self, door: str, error: Exception) -> None:
        """A machine could not do what a viewer asked of it, by a bug: that ends the machine's session."""
        for machine in self.machines:
            if machine.key == door:
                machine.failed(error)
                return
        log.error("guest %s, %s: internal error; it takes nothing more from viewers", self.name, door, exc_info=error)

    def _note_watched(self) -> None:
        watched = len(self.screens) or self.viewers.sessions
        (self._watched.add if watched else self._watched.discard)(self.name)

    def _screen_changed(self, change: str, listed: Listed) -> None:
        self._note_watched()
        self.viewers.screen_changed(change, listed)
        for observer in self.observers:
            observer.screen_changed(change, listed)

    def _viewer_changed(self, change: str, session: ViewerSession) -> None:
        self._note_watched()
        for observer in self.observers:
            observer.viewer_changed(change, session)
            if session.listed is not None:
                observer.screen_changed("change", session.listed)

    # -- observers ---------------------------------------------------------------------------

    def watch(self, observer: Observer) -> None:
        """Report the existing nodes to `observer`, and every later change of the guest."""
        for node in self.graph.nodes():
            observer.node_changed("new", node)
        self.graph.observers.append(observer.node_changed)
        self.observers.append(observer)

    def client_changed(self, change: str, client: Program) -> None:
        """See `pulse.Owner`."""
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
        """See `pulse.Owner`."""
        worker = Steps(steps, self.turns.over, first=True)
        return lambda: self.turns.wait(worker)

    # -- trouble -----------------------------------------------------------------------------

    def report_node(self, node: Node, what: Trouble, since_ns: HostNs) -> None:
        """See `graph.reports.Reports`."""
        self._reports.report_node(self, node, what, since_ns)

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

    def failed(self, node: Node, error: Exception) -> None:
        """See `graph.reports.Reports`."""
        log.error("guest %s, %s: internal error; the guest plays on", self.name, node.key, exc_info=error)
        self.report(Symptom("cycle", "node failed", self.name, node.key, {"error": type(error).__name__}))

    def _kept_waiting(self, waited_ns: HostNs, waiting: int) -> None:
        self.report(kept_waiting(self.name, "", waited_ns, waiting))

    def _no_memory(self, what: str, lack: Lack) -> None:
        held, limit = round(lack.held / MIB, 1), round(lack.limit / MIB, 1)
        by = {key: word for key, word in (("by", lack.among), ("who", lack.who)) if word}
        evidence: Evidence = {"for": what, **by, "held_mib": held, "may_hold_mib": limit}
        self.report(Symptom("guest", "no memory", self.name, "", evidence))

    def _sent_changed(self, outlet: Subscriber, before: str, after: str) -> None:
        self.report(Symptom("encoder", "changed", self.name, outlet.key, {"from": before, "to": after}))

    def make_room(self, kind: str, who: Principal, more: int) -> bool:
        """See `Home`."""
        return self._hearing.memory(kind, who, more)

    # -- running -----------------------------------------------------------------------------

    def _graph_changed(self, change: str, node: Node) -> None:
        """A recorder came, went or paused: microphones send only while something records."""
        if isinstance(node, Tap) or (isinstance(node, Sink) and node.capture):
            for session in self.sessions:
                session.update_microphone()

    async def start(self) -> None:
        """Open the sockets."""
        private_dir(self.directory)
        for door in self.doors:
            door.open()
        self._driver.attach(self.graph)

    async def settle(self) -> None:
        """It is about to be frozen: its own doors accept, take and send nothing more."""
        await self.doors.settle()

    def freeze(self, kept: Collection[int]) -> FrozenGuest:
        """Return the settled guest as a value, with the connections of its own doors; nothing is left.

        Native connections must have been frozen since the last cycle: `kept` are the numbers of their streams and
        recorders. Listeners and machines must be gone.
        """
        self._driver.detach(self.graph)
        frozen = self.doors.freeze()
        nodes = {*kept}.union(*(door.nodes for door in frozen.values()))
        state = GuestState(
            id=self.id, microphone=self.microphone.id, graph=self.graph.freeze(nodes),
            admission=AdmissionState.of(self.admission), doors={kind: door.state for kind, door in frozen.items()},
        )  # fmt: skip
        return FrozenGuest(state, {kind: door.fds for kind, door in frozen.items()})

    async def stop(self, why: str) -> None:
        """Close the sockets. Clients first get a kill for each stream, then the end of the connection."""
        self._driver.detach(self.graph)
        await asyncio.gather(*(machine.stop(why) for machine in self.machines))
        self.screens.close()
        for stream in list(self.graph.streams.values()):
            self.graph.remove_stream(stream)
        for door in self.doors:
            door.close()
        await asyncio.sleep(0)
