"""Quanta: a cycle is as long as the lowest requested latency allows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from millrace.graph.quantum import QUANTA_NS, Quanta
from millrace.units import NS_PER_MS, NS_PER_S


@pytest.mark.parametrize(
    ("rate", "frames"),
    [(48_000, [120, 240, 480, 960, 1920]), (44_100, [110, 220, 441, 882, 1764]), (100, [1, 1, 1, 2, 4])],
)
def test_each_quantum_is_whole_frames_and_not_zero(rate: int, frames: list[int]) -> None:
    quanta = Quanta(rate)
    # Requests that are met exactly.
    asked_ns = [2_500_000, 5_000_000, 10_000_000, 20_000_000, 40_000_000]
    assert [quanta.chosen([ns], 0) for ns in asked_ns] == frames
    assert (quanta.shortest, quanta.longest) == (frames[0], frames[-1])


def test_lowest_request_decides_and_is_never_exceeded() -> None:
    quanta = Quanta(48_000)
    assert quanta.chosen([40 * NS_PER_MS, 5 * NS_PER_MS, 20 * NS_PER_MS], 1920) == 240
    for asked_ns in range(2_500_000, 60_000_000, 333_333):
        frames = quanta.chosen([asked_ns], 0)
        assert frames * NS_PER_S // 48_000 <= asked_ns
        longer = next((b for a, b in pairwise(QUANTA_NS) if a * 48_000 // NS_PER_S == frames), None)
        assert longer is None or longer > asked_ns, "a longer one would do"


def test_too_low_request_gets_minimum_and_no_request_changes_nothing() -> None:
    quanta = Quanta(48_000)
    assert quanta.chosen([1], 1920) == quanta.chosen([0, NS_PER_S], 1920) == 120
    assert quanta.chosen([], 480) == 480 and quanta.chosen(iter(()), 1920) == 1920
