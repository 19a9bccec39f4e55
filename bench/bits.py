"""The bit rate on the wire: Opus at default settings, for music, speech and silence, against PCM."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import daemon, music, processes
from millrace.dsp.convert import SampleFormat, encode

PCM_KBPS = 1536
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it sleeps until the evening comes again. "


def speech(path: Path) -> None:
    """Half a minute of espeak-ng, at 48 kHz stereo s16."""
    wav = path.with_suffix(".wav")
    subprocess.run(["espeak-ng", "-w", str(wav), SENTENCE * 5], check=True)
    subprocess.run(
        ["sox", "-q", str(wav), "-r", "48000", "-c", "2", "-b", "16", "-e", "signed", "-t", "raw", str(path)],
        check=True,
    )


def measure(raw: Path | None, settings: str) -> float:
    """The bit rate sent, in kb/s over 8 s."""
    with daemon() as bus, processes() as start:
        load = start(sys.executable, "-m", "bench.load", settings, stdin=subprocess.PIPE)
        assert load.stdin is not None
        load.stdin.write(bus.url().encode())
        load.stdin.close()
        if raw is not None:
            start("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", str(raw),
                  env=bus.env | {"PULSE_SERVER": bus.pulse()})  # fmt: skip
        time.sleep(4)
        samples = []
        for _ in range(4):
            time.sleep(2)
            samples.append(bus.state()["guests"][0]["listeners"][0]["bitrate"] / 1000)
        return float(np.mean(samples))


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        tune, talk, zeros = (Path(name) / f"{kind}.raw" for kind in ("music", "speech", "zeros"))
        tune.write_bytes(encode(SampleFormat.S16LE, music(20)))
        speech(talk)
        zeros.write_bytes(bytes(192_000 * 20))
        print(f"bits: sent to one listener, packet headers included, against {PCM_KBPS} kb/s of s16 PCM")
        for label, raw in (
            ("music", tune),
            ("speech", talk),
            ("digital silence playing", zeros),
            ("nothing playing", None),
        ):
            for settings in ("bitrate=128k", "bitrate=64k", "bitrate=24k,application=voip,dtx=on"):
                kbps = measure(raw, settings)
                print(f"  {label:<24} {settings:<36} {kbps:7.1f} kb/s  {kbps / PCM_KBPS * 100:5.1f} % of PCM")
