"""Run the named benchmarks, or all.

python -m bench [NAME ...] [OPTIONS OF THE BENCHMARK]
python -m bench NAME --help
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
    "encoder_memory",
    "passed_video",
    "picture",
    "sync",
    "keypress",
    "idle_screens",
    "thumbnails",
    "viewers_more",
    "vnc_peer",
    "vnc_steps",
)


def main() -> None:
    """Entry point."""
    named, helped = [word for word in sys.argv[1:] if word[0].isalpha()], {"-h", "--help"} & set(sys.argv[1:])
    if helped and not named:
        print(f"{__doc__}\nBenchmarks: {' '.join(NAMES)}; page, observe and fuzz only by name")
        return
    for name in named or NAMES:
        module = importlib.import_module(f"bench.{name}")
        if helped:
            print(module.__doc__)
        else:
            module.main()


if __name__ == "__main__":
    main()
