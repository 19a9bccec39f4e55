"""The rate of one clock against another, from pairs of instants of which the second may be late but never early.

Both ends of a listener use it: for packets (the daemon's clock → ours, late by the network) and for sound card
callbacks (the card's frames → ours, late by the scheduler).
"""

from __future__ import annotations

from enum import Enum

from millrace.clock.dll import Dll
from millrace.clock.envelope import Point, line_below
from millrace.clock.map import ClockMap
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

RATE_MAX = 5_000e-6
"""A clock off by more than ±5,000 ppm is broken, not fast."""
BANDWIDTH_ACQUIRE_HZ, BANDWIDTH_LOCKED_HZ, BANDWIDTH_STEADY_HZ = 1.0, 0.05, 0.02
_STEADY_AFTER = 60.0 * NS_PER_S
_BUCKET_ACQUIRE, _BUCKET_LOCKED = 0.1 * NS_PER_S, 0.5 * NS_PER_S
_WINDOW = 20.0 * NS_PER_S
"""Long enough that the ends of the line rest on rare good packets, short enough to follow a crystal's wander: a rate
that changes by a per second bends the line by a·window²/8."""
# A rate is measured over 1.5 s at least: over less, half a millisecond of noise would tilt the line by more than 300
# ppm. It is trusted once two successive fits over 5 s or more agree within 25 ppm. Beyond 750 ppm, which few clocks are
# off by, it is rather a queue that fills or drains, and trusted only over 15 s; at the limit, where fits always agree,
# never. If the later half of the points alone gives a rate that is smaller by more than 400 ppm, the edge has jumped in
# the earlier half (a browser loses 10 ms of output while it loads the page), and only the later half is kept. A larger
# rate proves nothing: a queue that fills again and again has it most of the time.
_SPAN_MIN = 1.5 * NS_PER_S
_SPAN_LOCK, _SPAN_SURE = 5.0 * NS_PER_S, 15.0 * NS_PER_S
_LOCK_WITHIN, _USUAL, _SMALLER = 25e-6, 750e-6, 400e-6
# What moves the edge as a whole. Downward it is believed at once, from 1 ms on: nothing makes a packet early, so one
# good packet proves a shorter path. Upward it takes more than 2 ms in eight buckets in a row (4 s in lock), because a
# packet that is late proves nothing.
_STEP = 1.0 * NS_PER_MS
_STEP_UP_BUCKETS = 8
# Several steps in one direction, each soon after the one before, are not steps of the edge: either a queue fills or
# drains, or the rate was wrong. It is measured again, and stays what it was until then.
_STEPS_MAX = 4
_STEPS_WITHIN = 20.0 * NS_PER_S
# After ten minutes without a pair, or with a pair two seconds early, the other side is another clock or was set anew.
_LOST_AFTER = 600.0 * NS_PER_S
_BROKEN = 2.0 * NS_PER_S
_STALL_NS, _STALL_LATE_MAX, _CATCH_UP = 1.0 * NS_PER_S, 60.0 * NS_PER_S, 0.1
CARD_JUMP_NS = 0.25 * NS_PER_S
"""Sound cards buffer less than this: a card whose frames are later than this had stopped."""


class Lock(Enum):
    """How reliable the estimate is."""

    LOST = "lost"
    ACQUIRE = "acquire"
    LOCKED = "locked"


