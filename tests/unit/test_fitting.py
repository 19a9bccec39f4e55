"""How pictures lie in windows."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.client.fitting import Fit
from millrace.pixels.rects import Point, Rect, Size


@pytest.mark.parametrize(
    ("picture", "window", "place"),
    [
        ((640, 480), (640, 480), (0, 0, 640, 480)),
        ((640, 480), (700, 500), (30, 10, 640, 480)),
        ((640, 480), (1920, 1080), (320, 60, 1280, 960)),
        ((1920, 1080), (960, 1000), (0, 230, 960, 540)),
        ((1000, 2000), (900, 900), (225, 0, 450, 900)),
        ((4000, 1), (100, 100), (0, 49, 100, 1)),
        ((0, 0), (100, 100), (0, 0, 0, 0)),
        ((640, 480), (0, 0), (0, 0, 0, 0)),
    ],
)
def test_pictures_are_centred_and_made_smaller_only_if_they_must(
    picture: tuple[int, int], window: tuple[int, int], place: tuple[int, int, int, int]
) -> None:
    fit = Fit(Size(*picture), Size(*window))
    assert fit.place == Rect(*place) and fit.exact == (place[2:] == picture)


def test_scaled_pixels_and_points_agree() -> None:
    for window in (Size(320, 240), Size(1300, 1000), Size(211, 97)):
        fit = Fit(Size(640, 480), window)
        numbers = np.arange(640 * 480, dtype=np.uint32).reshape(480, 640)
        scaled = fit.scaled(numbers.view(np.uint8).reshape(480, 640, 4))
        assert scaled.shape[:2] == (fit.place.height, fit.place.width)
        for x, y in ((0, 0), (fit.place.width - 1, fit.place.height - 1), (fit.place.width // 3, 5)):
            inside = fit.inside(Point(fit.at.x + x, fit.at.y + y))
            assert scaled[y, x].tobytes() == numbers[inside.y, inside.x].tobytes()
    assert fit.inside(Point(-50, 10_000)) == Point(0, 479)
    assert Fit(Size(0, 0), window).inside(Point(5, 5)) == Point(0, 0)
