"""Faults of pictures: does the first incident name stage, cause and time? In virtual time, with the real encoder.

Each kind in tests/picturefaults.py is injected with `SEEDS` seeds (5). A run is right if the first incident after the
fault has its stage and cause, and a time within one picture and 20 ms of it, and if there was none before. The
environment variable KINDS selects the kinds whose names contain one of its comma-separated words.
"""

from __future__ import annotations

import os

from tests.picturefaults import KINDS, WITHIN_NS, blamed

GOAL = 95


def main() -> None:
    """Print a line for each kind, and the total."""
    seeds = int(os.environ.get("SEEDS", "5"))
    words = [word for word in os.environ.get("KINDS", "").split(",") if word]
    kinds = [kind for kind in KINDS if not words or any(word in kind.name for word in words)]
    right = total = 0
    for kind in kinds:
        found = [blamed(kind, seed) for seed in range(1, seeds + 1)]
        good = sum(one.right for one in found)
        right, total = right + good, total + len(found)
        off = ", ".join(f"{one.off_ms:+.0f}" for one in found)
        wrong = sorted({one.named for one in found if not one.right})
        note = f"   named {', '.join(wrong)}" if wrong else ""
        what = f"{kind.stage}: {kind.cause}"
        print(f"{kind.name:44s} {what:24s} {good}/{len(found)}   off by {off} ms{note}", flush=True)
    print(f"picture faults: {right} of {total} right by stage, cause and time ", end="")
    print(f"(±{WITHIN_NS / 1e6:.0f} ms; goal ≥ {GOAL} %); {len(kinds)} kinds, {seeds} seeds")
