"""When an estimate has come to rest."""

from __future__ import annotations

import pytest

from millrace.clock.settled import FOR_NS, Settling
from millrace.units import NS_PER_S


@pytest.mark.parametrize(
    ("ppm", "settled"),
    [
        ([], False),
        ([300.0], False),
        ([300.0] * 10, False),
        ([300.0] * 11, True),
        ([280.0, 310.0] * 6, True),
        ([0.0, 80.0] * 20, False),
        ([-71.0, 124.0, *[-20.0] * 10], False),
        ([-71.0, 124.0, *[-20.0] * 11], True),
        ([300.0] * 11 + [None], False),
        ([300.0] * 11 + [None] + [300.0] * 10, False),
    ],
)
def test_estimate_is_told_after_ten_seconds_within_fifty_ppm(ppm: list[float | None], settled: bool) -> None:
    assert FOR_NS == 10 * NS_PER_S
    one = Settling()
    for second, value in enumerate(ppm):
        one.observe(value, second * NS_PER_S)
    assert one.settled is settled
