"""Signal measurements: level, frequency, gaps. Used by the demo and by tests."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from millrace.dsp.convert import Samples


def level_dbfs(signal: Samples) -> float:
    """RMS level in dB relative to a full-scale sine (0 dBFS = RMS of 1/√2); −inf for silence."""
    if not signal.size:
        return -math.inf
    rms = math.sqrt(float(np.mean(np.square(signal, dtype=np.float64))))
    return 20 * math.log10(rms * math.sqrt(2)) if rms > 0 else -math.inf


def frequency_hz(signal: Samples, rate: int) -> float:
    """The frequency of the strongest tone in a mono signal: windowed FFT peak, refined by a parabola on log power."""
    if len(signal) < 64 or not signal.any():
        return 0.0
    window = np.hanning(len(signal))
    power = np.abs(np.fft.rfft(signal * window)) ** 2
    k = int(np.argmax(power[1:-1])) + 1
    a, b, c = (math.log(max(float(power[i]), 1e-30)) for i in (k - 1, k, k + 1))
    shift = 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c else 0.0
    return (k + shift) * rate / len(signal)


def phase_jumps(signal: Samples, rate: int, tone_hz: float, threshold: float = 0.02) -> NDArray[np.int64]:
    """Frames at which a steady tone breaks: where the signal is not predicted by its own previous two samples.

    A sine obeys x[n] = 2·cos(w)·x[n−1] − x[n−2]; a dropped or doubled frame violates that at once. `threshold` is
    relative to the signal's peak.
    """
    w = 2 * math.pi * tone_hz / rate
    x = signal.astype(np.float64)
    residual = np.abs(x[2:] - 2 * math.cos(w) * x[1:-1] + x[:-2])
    top = float(np.abs(x).max(initial=0.0))
    return np.flatnonzero(residual > threshold * max(top, 1e-9)) + 2


def silent_runs(signal: Samples, at_least: int) -> list[tuple[int, int]]:
    """(start, length) of runs of exact zeros of `at_least` frames in a mono signal."""
    zero = np.concatenate(([0], (signal == 0).astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(zero))
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [(int(a), int(b - a)) for a, b in runs if b - a >= at_least]


def tone_snr_db(signal: Samples, rate: int) -> tuple[float, float]:
    """(SNR in dB, frequency in Hz) of a steady tone, fitted by least squares; everything else counts as noise."""
    x = signal.astype(np.float64)
    n = np.arange(len(x)) - len(x) / 2
    hz = frequency_hz(signal, rate)
    # Gauss-Newton in the frequency: the last two columns are the derivative of the first two, so their coefficients
    # give the error of the frequency. From the FFT's estimate it converges in a few rounds.
    for _ in range(6):
        w = 2 * math.pi * hz / rate
        basis = np.stack([np.cos(w * n), np.sin(w * n), n * np.cos(w * n), n * np.sin(w * n)], axis=1)
        a, b, c, d = np.linalg.lstsq(basis, x, rcond=None)[0]
        # a·cos + b·sin, detuned by dw, grows by dw·n·(b·cos − a·sin) to first order.
        hz += float((b * c - a * d) / (a * a + b * b)) * rate / (2 * math.pi)
    w = 2 * math.pi * hz / rate
    basis = np.stack([np.cos(w * n), np.sin(w * n)], axis=1)
    fit = basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    noise = float(np.mean((x - fit) ** 2))
    return 10 * math.log10(float(np.mean(fit**2)) / max(noise, 1e-30)), hz


def tone_onsets(signal: Samples, rate: int, tone_hz: float, length: int, threshold: float = 0.5) -> NDArray[np.int64]:
    """The first frames of short bursts of `tone_hz`, each `length` frames long and faded in and out, in a mono signal.

    A matched filter finds them below other sound. Bursts weaker than `threshold` times the strongest don't count.
    """
    if len(signal) < length:
        return np.zeros(0, np.int64)
    pattern = np.hanning(length) * np.exp(2j * math.pi * tone_hz * np.arange(length) / rate)
    power = np.abs(np.convolve(signal.astype(np.float64), pattern[::-1], "valid"))
    top = float(power.max())
    loud = power > max(threshold * top, 1e-9)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], loud.astype(np.int8), [0]))))
    runs = zip(edges[::2], edges[1::2], strict=True)
    return np.array([a + int(np.argmax(power[a:b])) for a, b in runs], np.int64)
