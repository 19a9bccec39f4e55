"""Run the named benchmarks, or all."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "start",
    "faults",
    "latency",
    "bits",
    "streams_per_core",
    "pulse_mix",
    "clients",
    "machine",
    "revoke",
    "native",
    "policy",
    "realtime",
    "neighbours",
    "memory",
    "packets",
    "encode",
    "picture",
    "sync",
)


def main() -> None:
    """Entry point."""
    for name in [word for word in sys.argv[1:] if word[0].isalpha()] or NAMES:
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
