"""Faults of pictures: does the first incident name stage, cause and time? In virtual time, with the real encoder.

Each kind in tests/picturefaults.py is injected with `SEEDS` seeds (5); those in tests/pictureends.py, which end a
connection or stop the daemon, in real time. A run is right if the first incident after the fault has its stage and
cause, and a time within one picture and 20 ms of it, and if there was none before. The environment variable KINDS
selects the kinds whose names contain one of its comma-separated words. Takes about two minutes.
"""

from __future__ import annotations

import logging
import os

from tests import pictureends, picturefaults
from tests.picturefaults import WITHIN_NS, Outcome

GOAL = 95


def main() -> None:
    """Print a line for each kind, and the total."""
    logging.disable()
    seeds = int(os.environ.get("SEEDS", "5"))
    words = [word for word in os.environ.get("KINDS", "").split(",") if word]
    found: list[list[Outcome]] = []
    for module in (picturefaults, pictureends):
        for kind in module.KINDS:
            if not words or any(word in kind.name for word in words):
                found.append([module.blamed(kind, seed) for seed in range(1, seeds + 1)])
                _tell(kind, found[-1])
    right, total = sum(one.right for kind in found for one in kind), sum(map(len, found))
    print(f"picture faults: {right} of {total} right by stage, cause and time ", end="")
    print(f"(±{WITHIN_NS / 1e6:.0f} ms; goal ≥ {GOAL} %); {len(found)} kinds, {seeds} seeds")


def _tell(kind: picturefaults.Kind | pictureends.Kind, found: list[Outcome]) -> None:
    off = ", ".join(f"{one.off_ms:+.0f}" for one in found)
    wrong = sorted({one.named for one in found if not one.right})
    note = f"   named {', '.join(wrong)}" if wrong else ""
    right, truth = sum(one.right for one in found), f"{kind.stage}: {kind.cause}"
    print(f"{kind.name:44s} {truth:30s} {right}/{len(found)}   off by {off} ms{note}", flush=True)
