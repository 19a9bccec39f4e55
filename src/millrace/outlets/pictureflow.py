"""How much picture may be on its way to one viewer, and how fast its line is. Pure: time is an argument.

What was written can't be taken back: it waits in kernels, proxies and routers, and everything newer behind it. So a
picture is written only while little is on its way, and what does not fit is left out before it is encoded.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from millrace.units import NS_PER_MS, NS_PER_S, HostNs

QUEUE_NS = 33 * NS_PER_MS
"""How much may wait on the line beyond what its round trip holds."""
PICTURES_MAX = 16
"""Pictures on their way: each takes a place in the viewer's decoder."""
FIRST_PICTURES = 2
"""Pictures on their way before anything is known of the line, besides those that its round trip holds."""
PICTURE_NS = NS_PER_S // 30
SAMPLE_BYTES = 48 * 1024
BUSY_BYTES, BUSY_NS = 16 * 1024, 200 * NS_PER_MS
"""A line that was busy without a break says how fast it is after so many bytes, or after fewer in so long."""
EASY_NS = 15 * NS_PER_MS
"""A transfer that takes no longer than this beyond the round trip has met no queue."""
PROBE_NS = 2 * NS_PER_S
GROWTH = 1.25
SLACK_NS = 20 * NS_PER_MS
"""How wrong a viewer may be about our clock."""
HOLDS_MAX = 4 * 1024 * 1024
"""Bytes on their way at most, whatever a viewer's answers say of its line."""
RATE_MIN, RATE_MAX = 50_000, 1_000_000_000
"""Bit/s."""


class OnItsWay(NamedTuple):
    """A picture that was sent and not acknowledged."""

    serial: int
    size: int
    sent_ns: HostNs