class DriftEstimator:
    """Tracks the lower edge of y − x over x; clock/envelope.py says why the edge.

    Pairs are collected in buckets, and the least late pair of each is kept. A line is fitted under the kept pairs of
    the last 20 s, and a DLL smooths its movement. A jump of the edge (another route, a machine that was suspended)
    shifts the line and leaves the rate alone. After a pause the old line continues until new pairs correct it.

    A pair later than `jump_ns` was either held up (a stalled connection delivers what it had queued, each pair less
    late than the one before), or is the first from a clock that had stopped (all later pairs are as late). The lateness
    is watched for `stall_ns` of local time. While it falls by at least a tenth of the time that passes, it is a stall
    and says nothing about the clocks; otherwise a new line is begun there. Both bounds are times and not numbers of
    pairs, so that they mean the same at any packet size; a bound in pairs would leave a card that had been suspended
    with seconds of wrong latency for a minute. Pairs from a card are never queued, so for a card `jump_ns` is short and
    `stall_ns` is 0.
    """

    __slots__ = (
        "_above", "_alike", "_best", "_best_d", "_best_u", "_close_at", "_dll", "_dll_u", "_jump_ns", "_line_u",
        "_locked_at", "_measured", "_phase", "_points", "_rate", "_rate_max", "_slope_before", "_stall", "_stall_ns",
        "_stepped_at", "_x0", "_y0", "state", "steps",
    )  # fmt: skip

    def __init__(self, rate_max: float = RATE_MAX, jump_ns: float = _BROKEN, stall_ns: float = _STALL_NS) -> None:
        self._rate_max, self._jump_ns, self._stall_ns = rate_max, jump_ns, stall_ns
        self.state = Lock.LOST
        self.steps = 0
        self.restart()

    def _begin(self, x_ns: HostNs, y_ns: HostNs) -> None:
        """Anchor the line at this pair. The rate is kept: a crystal does not change its rate."""
        self.state = Lock.ACQUIRE
        self._x0, self._y0 = x_ns, y_ns
        self._phase, self._line_u = 0.0, 0.0
        self._points: list[Point] = []
        self._best, self._best_u, self._best_d = float("inf"), 0.0, 0.0
        self._close_at = _BUCKET_ACQUIRE
        self._dll = Dll(0.0, self._rate * NS_PER_S)
        self._dll_u = 0.0
        self._slope_before: float | None = None
        self._locked_at = 0.0
        self._above: list[tuple[Point, float]] = []
        self._alike, self._stepped_at = 0, 0.0
        """How many steps in a row went the same way (negative: down), and when the last one was."""
        self._stall: tuple[HostNs, float] | None = None

    def restart(self) -> None:
        """Start over: the other side is a new one, with a clock of its own."""
        self._rate, self._measured = 0.0, False
        """The rate, and whether it has been in lock."""
        self._begin(0, 0)
        self.state = Lock.LOST

    def anchor(self, x_ns: HostNs, y_ns: HostNs) -> None:
        """The clock had stopped and continues from this pair; its known rate is kept."""
        self._begin(x_ns, y_ns)

    # u and d are differences to the anchor, so they are floats: nanoseconds stay exact for 104 days (2⁵³ ns), while a
    # time since boot multiplied by a rate would not. d leaves out x's own advance, so it stays as small as the drift.
    def observe(self, x_ns: HostNs, y_ns: HostNs) -> float:
        """Add a pair; return how much later it is than the line, in ns (negative: a new best)."""
        u = float(x_ns - self._x0)
        d = y_ns - self._y0 - u
        late = d - self._phase - self._rate * (u - self._line_u)
        if self.state is Lock.LOST or late < -_BROKEN or u - self._close_at > _LOST_AFTER:
            self._begin(x_ns, y_ns)
            return 0.0
        # A pair far below the line, or after minutes without any, means another clock, or the same one set anew. A pair
        # far above it may only have been held up.
        if late > self._jump_ns:
            if self._is_held_up(late, y_ns):
                return late
            self._begin(x_ns, y_ns)
            return 0.0
        self._stall = None
        if late < self._best:
            self._best, self._best_u, self._best_d = late, u, d
        if u >= self._close_at:
            self._close(u)
        elif late < 0.0 and not self._points:
            # Until the first bucket closes there is no line yet to fit: each better pair lowers it directly, so the
            # first packets already play at the right latency.
            self._phase += late
        return late

    def _is_held_up(self, late: float, y_ns: HostNs) -> bool:
        """Whether a pair that late was held up on its way; see the class."""
        if late > _STALL_LATE_MAX:
            return False
        since_ns, first = self._stall or (y_ns, late)
        if self._stall is not None and y_ns - since_ns > self._stall_ns:
            if late > first - _CATCH_UP * (y_ns - since_ns):
                return False
            since_ns, first = y_ns, late
        self._stall = since_ns, first
        return True

    # -- once a bucket -------------------------------------------------------------------------

    def _close(self, u: float) -> None:
        best, point = self._best, (self._best_u, self._best_d)
        self._best = float("inf")
        self._close_at = u + (_BUCKET_LOCKED if self.state is Lock.LOCKED else _BUCKET_ACQUIRE)
        # The least late pair of a bucket is kept with its own time, not the time at which the bucket was closed: the
        # edge consists of single good packets, and a point at the wrong time would tilt it.
        points = self._points
        if point[0] < u - _WINDOW or (points and point[0] <= points[-1][0]):
            return
        if self.state is Lock.LOCKED and self._stands_out(point, best):
            return
        points = self._points
        points.append(point)
        while points[0][0] < u - _WINDOW:
            points.pop(0)
        if point[0] - points[0][0] < _SPAN_MIN:
            self._lower_only(point)
            return
        measured, slope = line_below(points)
        self._follow(point[0], measured, max(-self._rate_max, min(self._rate_max, slope)))

    def _lower_only(self, point: Point) -> None:
        """With too short a span to measure a rate, the line only moves down."""
        under = point[1] - self._phase - self._rate * (point[0] - self._line_u)
        if under < 0.0:
            self._phase += under
        self._dll = Dll(self._phase + self._rate * (point[0] - self._line_u), self._rate * NS_PER_S)
        self._dll_u = point[0]

    def _follow(self, u: float, measured: float, slope: float) -> None:
        dll, dt_s = self._dll, (u - self._dll_u) / NS_PER_S
        if self.state is Lock.ACQUIRE:
            # While acquiring, the slope of the fitted line is the rate: a loop this fast would derive it from noise.
            dll.update(measured, dt_s, BANDWIDTH_ACQUIRE_HZ)
            dll.rate = (self._rate if self._measured else slope) * NS_PER_S
            self._try_lock(u, slope)
        else:
            steady = u - self._locked_at > _STEADY_AFTER
            dll.update(measured, dt_s, BANDWIDTH_STEADY_HZ if steady else BANDWIDTH_LOCKED_HZ)
        self._dll_u = u
        self._phase, self._line_u = dll.phase, u
        self._rate = max(-self._rate_max, min(self._rate_max, dll.rate / NS_PER_S))

    def _try_lock(self, u: float, slope: float) -> None:
        before, self._slope_before = self._slope_before, slope
        span, size = u - self._points[0][0], abs(slope)
        if span < _SPAN_LOCK:
            return
        later = [point for point in self._points if point[0] >= u - span / 2]
        if size > _SMALLER and abs(line_below(later)[1]) < size - _SMALLER:
            self._points = later
        elif before is not None and abs(slope - before) < _LOCK_WITHIN and self._is_likely(size, span):
            self.state, self._locked_at, self._measured = Lock.LOCKED, u, True
            self._dll.rate = slope * NS_PER_S

    def _is_likely(self, size: float, span: float) -> bool:
        return size < _USUAL or (size < self._rate_max and span >= _SPAN_SURE)

    def _stands_out(self, point: Point, best: float) -> bool:
        """Set a point far above the line aside, until enough of them show that the edge itself has jumped there.

        A jump shifts all kept points by its size, and leaves the rate alone.
        """
        if best < -_STEP:
            self._shift(point[0], best)
        if best <= 2 * _STEP:
            self._above.clear()
            return False
        self._above.append((point, best))
        if len(self._above) >= _STEP_UP_BUCKETS:
            self._shift(point[0], min(over for _, over in self._above))
            self._points += [kept for kept, _ in self._above]
            self._above.clear()
        return True

    def _shift(self, u: float, by: float) -> None:
        self._points = [(at, d + by) for at, d in self._points]
        self._phase += by
        self._dll.phase += by
        self.steps += 1
        soon = u - self._stepped_at < _STEPS_WITHIN and self._alike * by > 0
        self._alike = (self._alike if soon else 0) + (1 if by > 0 else -1)
        self._stepped_at = u
        if abs(self._alike) >= _STEPS_MAX:
            self.state, self._points, self._slope_before, self._alike = Lock.ACQUIRE, [], None, 0

    # -- what is known -------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """There is a line."""
        return self.state is not Lock.LOST

    @property
    def rate(self) -> float:
        """d(y)/d(x) − 1: how much longer than a second on y a second of x takes."""
        return self._rate

    @property
    def ppm(self) -> float:
        """How fast x's clock runs against y's; + means that it gains."""
        return (1.0 / (1.0 + self._rate) - 1.0) * 1e6

    # The large terms are subtracted as integers before anything becomes a float.
    def y_after(self, x_ns: float, origin_ns: HostNs) -> float:
        """The line at `x_ns`, in ns after `origin_ns`: floats near an origin lose no precision."""
        u = x_ns - self._x0
        return (self._y0 - origin_ns) + u + self._phase + self._rate * (u - self._line_u)

    def map(self) -> ClockMap:
        """The line as a value."""
        return ClockMap(1.0 + self._rate, self._x0 + round(self._line_u), self._y0 + round(self._line_u + self._phase))
