"""Run the named benchmarks, or all.

python -m bench [NAME ...] [OPTIONS OF THE BENCHMARK]
"""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "start",
    "faults",
    "picture_faults",
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
    if {"-h", "--help"} & set(sys.argv[1:2]):
        print(f"{__doc__}\nBenchmarks: {' '.join(NAMES)}; fuzz only by name")
        return
    for name in [word for word in sys.argv[1:] if word[0].isalpha()] or NAMES:
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
