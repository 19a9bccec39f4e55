"""Incidents: everything that could be heard or that was refused, with its stage, its cause and the evidence for it.

A ring of the latest, and totals by guest, stage and cause. What follows from an incident of the whole
daemon (a stalled machine makes every stream late) is written down in the guest that heard it, with the same stage and
cause: so a tenant sees why, and nothing of the others. Time is an argument.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from millrace.text import printable
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

KEPT = 1000
KEPT_OF_KIND = 100
"""One guest's flood of one kind pushes out none of the others, its own neither."""
MERGE_NS = NS_PER_S
LASTING = frozenset({("cycle", "cut short"), ("requests", "cut short")})
"""Conditions: while they last they are told of again and again, with pauses."""
MERGE_LASTING_NS = 60 * NS_PER_S

CAUSES: dict[tuple[str, str], str] = {
    (
        "loop",
        "not run",
    ): "the daemon neither ran nor waited for the processor: stopped, asleep, or held up by memory or a disk",
    ("loop", "starved"): "other programs had the processor when a cycle was due",
    ("loop", "busy"): "other work of the daemon kept a cycle waiting",
    ("cycle", "overran"): "mixing took longer than the cycle lasts: too many streams for this processor",
    ("cycle", "cut short"): "mixing for the guest took more than its share of the processor: sound was left out",
    ("cycle", "failed"): "an internal error while mixing for the guest: a cycle was left out; the daemon's log has it",
    ("requests", "cut short"): "programs asked for more than their guest's share of the daemon's time: they waited",
    ("encoder", "slow"): "encoding took longer than the cycle lasts: less complexity, or fewer settings side by side",
    ("encoder", "changed"): "another codec, rate or layout is sent from here on",
    ("client", "wrote late"): "the application did not write in time, though it was asked to",
    ("client", "stopped"): "the application's process is stopped (SIGSTOP, or a debugger)",
    ("client", "broke the protocol"): "the application sent what its protocol forbids, and was cut off",
    ("client", "scribbled"): "the application wrote impossible positions into its shared memory",
    ("guest", "no memory"): "the guest has used up what it may make the daemon hold: what it asked for was refused",
    ("client", "too much"): "the application wrote more than its buffer holds",
    ("recorder", "does not read"): "the application records, and does not read what it recorded",
    ("machine", "late"): "the virtual machine delivered too little: paused, overloaded, or slower than real time",
    ("machine", "lost"): "the connection to the virtual machine ended",
    (
        "machine",
        "displaced",
    ): "the machine's server disconnected Millrace, as it does when another viewer takes over",
    ("send", "line full"): "the listener's line took less than it is sent: too thin, or nobody reads at its end",
    ("network", "packets lost"): "packets did not arrive",
    ("network", "stalled"): "nothing arrived for longer than the margin, then everything at once",
    ("network", "late"): "packets took longer than ever before",
    ("network", "gone silent"): "the listener has not answered for too long, and was given up",
    ("listener", "not run"): "the listener's machine did not run it: stopped, asleep or overloaded",
    ("listener", "broke the protocol"): "the listener sent what its protocol forbids, and was cut off",
    ("listener", "left"): "the listener's connection broke off without a word",
    ("device", "late"): "the listener's sound device asked late, then for more at once",
    ("device", "lost"): "the listener's sound device is gone",
    ("microphone", "late"): "the listener's microphone came too late",
    ("clock", "jumped"): "the wall clock was set while sound played; sound keeps to another clock",
    ("store", "can't write"): "a change could not be kept on disk, and was not made",
    ("guest", "left out"): "a guest that was added before could not be opened again",
    ("rights", "refused"): "a request was refused: a wrong or missing token, or a right that it does not include",
}
"""What each (stage, cause) means."""


