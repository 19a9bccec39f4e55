"""N guests, each with one playing stream, each encoded for one listener: CPU per stream against bare libopus.

Also 1,000 guests, each with a client and a listener connected and nothing playing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import cpu_share, daemon, median, memory_kib, music, processes
from millrace.codec.opus import OpusEncoder, version
from millrace.codec.settings import CodecSettings, changed
from millrace.dsp.convert import SampleFormat, encode

SETTINGS = "bitrate=64k,frame=20ms,complexity=5"
STREAMS = 100
SECONDS = 10.0
IDLE_GUESTS = 1000


def bare_encode_us(sound: np.ndarray) -> float:
    """CPU microseconds per second of sound, for libopus alone with the same settings and the same sound."""
    settings = changed(CodecSettings(), dict(word.split("=") for word in SETTINGS.split(",")))
    encoder = OpusEncoder(2, settings)
    frames = [np.ascontiguousarray(sound[i : i + 960]) for i in range(0, len(sound) - 960, 960)]
    began = time.process_time_ns()
    for frame in frames:
        encoder.encode(frame)
    return (time.process_time_ns() - began) / 1e3 / (len(frames) * 0.02)


def busy(raw: Path, sound: np.ndarray) -> None:
    names = [f"g{i}" for i in range(STREAMS)]
    with daemon(*(f"--guest={name}" for name in names)) as bus, processes() as start:
        listeners = start(sys.executable, "-m", "bench.load", SETTINGS, stdin=subprocess.PIPE)
        assert listeners.stdin is not None
        listeners.stdin.write("\n".join(bus.url(name) for name in names).encode())
        listeners.stdin.close()
        for name in names:
            start("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", str(raw),
                  env=bus.env | {"PULSE_SERVER": bus.pulse(name)})  # fmt: skip
        time.sleep(6)
        shares, bare = [], []
        for _ in range(3):
            bare.append(bare_encode_us(sound))
            shares.append(cpu_share(bus.pid, SECONDS))
        bare.append(bare_encode_us(sound))
        state = bus.state()
        sent = [g["listeners"][0]["bitrate"] for g in state["guests"]]
        late = sum(g["late_cycles"] for g in state["guests"])
        ours, floor = median(shares) / STREAMS * 1e6, median(bare)
        print(f"streams_per_core: {STREAMS} guests, one stream and one listener each, Opus {SETTINGS}, {version()}")
        print(f"  daemon        {ours:7.0f} µs CPU per stream and second ({median(shares) * 100:.0f} % of a core)")
        print(f"  bare libopus  {floor:7.0f} µs CPU per stream and second")
        print(f"  ratio         {ours / floor:7.2f} x   (goal ≤ 1.3)")
        print(f"  sent {np.median(sent) / 1000:.0f} kb/s a listener (median), late cycles {late}")


def idle() -> None:
    names = [f"g{i}" for i in range(IDLE_GUESTS)]
    with daemon("--guest=first") as bus, processes() as start:
        before = memory_kib(bus.pid)
        add_guests(bus.env["XDG_RUNTIME_DIR"], names)
        listeners = start(sys.executable, "-m", "bench.load", SETTINGS, stdin=subprocess.PIPE)
        assert listeners.stdin is not None
        listeners.stdin.write("\n".join(bus.url(name) for name in names).encode())
        listeners.stdin.close()
        clients = start(sys.executable, "-m", "bench.idle_clients", stdin=subprocess.PIPE)
        assert clients.stdin is not None
        clients.stdin.write("\n".join(bus.pulse(name).removeprefix("unix:") for name in names).encode())
        clients.stdin.close()
        time.sleep(15)
        guests = bus.state()["guests"]
        connected = sum(bool(g["listeners"]) and g["clients"] > 0 for g in guests)
        time.sleep(2)
        share = cpu_share(bus.pid, 10)
        grown = (memory_kib(bus.pid) - before) / 1024
        print(f"idle guests: {connected} with a client and a listener connected, nothing playing")
        print(f"  CPU     {share * 100:5.1f} % of a core   (goal ≤ 5)")
        print(f"  memory  {grown:5.0f} MiB more         (goal ≤ 250)")


def add_guests(runtime: str, names: list[str]) -> None:
    import os

    from millrace.cli.api import call

    os.environ["XDG_RUNTIME_DIR"] = runtime
    for name in names:
        call("POST", "/api/v1/guests", {"name": name})


def main() -> None:
    """Print both measurements."""
    sound = music(20)
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "music.raw"
        raw.write_bytes(encode(SampleFormat.S16LE, np.tile(sound, (6, 1))))
        busy(raw, sound)
    idle()
