"""Hours of picture and sound in virtual time: how far a flash is from its click, with the product's own decisions.

The sound is that of `lab/dryrun.py`: packets over a path with jitter, a playout without samples, a card that pulls on
time while its program gets to it late. Each second a picture comes over a path like it, and is shown as by a viewer: by
`HeardClock` and `Presentation`. The truth is known: when the card plays the frame that was captured with the picture.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from millrace.clock.heard import HeardClock
from millrace.lab.dryrun import DAEMON_EPOCH, EPOCH, DryRun
from millrace.lab.dryvoice import MillracePolicy
from millrace.lab.scenario import named
from millrace.playout.presentation import Presentation
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs

OUTPUT_NS: HostNs = 5 * NS_PER_MS
CODING_NS: HostNs = 6 * NS_PER_MS
"""From painting to sending, and from arrival to the decoded picture, together."""
LATE_NS, LATE_MAX_NS = 0.5 * NS_PER_MS, 4 * NS_PER_MS
"""How late the program gets to pull, on average and at most."""
STALL_NS: HostNs = 300 * NS_PER_MS
STALL_EVERY_S, SETTLED_S = 3600, 1.0


class Watcher(MillracePolicy):
    """A listener with a viewer beside it."""

    pictures: deque[tuple[HostNs, HostNs]]
    """(when it is there, painted), to be set before the first pull."""

    def __init__(self, rate: int, period: Frames, packet_ns: HostNs) -> None:
        super().__init__(rate, period, packet_ns)
        self.heard, self.presentation = HeardClock(), Presentation[HostNs]()
        self.shown: dict[HostNs, HostNs] = {}
        """By when it was painted."""
        self.played: dict[HostNs, float] = {}
        """By when it was captured."""
        self._random = np.random.default_rng(5)
        self._late: list[int] = []
        self._timer: HostNs | None = None
        self._flash = DAEMON_EPOCH

    def pull(self, frames: Frames, now_ns: HostNs) -> float | None:
        """See `MillracePolicy`; `now_ns` is when it is due."""
        if not self._late:
            self._late = np.minimum(self._random.exponential(LATE_NS, 4096), LATE_MAX_NS).astype(int).tolist()
        at = now_ns + self._late.pop()
        self._present_until(at)
        head = super().pull(frames, at)
        if head is not None:
            self.heard.pulled(at, head, OUTPUT_NS)
            self._play(head, now_ns, frames * NS_PER_S / self.link.rate)
        return head

    def _play(self, head: float, now_ns: HostNs, length_ns: float) -> None:
        while self._flash < head + length_ns * self.speed:
            if self._flash >= head:
                self.played[self._flash] = now_ns + OUTPUT_NS + (self._flash - head) / self.speed
            self._flash += NS_PER_S

    def _present_until(self, now_ns: HostNs) -> None:
        """What happens before `now_ns`: pictures come, and the viewer's timer fires."""
        while True:
            comes = self.pictures[0][0] if self.pictures else now_ns
            fires = now_ns if self._timer is None else self._timer
            if min(comes, fires) >= now_ns:
                return
            if comes <= fires:
                at, painted = self.pictures.popleft()
                self.presentation.push(painted, painted, at)
            self._present(min(comes, fires))

    def _present(self, now_ns: HostNs) -> None:
        heard = self.heard.at(now_ns)
        for one in self.presentation.due(now_ns, heard):
            self.shown[one.picture] = now_ns
        due = self.presentation.next_timeout(now_ns, heard)
        self._timer = None if due is None else max(due, now_ns + 1)


def day(hours: float, ppm: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Hours since the start, and skews in ms, of each second's flash.

    3 ms of exponential jitter, the daemon's clock off by `ppm`, and a line that stalls for 300 ms once an hour.
    """
    scenario = named(f"ppm{ppm:g}/exp3")
    stalls = [at * NS_PER_S for at in range(STALL_EVERY_S // 2, round(hours * 3600), STALL_EVERY_S)]
    path = replace(scenario.path, stalls=tuple((at, at + STALL_NS) for at in stalls))
    run = DryRun(replace(scenario, path=path), Watcher, hours, seed)
    watcher = run.policy
    assert isinstance(watcher, Watcher)
    painted = np.arange(1, round(hours * 3600)) * NS_PER_S
    delays = path.delays(np.random.default_rng(seed + 1), painted)
    there = [path.released(at) for at in run.daemon.when(painted.astype(np.float64)) + delays]
    times = sorted(
        (EPOCH + int(at) + CODING_NS, DAEMON_EPOCH + int(when)) for at, when in zip(there, painted, strict=True)
    )
    watcher.pictures = deque(times)
    run.run()
    both = sorted(watcher.shown.keys() & watcher.played.keys())
    skews = np.array([watcher.shown[one] - watcher.played[one] for one in both]) / 1e6
    return (np.array(both) - DAEMON_EPOCH) / (3600 * NS_PER_S), skews


def stalled(hours: np.ndarray) -> np.ndarray:
    """Which of these times are within a second of a stall of the line, or during it."""
    since_s = (hours * 3600 - STALL_EVERY_S / 2) % STALL_EVERY_S
    seen: np.ndarray = (since_s < STALL_NS / NS_PER_S + SETTLED_S) & (hours * 3600 >= STALL_EVERY_S / 2)
    return seen