@dataclass(eq=False)
class Incident:
    """One. `at_ns` is host time, `wall_ns` the same on the wall clock; `subject` is an object's key, or empty.

    It happened `count` times, the first at `at_ns` and the last at `last_ns`.
    """

    number: int
    at_ns: HostNs
    wall_ns: int
    guest: str
    subject: str
    stage: str
    cause: str
    evidence: dict[str, Any]
    count: int = 1
    last_ns: HostNs = 0

    def view(self) -> dict[str, Any]:
        """What is shown."""
        return {
            "id": f"incident/{self.number}", "at": self.wall_ns / NS_PER_S, "host_ns": self.at_ns, "guest": self.guest,
            "subject": self.subject, "stage": self.stage, "cause": self.cause, "text": CAUSES[self.stage, self.cause],
            "evidence": self.evidence, "count": self.count,
            "last": (self.wall_ns + self.last_ns - self.at_ns) / NS_PER_S,
        }  # fmt: skip


def _printable(evidence: dict[str, Any]) -> dict[str, Any]:
    """Much of it was said by others, and it goes to logs, terminals and pages."""
    return {printable(key): printable(value) if isinstance(value, str) else value for key, value in evidence.items()}


class Incidents:
    """The ring."""

    def __init__(self, take_id: Callable[[], int], wall_ns: Callable[[], int]) -> None:
        self._take_id, self._wall_ns = take_id, wall_ns
        self._ring: OrderedDict[int, Incident] = OrderedDict()
        self._of_kind: dict[tuple[str, str, str], OrderedDict[int, Incident]] = {}
        self._latest: dict[tuple[str, str, str, str], Incident] = {}
        self._totals: Counter[tuple[str, str, str]] = Counter()
        self.on_change: Callable[[str, Incident], None] = lambda change, incident: None

    def __iter__(self) -> Iterator[Incident]:
        return iter(list(self._ring.values()))

    def __len__(self) -> int:
        return len(self._ring)

    def totals(self) -> dict[tuple[str, str, str], int]:
        """How often, by (guest, stage, cause), since the daemon began."""
        return dict(self._totals)

    def record(
        self, stage: str, cause: str, now_ns: HostNs, guest: str = "", subject: str = "",
        evidence: dict[str, Any] | None = None, at_ns: HostNs | None = None,
    ) -> Incident:  # fmt: skip
        """Write one down; the same again within a second, or a minute where it lasts, is counted with it."""
        assert (stage, cause) in CAUSES, (stage, cause)
        subject = printable(subject)
        at = now_ns if at_ns is None else at_ns
        self._totals[guest, stage, cause] += 1
        earlier = self._latest.get((stage, cause, guest, subject))
        within_ns = MERGE_LASTING_NS if (stage, cause) in LASTING else MERGE_NS
        if earlier is not None and at - earlier.last_ns <= within_ns:
            earlier.count += 1
            earlier.last_ns = max(at, earlier.last_ns)
            self.on_change("change", earlier)
            return earlier
        wall = self._wall_ns() - (now_ns - at)
        shown = _printable(evidence or {})
        made = Incident(self._take_id(), at, wall, guest, subject, stage, cause, shown, last_ns=at)
        own = self._of_kind.setdefault((guest, stage, cause), OrderedDict())
        self._ring[made.number] = own[made.number] = self._latest[stage, cause, guest, subject] = made
        self.on_change("new", made)
        if guest and len(own) > KEPT_OF_KIND:
            self._forget(next(iter(own.values())))
        elif len(self._ring) > KEPT:
            self._forget(next(iter(self._ring.values())))
        return made

    def _forget(self, old: Incident) -> None:
        del self._ring[old.number]
        kind = (old.guest, old.stage, old.cause)
        del self._of_kind[kind][old.number]
        if not self._of_kind[kind]:
            del self._of_kind[kind]
        key = (old.stage, old.cause, old.guest, old.subject)
        if self._latest[key] is old:
            del self._latest[key]
        self.on_change("remove", old)

    def near(self, stages: frozenset[str], at_ns: HostNs, before_ns: HostNs, subject: str = "") -> Incident | None:
        """The latest incident of such a stage, of the whole daemon or about `subject`, not long before `at_ns`."""
        for incident in reversed(self._ring.values()):
            if incident.last_ns < at_ns - before_ns:
                return None
            about = not incident.guest or (bool(subject) and incident.subject == subject)
            if about and incident.stage in stages and incident.at_ns <= at_ns + 50 * NS_PER_MS:
                return incident
        return None
