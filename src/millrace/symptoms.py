"""What a stage notices, and what can be behind it: the words in which every stage reports.

A stage reports a symptom where it is noticed; `observe/diagnosis.py` finds out whether something else explains it, and
writes the incident down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from millrace.units import NS_PER_MS, HostNs

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
    ("client", "ring corrupted"): "the application wrote impossible positions into its shared memory",
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
    ("network", "stalled"): "nothing arrived for longer than the target delay, then everything at once",
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

Evidence: TypeAlias = Mapping[str, str | int | float | bool | None]
"""What was measured, or said, by name; units go last."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """What a stage noticed: in which guest, about which object, and since when, if that was before now."""

    stage: str
    cause: str
    guest: str = ""
    subject: str = ""
    evidence: Evidence = field(default_factory=dict)
    at_ns: HostNs | None = None
    inferred: bool = False
    """Judged by somebody who can't see the daemon's own stalls: where there was one, that is the cause."""


TEXT_MAX = 200
"""What is shown of an error's own words."""


def violation(guest: str, key: str, error: Exception, stage: str = "client") -> Symptom:
    """A client or a listener was cut off; the guest is empty for a client of the whole daemon."""
    return Symptom(stage, "broke the protocol", guest, key, {"error": str(error)[:TEXT_MAX]})


def refusal(guest: str, who: str, what: str) -> Symptom:
    """Somebody asked for what they may not."""
    return Symptom("rights", "refused", guest, "", {"who": who, "what": what[:TEXT_MAX]})


def kept_waiting(guest: str, subject: str, waited_ns: HostNs, connections: int) -> Symptom:
    """A guest's programs, or a token's, have asked for more than their share for so long."""
    evidence = {"waited_ms": round(waited_ns / NS_PER_MS, 1), "connections": connections}
    return Symptom("requests", "cut short", guest, subject, evidence)


Report: TypeAlias = Callable[[Symptom], None]
