"""Symptoms and their causes: the vocabulary in which every stage reports trouble.

A stage reports a symptom where it notices it. `observe/diagnosis.py` decides whether something else explains it and
records the incident.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from millrace.units import NS_PER_MS, NS_PER_S, HostNs

# A symptom must have its key here (an assertion holds that). Listeners and metrics use the names too, so they are not
# renamed.
CAUSES: dict[tuple[str, str], str] = {
    (
        "loop",
        "not run",
    ): "the daemon neither ran nor waited for a processor: stopped, suspended, or blocked on memory or disk",
    ("loop", "starved"): "other programs were using the processor when a cycle was due",
    ("loop", "busy"): "other work of the daemon kept a cycle waiting",
    ("cycle", "overran"): "mixing took longer than the cycle lasts: too many streams for this processor",
    ("cycle", "cut short"): "mixing for the guest took more than its share of the processor: some sound was dropped",
    ("cycle", "failed"): "an internal error while mixing for the guest: a cycle was skipped; see the daemon's log",
    ("cycle", "node failed"): "an internal error at a stream or recorder, which ends alone; see the daemon's log",
    ("requests", "cut short"): "programs needed more than their guest's share of the daemon's time and had to wait",
    (
        "encoder",
        "slow",
    ): "encoding took longer than the cycle lasts: lower the complexity, or use fewer different settings",
    ("encoder", "changed"): "the codec, rate or channel layout sent to the listener changed",
    ("client", "wrote late"): "the application did not write in time, though it was asked to",
    ("client", "stopped"): "the application's process is stopped (SIGSTOP, or a debugger)",
    ("client", "broke the protocol"): "the application violated its protocol and was disconnected",
    ("client", "ring corrupted"): "the application wrote invalid positions to its shared memory",
    ("guest", "no memory"): "the guest has used up its memory budget: the request was refused",
    (
        "guest",
        "crowded",
    ): "no room for one more that listens, watches or speaks: whoever has most lost something, or it was refused",
    ("client", "too much"): "the application wrote more than its buffer holds",
    ("recorder", "does not read"): "the application is recording but does not read the sound",
    (
        "machine",
        "late",
    ): "too little sound came from the virtual machine: it is paused or too slow, or the line to it stalled",
    ("machine", "lost"): "the connection to the machine or display ended",
    (
        "machine",
        "displaced",
    ): "the machine's server disconnected Millrace, as it does when another viewer connects",
    (
        "send",
        "line full",
    ): "the connection is too slow for what is sent (lower the bitrate), or the other side has stopped reading",
    ("network", "packets lost"): "packets did not arrive",
    ("network", "stalled"): "nothing arrived for longer than the target delay, then everything at once",
    ("network", "late"): "packets took longer than any before",
    ("network", "gone silent"): "the listener did not answer and was disconnected",
    ("listener", "not run"): "the listener did not get to run: stopped, suspended or overloaded",
    ("listener", "broke the protocol"): "the listener violated its protocol and was disconnected",
    ("listener", "left"): "the listener's connection was lost without a close",
    ("machine", "broke the protocol"): "the virtual machine violated its protocol and was disconnected",
    (
        "screen",
        "too many modes",
    ): "the machine resizes its screen many times a second: everything is sent again",
    ("screen", "over-reported"): "the machine reports far more of its screen than it changes: everything is compared",
    ("screen", "not supported"): "the machine sends its picture in a form that can't be shown",
    ("screen", "memory shrunk"): "the machine shares less memory than its picture needs",
    ("screen", "lost"): "one of the machine's screens ended, though the machine is still connected",
    ("screen", "no reaction"): "keys were typed, and nothing was painted since: the guest hangs, or ignores them",
    ("screen", "no answer"): "the display's server does not answer keys or the pointer: it is stopped, or hangs",
    ("screen", "no key"): "characters were not typed: no key of the machine's layout means them, and none is free",
    ("screen", "no layout"): "the display did not report its keyboard layout in time: keys are pressed by position",
    ("screen", "held"): "a reader keeps an old picture: it gets no newer one, and the memory stays in use",
    ("picture", "behind"): "encoding takes longer than the time between two pictures: lower fps or scale",
    ("picture", "starved"): "other threads and programs used the processor while a picture was encoded",
    ("picture", "kept waiting"): "all threads that encode were busy with pictures of other screens or settings",
    ("picture", "key pictures"): "viewers need whole pictures again and again: they join, or their decoders fail",
    ("picture", "failed"): "the picture could not be encoded; it is tried again",
    ("viewer", "no video"): "the viewer can't decode video, so everything is sent as stills; a page needs https",
    ("viewer", "decoder failed"): "the viewer could not decode a picture and asked for a whole one",
    ("viewer", "missed a piece"): "the viewer noticed that a piece of a picture is missing and asked for a whole one",
    ("viewer", "slow"): "the viewer has pictures that it takes long to decode and draw, or never acknowledges",
    ("viewer", "does not read"): "what was sent has arrived at the viewer's machine, but the viewer does not take it",
    ("viewer", "not run"): "the viewer did not get to run: stopped, suspended or overloaded",
    ("viewer", "clock jumped"): "the viewer's times can't be true: its clock was set, or stood still",
    ("viewer", "ahead of sound"): "the sound is so late that the picture no longer waits for it",
    ("viewer", "behind sound"): "the picture is seen later than its sound is heard",
    ("viewer", "keyboard taken"): "another viewer took the keyboard",
    ("viewer", "broke the protocol"): "the viewer violated its protocol and was disconnected",
    ("viewer", "left"): "the viewer's connection was lost without a close",
    ("device", "late"): "the listener's sound device asked late, then for more at once",
    ("device", "lost"): "the listener's sound device is gone, or has asked for nothing for seconds",
    ("microphone", "late"): "the microphone's sound arrived too late",
    ("clock", "jumped"): "the wall clock was set while sound played; sound uses the monotonic clock",
    ("store", "can't write"): "a change could not be saved to disk and was not made",
    ("guest", "left out"): "a saved guest could not be restored",
    ("rights", "refused"): "a request or a program was refused: the evidence says whose, and why",
    (
        "rights",
        "foreign page",
    ): "another site's page sent a request: its origin does not match this host; behind a proxy, set public_url",
    ("rights", "malformed"): "a request was refused because it is not well formed",
    (
        "rights",
        "untrusted proxy",
    ): "the peer sends X-Forwarded-For but is not in trusted_proxies, so all its users count as one address",
}
"""Explanation of each (stage, cause)."""
LISTENERS_CAUSES = frozenset(
    {
        ("network", "packets lost"), ("network", "stalled"), ("network", "late"), ("listener", "not run"),
        ("device", "late"), ("device", "lost"),
    }
)  # fmt: skip
"""What a listener may report of itself; the daemon alone says the rest."""
VIEWERS_CAUSES = frozenset({("viewer", "not run")})
"""What a viewer may report of itself besides what it reports as a listener does."""

Evidence: TypeAlias = Mapping[str, str | int | float | bool | None]
"""Measurements and quoted text by name; a name ends in the unit, if there is one."""


class Symptom(msgspec.Struct, frozen=True):
    """What a stage noticed: in which guest, about which object, and since when, if it began before the report."""

    stage: str
    cause: str
    guest: str = ""
    subject: str = ""
    evidence: Evidence = msgspec.field(default_factory=dict)
    at_ns: HostNs | None = None
    inferred: bool = False
    """The reporter can't see stalls of the daemon itself: if there was one at that time, it is the real cause."""


