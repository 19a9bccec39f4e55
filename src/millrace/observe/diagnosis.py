"""The doctor: hears of everything that goes wrong, finds the cause, and writes it down once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.budget import MIB
from millrace.graph.graph import Graph
from millrace.graph.model import Node, Stream
from millrace.io.clock import now_ns, wall_ns
from millrace.io.notify import notify
from millrace.io.turns import Turns
from millrace.observe.flight import FlightRecorder
from millrace.observe.incidents import Incident, Incidents
from millrace.outlets.peer import PeerOutlet
from millrace.symptoms import CAUSES
from millrace.text import printable
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.messages import Trouble

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon
    from millrace.guest.guest import Guest
    from millrace.guest.listener import ListenerSession

log = logging.getLogger("millrace.daemon")
STRAIN_NS = 20 * NS_PER_MS
"""A cycle this late, or that takes so long, is an incident."""
CONFIRM_S = 0.15
"""An application that stops for good ends its stream within this: then that was no underrun."""
CONFIRMED_MAX = 32
"""Underruns of one guest that are looked into at a time; those beyond are counted by their streams only."""
AFTER_NS = 600 * NS_PER_MS
"""What is heard so long after an incident is its doing."""
TICK_S = 1.0
FLIGHT_GUESTS = 10
CLOCK_JUMP_NS = 200 * NS_PER_MS
HEARD_EVERY_NS = NS_PER_S
"""A listener that plays tells how it fares more often than this."""
CYCLE_MAX_NS = 40 * NS_PER_MS
OURS = frozenset({"loop", "cycle", "encoder"})


def _run_delay_ns() -> int:
    """How long this thread has waited for a processor (proc(5), schedstat); 0 where that is not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _is_stopped(pid: int) -> bool:
    """Whether a process is stopped (proc(5), stat: state T or t)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


class Doctor:
    """One daemon's."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.incidents = Incidents(daemon.ids.take, wall_ns)
        self.incidents.on_change = self._changed
        self._waited_ns = _run_delay_ns()
        self._cpu_ns = self._cpu_before_ns = time.thread_time_ns()
        self._wall_offset = wall_ns() - now_ns()

        self.flight = FlightRecorder()
        self._confirming: Counter[str] = Counter()
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look after the daemon from now on."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    def stop(self) -> None:
        """Stop watching."""
        if self._ticker is not None:
            self._ticker.cancel()

    def look_after(self, guest: Guest) -> None:
        """Hear of what goes wrong in a guest."""
        guest.doctor = self
        guest.graph.troubled = lambda node, what, since_ns: self.troubled(guest, node, what, since_ns)
        guest.turns.on_wait = lambda waited_ns: self.made_to_wait(guest.name, "", guest.turns, waited_ns)
        guest.graph.left_out = lambda left_out_ns, cut: self.left_out_sound(guest, left_out_ns, cut)
        guest.door.on_violation = lambda client, error: self.violated(guest.name, f"client/{client.index}", error)
        guest.graph.budget.on_refused = lambda what: self.no_memory(guest, what)
        guest.outlets.changed = lambda outlet, before, after: self.changed(guest, outlet, before, after)
        guest.door.on_failure = lambda module, why: log.warning(
            "guest %s: module %s was not loaded: %s", guest.name, printable(module), printable(why, len(why))
        )
        guest.door.on_idle = lambda module, why: log.info(
            "guest %s: module %s: %s", guest.name, printable(module), printable(why, len(why))
        )
        guest.door.on_refused = lambda who, what: self.refused(guest.name, who, what)

    def _changed(self, change: str, incident: Incident) -> None:
        if change == "remove":
            self._daemon.registry.drop(incident.number)
        else:
            self._daemon.registry.put(incident.number, "incident", incident.guest, incident.view)

    async def _tick(self) -> None:
        """Every second: what nobody tells us."""
        while True:
            await asyncio.sleep(TICK_S)
            self._waited_ns = _run_delay_ns()
            now = now_ns()
            self._look_at_clock(now)
            notify("WATCHDOG=1")
            try:
                await self._note_flight(now)
            except Exception:
                # One guest's view that can't be built must not end the watchdog's heartbeat.
                log.exception("the flight recorder left out a second")

    async def _note_flight(self, now: HostNs) -> None:
        """A few guests at a time: with hundreds of them sound goes on in between."""
        guests = list(self._daemon.guests.values())
        for at in range(0, len(guests), FLIGHT_GUESTS):
            self.flight.note(guests[at : at + FLIGHT_GUESTS], now)
            await asyncio.sleep(0)

    # -- our own doing -----------------------------------------------------------------------

    def ran(self, began_ns: HostNs) -> None:
        """The graphs have run."""
        self._cpu_before_ns, self._cpu_ns = self._cpu_ns, time.thread_time_ns()
        self._look_at_clock(began_ns)

    def _look_at_clock(self, began_ns: HostNs) -> None:
        """Is the wall clock where it was?"""
        offset = wall_ns() - now_ns()
        moved = offset - self._wall_offset
        self._wall_offset = offset
        if abs(moved) > CLOCK_JUMP_NS:
            self.incidents.record("clock", "jumped", began_ns, evidence={"moved_ms": _ms(moved)})

    def not_kept(self, trouble: str, asked_ns: HostNs) -> None:
        """A change is not on disk."""
        self.incidents.record("store", "can't write", now_ns(), evidence={"error": trouble}, at_ns=asked_ns)

    def left_out(self, guest: str, why: str) -> None:
        """A guest of before could not be brought back."""
        self.incidents.record("guest", "left out", now_ns(), guest, evidence={"error": why})

    def strain(self, late_ns: HostNs, spent_ns: HostNs, began_ns: HostNs, before_ns: HostNs) -> None:
        """A run of the graphs began so late, and took so long; the one before it ended at `before_ns`."""
        waited = _run_delay_ns()
        waited_ns, self._waited_ns = waited - self._waited_ns, waited
        cpu_ns = self._cpu_ns - self._cpu_before_ns
        evidence = {
            "late_ms": _ms(late_ns), "took_ms": _ms(spent_ns), "waited_for_processor_ms": _ms(waited_ns),
            "computed_ms": _ms(cpu_ns),
        }  # fmt: skip
        due = began_ns - late_ns
        regular = due - before_ns < CYCLE_MAX_NS
        stage, cause = self._blamed(late_ns, spent_ns, waited_ns, cpu_ns, regular)
        # What held it up began between the run that was in time and the deadline that was not kept.
        at = (max(before_ns, due - CYCLE_MAX_NS) + due) // 2 if late_ns >= spent_ns else began_ns
        self.incidents.record(stage, cause, began_ns + spent_ns, evidence=evidence, at_ns=at)

    def _blamed(
        self, late_ns: HostNs, spent_ns: HostNs, waited_ns: HostNs, cpu_ns: HostNs, regular: bool
    ) -> tuple[str, str]:
        """Who had the time: the graphs, other work of ours, other programs, or nobody.

        `cpu_ns` is what we computed since the run before ended. In `regular` running that was within a cycle of the
        deadline, so what we computed is what held us up. `waited_ns` reaches back for up to a second, in which a loaded
        machine makes everybody wait a little: it counts only where we did not compute.
        """
        lost_ns = max(late_ns, spent_ns)
        if waited_ns > lost_ns // 2 and not (regular and cpu_ns > lost_ns // 2):
            return "loop", "starved"
        if cpu_ns < lost_ns // 2:
            return "loop", "not run"
        if spent_ns < late_ns:
            return "loop", "busy"
        encoding = sum(guest.outlets.encoding_ns() for guest in self._daemon.guests.values())
        return ("encoder", "slow") if encoding > spent_ns // 2 else ("cycle", "overran")

    def left_out_sound(self, guest: Guest, left_out_ns: HostNs, cut: bool) -> None:
        """So much of a guest's sound is left out: it took more than its share, or all together took more than there is.

        A machine that did not run the daemon is neither; `strain` tells of that.
        """
        graph = guest.graph
        if not cut:
            if self._daemon.driver.overloaded(now_ns()):
                self.incidents.record("cycle", "overran", now_ns(), evidence={"left_out_ms": _ms(left_out_ns)})
            return
        evidence = {
            "left_out_ms": _ms(left_out_ns), "worked_lately_ms": _ms(graph.share.recent_ns),
            "streams": sum(stream.active for stream in graph.streams.values()),
        }  # fmt: skip
        self.incidents.record("cycle", "cut short", now_ns(), guest.name, "", evidence)

    def cycle_failed(self, graph: Graph, error: Exception) -> None:
        """A bug of ours, in a guest's cycle."""
        log.error("guest %s: internal error in a cycle", graph.name, exc_info=error)
        self.incidents.record("cycle", "failed", now_ns(), graph.name, "", {"error": type(error).__name__})

    def made_to_wait(self, guest: str, subject: str, turns: Turns, waited_ns: HostNs) -> None:
        """A guest's programs, or a token's, have asked for more than their share for so long."""
        evidence = {"waited_ms": _ms(waited_ns), "connections": turns.waiting}
        self.incidents.record("requests", "cut short", now_ns(), guest, subject, evidence)

    # -- streams -----------------------------------------------------------------------------

    def troubled(self, guest: Guest, node: Node, what: str, since_ns: HostNs) -> None:
        """The graph tells of a node: underrun, late, scribbled, unread, overrun, microphone; and since when."""
        heard = now_ns()
        at = since_ns or heard
        if what == "underrun":
            if self._confirming[guest.name] >= CONFIRMED_MAX:
                return
            self._confirming[guest.name] += 1
            stopped = _is_stopped(self._pid(guest, node))
            asyncio.get_running_loop().call_later(CONFIRM_S, self._underrun, guest, node, heard, at, stopped)
            return
        stage, cause = {
            "late": ("machine", "late"), "scribbled": ("client", "scribbled"), "unread": ("recorder", "does not read"),
            "overrun": ("client", "too much"), "microphone": ("microphone", "late"),
        }[what]  # fmt: skip
        if not self._hurt_by_us(guest, node.key, heard):
            evidence = {"name": node.name} | _heard_after(heard, at)
            self.incidents.record(stage, cause, heard, guest.name, node.key, evidence, at_ns=at)

    def _underrun(self, guest: Guest, node: Node, heard: HostNs, at: HostNs, stopped: bool) -> None:
        self._confirming[guest.name] -= 1
        gone = node.id not in guest.graph.streams
        pulse = guest.door.playback.get(node.id)
        ended = pulse is not None and (pulse.corked or pulse.drain is not None)
        if gone or ended or self._hurt_by_us(guest, node.key, heard):
            return
        assert isinstance(node, Stream)
        evidence: dict[str, Any] = {
            "application": node.props.get("application.name", ""), "underruns": node.underruns,
        } | _heard_after(heard, at)  # fmt: skip
        if pulse is not None:
            evidence["asked_for_ms"] = _ms(pulse.layout.to_ns(max(0, pulse.requested)))
        pid = self._pid(guest, node)
        cause = "stopped" if stopped or _is_stopped(pid) else "wrote late"
        self.incidents.record("client", cause, now_ns(), guest.name, node.key, evidence | {"pid": pid}, at_ns=at)

    def _pid(self, guest: Guest, node: Node) -> int:
        pulse = guest.door.playback.get(node.id)
        if pulse is not None:
            client = guest.door.clients.get(pulse.owner.index)
            return client.subject.identity.pid if client is not None else 0
        native = guest.native.get(node.id)
        return native.pid if native is not None else 0

    def _hurt_by_us(self, guest: Guest, key: str, at: HostNs) -> bool:
        """Whether a stall of the whole daemon explains it; then that is written down for the guest, as what it is."""
        near = self.incidents.near(OURS, at, AFTER_NS)
        if near is None:
            return False
        evidence = near.evidence | {"heard_by": key}
        self.incidents.record(near.stage, near.cause, now_ns(), guest.name, key, evidence, at_ns=near.at_ns)
        return True

    # -- listeners ---------------------------------------------------------------------------

    def listener(self, session: ListenerSession, told: Trouble) -> None:
        """A listener tells what its sound suffered, and whom it blames."""
        now, guest = now_ns(), session.guest
        if (told.stage, told.cause) not in CAUSES:
            return
        at = min(now, max(told.at_ns, now - 60 * NS_PER_S)) if told.at_ns else now
        if self._hurt_by_us(guest, session.outlet.key, at):
            return
        if told.stage == "network" and self.incidents.near(frozenset({"send"}), now, 3 * NS_PER_S, session.outlet.key):
            return
        evidence = {key[:40]: value for key, value in list(told.evidence.items())[:8]} | {"heard": told.what[:20]}
        self.incidents.record(told.stage, told.cause, now, guest.name, session.outlet.key, evidence, at_ns=at)

    def dropped(self, session: ListenerSession) -> None:
        """Its queue is full."""
        evidence = {"queued": session.outlet.queued, "rtt_ms": _ms(session.rtt_ns or 0)}
        self._silent(session, "send", "line full", evidence)

    def gone_silent(self, session: ListenerSession, why: str) -> None:
        """Its keepalive was not answered."""
        self._silent(session, "network", "gone silent", {"error": why})

    def left(self, session: ListenerSession) -> None:
        """Its connection ended without a goodbye."""
        self.incidents.record("listener", "left", now_ns(), session.guest.name, session.outlet.key)

    def changed(self, guest: Guest, outlet: PeerOutlet, before: str, after: str) -> None:
        """A listener is sent something else from here on."""
        evidence = {"from": before, "to": after}
        self.incidents.record("encoder", "changed", now_ns(), guest.name, outlet.key, evidence)

    def _silent(self, session: ListenerSession, stage: str, cause: str, evidence: dict[str, Any]) -> None:
        """What began when a listener was last heard of, if that is long ago."""
        now, heard = now_ns(), session.heard_ns
        at = heard if now - heard > HEARD_EVERY_NS else now
        evidence = evidence | {"last_heard_ms_before": _ms(now - heard)}
        self.incidents.record(stage, cause, now, session.guest.name, session.outlet.key, evidence, at_ns=at)

    # -- the rest ----------------------------------------------------------------------------

    def machine_lost(self, guest: Guest, key: str, error: str) -> None:
        """A door has lost its machine."""
        self.incidents.record("machine", "lost", now_ns(), guest.name, key, {"error": error})

    def machine_displaced(self, guest: Guest, key: str, error: str) -> None:
        """A machine's server has another viewer instead."""
        self.incidents.record("machine", "displaced", now_ns(), guest.name, key, {"error": error})

    def violated(self, guest: str, key: str, error: Exception, stage: str = "client") -> None:
        """A client or a listener was cut off; the guest is empty for a client of the whole daemon."""
        self.incidents.record(stage, "broke the protocol", now_ns(), guest, key, {"error": str(error)[:200]})

    def no_memory(self, guest: Guest, what: str) -> None:
        """The guest's budget had no room for something."""
        budget = guest.graph.budget
        evidence = {"for": what, "held_mib": round(budget.held / MIB, 1), "may_hold_mib": round(budget.limit / MIB, 1)}
        self.incidents.record("guest", "no memory", now_ns(), guest.name, "", evidence)

    def refused(self, guest: str, who: str, what: str) -> None:
        """Somebody asked for what they may not."""
        self.incidents.record("rights", "refused", now_ns(), guest, "", {"who": who, "what": what[:200]})


def _heard_after(heard_ns: HostNs, at_ns: HostNs) -> dict[str, float]:
    """How long after it began it was heard, where that is not at once."""
    after_ms = _ms(heard_ns - at_ns)
    return {"heard_after_ms": after_ms} if after_ms else {}


def _ms(ns: float) -> float:
    return round(ns / NS_PER_MS, 1)
