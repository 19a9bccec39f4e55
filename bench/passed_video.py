"""Video that a machine sends itself: passed through to a viewer, against decoded and encoded again. Offline.

python -m bench passed_video
"""

from __future__ import annotations

import statistics
import time

from tests.films import COMPOSES, DECODES, Film, clip
from tests.watch import Desk, Remote

from millrace.pixels.rects import Rect, Size
from millrace.wire.peer.pictures import Watch

AT, FRAMES, BEFORE, ROUNDS = Rect(96, 96, 640, 360), 120, 20, 3
"""The film, which begins with its only key frame; what is played before it is measured; and how often."""


def main() -> None:
    """Print processor time and bytes a frame of both ways."""
    frames = clip(Size(AT.width, AT.height), FRAMES, keys=FRAMES)
    own = sum(map(len, frames)) // FRAMES
    print(f"a film of {AT.width} × {AT.height} (VP8, {own} bytes a frame) on 1280 × 720, to one viewer")
    for name, watch in (("passed through", COMPOSES), ("decoded and encoded", DECODES)):
        found = [played(watch, frames) for _ in range(ROUNDS)]
        ms, size = (statistics.median(one[n] for one in found) for n in (0, 1))
        decoded = f"{found[0][2]} of {FRAMES} frames decoded in the daemon"
        print(f"{name}: {ms:.2f} ms CPU and {size:.0f} bytes a frame; {decoded}")


def played(watch: Watch, frames: list[bytes]) -> tuple[float, float, int]:
    """Ms of processor time and bytes a frame, and how many were decoded; the viewer draws none."""
    desk = Desk(encodes=True)
    painter = desk.add(width=1280, height=720)
    painter.pixels[:] = 230
    film = Film(desk, painter, AT, frames)
    film.always = False
    viewer = Remote(desk, watch, draws=False)
    desk.run(200)
    film.play(BEFORE)
    began, before = time.process_time(), viewer.bytes
    film.play(FRAMES - BEFORE)
    played = FRAMES - BEFORE
    return (time.process_time() - began) / played * 1e3, (viewer.bytes - before) / played, len(film.decoded)


if __name__ == "__main__":
    main()
