"""Diagnosis: receives every report of trouble, finds the cause, and records it once.

Stages report symptoms. If a stall of the daemon explains a symptom, it is recorded as that stall's incident in the
guest where it was audible. What a stall may explain is judged in the event loop's next turn, when the stall is known.
An underrun is examined later still, because an application that stops for good ends its stream by then. The clocks,
and what the system knows of this thread, are passed in.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from millrace.doors.ingress import status_of
from millrace.graph.graph import Graph
from millrace.graph.model import Node, Stream
from millrace.graph.reports import Trouble
from millrace.guest.guest import Guest
from millrace.observe.incidents import Changed, Incidents
from millrace.symptoms import Evidence, Symptom
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

log = logging.getLogger("millrace.daemon")
LATE_CYCLE_NS = 20 * NS_PER_MS
"""A cycle that is this late, or takes this long, is an incident."""
CONFIRM_NS = 150 * NS_PER_MS
"""If an application ends its stream within this time, it stopped on purpose, and there was no underrun."""
CONFIRMED_MAX = 32
"""Underruns of one guest that may be pending at a time; further ones are only counted by their streams."""
AFTER_NS = 600 * NS_PER_MS
"""A symptom within this time after an incident is attributed to it."""
CLOCK_JUMP_NS = 200 * NS_PER_MS
CYCLE_MAX_NS, STALL_MAX_NS = 40 * NS_PER_MS, 75 * NS_PER_MS
OURS = frozenset({"loop", "cycle", "encoder"})
SENDING = frozenset({"send"})
MACHINE = frozenset({"machine"})
LINE = frozenset({"send", "network"})
INFERRED: dict[Trouble, tuple[str, str]] = {
    "late": ("machine", "late"), "unread": ("recorder", "does not read"), "overrun": ("client", "too much"),
    "microphone": ("microphone", "late"),
}  # fmt: skip
"""What is said of a node's trouble, unless a stall of the daemon explains it."""


class Surroundings(msgspec.Struct, frozen=True):
    """Clocks, and what the system knows of this thread and of a process."""

    now_ns: Callable[[], HostNs]
    wall_ns: Callable[[], int]
    waited_ns: Callable[[], HostNs]
    """How long this thread has waited for a processor."""
    computed_ns: Callable[[], HostNs]
    """How long it had computed when the last graph had run."""
    is_stopped: Callable[[int], bool]
    """Whether the process with that PID is stopped."""


class Doubt(NamedTuple):
    """An underrun to be examined when it is due."""

    due_ns: HostNs
    guest: Guest
    node: Stream
    heard_ns: HostNs
    at_ns: HostNs
    stopped: bool


class Suspicion(NamedTuple):
    """A symptom to be judged at `due_ns`, as a rule in the event loop's next turn.

    It was heard at `heard_ns`, and reported at `told_ns`.
    """

    due_ns: HostNs
    symptom: Symptom
    heard_ns: HostNs
    told_ns: HostNs


