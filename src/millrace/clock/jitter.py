"""The target delay of a listener: how far behind the best arrival to play so that hardly any packet is too late.

It is derived from a decaying histogram of packet lateness: the 95 % quantile, and beyond it the tail's mean excess,
extrapolated to the rate of late packets that the profile tolerates. For an exponential tail that is exact; for a
bounded one the highest lateness seen is the limit.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from millrace.errors import ConfigError
from millrace.text import parse_duration_ns, quoted
from millrace.units import NS_PER_MS, NS_PER_US, HostNs

# The histogram covers 512 ms, a little more than the highest ceiling of a profile; later packets count in the last bin.
# A bin is as wide as the smallest guard, so the target is never coarser than that. Packets are forgotten with a
# half-life of five minutes: long enough to contain some of the rare late ones, short enough to follow a network that
# has changed. The two highest are kept for hours, as the bound on what is extrapolated from the rest.
BINS = 1024
BIN_NS = 0.5 * NS_PER_MS
HALF_LIFE_S = 300.0
PEAK_HALF_LIFE_S = 6 * 3600.0
CALM_NS_PER_S, YOUNG_NS_PER_S, FAST_NS_PER_S = 10_000.0, 200_000.0, 500_000.0
YOUNG_S = 60.0
GROW_ONCE_NS = 15.0 * NS_PER_MS
"""The most that one late packet may add."""
# Of the fewest packets that are judged (100, which is 2 s), five lie beyond this quantile. Those further out can't be
# read from so few packets, and are extrapolated.
_TAIL = 0.05
_FEW = 100


class JitterProfile(msgspec.Struct, frozen=True):
    """A latency profile: `late` is the tolerated share of late packets; the rest are target delays in ns."""

    start_ns: HostNs
    floor_ns: HostNs
    ceiling_ns: HostNs
    guard_ns: HostNs
    late: float


PROFILES = {
    "low": JitterProfile(3 * NS_PER_MS, 1 * NS_PER_MS, 60 * NS_PER_MS, NS_PER_MS // 2, 1e-3),
    "normal": JitterProfile(8 * NS_PER_MS, 4 * NS_PER_MS, 250 * NS_PER_MS, 1 * NS_PER_MS, 1e-5),
    "robust": JitterProfile(60 * NS_PER_MS, 40 * NS_PER_MS, 500 * NS_PER_MS, 5 * NS_PER_MS, 1e-8),
}
PICTURE_FIRST = "low"
"""With this profile no picture waits for its sound, which follows as soon as it can."""
FIXED_LOW_NS = 25 * NS_PER_MS
FIXED_TEXT_MAX = 16
FIXED_MAX_NS = 2_000 * NS_PER_MS


def profile_of(text: str) -> JitterProfile:
    """A profile by name, or a fixed latency such as 30ms; a ConfigError names the choices."""
    if text in PROFILES:
        return PROFILES[text]
    wrong = ConfigError(
        f"latency: {quoted(text)}: use one of {', '.join(PROFILES)}, or a time such as 30ms, 2s at most"
    )
    # The text may come from any listener, and is displayed.
    if len(text) > FIXED_TEXT_MAX:
        raise wrong
    try:
        fixed = parse_duration_ns(text, "latency", NS_PER_US, FIXED_MAX_NS)
    except ConfigError:
        raise wrong from None
    return JitterProfile(fixed, fixed, fixed, 0, 1.0)


def asked_of_daemon(latency: str) -> str:
    """The profile to ask of the daemon for a profile or a fixed latency; ConfigError if it is neither."""
    if latency in PROFILES:
        return latency
    return "low" if profile_of(latency).start_ns < FIXED_LOW_NS else "normal"


class JitterTarget:
    """The target delay behind the best arrival: it grows at once when a packet is late, and shrinks slowly."""

    __slots__ = (
        "_age_s",
        "_counts",
        "_growing",
        "_peak",
        "_recent",
        "_second",
        "moving",
        "profile",
        "target_delay_ns",
        "wanted_ns",
    )

    def __init__(self, profile: JitterProfile) -> None:
        self.profile = profile
        self.target_delay_ns = float(profile.start_ns)
        self.wanted_ns = self.target_delay_ns
        self._counts = np.zeros(BINS)
        self._recent = [0] * BINS
        self._peak = self._second = 0.0
        self._growing = False
        self._age_s = 0.0
        self.moving = 0.0
        """How fast the target delay moves until the next refresh, in ns per second."""

    def change(self, profile: JitterProfile) -> None:
        """Change the profile; what is known of the network is kept."""
        self.profile = profile
        self.target_delay_ns = min(max(self.target_delay_ns, float(profile.floor_ns)), float(profile.ceiling_ns))
        self._age_s, self.moving = 0.0, 0.0

    def add(self, late_ns: float) -> None:
        """A packet was this much later than the best. Packets held up behind a late one must not be added."""
        self._recent[min(BINS - 1, max(0, int(late_ns / BIN_NS)))] += 1
        if late_ns > self._second:
            self._peak, self._second = max(late_ns, self._peak), min(late_ns, self._peak)
        if late_ns + self.profile.guard_ns > self.target_delay_ns:
            grown = min(late_ns * 1.1 + self.profile.guard_ns, self.target_delay_ns + GROW_ONCE_NS)
            self.target_delay_ns = max(self.target_delay_ns, min(grown, float(self.profile.ceiling_ns)))

    def refresh(self, dt_s: float) -> None:
        """`dt_s` have passed: age the histogram, and move the target delay towards the wanted one."""
        forget = 0.5 ** (dt_s / HALF_LIFE_S)
        self._counts *= forget
        self._counts += self._recent
        self._recent = [0] * BINS
        self.wanted_ns = self._wanted()
        hold = 0.5 ** (dt_s / PEAK_HALF_LIFE_S)
        self._peak, self._second = self._peak * hold, self._second * hold
        self._approach(dt_s)

    # The tail beyond the quantile q is taken for exponential with its mean excess m: P(late > q + x) = 0.05·e^(−x/m).
    # It equals the tolerated share `late` at x = m·ln(0.05 / late). A network whose lateness is bounded has a shorter
    # tail than that, so the second highest lateness seen is the limit, with a margin that shrinks as 1/√n: with few
    # packets, the worst is probably still to come.
    def _wanted(self) -> float:
        profile, counts = self.profile, self._counts
        total = float(counts.sum())
        if total < _FEW:
            return max(self.target_delay_ns, float(profile.floor_ns))
        above = np.cumsum(counts[::-1])[::-1]
        k = int(np.searchsorted(-above, -_TAIL * total))
        quantile = k * BIN_NS
        tail = counts[k:]
        excess = float((tail * (np.arange(len(tail)) + 0.5)).sum() / max(tail.sum(), 1e-9)) * BIN_NS
        wanted = quantile + excess * math.log(_TAIL / profile.late) if profile.late < _TAIL else quantile
        # The lateness seen bounds the extrapolation, more tightly the more packets were seen. The second highest is
        # used: a stall that happens once must not cost latency permanently.
        wanted = min(wanted, self._second * (1.05 + 10.0 / math.sqrt(total)))
        return min(max(wanted + profile.guard_ns, float(profile.floor_ns)), float(profile.ceiling_ns))

    def _approach(self, dt_s: float) -> None:
        """Apply the last second's movement and choose the next one: slow while all is well, to be inaudible."""
        # Growth on lateness happens at once, in `add`, because a late packet is heard. Here the target follows the
        # histogram, which is less reliable the younger it is. So with a young histogram the target moves fast both
        # ways, later by 10 µs per second, and only if it is off by more than it wanders. `shrinking` and `_growing` are
        # hysteresis: without it the target would start and stop at the threshold, and each start changes the speed.
        self.target_delay_ns += self.moving * dt_s
        shrinking, self.moving = self.moving < 0.0, 0.0
        error = self.wanted_ns - self.target_delay_ns
        self._age_s += dt_s
        young = self._age_s < YOUNG_S
        if error > 0 and young:
            self.target_delay_ns = self.wanted_ns
        elif error > 0:
            self._growing = error > NS_PER_MS or (self._growing and error > CALM_NS_PER_S)
            self.moving = CALM_NS_PER_S if self._growing else 0.0
        elif -error > (
            NS_PER_MS / 4 if shrinking else NS_PER_MS if young else max(2.0 * NS_PER_MS, 0.1 * self.target_delay_ns)
        ):
            self.moving = -FAST_NS_PER_S if -error > 20 * NS_PER_MS else -YOUNG_NS_PER_S if young else -CALM_NS_PER_S
