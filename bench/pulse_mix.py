"""Many pacat clients into one sink: CPU against PulseAudio with a null sink, in the same run.

PulseAudio refuses more than 64 connections, so both are compared at 60, and Millrace is shown at 100 too.
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


def measure(pid: int, server: str, env: dict[str, str], raw: Path, clients: int) -> float:
    """CPU of one core that `pid` uses with so many clients playing."""
    with processes() as start:
        for _ in range(clients):
            start("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", str(raw),
                  env=env | {"PULSE_SERVER": server}, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(4)
        return cpu_share(pid, SECONDS)


def main() -> None:
    """Print the ratio."""
    with tempfile.TemporaryDirectory() as name, daemon() as bus, processes() as start:
        raw = Path(name) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(music(20) * 0.1, (2, 1))))
        env = bus.env | {"HOME": name, "XDG_RUNTIME_DIR": name}
        sock = Path(name) / "pa"
        pulse = start(
            "pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no",
            f"--load=module-native-protocol-unix socket={sock} auth-anonymous=1",
            "--load=module-null-sink rate=48000 format=float32le", env=env, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 10
        while not sock.exists():
            assert pulse.poll() is None and time.monotonic() < end, "PulseAudio does not start"
            time.sleep(0.1)
        theirs, ours = [], []
        for _ in range(ROUNDS):
            theirs.append(measure(pulse.pid, f"unix:{sock}", env, raw, BOTH))
            ours.append(measure(bus.pid, bus.pulse(), env, raw, BOTH))
        full = measure(bus.pid, bus.pulse(), env, raw, OURS)
        print(f"pulse_mix: {BOTH} pacat clients (2 s buffers) into one sink, nobody listening")
        print(f"  PulseAudio 16.1  {median(theirs) * 100:5.2f} % of a core")
        print(f"  Millrace         {median(ours) * 100:5.2f} % of a core")
        print(f"  ratio            {median(ours) / median(theirs):5.2f} x   (goal ≤ 1.0)")
        print(f"  Millrace with {OURS}: {full * 100:.2f} % (PulseAudio refuses more than 64 connections)")
