"""The line under a cloud of delays: the best delay of a path, and how it drifts.

Delays are one-sided: a packet is never early, and often late. Their mean follows the lateness; their lower edge follows
the clocks. Of the lines under all points, the one nearest to them on average is the edge of their lower convex hull
that spans their mean (S. Moon, P. Skelly, D. Towsley, "Estimation and removal of clock skew from network delay
measurements", INFOCOM 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]


# A point is popped while it lies on or above the line from its predecessor to the new point: comparing the cross
# products rather than two slopes needs no division, so equal first coordinates need no special case.
def lower_hull(points: Sequence[Point]) -> list[Point]:
    """The lower convex hull of points sorted by their first coordinate (Andrew's monotone chain)."""
    hull: list[Point] = []
    for x, y in points:
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2], hull[-1]
            if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                break
            hull.pop()
        hull.append((x, y))
    return hull


def line_below(points: Sequence[Point]) -> tuple[float, float]:
    """(value at the last point, slope) of the line under all points that is nearest to them on average.

    Needs at least one point; from a single one the slope is 0.
    """
    hull = lower_hull(points)
    x_last = points[-1][0]
    if len(hull) == 1:
        return hull[0][1], 0.0
    mean = sum(x for x, _ in points) / len(points)
    # The hull ends at the last point, so one of its edges reaches the mean.
    (ax, ay), (bx, by) = next((a, b) for a, b in pairwise(hull) if b[0] >= mean)
    slope = (by - ay) / (bx - ax)
    return ay + (x_last - ax) * slope, slope
