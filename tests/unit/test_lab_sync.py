"""The measurement of skew, on flashes and clicks whose distance is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from millrace.backends.base import OutputWatch, Pull, Unwatched
from millrace.client.canvas import Canvas
from millrace.dsp.convert import Samples
from millrace.lab.sync import FlashFace, HeardOutput, skews
from millrace.pixels.rects import Size
from millrace.sim.desktop import Desktop
from millrace.sim.painted import click
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S

START = 400 * 86_400 * NS_PER_S
LATENCY_NS = 20 * NS_PER_MS
PERIOD = 240


class Card:
    """Pulls 5 ms at a time, up to 8 ms late, on a clock that the test moves."""

    name = "card"

    def __init__(self) -> None:
        self.now_ns, self._pull = START, None  # type: ignore[var-annotated]

    def start(self, rate: int, positions: object, pull: Pull, watch: OutputWatch) -> int:
        self._pull = pull
        return LATENCY_NS

    def stop(self) -> None:
        self._pull = None

    def run(self, seconds: float, late: Callable[[], float]) -> None:
        for step in range(round(seconds * 200)):
            self.now_ns = START + step * 5 * NS_PER_MS + round(late() * NS_PER_MS)
            self._pull(np.zeros((PERIOD, 2), np.float32))  # type: ignore[misc]


@pytest.mark.parametrize("apart_ms", [-80, 0, 35])
def test_a_known_skew_is_measured_within_a_millisecond(apart_ms: int) -> None:
    """Clicks in music, captured 70 ms before they are heard; the flash is drawn so much later or earlier."""
    card, chance, position = Card(), random.Random(3), 0
    sound = 0.4 * sine(6, 440.0)[:, 0]
    for second in range(1, 6):
        at = second * 48_000 + 50 * 48
        sound[at : at + 240] += click(48_000)
    output = HeardOutput(card, lambda: card.now_ns)

    def pull(out: Samples) -> None:
        nonlocal position
        out[:] = sound[position : position + len(out), None]
        position += len(out)

    assert output.start(48_000, ("mono",), pull, Unwatched()) == LATENCY_NS
    card.run(5.9, lambda: min(8.0, chance.expovariate(1.0)))
    heard = output.clicks()
    assert len(heard) == 5
    assert all(abs(at - (START + s * NS_PER_S + 70 * NS_PER_MS)) < NS_PER_MS for s, at in enumerate(heard, 1))

    desktop, canvas, now = Desktop(Size(560, 160)), Canvas(), START
    canvas.resize(desktop.size)
    face = FlashFace(lambda: now)
    face.draw(canvas, [], 0)
    for step in range(0, 6_000, 10):
        painted = START + step * NS_PER_MS
        desktop.mark = step
        desktop.paint(painted)
        canvas.pixels[:] = desktop.picture
        now = painted + (70 + apart_ms) * NS_PER_MS
        face.draw(canvas, [], painted)
    found = skews(face.flashes, heard)
    assert len(found) == 5 and all(abs(one - apart_ms * NS_PER_MS) < NS_PER_MS for one in found)
    assert face.unread == 1 and len(face.seen) == 600 and set(face.latencies) == {(70 + apart_ms) * NS_PER_MS}
    assert face.marked[500] == START + (570 + apart_ms) * NS_PER_MS
    output.stop()


def test_without_sound_or_flashes_there_is_no_skew() -> None:
    assert HeardOutput(Card(), lambda: 0).clicks() == []
    assert skews([], [1]) == [] and skews([START], []) == [] and skews([START], [START + NS_PER_S]) == []


def test_only_the_last_sound_is_kept() -> None:
    card = Card()
    output = HeardOutput(card, lambda: card.now_ns)
    output.start(48_000, ("mono",), lambda out: out.fill(0.0), Unwatched())
    card.run(40, lambda: 0.0)
    assert sum(len(block) for _, block in output._blocks) <= 30 * 48_000
