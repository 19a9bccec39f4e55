"""Send mutated traffic to every door of a daemon for `--minutes`; implemented in tests/fuzz/live.py."""

from __future__ import annotations

import sys
import time

from tests.fuzz import live


def _option(name: str, otherwise: float) -> float:
    words = sys.argv
    return float(words[words.index(name) + 1]) if name in words else otherwise


def main() -> None:
    """Entry point; exits with 1 if anything was found."""
    seed = int(_option("--seed", time.time_ns() % 2**31))
    if live.main(60 * _option("--minutes", 1.0), seed):
        sys.exit(1)
