"""Measures a tone at the end of the whole path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from millrace.backends.wav import WavOutput
from millrace.dsp.convert import SampleFormat
from millrace.dsp.measure import level_dbfs, phase_jumps, tone_snr_db
from millrace.lab.scenario import named
from millrace.lab.sound import SoundRun
from millrace.sim.signals import sine
from millrace.units import default_map

TONE_HZ = 997.0
SETTLED = 0.7
"""Where the measured last part of the run begins."""


def measure_sound(
    scenario: str, seconds: float, settings: dict[str, str], latency: str, to: Path | None = None
) -> dict[str, object]:
    """Play a tone for `seconds`, and measure the last part second by second (clocks do not wander here)."""
    setting = replace(named(scenario), wander_ppm=0.0)
    run = SoundRun(setting, sine(seconds, TONE_HZ), settings, latency)
    sound = run.run(seconds + 0.5)
    if to is not None:
        output = WavOutput(to, SampleFormat.F32LE)
        output.open(setting.rate, default_map(2))
        output.write(sound)
        output.close()
    rate = setting.rate
    first, last = int(seconds * SETTLED), int(seconds) - 1
    parts = [sound[rate * k : rate * (k + 1), 0] for k in range(first, last)]
    fitted = [tone_snr_db(part, rate) for part in parts]
    hz = float(np.median([f for _, f in fitted]))
    late = np.array([abs(late) for _, _, late, _ in run.fills[int(len(run.fills) * SETTLED) :]])
    tally, playout = run.playout.tally, run.playout
    return {
        "SNR, median second, dB": round(float(np.median([s for s, _ in fitted])), 1),
        "SNR, worst second, dB": round(min(s for s, _ in fitted), 1),
        "frequency, Hz": round(hz, 4),
        "level, dBFS": round(level_dbfs(np.concatenate(parts)), 2),
        "breaks in the tone": len(phase_jumps(sound[rate * first : rate * last, 0], rate, hz)),
        "latency error, µs RMS": round(float(np.sqrt(np.mean(late**2))) / 1e3, 1),
        "media clock, ppm": round(playout.pace.media.ppm, 2),
        "xruns": tally.underruns,
        "concealed": tally.concealed,
        "splices": tally.splices,
        "skips": tally.skips,
        "packets lost": playout.lost_packets,
    }
