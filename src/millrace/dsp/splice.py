"""Cuts out or repeats a little sound where that is least audible.

Both jump to a place that looks alike (best normalised correlation) and crossfade, as WSOLA does (W. Verhelst,
M. Roelands, "An overlap-add technique based on waveform similarity for high quality time-scale modification of speech",
ICASSP 1993). A steady tone comes out unbroken.
"""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Samples
from millrace.dsp.mix import ramp
from millrace.dsp.tape import Tape
from millrace.units import Frames

# A splice removes or repeats at least as much as the crossfade is long (2 ms), so the two parts that are blended never
# overlap. 13 ms contain a whole period of any tone from 77 Hz on, and thus of any voice.
_FINE_MS, _MIN_MS, _MAX_MS = 2, 3, 13
_BEYOND_MS = 2
"""A splice may overcorrect by this much if it fits better there."""
_ALIKE = 0.8
"""A splice with less similarity is postponed, unless there is much to correct."""
_SILENT = 1e-4
_CANCELLED = 0.01
"""Channels whose sum has less than this share of their power are compared one by one."""


def best_match(template: Samples, where: Samples) -> int:
    """As `match`, but only the offset."""
    return match(template, where)[0]


# The product is normalised by the energy of each candidate, or a loud passage would always win. The template's own
# energy is the same for all, so it is divided out only of the result.
def match(template: Samples, where: Samples) -> tuple[int, float]:
    """The offset in `where` most similar to `template`, and the similarity: 1 is identical. Both (frames, channels).

    `where` must be at least as long as `template`. Silence matches at 0.
    """
    # The channels are compared by their sum, which costs a single correlation, unless they cancel out in it.
    one, many = template.sum(axis=1, keepdims=True), where.sum(axis=1, keepdims=True)
    if _power(one) < _CANCELLED * _power(template):
        one, many = template, where
    product = sum(np.correlate(many[:, channel], one[:, channel], "valid") for channel in range(one.shape[1]))
    square = np.concatenate(([0.0], np.cumsum((many.astype(np.float64) ** 2).sum(axis=1))))
    energy = square[len(one) :] - square[: -len(one)]
    likeness = product / np.sqrt(energy + 1e-9)
    at = int(np.argmax(likeness))
    own = float(np.sqrt(_power(one)))
    return at, float(likeness[at]) / own if own > _SILENT else 1.0


def _power(block: Samples) -> float:
    flat = block.reshape(-1)
    return float(np.dot(flat, flat))


def lengths(rate: int) -> tuple[Frames, Frames, Frames]:
    """(crossfade, shortest, longest splice) at `rate`: 2, 3 and 13 ms; 13 ms is at least one period of any voice."""
    return rate * _FINE_MS // 1000, rate * _MIN_MS // 1000, rate * _MAX_MS // 1000


def accelerate(tape: Tape, rate: int, most: Frames) -> Frames:
    """Cut out about `most` frames (at most 13 ms) at the head; return how many, 0 if nothing fits."""
    fade, low, longest = lengths(rate)
    if most < low:
        return 0
    high = min(longest, most + rate * _BEYOND_MS // 1000, tape.fill - 2 * fade)
    return 0 if high < low else _jump(tape, fade, low, high, _ALIKE if most < longest else -1.0)


def skip(tape: Tape, rate: int, about: Frames) -> Frames:
    """Cut out about `about` frames in one go, within 10 ms, where it fits best; return how many."""
    fade, _, around = lengths(rate)
    low, high = max(fade, about - around), min(about, tape.fill - 2 * fade)
    if high < low:
        return 0
    return _jump(tape, fade, low, high)


# What is heard begins as the sound would have continued without the splice (`head`), and ends in the place jumped to:
# both seams are then continuous, and only their phase has to agree. The tape itself is changed, so a splice costs
# nothing when the frames are read.
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
    """Repeat about `most` frames (at most 13 ms) of what was just played; return how many."""
    fade, low, longest = lengths(rate)
    # The way back is limited by what is still behind the head, and by the room ahead: frames that are repeated are
    # queued again.
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
    """A loop that continues `past`: its last 3 to 13 ms, in whole periods if it is periodic.

    Silence if `past` ends in silence or is too short.
    """
    fade, low, high = lengths(rate)
    if len(past) < high + fade + low or not past[-high:].any():
        return np.zeros((high, past.shape[1]), np.float32)
    # The template is the end of the past, and the search ends one shortest period before it: otherwise the best match
    # would be the end itself.
    period = high - best_match(past[-fade:], past[-high - fade : -low])
    loop: Samples = past[-period:].copy()
    return loop
