"""Leaving out or repeating a little sound where it is least heard.

Both jump from one place to another that looks alike (best normalised correlation) and crossfade, as
WSOLA does (W. Verhelst, M. Roelands, "An overlap-add technique based on waveform similarity for high
quality time-scale modification of speech", ICASSP 1993). A steady tone comes out unbroken.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.mix import ramp
from millrace.dsp.tape import Tape
from millrace.units import Frames

_FINE_MS, _MIN_MS, _MAX_MS = 2, 3, 13
_BEYOND_MS = 2
"""A splice may correct too much by that if it fits better there."""
_ALIKE = 0.8
"""What is less alike is left for later, unless there is much to correct."""
_SILENT = 1e-4


def best_match(template: Samples, where: Samples) -> int:
    """As `match`, without how good it is."""
    return match(template, where)[0]


def match(template: Samples, where: Samples) -> tuple[int, float]:
    """The offset in `where` at which it looks most like `template`, and how much: 1 is alike; both (frames, channels).

    `where` must be at least as long. Silence matches at 0.
    """
    one, many = template.sum(axis=1), where.sum(axis=1)
    product = np.correlate(many, one, "valid")
    square = np.concatenate(([0.0], np.cumsum(many.astype(np.float64) ** 2)))
    energy = square[len(one) :] - square[: -len(one)]
    likeness = product / np.sqrt(energy + 1e-9)
    at = int(np.argmax(likeness))
    own = float(np.sqrt(np.dot(one, one)))
    return at, float(likeness[at]) / own if own > _SILENT else 1.0


def lengths(rate: int) -> tuple[Frames, Frames, Frames]:
    """(crossfade, shortest, longest splice) at `rate`: 2, 3 and 13 ms, a period of any voice."""
    return rate * _FINE_MS // 1000, rate * _MIN_MS // 1000, rate * _MAX_MS // 1000


def accelerate(tape: Tape, rate: int, most: Frames) -> Frames:
    """Leave out about `most` frames (at most 13 ms) at the head; returns how many, 0 where nothing fits."""
    fade, low, longest = lengths(rate)
    if most < low:
        return 0
    high = min(longest, most + rate * _BEYOND_MS // 1000, tape.fill - 2 * fade)
    return 0 if high < low else _jump(tape, fade, low, high, _ALIKE if most < longest else -1.0)


def skip(tape: Tape, rate: int, about: Frames) -> Frames:
    """Leave out about `about` frames in one go, within 10 ms, where it fits best; returns how many."""
    fade, _, around = lengths(rate)
    low, high = max(fade, about - around), min(about, tape.fill - 2 * fade)
    if high < low:
        return 0
    return _jump(tape, fade, low, high)


def _jump(tape: Tape, fade: Frames, low: Frames, high: Frames, alike: float = -1.0) -> Frames:
    head = tape.ahead(fade).copy()
    at, likeness = match(head, tape.ahead(high + fade)[low:])
    if likeness < alike:
        return 0
    offset = low + at
    tape.advance(offset)
    after = tape.ahead(fade)
    after += (head - after) * (1.0 - ramp(fade))
    return offset


def expand(tape: Tape, rate: int, most: Frames) -> Frames:
    """Repeat about `most` frames (at most 13 ms) of what was just played; returns how many."""
    fade, low, longest = lengths(rate)
    high = min(longest, most + rate * _BEYOND_MS // 1000, tape.past - fade, tape.capacity - tape.fill)
    if most < low or high < low or tape.fill < fade:
        return 0
    head = tape.ahead(fade).copy()
    past = tape.around(high, fade - low)
    at, likeness = match(head, past)
    if likeness < _ALIKE and most < longest:
        return 0
    offset = high - at
    tape.advance(-offset)
    again = tape.ahead(fade)
    again += (head - again) * (1.0 - ramp(fade))
    return offset


def last_period(past: Samples, rate: int) -> Samples:
    """What to repeat after `past` so that it goes on as it was: its last 3 to 13 ms, whole periods where it has any.

    Silence for silence, and where `past` is shorter than 20 ms.
    """
    fade, low, high = lengths(rate)
    if len(past) < high + fade + low or not past[-high:].any():
        return np.zeros((high, past.shape[1]), np.float32)
    period = high - best_match(past[-fade:], past[-high - fade : -low])
    loop: Samples = past[-period:].copy()
    return loop
