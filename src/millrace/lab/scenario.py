"""Scenarios (two clocks and a path), and the results of running a policy in one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from millrace.errors import ConfigError
from millrace.sim.net import Path
from millrace.text import parse_decimal, quoted
from millrace.units import NS_PER_MS, HostNs

WANDER_PPM = 20.0
PPMS = (0.0, 50.0, -50.0, 200.0, -200.0, 500.0, -500.0)
JITTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "exp3": {"jitter": "exp", "jitter_ns": 3.0 * NS_PER_MS},
    "saw5": {"jitter": "saw", "jitter_ns": 5.0 * NS_PER_MS},
    "spikes": {"jitter": "spikes", "jitter_ns": 10.0 * NS_PER_MS},
}
LOSSES: dict[str, dict[str, Any]] = {
    "": {},
    "loss2": {"loss": 0.02},
    "loss5": {"loss": 0.05},
    "loss20": {"loss": 0.2},
    "bursts": {"loss": 0.05, "burst": True},
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """`daemon_ppm` and `card_ppm` are against true time; both wander by `wander_ppm` with a period of an hour."""

    name: str
    path: Path = field(default_factory=Path)
    daemon_ppm: float = 0.0
    card_ppm: float = 0.0
    wander_ppm: float = WANDER_PPM
    packet_ns: HostNs = 20 * NS_PER_MS
    period_ns: HostNs = 5 * NS_PER_MS
    rate: int = 48_000


def named(name: str) -> Scenario:
    """A row of the matrix, such as ppm200/exp3 or ppm-50/spikes/loss5; a ConfigError lists the words."""
    ppm, jitter, loss = (*name.split("/"), "", "")[:3]
    jitter = jitter or "none"
    if not ppm.startswith("ppm") or jitter not in JITTERS or loss not in LOSSES:
        words = f"ppmN/{{{','.join(JITTERS)}}}[/{{{','.join(k for k in LOSSES if k)}}}]"
        raise ConfigError(f"scenario {quoted(name)}: use {words}, such as ppm200/exp3/loss2; or `matrix`")
    daemon = parse_decimal(ppm.removeprefix("ppm"), f"scenario {quoted(name)} (such as ppm200/exp3): ppm", -5000, 5000)
    return Scenario(name, Path(**JITTERS[jitter], **LOSSES[loss]), daemon_ppm=daemon)


def matrix() -> list[str]:
    """Every row of the reference matrix."""
    names = []
    for ppm in PPMS:
        for jitter in JITTERS:
            names += [f"ppm{ppm:g}/{jitter}" + (f"/{loss}" if loss else "") for loss in LOSSES]
    return names


@dataclass(slots=True)
class Outcome:
    """The results of one policy in one scenario, in µs, ms, ppm and cents as named; `nan` if it never locked.

    Errors are of the true latency against the policy's own target, and of the speed against the true ratio, after the
    first ten minutes (or the first tenth). `xruns` are audible gaps; `concealed` are gaps in which the sound was
    continued for up to 20 ms; `splices` are cuts and repeats at matching places.
    """

    scenario: str
    policy: str
    hours: float
    latency_rms_us: float = float("nan")
    latency_p999_us: float = float("nan")
    ratio_rms_ppm: float = float("nan")
    pitch_max_cents: float = float("nan")
    latency_mean_ms: float = float("nan")
    latency_max_ms: float = float("nan")
    lock_s: float = float("nan")
    sound_s: float = float("nan")
    xruns: int = 0
    concealed: int = 0
    resyncs: int = 0
    splices: int = 0
    took_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
