"""The session manager is killed and restarted a hundred times while streams play: this must be inaudible."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import MILLRACE, daemon, music, processes
from millrace.dsp.convert import SampleFormat, encode

KILLS, STREAMS, ALIVE_S = 100, 10, 0.6
FORMAT = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")


def main() -> None:
    """Print how the streams and the listener were affected."""
    with tempfile.TemporaryDirectory() as name, daemon("--no-policy") as bus, processes() as start:
        raw = Path(name) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(music(20) * 0.1, (15, 1))))
        env = bus.env | {"PULSE_SERVER": bus.pulse()}
        for _ in range(STREAMS):
            start("pacat", *FORMAT, "--latency-msec=200", str(raw), env=env, stderr=subprocess.DEVNULL)
        start(*MILLRACE, "listen", bus.url(), "--to", "null:", env=bus.env, stdout=subprocess.DEVNULL)
        time.sleep(5)
        before = _faults(bus.state())
        claimed = 0
        for _ in range(KILLS):
            policy = subprocess.Popen([sys.executable, "-m", "millrace.cli.policy"], env=bus.env)
            time.sleep(ALIVE_S)
            volume = f"{50 + claimed % 50}%"
            state = bus.state()
            claimed += (state["policy"] or {}).get("pid") == policy.pid
            stream = state["guests"][0]["streams"][0]["id"]
            subprocess.run([*MILLRACE, "set", stream, f"volume={volume}"], env=bus.env, check=True)
            policy.kill()
            policy.wait()
        after = _faults(bus.state())
        print(f"policy: killed {KILLS} times, {claimed} times it was in charge by then; {STREAMS} streams play")
        print(f"  before {json.dumps(before)}")
        print(f"  after  {json.dumps(after)}   (goal: the same)")


def _faults(state: dict) -> dict[str, int]:
    """The counts of everything audible."""
    guest = state["guests"][0]
    listener = guest["listeners"][0]
    faults = {key: listener[key] for key in ("underruns", "bridged", "lost", "skipped", "dropped_packets")}
    return faults | {"stream underruns": sum(stream["underruns"] for stream in guest["streams"])}
