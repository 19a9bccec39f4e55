"""Faults in a running system of real processes: does the first incident name stage, cause and time?

Each kind in tests/real/faults is injected `RUNS` times (5). A run is right if the first incident after the fault has
its stage and cause, and a time within 20 ms of it. Runs in which the machine itself stalled are repeated, and counted
separately. The environment variable KINDS selects the kinds whose names contain one of its comma-separated words.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real.faults.kinds import KINDS, Kind
from tests.real.faults.scene import Scene, now_ns

WITHIN_MS, STALL_NS, TRIES = 20.0, 20_000_000, 3
OWN_STALLS = {"starved"}
WAIT_S, CALM_S = 3.0, 1.2


@dataclass
class Watch:
    """Records when this machine did not run a thread that was ready to run."""

    stalls: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Start recording."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        last = now_ns()
        while True:
            time.sleep(0.002)
            now = now_ns()
            if now - last > STALL_NS:
                self.stalls.append(now)
            last = now


@dataclass
class Outcome:
    """The result of one run."""

    named: str
    right_cause: bool
    off_ms: float

    @property
    def right(self) -> bool:
        """Whether stage, cause and time are all right."""
        return self.right_cause and abs(self.off_ms) <= WITHIN_MS


def _first(scene: Scene, before: set[str], kind: Kind) -> dict[str, Any] | None:
    """Wait for the first new incident."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        new = [one for one in scene.incidents() if one["id"] not in before]
        if new:
            return new[0]
        time.sleep(0.05)
    return None


def once(scene: Scene, kind: Kind) -> Outcome:
    """Inject the fault, and judge the incident that follows."""
    scene.ready()
    before = {one["id"] for one in scene.incidents()}
    at = kind.make(scene)
    first = _first(scene, before, kind)
    if first is None:
        return Outcome("nothing", False, float("nan"))
    named = f"{first['stage']}: {first['cause']}"
    return Outcome(named, named == f"{kind.stage}: {kind.cause}", (first["host_ns"] - at) / 1e6)


def runs(kind: Kind, count: int, watch: Watch) -> tuple[list[Outcome], int]:
    """So many runs without a stall of the machine, and how many had to be repeated."""
    out: list[Outcome] = []
    again = 0
    with tempfile.TemporaryDirectory(prefix="mr") as name:
        scene = Scene(Path(name), kind.scene)
        try:
            while len(out) < count:
                began = len(watch.stalls)
                outcome = once(scene, kind)
                stalled = len(watch.stalls) > began and kind.cause not in OWN_STALLS
                if stalled and not outcome.right and again < TRIES * count:
                    again += 1
                else:
                    out.append(outcome)
                time.sleep(CALM_S)
        finally:
            scene.close()
    return out, again


def main() -> None:
    """Print a line for each kind, and the totals."""
    count = int(os.environ.get("RUNS", "5"))
    words = [word for word in os.environ.get("KINDS", "").split(",") if word]
    kinds = [kind for kind in KINDS if not words or any(word in kind.name for word in words)]
    watch = Watch()
    watch.start()
    right = causes = total = repeated = 0
    for kind in kinds:
        found, again = runs(kind, count, watch)
        good = sum(one.right for one in found)
        right, total, repeated = right + good, total + len(found), repeated + again
        causes += sum(one.right_cause for one in found)
        off = ", ".join(f"{one.off_ms:+.1f}" for one in found)
        wrong = sorted({one.named for one in found if not one.right_cause})
        note = f"   named {', '.join(wrong)}" if wrong else ""
        print(f"{kind.name:44s} {kind.stage}: {kind.cause:20s} {good}/{len(found)}   off by {off} ms{note}", flush=True)
    print(f"faults: {right} of {total} right by stage, cause and time (±{WITHIN_MS:.0f} ms; goal ≥ 95 %), ", end="")
    print(f"{causes} by stage and cause; {len(kinds)} kinds; {repeated} runs made again, the machine had stood still")
