"""A network that is bad in a reproducible way. Sans-IO and seeded.

Messages go in with the time, and come out with the time: `send`, `next_timeout`, `receive`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ConfigError
from millrace.units import NS_PER_MS, NS_PER_S, HostNs

T = TypeVar("T")
Delays = NDArray[np.float64]
SPIKE_SHARE, SPIKE_NS = 0.01, 80 * NS_PER_MS
SAW_PERIOD = 20
BURST_LENGTH = 5.0
"""Mean number of consecutive packets that a burst of loss takes."""


def _none(random: np.random.Generator, sequence: NDArray[np.int64], scale_ns: float) -> Delays:
    del random, scale_ns
    return np.zeros(len(sequence))


def _exponential(random: np.random.Generator, sequence: NDArray[np.int64], scale_ns: float) -> Delays:
    out: Delays = random.exponential(scale_ns, len(sequence))
    return out


def _saw(random: np.random.Generator, sequence: NDArray[np.int64], scale_ns: float) -> Delays:
    """The pattern of QEMU's packets: the delay climbs a little with each, and falls back."""
    del random
    out: Delays = (sequence % SAW_PERIOD).astype(np.float64) * (2.0 * scale_ns / SAW_PERIOD)
    return out


def _spikes(random: np.random.Generator, sequence: NDArray[np.int64], scale_ns: float) -> Delays:
    """A good path on which one packet in a hundred is 80 ms late."""
    out: Delays = np.minimum(random.exponential(scale_ns / 3, len(sequence)), scale_ns)
    out[random.random(len(sequence)) < SPIKE_SHARE] += SPIKE_NS
    return out


JITTERS: dict[str, Callable[[np.random.Generator, NDArray[np.int64], float], Delays]] = {
    "none": _none, "exp": _exponential, "saw": _saw, "spikes": _spikes,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Path:
    """How a network behaves. `loss` is a fraction; with `burst`, losses come in bursts.

    `stalls` are (from, to) in ns, during which nothing passes; `rate_bps` 0 means no limit. What would wait
    longer than `queue_ns` for a line of limited rate is lost, as in a router; None: a queue without end.
    """

    delay_ns: HostNs = NS_PER_MS
    jitter: str = "none"
    jitter_ns: float = 0.0
    loss: float = 0.0
    burst: bool = False
    reorder: float = 0.0
    duplicate: float = 0.0
    rate_bps: int = 0
    queue_ns: HostNs | None = None
    ordered: bool = True
    stalls: tuple[tuple[HostNs, HostNs], ...] = ()

    def __post_init__(self) -> None:
        if self.jitter not in JITTERS:
            raise ConfigError(f"jitter {self.jitter!r}: use one of {', '.join(JITTERS)}")
        if not 0 <= self.loss < 1 or not 0 <= self.reorder <= 1 or not 0 <= self.duplicate <= 1:
            raise ConfigError("loss, reorder and duplicate are shares from 0 to 1")

    def delays(self, random: np.random.Generator, sequence: NDArray[np.int64]) -> Delays:
        """Delays of the packets with these numbers, in ns, before ordering and stalls."""
        return self.delay_ns + JITTERS[self.jitter](random, sequence, self.jitter_ns)

    def losses(self, random: np.random.Generator, count: int) -> NDArray[np.bool_]:
        """Which of `count` packets are lost; bursts follow E. Gilbert's two-state model."""
        if not self.burst:
            return random.random(count) < self.loss
        lost = np.zeros(count, np.bool_)
        at = 0
        between = BURST_LENGTH * (1 - self.loss) / max(self.loss, 1e-9)
        while at < count:
            at += 1 + int(random.exponential(between))
            end = at + max(1, int(random.exponential(BURST_LENGTH)))
            lost[at:end] = True
            at = end
        return lost

    def released(self, arrival_ns: float) -> float:
        """When a message that would arrive at `arrival_ns` passes, taking stalls into account."""
        for start, end in self.stalls:
            if start <= arrival_ns < end:
                return float(end)
        return arrival_ns


class NetEmulator(Generic[T]):
    """One direction of a path, for messages of any kind. Only `droppable` ones may be lost or duplicated."""

    def __init__(self, path: Path, seed: int = 1, droppable: Callable[[T], bool] = lambda message: True) -> None:
        self.path = path
        self.arrives_ns = 0.0
        """When the message that was sent last arrives."""
        self.sent = self.lost = self.duplicated = self.reordered = 0
        self._random = np.random.default_rng(seed)
        self._droppable = droppable
        self._queue: list[tuple[float, int, T]] = []
        self._serial = 0
        self._last_ns = 0.0
        self._line_free_ns = 0.0
        self._burst_left = 0

    def send(self, message: T, now_ns: HostNs, size: int = 0) -> None:
        """Send a message."""
        self.sent += 1
        if self._droppable(message) and (self._is_lost() or self._is_full(now_ns)):
            self.lost += 1
            return
        copies = 2 if self._droppable(message) and self._random.random() < self.path.duplicate else 1
        self.duplicated += copies - 1
        for _ in range(copies):
            self.arrives_ns = self._arrival(now_ns, size)
            heapq.heappush(self._queue, (self.arrives_ns, self._serial, message))
            self._serial += 1

    def _is_full(self, now_ns: HostNs) -> bool:
        limit = self.path.queue_ns
        return limit is not None and self._line_free_ns - now_ns > limit

    # A burst begins with probability p / (B * (1 - p)) at each packet that is not in one, where B is the mean length
    # of a burst: that makes the share of lost packets p in the long run, however long the bursts.
    def _is_lost(self) -> bool:
        path, random = self.path, self._random
        if not path.burst:
            return bool(random.random() < path.loss)
        if self._burst_left > 0:
            self._burst_left -= 1
            return True
        if random.random() < path.loss / BURST_LENGTH / (1 - path.loss):
            self._burst_left = max(0, int(random.exponential(BURST_LENGTH)))
            return True
        return False

    # Three things in this order: the line sends one message at a time at its rate, the path adds its delay, and a
    # stall holds back what would arrive during it. On an ordered path (TCP) a message never arrives before the one
    # sent before it. A message that is reordered on purpose is exempt, and does not hold back those after it either.
    def _arrival(self, now_ns: HostNs, size: int) -> float:
        path = self.path
        start = max(float(now_ns), self._line_free_ns)
        if path.rate_bps:
            start = self._line_free_ns = start + size * 8 * NS_PER_S / path.rate_bps
        arrival = start + float(path.delays(self._random, np.array([self._serial]))[0])
        if path.reorder and self._random.random() < path.reorder:
            self.reordered += 1
            return path.released(arrival + 2 * path.delay_ns)
        arrival = path.released(arrival)
        if path.ordered:
            arrival = self._last_ns = max(arrival, self._last_ns)
        return arrival

    def next_timeout(self) -> HostNs | None:
        """When the next message arrives."""
        return -int(-self._queue[0][0] // 1) if self._queue else None

    def receive(self, now_ns: HostNs) -> list[T]:
        """The messages that have arrived by now."""
        out: list[T] = []
        while self._queue and self._queue[0][0] <= now_ns:
            out.append(heapq.heappop(self._queue)[2])
        return out
