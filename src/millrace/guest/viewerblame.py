"""Why a viewer sees its pictures late or not at all: decided from what its connection and its answers show.

A picture that is not acknowledged in time is followed by a ping. What comes back, and what the kernel says of the
bytes that were written, tells where the picture is:

- the ping is answered, and the picture not acknowledged: it has arrived, so the viewer is slow;
- all bytes have arrived at the other machine, and nothing is answered: the viewer does not take them;
- bytes arrive, but slowly: the line is full;
- no bytes arrive: the network is stalled.

Whatever a viewer reports of itself is believed of itself, and of nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from millrace.graph.screen import Screen
from millrace.guest.home import Home
from millrace.guest.troubles import TROUBLE_NS, report_trouble
from millrace.outlets.picturechoice import VIDEO_CODECS
from millrace.outlets.queue import Passed, Traffic, unknown
from millrace.rights.model import Principal
from millrace.symptoms import TEXT_MAX, Evidence, Symptom
from millrace.text import printable
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.clips import Clip
from millrace.wire.peer.keepalive import Keepalive
from millrace.wire.peer.messages import Trouble
from millrace.wire.peer.pictures import (
    FromViewer,
    Hidden,
    Key,
    Pointer,
    Refresh,
    Shown,
    SizeWish,
    Taken,
    Text,
    Watch,
)

TIMELY_NS = 60 * NS_PER_MS
"""A picture that is acknowledged by then, beyond the round trip, has met no trouble."""
LOOK_NS, AGAIN_NS = 100 * NS_PER_MS, 75 * NS_PER_MS
"""When one that is not acknowledged is looked at, and how often."""
LATE_NS = 250 * NS_PER_MS
"""A picture that is acknowledged later than this, beyond the round trip, is late."""
STUCK_NS = NS_PER_S
"""One that is not acknowledged for so long is judged without its acknowledgement."""
OWN_NS = 500 * NS_PER_MS
"""So long a viewer may take to say of itself that it did not run."""
KNOWN_NS = 30 * NS_PER_MS
"""A ping that was answered so long before the picture shows that the viewer had the picture."""
AHEAD_NS, BEHIND_NS, SKEWED = -125 * NS_PER_MS, 125 * NS_PER_MS, 5
"""How much earlier or later than its sound a picture may be seen, and how many in a row are trouble. People notice
sound that is 125 ms late (ITU-R BT.1359)."""
IMPOSSIBLE_NS = 250 * NS_PER_MS
"""Times of a viewer that are this far off are more than an inaccurate idea of our clock."""
KEYS_MIN, NO_REACTION_NS = 3, 3 * NS_PER_S
ON_WAY_MAX = 64


@dataclass(slots=True)
class _OnWay:
    """A picture that was sent and not acknowledged."""

    serial: int
    sent_ns: HostNs
    end: int | None
    """How many bytes were written with it, since the beginning of the connection."""
    has_it_ns: HostNs | None = None
    """When it was known that the viewer has it."""


class _Looks:
    """What was seen of the connection while the oldest picture was late."""

    def __init__(self) -> None:
        self.at_ns: HostNs = 0
        self.latest: Passed | None = None
        self.there = False
        """At the first look, the picture had arrived at the viewer's machine."""
        self.moved = self.stood = 0
        """How often bytes had arrived since the look before, and how often none."""

    def add(self, passed: Passed | None, end: int | None, now_ns: HostNs) -> None:
        """A look at a picture that ends with byte `end`."""
        if self.latest is not None and passed is not None:
            self.moved += passed.arrived > self.latest.arrived
            self.stood += passed.arrived == self.latest.arrived
        elif passed is not None:
            self.there = end is not None and passed.arrived >= end
        self.at_ns, self.latest = now_ns, passed


def _ms(ns: float) -> float:
    return round(ns / NS_PER_MS, 1)