# One event may be noticed in many places: a daemon that was not scheduled makes every stream run dry, every listener
# miss packets and every machine look slow. Only the cause is an incident. So before a symptom is attributed to a
# client, a machine or the network, it is compared with the daemon's own stalls (`OURS`). If one of them lies within
# `AFTER_NS` before it, it is recorded as that stall, in the guest where it was heard: an effect is heard only once
# the buffers in between have run dry.
#
# The comparison needs both to be known. A stall is reported (`strain`) when the run of the graphs that was late has
# ended, after the symptoms that were found within that run, or in what was read before it. So a symptom is judged in
# the next turn of the event loop, when every timer that was overdue has run, and a client's underrun `CONFIRM_NS`
# later. Both are compared by the time at which they were heard.
class Diagnosis:
    """The diagnosis of one worker."""

    strain_ns = LATE_CYCLE_NS

    def __init__(
        self, surroundings: Surroundings, take_id: Callable[[], int], guests: Callable[[], Iterable[Guest]],
        publish: Changed, rearm: Callable[[], None],
    ) -> None:  # fmt: skip
        self._around, self._guests, self._rearm = surroundings, guests, rearm
        self.incidents = Incidents(take_id, surroundings.wall_ns, publish)
        self._waited_ns = surroundings.waited_ns()
        self._cpu_ns = self._cpu_before_ns = surroundings.computed_ns()
        self._wall_offset = surroundings.wall_ns() - surroundings.now_ns()
        self._doubts: deque[Doubt] = deque()
        self._doubtful: Counter[str] = Counter()
        self._suspicions: list[Suspicion] = []
        self._later: deque[Suspicion] = deque()
        """Those that wait for `CONFIRM_NS`."""

    def next_timeout(self) -> HostNs | None:
        """When the next symptom is to be judged."""
        due = [suspicions[0].due_ns for suspicions in (self._suspicions, self._later) if suspicions]
        if self._doubts:
            due.append(self._doubts[0].due_ns)
        return min(due, default=None)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Judge the symptoms that were reported, and examine the underruns that are due at `now_ns`."""
        suspicions, self._suspicions = self._suspicions, []
        for suspicion in suspicions:
            self._judge(suspicion)
        while self._later and self._later[0].due_ns <= now_ns:
            self._judge(self._later.popleft())
        while self._doubts and self._doubts[0].due_ns <= now_ns:
            self._look_into(self._doubts.popleft())

    def forget(self, guest: str) -> None:
        """Forget what was recorded or is pending of a guest of this name: the next one is a different one."""
        self._suspicions = [one for one in self._suspicions if one.symptom.guest != guest]
        self._later = deque(one for one in self._later if one.symptom.guest != guest)
        self._doubts = deque(one for one in self._doubts if one.guest.name != guest)
        del self._doubtful[guest]
        self.incidents.forget(guest)

    def report(self, symptom: Symptom) -> None:
        """See `symptoms.Report`."""
        now = self._around.now_ns()
        if not symptom.inferred:
            self._record(symptom, now)
        else:
            self._suspect(symptom, now if symptom.at_ns is None else symptom.at_ns)

    def _record(self, symptom: Symptom, now_ns: HostNs) -> None:
        at = now_ns if symptom.at_ns is None else symptom.at_ns
        self.incidents.record(
            symptom.stage, symptom.cause, self._around.now_ns(), symptom.guest, symptom.subject, symptom.evidence, at
        )

    def _suspect(self, symptom: Symptom, heard_ns: HostNs) -> None:
        told_ns = self._around.now_ns()
        if symptom.stage == "screen":
            # Its connection may be seen to end before that of its machine.
            self._later.append(Suspicion(told_ns + CONFIRM_NS, symptom, heard_ns, told_ns))
        else:
            self._suspicions.append(Suspicion(told_ns, symptom, heard_ns, told_ns))
        self._rearm()

    def _judge(self, suspicion: Suspicion) -> None:
        _, symptom, heard, told = suspicion
        if self._hurt_by_us(symptom.guest, symptom.subject, heard):
            return
        # To the listener, a connection that is full looks like packet loss. It is recorded already, under "send".
        if symptom.stage == "network" and self.incidents.near(
            SENDING, told, 3 * NS_PER_S, symptom.guest, symptom.subject
        ):
            return
        if symptom.stage == "screen" and self.incidents.near(
            MACHINE, told + CONFIRM_NS, 2 * CONFIRM_NS, symptom.guest, symptom.subject
        ):
            return
        # A picture that is late is also later than its sound: the line is recorded already.
        late = (symptom.stage, symptom.cause) == ("viewer", "behind sound")
        if late and self.incidents.near(LINE, told, 3 * NS_PER_S, symptom.guest, symptom.subject):
            return
        self._record(symptom, told)

    # -- the daemon's own stalls -------------------------------------------------------------

    def ran(self, began_ns: HostNs) -> None:
        """The graphs have run."""
        self._cpu_before_ns, self._cpu_ns = self._cpu_ns, self._around.computed_ns()
        self._look_at_clock(began_ns)

    def second(self, now_ns: HostNs) -> None:
        """Once a second: check what nobody reports."""
        self._waited_ns = self._around.waited_ns()
        self._look_at_clock(now_ns)

    def _look_at_clock(self, began_ns: HostNs) -> None:
        """Check whether the wall clock was set."""
        offset = self._around.wall_ns() - self._around.now_ns()
        moved = offset - self._wall_offset
        self._wall_offset = offset
        if abs(moved) > CLOCK_JUMP_NS:
            self.incidents.record("clock", "jumped", began_ns, evidence={"moved_ms": _ms(moved)})

    def not_kept(self, trouble: str, asked_ns: HostNs) -> None:
        """A change could not be written to disk."""
        self.incidents.record(
            "store", "can't write", self._around.now_ns(), evidence={"error": trouble}, at_ns=asked_ns
        )

    def left_out(self, guest: str, why: str) -> None:
        """A guest of an earlier run could not be restored."""
        self.incidents.record("guest", "left out", self._around.now_ns(), guest, evidence={"error": why})

    def strain(self, late_ns: HostNs, spent_ns: HostNs, began_ns: HostNs, before_ns: HostNs) -> None:
        """A run of the graphs began `late_ns` late and took `spent_ns`; the one before it ended at `before_ns`."""
        waited = self._around.waited_ns()
        waited_ns, self._waited_ns = waited - self._waited_ns, waited
        cpu_ns = self._cpu_ns - self._cpu_before_ns
        self._strained(late_ns, spent_ns, began_ns, before_ns, cpu_ns, waited_ns, CYCLE_MAX_NS)

    def stalled(
        self, late_ns: HostNs, began_ns: HostNs, before_ns: HostNs, cpu_ns: HostNs, waited_ns: HostNs
    ) -> None:  # fmt: skip
        """A deadline that there is while pictures move was missed.

        Since the one before, at `before_ns`, the daemon computed for `cpu_ns` and waited for a processor for
        `waited_ns`.
        """
        self._strained(late_ns, 0, began_ns, before_ns, cpu_ns, waited_ns, STALL_MAX_NS)

    def _strained(
        self, late_ns: HostNs, spent_ns: HostNs, began_ns: HostNs, before_ns: HostNs, cpu_ns: HostNs, waited_ns: HostNs,
        longest_ns: HostNs,
    ) -> None:  # fmt: skip
        """Either of them; in regular intervals, they are at most `longest_ns` apart."""
        evidence = {
            "late_ms": _ms(late_ns), "took_ms": _ms(spent_ns), "waited_for_processor_ms": _ms(waited_ns),
            "computed_ms": _ms(cpu_ns),
        }  # fmt: skip
        due = began_ns - late_ns
        stage, cause = self._blamed(late_ns, spent_ns, waited_ns, cpu_ns, due - before_ns < longest_ns)
        # What caused the delay began between the run that was in time and the deadline that was missed.
        at = (max(before_ns, due - longest_ns) + due) // 2 if late_ns >= spent_ns else began_ns
        self.incidents.record(stage, cause, began_ns + spent_ns, evidence=evidence, at_ns=at)

    def _blamed(
        self, late_ns: HostNs, spent_ns: HostNs, waited_ns: HostNs, cpu_ns: HostNs, regular: bool
    ) -> tuple[str, str]:
        """Who used the time: the graphs, other work of the daemon, other programs, or nobody.

        `cpu_ns` is what the daemon computed since the run before, of a cycle or of the deadlines while pictures move.
        In `regular` intervals that run was just before the deadline, so the daemon's own computing caused the delay.
        `waited_ns` covers up to a second, during which everybody waits a little on a loaded machine; it counts only if
        the daemon did not compute.
        """
        lost_ns = max(late_ns, spent_ns)
        if waited_ns > lost_ns // 2 and not (regular and cpu_ns > lost_ns // 2):
            return "loop", "starved"
        if cpu_ns < lost_ns // 2:
            return "loop", "not run"
        if spent_ns < late_ns:
            return "loop", "busy"
        encoding = sum(guest.outlets.encoding_ns() for guest in self._guests())
        return ("encoder", "slow") if encoding > spent_ns // 2 else ("cycle", "overran")

    def cycle_failed(self, graph: Graph, error: Exception) -> None:
        """A guest's cycle raised: a bug."""
        log.error("guest %s: internal error in a cycle", graph.name, exc_info=error)
        self.incidents.record("cycle", "failed", self._around.now_ns(), graph.name, "", {"error": type(error).__name__})

    # -- streams -----------------------------------------------------------------------------

    # Whether the application's process is stopped is asked at once, since it may be continued before the underrun is
    # examined; it is asked again then, in case the symptom came first.
    def report_node(self, guest: Guest, node: Node, what: Trouble, since_ns: HostNs) -> None:
        """Trouble at a node since `since_ns`; 0 means now."""
        heard = self._around.now_ns()
        at = since_ns or heard
        if what == "underrun":
            assert isinstance(node, Stream)
            if self._doubtful[guest.name] < CONFIRMED_MAX:
                self._doubtful[guest.name] += 1
                stopped = self._around.is_stopped(status_of(node).pid)
                self._doubts.append(Doubt(heard + CONFIRM_NS, guest, node, heard, at, stopped))
                self._rearm()
            return
        evidence = {"name": node.name} | _heard_after(heard, at)
        if what == "ring_corrupted":
            self._record(Symptom("client", "ring corrupted", guest.name, node.key, evidence, at), heard)
        else:
            self._suspect(Symptom(*INFERRED[what], guest.name, node.key, evidence, at, inferred=True), heard)

    def _look_into(self, doubt: Doubt) -> None:
        guest, node, at = doubt.guest, doubt.node, doubt.at_ns
        self._doubtful[guest.name] -= 1
        if not self._doubtful[guest.name]:
            del self._doubtful[guest.name]
        gone = node.id not in guest.graph.streams
        status = status_of(node)
        if gone or status.corked or status.draining or self._hurt_by_us(guest.name, node.key, doubt.heard_ns):
            return
        evidence: Evidence = {
            "application": node.props.get("application.name", ""), "underruns": node.underruns,
            **_heard_after(doubt.heard_ns, at),
            **({} if status.asked_ns is None else {"asked_for_ms": _ms(status.asked_ns)}), "pid": status.pid,
        }  # fmt: skip
        cause = "stopped" if doubt.stopped or self._around.is_stopped(status.pid) else "wrote late"
        self.incidents.record("client", cause, self._around.now_ns(), guest.name, node.key, evidence, at_ns=at)

    def _hurt_by_us(self, guest: str, key: str, at: HostNs) -> bool:
        """Whether a stall of the whole daemon explains it; if so, that stall is recorded for the guest as well."""
        near = self.incidents.near(OURS, at, AFTER_NS)
        if near is None:
            return False
        evidence = {**near.evidence, "heard_by": key}
        self.incidents.record(near.stage, near.cause, self._around.now_ns(), guest, key, evidence, at_ns=near.at_ns)
        return True


def _heard_after(heard_ns: HostNs, at_ns: HostNs) -> dict[str, float]:
    """The delay between the cause and its effect, if there was one."""
    after_ms = _ms(heard_ns - at_ns)
    return {"heard_after_ms": after_ms} if after_ms else {}


def _ms(ns: float) -> float:
    return round(ns / NS_PER_MS, 1)
