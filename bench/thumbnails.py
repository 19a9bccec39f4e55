"""What the wall costs for each screen that it shows: CPU of the thread that makes its thumbnails, bytes sent, memory.

A desktop of 1920 × 1080 is painted thirty times a second, and a thumbnail made of it each second, as for a wall. The
clock of the desktop runs in each scene. Takes half a minute. `idle_screens` measures a wall on which nothing changes.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

from bench.common import median
from millrace.guest.thumbnails import THUMBNAIL_BYTES, Thumbnail
from millrace.outlets.thumbnail import Made, ThumbnailWork
from millrace.pixels.rects import Damage, Rect, Size
from millrace.server.http.wall import thumbnail_message
from millrace.sim.desktop import SCENES, Desktop
from millrace.units import NS_PER_MS, NS_PER_S

SIZE, FPS, SECONDS, TRACED = Size(1920, 1080), 30, 25, 3
WHOLE = Rect(0, 0, SIZE.width, SIZE.height)


def seconds_of(scene: str) -> Iterator[tuple[Desktop, tuple[Rect, ...]]]:
    """The desktop after each second, and what was painted in it."""
    desktop, now_ns = Desktop(SIZE, scene), NS_PER_S
    yield desktop, (WHOLE,)
    while True:
        damage = Damage()
        for _ in range(FPS):
            now_ns += NS_PER_S // FPS
            damage.add_all(desktop.paint(now_ns))
        yield desktop, damage.take()


def sent(made: Made, work: ThumbnailWork) -> int:
    """Bytes that each wall is sent of it."""
    still = made.patch or made.whole
    return 0 if still is None else len(thumbnail_message("alice", Thumbnail(1, work.size, still)))


def costs(scene: str) -> tuple[float, float, int]:
    """CPU of a thumbnail in ms, its bytes (medians), and the bytes of the first."""
    work, times, sizes = ThumbnailWork(SIZE), [], []
    for number, (desktop, damage) in zip(range(SECONDS + 1), seconds_of(scene), strict=False):
        began = time.thread_time_ns()
        made = work.make(desktop.picture, damage, whole=not number)
        times.append((time.thread_time_ns() - began) / NS_PER_MS)
        sizes.append(float(sent(made, work)))
    return median(times[1:]), median(sizes[1:]), int(sizes[0])


def memory() -> float:
    """KiB that one takes while it is made, with the one before, when everything changes."""
    desktop = Desktop(SIZE, "flood")
    tracemalloc.start()
    try:
        work, kept = ThumbnailWork(SIZE), Made(None, None)
        for _ in range(TRACED):
            desktop.flood()
            kept = work.make(desktop.picture, (WHOLE,), whole=True)
        assert kept.patch is not None and kept.whole is not None
        return tracemalloc.get_traced_memory()[1] / 1024
    finally:
        tracemalloc.stop()


def main() -> None:
    """Print the table."""
    print(f"thumbnails: a desktop of {SIZE.width} × {SIZE.height}, one thumbnail a second")
    print("| | CPU of a thumbnail | of a core, each screen | bytes | kbit/s, each screen and wall | first |")
    print("|---|---|---|---|---|---|")
    for scene in SCENES:
        ms, size, first = costs(scene)
        print(f"| {scene} | {ms:.2f} ms | {ms / 10:.3f} % | {size:.0f} | {size * 8 / 1000:.1f} | {first} |", flush=True)
    print(f"memory of one at most: {memory():.0f} KiB; charged to the guest: {THUMBNAIL_BYTES // 1024} KiB")


if __name__ == "__main__":
    main()