# A late picture is judged once: when it is acknowledged, or after `STUCK_NS`. Those that were sent after it and wait
# behind it are judged with it, so `_judged` is the serial up to which nothing more is said.
class ViewerBlame:
    """One viewer's pictures on their way, and what it tells. It refers to no session: see daemon/collector.py."""

    def __init__(
        self, home: Home, principal: Principal, key: str, keepalive: Keepalive, ping: Callable[[HostNs], None],
        traffic: Traffic = unknown,
    ) -> None:  # fmt: skip
        """`ping` sends a ping after all that was sent."""
        self._home, self._principal, self._key = home, principal, key
        self._keepalive, self._ping, self._traffic = keepalive, ping, traffic
        self._on_way: deque[_OnWay] = deque(maxlen=ON_WAY_MAX)
        self._looks = _Looks()
        self._pinged_ns: HostNs = 0
        self._since_ns: HostNs | None = None
        """When the first picture was sent that was not timely, and since when none was."""
        self._judged = self._last_sent = 0
        self._own: tuple[HostNs, Symptom] | None = None
        """Blame for the viewer, unless it says by then that it did not run."""
        self._told_own_ns: HostNs | None = None
        """When it last said that it did not run."""
        self._skews: deque[tuple[HostNs, HostNs]] = deque(maxlen=SKEWED)
        self._typed: list[HostNs] = []
        self._typed_serial = 0

    def forget(self) -> None:
        """The connection is over."""
        self._traffic = unknown

    # -- what happens ----------------------------------------------------------------------------

    def sent(self, serial: int, now_ns: HostNs, passed: Passed | None) -> None:
        """A picture was written; with what was written since the connection began."""
        self._on_way.append(_OnWay(serial, now_ns, passed.written if passed else None))
        self._last_sent = serial

    def received(self, now_ns: HostNs) -> None:
        """Something has come from the viewer: it may have answered a ping, and so has what was sent before that."""
        for one in self._on_way:
            if one.has_it_ns is None and one.sent_ns <= self._keepalive.answered_ns:
                one.has_it_ns = now_ns

    def told(self, event: FromViewer | Clip, now_ns: HostNs) -> None:
        """The viewer has sent this."""
        if isinstance(event, Watch):
            self._can_decode(event, now_ns)
        elif isinstance(event, Refresh):
            cause = "missed a piece" if event.why == "missing" else "decoder failed"
            self._report("viewer", cause, {"why": printable(event.why, TEXT_MAX)}, now_ns)
        elif isinstance(event, Shown | Taken):
            self._acknowledged(event, now_ns)
        elif isinstance(event, Hidden):
            self._on_way.clear()
            self._begin_anew()
        elif isinstance(event, Trouble):
            if (event.stage, event.cause) == ("viewer", "not run"):
                self._own, self._told_own_ns = None, now_ns
            report_trouble(self._home, self._principal, self._key, event, now_ns, views=True)

    def _can_decode(self, watch: Watch, now_ns: HostNs) -> None:
        lossless = watch.settings.get("picture") in ("lossless", "off")
        if not lossless and not set(watch.codecs) & set(VIDEO_CODECS):
            self._report("viewer", "no video", {"decodes": printable(", ".join(watch.codecs), TEXT_MAX)}, now_ns)

    def keyboard_taken(self, by: str, now_ns: HostNs) -> None:
        """Another viewer has taken the keyboard."""
        self._report("viewer", "keyboard taken", {"by": printable(by, TEXT_MAX)}, now_ns)

    # -- pictures that are late ------------------------------------------------------------------

    def next_timeout(self) -> HostNs | None:
        """When to `look`."""
        due = [] if self._own is None else [self._own[0]]
        oldest = self._on_way[0] if self._on_way else None
        if oldest is not None and oldest.serial > self._judged:
            due.append(max(oldest.sent_ns + LOOK_NS + self._rtt_ns, self._looks.at_ns + AGAIN_NS))
        return min(due, default=None)

    @property
    def _rtt_ns(self) -> HostNs:
        return self._keepalive.clock.rtt_ns or 0

    def look(self, now_ns: HostNs) -> bool:
        """Look at what is late; whether a ping was sent."""
        if self._own is not None and now_ns >= self._own[0]:
            (_, symptom), self._own = self._own, None
            self._home.report(symptom)
        due_ns = self.next_timeout()
        if due_ns is None or now_ns < due_ns or not self._on_way:
            return False
        oldest = self._on_way[0]
        self._looks.add(self._traffic(), oldest.end, now_ns)
        if now_ns - oldest.sent_ns >= STUCK_NS + self._rtt_ns:
            self._judge(oldest, now_ns)
        if oldest.has_it_ns is None and self._pinged_ns <= oldest.sent_ns:
            self._pinged_ns = now_ns
            self._ping(now_ns)
            return True
        return False

    def _acknowledged(self, event: Shown | Taken, now_ns: HostNs) -> None:
        sent_ns = next((one.sent_ns for one in self._on_way if one.serial == event.serial), None)
        oldest = self._on_way[0] if self._on_way else None
        if oldest is not None and event.serial >= oldest.serial:
            late_ns = now_ns - oldest.sent_ns - self._rtt_ns
            if late_ns > TIMELY_NS and self._since_ns is None:
                self._since_ns = oldest.sent_ns
            if late_ns > LATE_NS and oldest.serial > self._judged:
                self._judge(oldest, now_ns)
            if late_ns <= TIMELY_NS:
                self._since_ns = None
            self._begin_anew()
            while self._on_way and self._on_way[0].serial <= event.serial:
                self._on_way.popleft()
        if isinstance(event, Shown):
            self._shown(event, sent_ns, now_ns)

    def _begin_anew(self) -> None:
        self._looks = _Looks()

    def _judge(self, oldest: _OnWay, now_ns: HostNs) -> None:
        """Say where a late picture is, or was."""
        self._judged, looks = self._last_sent, self._looks
        at = oldest.sent_ns if self._since_ns is None else self._since_ns
        evidence: dict[str, float] = {"late_ms": _ms(now_ns - oldest.sent_ns)}
        if oldest.has_it_ns is not None and now_ns - oldest.has_it_ns > KNOWN_NS:
            evidence["had_it_for_ms"] = _ms(now_ns - oldest.has_it_ns)
            self._report("viewer", "slow", evidence, now_ns, at, inferred=True)
        elif looks.latest is None or oldest.end is None:
            self._report("send", "line full", evidence, now_ns, at, inferred=True)
        elif looks.there:
            unread = Symptom("viewer", "does not read", self._home.name, self._key, evidence, at, inferred=True)
            self._blame_viewer(unread, now_ns)
        else:
            evidence |= {"looks_with_progress": looks.moved, "looks_without": looks.stood}
            blamed = ("send", "line full") if looks.moved >= looks.stood else ("network", "stalled")
            self._report(*blamed, evidence, now_ns, at, inferred=True)

    def _blame_viewer(self, symptom: Symptom, now_ns: HostNs) -> None:
        """Report that soon, unless the viewer says, or has just said, that it did not run."""
        if self._told_own_ns is None or now_ns - self._told_own_ns > OWN_NS:
            self._own = (now_ns + OWN_NS, symptom)

    # -- what is shown ---------------------------------------------------------------------------

    def _shown(self, shown: Shown, sent_ns: HostNs | None, now_ns: HostNs) -> None:
        """A picture that was sent then is seen: whether at a possible time."""
        if shown.decoded_ns and shown.drawn_ns:
            early_ns = 0 if sent_ns is None else sent_ns - shown.decoded_ns
            off_ns = max(shown.drawn_ns - now_ns, early_ns)
            if off_ns > IMPOSSIBLE_NS + self._rtt_ns:
                self._report("viewer", "clock jumped", {"off_ms": _ms(off_ns)}, now_ns, sent_ns)
        # One that was passed over has none, and says nothing of the others.
        if shown.skew_ns is None and shown.drawn_ns:
            self._skews.clear()

    def seen(self, skew_ns: HostNs, sent_ns: HostNs, now_ns: HostNs) -> None:
        """A picture of what was painted last is seen so much later than its sound is heard.

        One that only sharpens what stands still, or shows it at another scale, was painted long before, and is not
        late: `PictureTimes` knows which these are.
        """
        self._skews.append((sent_ns, skew_ns))
        least, most = min(skew for _, skew in self._skews), max(skew for _, skew in self._skews)
        if len(self._skews) < SKEWED or (most > AHEAD_NS and least < BEHIND_NS):
            return
        cause = "behind sound" if least >= BEHIND_NS else "ahead of sound"
        self._report("viewer", cause, {"skew_ms": _ms(skew_ns)}, now_ns, self._skews[0][0], inferred=True)
        self._skews.clear()

    # -- keys without an effect ------------------------------------------------------------------

    def typed(self, event: Key | Pointer | SizeWish | Text, screen: Screen, waits: bool, now_ns: HostNs) -> None:
        """What the viewer did was passed on to the machine, unless it `waits` for it to have room."""
        self._look_for_effect(screen)
        pressed = isinstance(event, Text) or (isinstance(event, Key) and event.down)
        if pressed and not waits and len(self._typed) < ON_WAY_MAX:
            self._typed.append(now_ns)

    def _look_for_effect(self, screen: Screen) -> None:
        """Forget the keys if something was painted since."""
        if screen.serial != self._typed_serial:
            self._typed, self._typed_serial = [], screen.serial

    # A password is typed without an effect too; its end, the Enter key, has one.
    def second(self, screen: Screen | None, now_ns: HostNs) -> None:
        """Once a second: whether the keys that were typed have had an effect on the screen."""
        if screen is None:
            self._typed = []
            return
        self._look_for_effect(screen)
        typed = self._typed
        if len(typed) >= KEYS_MIN and now_ns - typed[-1] >= NO_REACTION_NS:
            evidence = {"keys": len(typed), "nothing_for_ms": _ms(now_ns - typed[0])}
            self._report("screen", "no reaction", evidence, now_ns, typed[0])
            typed.clear()

    def _report(
        self, stage: str, cause: str, evidence: Evidence, now_ns: HostNs, at_ns: HostNs | None = None,
        inferred: bool = False,
    ) -> None:  # fmt: skip
        """Report what began at `at_ns`; all viewers and listeners of one principal cause so many incidents at most."""
        if self._home.troubles.take(self._principal.key, TROUBLE_NS, now_ns):
            at = now_ns if at_ns is None else at_ns
            self._home.report(Symptom(stage, cause, self._home.name, self._key, evidence, at, inferred))