class Estimate:
    """The rate at which acknowledged bytes pass, in bit/s; None while nothing is known, and nothing had to wait."""

    def __init__(self) -> None:
        self.rate: int | None = None
        self._busy_since_ns: HostNs = 0
        self._busy_until_ns: HostNs = 0
        self._busy_bytes = 0
        self._easy_since_ns: HostNs | None = None
        self._easy_bytes = 0

    # The line is busy from the arrival of what was sent first (a round trip after that) as long as something is on its
    # way. A small picture that comes late says nothing: the viewer, or the host, was busy with something else.
    def passed(self, size: int, sent_ns: HostNs, at_ns: HostNs, rtt_ns: HostNs) -> None:
        """So many bytes, the first of which were sent at `sent_ns`, have passed at `at_ns`."""
        if sent_ns + rtt_ns >= self._busy_until_ns:
            self._busy_since_ns, self._busy_bytes = sent_ns + rtt_ns, 0
        self._busy_until_ns, self._busy_bytes = at_ns, self._busy_bytes + size
        self._learn(at_ns)
        self._grow(size, at_ns, max(0, at_ns - sent_ns - rtt_ns))

    def reset(self) -> None:
        """Times until now say nothing."""
        self._easy_since_ns, self._easy_bytes = None, 0

    def _learn(self, now_ns: HostNs) -> None:
        size, took_ns = self._busy_bytes, max(NS_PER_MS, now_ns - self._busy_since_ns)
        if size < SAMPLE_BYTES and (size < BUSY_BYTES or took_ns < BUSY_NS):
            return
        sample = max(RATE_MIN, min(RATE_MAX, size * 8 * NS_PER_S // took_ns))
        if self.rate is None:
            self.rate = sample
        else:
            # Down slowly, because a single stall does not make a slow line; up at once, because it was that fast.
            self.rate += round((sample - self.rate) * (0.5 if sample > self.rate else 0.25))
        self._busy_since_ns, self._busy_bytes = now_ns, 0

    # An encoder that keeps to the estimate never makes pictures that would show that the line has become faster. So
    # while they pass without waiting, and use most of the estimate, it is raised.
    def _grow(self, size: int, now_ns: HostNs, waited_ns: HostNs) -> None:
        if self.rate is None or waited_ns > EASY_NS:
            self.reset()
            return
        if self._easy_since_ns is None:
            self._easy_since_ns = now_ns
        self._easy_bytes += size
        since_ns = now_ns - self._easy_since_ns
        if since_ns >= PROBE_NS:
            if self._easy_bytes * 8 * NS_PER_S > self.rate * since_ns // 2:
                self.rate = min(RATE_MAX, round(self.rate * GROWTH))
            self._easy_since_ns, self._easy_bytes = now_ns, 0


class PictureFlow:
    """The pictures on their way to one viewer."""

    def __init__(self) -> None:
        self.line, self.viewer = Estimate(), Estimate()
        """Of its line; and of the viewer, which decodes what has arrived. A slow viewer on a fast line is sent good
        pictures, but no more than it can decode."""
        self.bytes_on_way = 0
        self._on_way: deque[OnItsWay] = deque()

    @property
    def rate(self) -> int | None:
        """Estimated bit/s of the line."""
        return self.line.rate

    @property
    def pictures(self) -> int:
        """Pictures on their way."""
        return len(self._on_way)

    def ready(self, rtt_ns: HostNs | None, waiting: int = 0) -> bool:
        """Whether another picture may be sent now: what is on its way is no more than line and viewer hold.

        `waiting` is how many bytes have not arrived at its machine, whatever it has acknowledged.
        """
        held = max(self.bytes_on_way, waiting)
        if not self._on_way and held < SAMPLE_BYTES:
            return True
        if self.viewer.rate is None or rtt_ns is None:
            few = len(self._on_way) < min(PICTURES_MAX, FIRST_PICTURES + (rtt_ns or 0) // PICTURE_NS)
            return few and held < SAMPLE_BYTES
        holds = min(HOLDS_MAX, self.viewer.rate * (rtt_ns + QUEUE_NS) // (8 * NS_PER_S))
        return len(self._on_way) < PICTURES_MAX and held <= holds

    def sent(self, serial: int, size: int, now_ns: HostNs) -> None:
        """A picture of `size` bytes was written."""
        self._on_way.append(OnItsWay(serial, size, now_ns))
        self.bytes_on_way += size

    def acknowledged(
        self, serial: int, arrived_ns: HostNs, rtt_ns: HostNs | None, decoded_ns: HostNs | None = None,
        now_ns: HostNs | None = None,
    ) -> None:  # fmt: skip
        """All pictures up to `serial` have arrived at about `arrived_ns`, and were decoded, if that was later, then.

        Times are the viewer's word: no picture has arrived before it was sent, or was decoded before it arrived. One
        that is too early to be true counts as `now_ns`.
        """
        size, first, last_ns = 0, None, 0
        while self._on_way and self._on_way[0].serial <= serial:
            one = self._on_way.popleft()
            size, first, last_ns = size + one.size, first or one, one.sent_ns
        if first is None:
            return
        self.bytes_on_way -= size
        if now_ns is not None and arrived_ns < last_ns - SLACK_NS:
            arrived_ns = now_ns
        arrived_ns = max(arrived_ns, last_ns)
        self.line.passed(size, first.sent_ns, arrived_ns, rtt_ns or 0)
        self.viewer.passed(size, first.sent_ns, max(arrived_ns, decoded_ns or 0), rtt_ns or 0)

    def reset(self) -> None:
        """The viewer was hidden or stopped: times since then say nothing about the line."""
        self.line.reset()
        self.viewer.reset()


RATE_STEPS = (
    250_000, 350_000, 500_000, 700_000, 1_000_000, 1_400_000, 2_000_000, 2_800_000, 4_000_000, 5_600_000, 8_000_000,
    11_000_000, 16_000_000, 22_000_000, 32_000_000,
)  # fmt: skip
"""Bit/s of encoders that viewers on slow lines share; beyond the last, an encoder has no bound."""


def rate_step(rate: int | None, now: int | None) -> int | None:
    """The encoder's rate for a viewer whose line has this rate, and has had an encoder of rate `now`; None: no bound.

    A change of encoder costs the viewer a key picture, so a step is left only when the line is clearly of another one.
    """
    if rate is None:
        return None
    step = next((step for step in reversed(RATE_STEPS) if step <= rate * 0.85), RATE_STEPS[0])
    if rate > RATE_STEPS[-1] * 1.3 or (now is None and rate > RATE_STEPS[-1]):
        return None
    # Up only if there is some reserve, down only if the line is slower than what is sent.
    up = now is not None and step > now and rate < 1.2 * step
    keeps = now is not None and (up or (step < now and rate >= now))
    return now if keeps else step
