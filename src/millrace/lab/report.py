"""Runs scenarios and reports which policy did best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from millrace.errors import ConfigError
from millrace.lab.dryrun import DryRun, Make
from millrace.lab.dryvoice import MillracePolicy
from millrace.lab.policies import OTHERS
from millrace.lab.scenario import Outcome, named

POLICIES: dict[str, Make] = {"millrace": MillracePolicy, **{policy.name: policy for policy in OTHERS}}
SOURCES: dict[str, str] = {"millrace": MillracePolicy.source} | {policy.name: policy.source for policy in OTHERS}
COLUMNS = (
    ("rms µs", "latency_rms_us", "{:.1f}"), ("p99.9 µs", "latency_p999_us", "{:.0f}"),
    ("ratio ppm", "ratio_rms_ppm", "{:.2f}"), ("cents", "pitch_max_cents", "{:.2f}"),
    ("mean ms", "latency_mean_ms", "{:.1f}"), ("max ms", "latency_max_ms", "{:.0f}"),
    ("lock s", "lock_s", "{:.1f}"), ("sound s", "sound_s", "{:.2f}"),
    ("xruns", "xruns", "{}"), ("concealed", "concealed", "{}"),
    ("resyncs", "resyncs", "{}"), ("splices", "splices", "{}"),
)  # fmt: skip


def policies(words: str) -> list[str]:
    """`all`, or comma-separated names; a ConfigError lists them."""
    names = list(POLICIES) if words == "all" else words.split(",")
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise ConfigError(f"policy {unknown[0]!r}: use all, or some of {', '.join(POLICIES)}")
    return names


def run_one(scenario: str, policy: str, hours: float, plots: Path | None, clock: Callable[[], float]) -> Outcome:
    """One row; `clock` returns CPU seconds."""
    from millrace.lab.plots import plot

    began = clock()
    day = DryRun(named(scenario), POLICIES[policy], hours)
    day.run()
    outcome = day.outcome(clock() - began)
    if plots is not None:
        plot(day, plots)
    return outcome


def header() -> str:
    """The header of the table."""
    return f"{'scenario':22} {'policy':14}" + "".join(f"{title:>10}" for title, _, _ in COLUMNS)


def row(outcome: Outcome) -> str:
    """One line of the table."""
    cells = (form.format(getattr(outcome, name)).replace("nan", "-") for _, name, form in COLUMNS)
    return f"{outcome.scenario:22} {outcome.policy:14}" + "".join(f"{cell:>10}" for cell in cells)


def faults(outcome: Outcome) -> int:
    """Events that a listener hears as faults."""
    return outcome.xruns + outcome.resyncs


def lost_rows(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Rows in which another policy did better than ours, and in what."""
    by_scenario: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_scenario.setdefault(outcome.scenario, []).append(outcome)
    for scenario, rows in by_scenario.items():
        ours = next((o for o in rows if o.policy == "millrace"), None)
        others = [o for o in rows if o.policy != "millrace"]
        if ours is None or not others:
            continue
        steadier = min(others, key=lambda o: o.latency_rms_us)
        if steadier.latency_rms_us < ours.latency_rms_us:
            yield f"{scenario}: latency of {steadier.policy} is steadier, {steadier.latency_rms_us:.0f} µs"
        cleaner = min(others, key=faults)
        if faults(cleaner) < faults(ours):
            yield (
                f"{scenario}: {cleaner.policy} has {faults(cleaner)} faults against {faults(ours)}, "
                f"at {cleaner.latency_mean_ms:.0f} ms against {ours.latency_mean_ms:.0f}"
            )
