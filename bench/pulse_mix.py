"""Many pacat clients into one sink: CPU against PulseAudio with a null sink, in the same run.

It is measured twice: with nobody listening, and with a recorder on the sink's monitor, so that the mix is needed.
PulseAudio refuses more than 64 connections, so the two are compared at 60; Millrace is also measured at 100.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import cpu_share, daemon, median, music, processes
from millrace.dsp.convert import SampleFormat, encode

BOTH, OURS = 60, 100
ROUNDS, SECONDS = 3, 8.0
FORMAT = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")


def measure(pid: int, env: dict[str, str], raw: Path, clients: int, heard: bool) -> float:
    """The share of one core that `pid` uses while so many clients play."""
    with processes() as start:
        started = []
        for _ in range(clients):
            started.append(start("pacat", *FORMAT, str(raw), env=env, stderr=subprocess.DEVNULL))
            time.sleep(0.03)  # PulseAudio's backlog is 5: any faster, and some are refused
        if heard:
            started.append(start("parec", *FORMAT, "-d", "@DEFAULT_MONITOR@", env=env, stdout=subprocess.DEVNULL))
        time.sleep(4)
        share = cpu_share(pid, SECONDS)
        refused = sum(p.poll() is not None for p in started)
        assert not refused, f"{refused} of {len(started)} clients were not let in by {env['PULSE_SERVER']}"
        return share


def main() -> None:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as name, daemon() as bus, processes() as start:
        raw = Path(name) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(music(20) * 0.1, (2, 1))))
        env = bus.env | {"HOME": name, "XDG_RUNTIME_DIR": name}
        sock = Path(name) / "pa"
        # Without real-time scheduling: with it, the kernel kills PulseAudio (RLIMIT_RTTIME) when this machine stalls.
        pulse = start(
            "pulseaudio", "-n", "--realtime=no", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no",
            f"--load=module-native-protocol-unix socket={sock} auth-anonymous=1",
            "--load=module-null-sink rate=48000 format=float32le", env=env, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 10
        while not sock.exists():
            assert pulse.poll() is None and time.monotonic() < end, "PulseAudio does not start"
            time.sleep(0.1)
        theirs = pulse.pid, env | {"PULSE_SERVER": f"unix:{sock}"}
        ours = bus.pid, env | {"PULSE_SERVER": bus.pulse()}
        print(f"pulse_mix: {BOTH} pacat clients (2 s buffers) into one sink")
        for heard in (False, True):
            rounds = [[measure(*peer, raw, BOTH, heard) for peer in (theirs, ours)] for _ in range(ROUNDS)]
            pulse_share, our_share = (median([r[k] for r in rounds]) for k in (0, 1))
            print("with a recorder on the monitor:" if heard else "nobody listening:")
            print(f"  PulseAudio 16.1  {pulse_share * 100:5.2f} % of a core")
            print(f"  Millrace         {our_share * 100:5.2f} % of a core")
            print(f"  ratio            {our_share / pulse_share:5.2f} x   (goal ≤ 1.0)")
            full = measure(*ours, raw, OURS, heard)
            print(f"  Millrace with {OURS}: {full * 100:.2f} % (PulseAudio refuses more than 64 connections)")