HEARD_EVERY_NS = NS_PER_S
"""A listener or viewer in use says something more often than this."""


# A listener that has gone is noticed when something runs out: the keepalive, or the room to send. The trouble began
# when it was last heard, and an incident has to say so, or its cause would appear to be younger than its effect.
def last_heard(
    stage: str, cause: str, guest: str, key: str, evidence: Evidence, heard_ns: HostNs, now_ns: HostNs
) -> Symptom:
    """A symptom of a listener or viewer, dated back to its last message, if that is long ago."""
    at = heard_ns if now_ns - heard_ns > HEARD_EVERY_NS else now_ns
    evidence = {**evidence, "last_heard_ms_before": round((now_ns - heard_ns) / NS_PER_MS, 1)}
    return Symptom(stage, cause, guest, key, evidence, at)


TEXT_MAX = 200
"""Longest quoted error text."""


def violation(guest: str, key: str, error: Exception, stage: str = "client") -> Symptom:
    """A client or listener was disconnected for violating its protocol; `guest` is empty for a daemon-wide client."""
    return Symptom(stage, "broke the protocol", guest, key, {"error": str(error)[:TEXT_MAX]})


def refusal(guest: str, who: str, what: str, why: str) -> Symptom:
    """A request or a program was refused for lack of rights."""
    return Symptom("rights", "refused", guest, "", _refused(who, what, why))


def refused_request(cause: str, who: str, what: str, why: str) -> Symptom:
    """An HTTP request was refused, with the answer `why`."""
    return Symptom("rights", cause, "", "", _refused(who, what, why))


def _refused(who: str, what: str, why: str) -> Evidence:
    return {"who": who, "what": what[:TEXT_MAX], "why": why[:TEXT_MAX]}


def kept_waiting(guest: str, subject: str, waited_ns: HostNs, connections: int) -> Symptom:
    """The programs of a guest, or of a token, were throttled for `waited_ns` because they exceeded their share."""
    evidence = {"waited_ms": round(waited_ns / NS_PER_MS, 1), "connections": connections}
    return Symptom("requests", "cut short", guest, subject, evidence)


Report: TypeAlias = Callable[[Symptom], None]
