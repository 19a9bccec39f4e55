"""Pictures at another scale: whatever a change of the screen changes of the picture is reported."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.outlets.scaled import Scaled
from millrace.pixels.rects import Rect, Size


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7])
def test_all_that_a_change_of_the_screen_changes_is_within_what_is_touched(scale: float) -> None:
    random = np.random.default_rng(1)
    screen = random.integers(0, 256, (200, 320, 4), np.uint8)
    size = Size(round(320 * scale), round(200 * scale))
    scaled = Scaled(size, scale)
    for at in (Rect(0, 0, 9, 5), Rect(101, 77, 30, 20), Rect(311, 195, 9, 5)):
        before = scaled.take(screen).copy()
        screen[at.y : at.bottom, at.x : at.right] ^= 255
        after, (told,) = scaled.take(screen), scaled.touched([at])
        differs = (before != after).any(axis=2)
        assert differs.any() and Rect(0, 0, size.width, size.height).holds(told)
        differs[told.y : told.bottom, told.x : told.right] = False
        assert not differs.any()
