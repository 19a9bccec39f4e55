"""A day in a minute: a policy without sound over a path and two clocks, in virtual time.

The listener's own clock is the true one; the daemon's and the card's deviate from it. Arrivals and pulls are generated
in chunks of `CHUNK_NS` and merged. Every `SAMPLE_EVERY` pulls, the true state is compared with the policy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from millrace.lab.policies import Policy
from millrace.lab.scenario import Outcome, Scenario
from millrace.sim.clocks import SimClock
from millrace.units import NS_PER_S, Frames, HostNs

CHUNK_NS = 600.0 * NS_PER_S
SAMPLE_EVERY = 16
EPOCH: HostNs = 10**12
DAEMON_EPOCH: HostNs = 7 * 10**15
SETTLE_S = 600.0

Make = Callable[[int, Frames, HostNs], Policy]


@dataclass(slots=True)
class Trace:
    """Samples of true time, capture time heard, target, fill and speed, and the true latency and ratio from them."""

    at_ns: list[float] = field(default_factory=list)
    head_ns: list[float] = field(default_factory=list)
    target_ns: list[float] = field(default_factory=list)
    fill_ns: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    latency_ns: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    ratio_ppm: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


# True time is that of the listener's host. The daemon's clock decides when packets are sent, the card's when frames
# are pulled, and the policy sees only what a listener would: arrivals, pulls and the times in the packets. Because
# both clocks are known exactly, latency and ratio are judged against the truth and not against anything the policy
# estimates.
class DryRun:
    """One run."""

    def __init__(self, scenario: Scenario, make: Make, hours: float, seed: int = 1) -> None:
        self.scenario, self.hours = scenario, hours
        self.period: Frames = scenario.rate * scenario.period_ns // NS_PER_S
        self.policy = make(scenario.rate, self.period, scenario.packet_ns)
        self.daemon = SimClock(scenario.daemon_ppm, scenario.wander_ppm, 0.3)
        self.card = SimClock(scenario.card_ppm, scenario.wander_ppm, 2.0)
        self.trace = Trace()
        self.lock_s = self.sound_s = math.nan
        self._random = np.random.default_rng(seed)
        self._last_arrival = 0.0
        self._pulls = 0
        self._packets = 0

    def run(self) -> None:
        """Let the hours pass."""
        end = self.hours * 3600 * NS_PER_S
        at = 0.0
        media: list[int] = []
        arrivals: list[int] = []
        while at < end:
            until = min(at + CHUNK_NS, end)
            more_media, more_arrivals = self._arrivals(until)
            media, arrivals = media + more_media, arrivals + more_arrivals
            used = self._pull_until(until, media, arrivals)
            media, arrivals = media[used:], arrivals[used:]
            at = until
        self._judge()

    def _arrivals(self, until: float) -> tuple[list[int], list[int]]:
        """Packets sent before `until`, plus a little more, to include those under way."""
        scenario = self.scenario
        last = int(float(self.daemon.read(np.array([until + 2e9]))[0]) // scenario.packet_ns)
        sequence = np.arange(self._packets, last)
        self._packets = last
        shown = sequence.astype(np.float64) * scenario.packet_ns
        arrival = self.daemon.when(shown) + scenario.path.delays(self._random, sequence)
        kept = ~scenario.path.losses(self._random, len(sequence))
        arrival = np.maximum.accumulate(np.concatenate(([self._last_arrival], arrival)))[1:]
        if len(arrival):
            self._last_arrival = float(arrival[-1])
        for start, end in scenario.path.stalls:
            arrival = np.where((arrival >= start) & (arrival < end), float(end), arrival)
        media = (DAEMON_EPOCH + shown[kept].astype(np.int64)).tolist()
        return media, (EPOCH + arrival[kept].astype(np.int64)).tolist()

    def _pull_until(self, until: float, media: list[int], arrivals: list[int]) -> int:
        """Make the pulls before `until`; return how many packets arrived."""
        scenario, policy, period = self.scenario, self.policy, self.period
        packet_frames = scenario.rate * scenario.packet_ns // NS_PER_S
        last = int(float(self.card.read(np.array([until]))[0]) // scenario.period_ns)
        numbers = np.arange(self._pulls, last)
        times = (EPOCH + self.card.when(numbers.astype(np.float64) * scenario.period_ns).astype(np.int64)).tolist()
        self._pulls = last
        arrived, pull = policy.arrived, policy.pull
        at, count = 0, len(arrivals)
        for number, now in enumerate(times):
            while at < count and arrivals[at] <= now:
                arrived(media[at], packet_frames, arrivals[at])
                at += 1
            head = pull(period, now)
            if number % SAMPLE_EVERY == 0 and head is not None and at:
                self._sample(now, head, media[at - 1] + scenario.packet_ns - head)
        return at

    def _sample(self, now: int, head: float, fill: float) -> None:
        policy, trace = self.policy, self.trace
        at_s = (now - EPOCH) / NS_PER_S
        if math.isnan(self.sound_s):
            self.sound_s = at_s
        if math.isnan(self.lock_s) and policy.locked:
            self.lock_s = at_s
        trace.at_ns.append(float(now - EPOCH))
        trace.head_ns.append(head - DAEMON_EPOCH)
        trace.target_ns.append(policy.target_ns)
        trace.fill_ns.append(fill)
        trace.speed.append(policy.speed)

    def _judge(self) -> None:
        """Compute the true values for all samples at once."""
        trace = self.trace
        at = np.array(trace.at_ns)
        trace.latency_ns = at - self.daemon.when(np.array(trace.head_ns))
        true_ratio = self.daemon.rate(at) / self.card.rate(at)
        trace.ratio_ppm = (np.array(trace.speed) / true_ratio - 1) * 1e6

    def outcome(self, took_s: float = 0.0) -> Outcome:
        """The results."""
        policy, trace = self.policy, self.trace
        out = Outcome(
            self.scenario.name, policy.name, self.hours, sound_s=self.sound_s, lock_s=self.lock_s,
            xruns=policy.underruns, concealed=policy.concealed, resyncs=policy.resyncs, splices=policy.splices,
            took_s=took_s,
        )  # fmt: skip
        settled = np.array(trace.at_ns) >= min(SETTLE_S, self.hours * 360) * NS_PER_S
        if not settled.any():
            return out
        best = self.scenario.path.delay_ns
        error = (trace.latency_ns - best - np.array(trace.target_ns))[settled]
        # A policy's own notion of its target may be off by a constant: the noise is judged, and the latency shown.
        error -= np.median(error)
        ratio = trace.ratio_ppm[settled]
        latency = trace.latency_ns[settled]
        out.latency_rms_us = float(np.sqrt(np.mean(error**2))) / 1e3
        out.latency_p999_us = float(np.quantile(np.abs(error), 0.999)) / 1e3
        out.ratio_rms_ppm = float(np.sqrt(np.mean(ratio**2)))
        out.pitch_max_cents = float(np.abs(1200 * np.log2(1 + ratio * 1e-6)).max())
        out.latency_mean_ms, out.latency_max_ms = float(latency.mean()) / 1e6, float(latency.max()) / 1e6
        return out
