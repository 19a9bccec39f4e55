"""One server and one folder; clients run against it, and what is recorded from its monitor is judged."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tests.real.conftest import write_wav

from bench.servers import Server
from millrace.dsp.convert import SampleFormat, encode
from millrace.dsp.measure import frequency_hz, level_dbfs, phase_jumps, silent_runs
from millrace.sim.signals import count, sine

SECONDS = 4
START_MISSING = 2880
FORMAT = ("--raw", "--rate=48000", "--format=s16le", "--channels=2")


def s16(signal_: np.ndarray) -> np.ndarray:
    """(frames, channels) float to s16."""
    return np.frombuffer(encode(SampleFormat.S16LE, signal_), "<i2").reshape(signal_.shape)


NUMBERED = s16(count(48_000 * SECONDS))
TONE = s16(sine(SECONDS))


class Bench:
    """One server and one directory, for one check."""

    def __init__(self, server: Server) -> None:
        self.server, self.folder = server, server.run
        self.env = server.env
        self.started: list[subprocess.Popen[bytes]] = []
        self.numbered = write_wav(self.folder / "count.wav", NUMBERED)
        self.tone = write_wav(self.folder / "tone.wav", TONE)
        (self.folder / "count.raw").write_bytes(NUMBERED.tobytes())
        write_wav(self.folder / "padded.wav", np.concatenate((NUMBERED, np.zeros((24_000, 2), "<i2"))))

    def fill(self, command: list[str], wav: Path) -> list[str]:
        """The command, with the names of this folder's files filled in."""
        raw, padded = self.folder / "count.raw", self.folder / "padded.wav"
        return [part.format(wav=wav, raw=raw, padded=padded) for part in command]

    def run(self, *command: str, seconds: float = 30) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{command[0]}: exit {done.returncode}: {done.stderr.strip()[-80:]}"
        return done.stdout

    def spawn(self, *command: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a command and leave it running."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
        process = subprocess.Popen(command, env=self.env, **quiet)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def recorder(self, *command: str) -> Iterator[Callable[[], np.ndarray]]:
        """Record the monitor with parec while the block runs. Yields a function that returns the sound, (frames, 2)."""
        target = self.folder / f"rec{len(self.started)}.raw"
        line = command or ("parec", *FORMAT, "--latency-msec=50", "-d", "millrace.monitor")
        with target.open("wb") as out:
            process = self.spawn(*line, stdout=out)
            time.sleep(1.0)
            yield lambda: np.frombuffer(target.read_bytes()[: target.stat().st_size // 4 * 4], "<i2").reshape(-1, 2)
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            process.wait(10)

    def sinks(self) -> list[dict[str, object]]:
        """`pactl list sinks`."""
        return list(json.loads(self.run("pactl", "-f", "json", "list", "sinks")))

    def inputs(self) -> list[dict[str, object]]:
        """`pactl list sink-inputs`."""
        return list(json.loads(self.run("pactl", "-f", "json", "list", "sink-inputs")))

    def playing(self) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
        """Start paplay; returns its process and its sink input."""
        player = self.spawn("paplay", str(self.tone))
        end = time.monotonic() + 5
        while not (inputs := self.inputs()):
            assert time.monotonic() < end, "the stream does not show"
        return player, inputs[0]

    def close(self) -> None:
        """Kill the processes that still run."""
        for process in self.started:
            process.kill()
            process.wait()


def trimmed(sound: np.ndarray, threshold: int = 0) -> np.ndarray:
    """The sound without leading and trailing silence."""
    loud = np.flatnonzero(np.abs(sound.astype(int)).max(axis=1) > threshold) if len(sound) else []
    assert len(loud), "nothing was heard"
    return sound[loud[0] : loud[-1] + 1]


def judge_numbered(sound: np.ndarray) -> None:
    """Check that every frame arrived once and in order, without a gap.

    PulseAudio's monitor can miss up to 50 ms at the very start, so that much is allowed there.
    """
    heard = trimmed(sound)
    loud = heard[heard.any(axis=1)]
    missing = len(NUMBERED) - len(loud)
    assert 0 <= missing <= START_MISSING, f"{missing:+d} frames lost"
    differing = int((loud != NUMBERED[missing:]).any(axis=1).sum())
    assert not differing, f"{differing} frames differ"
    assert len(heard) == len(loud), f"a gap of {(len(heard) - len(loud)) / 48:.1f} ms"


def judge_tone(sound: np.ndarray, hz: float = 997.0, level: float | None = -6.02, tolerance: float = 0.1) -> None:
    """Check the tone: its pitch and level, and that it has no gap."""
    left = trimmed(sound, 300)[:, 0].astype(np.float32) / 32768
    assert len(left) > 48_000 * 2.5, f"only {len(left) / 48_000:.2f} s"
    middle = left[36_000:-24_000]
    assert abs(frequency_hz(middle, 48_000) - hz) < tolerance, f"{frequency_hz(middle, 48_000):.2f} Hz"
    assert not silent_runs(middle, 8), f"{len(silent_runs(middle, 8))} gaps"
    if level is not None:
        assert abs(level_dbfs(middle) - level) < 0.1, f"{level_dbfs(middle):.2f} dBFS"
        jumps = phase_jumps(middle, 48_000, hz)
        assert not len(jumps), f"{len(jumps)} jumps"
