"""How long the steps are in which a VNC server's messages are worked off, beside what they are estimated to cost.

Each row is one message, as often as a second allows: those that a hostile server finds dearest, and ordinary pictures
of 1920 × 1080. A step is what one guest may take of the event loop before the others' sound; it ends when its estimate
reaches 1 ms. Times are CPU time of this process. Takes three quarters of a minute.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
from tests.fuzz import vncserver
from tests.fuzz.vncserver import Picture, Streams, noise
from tests.unit.test_vnc_screen import Hall
from tests.vncdear import DEAR, HEIGHT, WIDTH, updated

from millrace.daemon.allocator import pin_malloc
from millrace.doors.clipboard import MachineClipboard
from millrace.wire.vnc.work import WORK_MAX

WIDE, HIGH = 1920, 1080
ROW_S = 1.0
STEPS_MAX = 3_000
CHUNK_BYTES = 64 * 1024


def text() -> Picture:
    """Black on white, as a page of text is: letters of 8 by 16 pixels."""
    letters = np.random.default_rng(1).integers(0, 2, (64, 16, 8), np.uint8) * 255
    chosen = np.random.default_rng(2).integers(0, 64, (HIGH // 16, WIDE // 8))
    out = np.zeros((HIGH // 16 * 16, WIDE, 4), np.uint8)
    out[:, :, :3] = letters[chosen].transpose(0, 2, 1, 3).reshape(out.shape[:2])[:, :, None]
    return out


def ordinary() -> dict[str, Callable[[], bytes]]:
    """Updates of a desktop. Their zlib streams begin anew with each."""
    page, film = text(), noise(640, 360)
    return {
        "1080p: a letter, raw": lambda: updated(vncserver.raw(8, 16, page[:16, :8])),
        "1080p: a line, tight": lambda: updated(Streams().tight(0, 16, page[:16], "palette", 0, 15)),
        "1080p: a scroll and a line": lambda: updated(
            vncserver.copied(0, 0, WIDE, 1000, 0, 16), Streams().tight(0, 1000, page[:16], "palette", 0, 15)
        ),
        "1080p: all text, tight": lambda: updated(Streams().tight(0, 0, page, "palette", 0, 15)),
        "1080p: all text, ZRLE": lambda: updated(Streams().zrle(0, 0, page)),
        "1080p: film of 640 × 360, tight": lambda: updated(Streams().tight(0, 0, film, "copy", 0, 15)),
        "1080p: film of 640 × 360, raw": lambda: updated(vncserver.raw(0, 0, film)),
        "1080p: all, raw": lambda: updated(vncserver.raw(0, 0, page)),
    }


class Steps:
    """The steps of one message, said again and again: (CPU ns, estimate) of each."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self.taken: list[tuple[int, int]] = []

    def run(self, message: bytes) -> None:
        """Until there are enough of them, or a second is over."""
        began = time.monotonic()
        while len(self.taken) < STEPS_MAX and time.monotonic() - began < ROW_S:
            self._once(message)

    def _once(self, message: bytes) -> None:
        hall = Hall(1 << 30)
        hall.says(vncserver.rect(0, 0, *self._size, -223))
        screen, wire, door = hall.door.screen, hall.wire, hall.door
        assert screen is not None
        board: MachineClipboard = screen.clipboard()
        door.clipboard = board
        while message or wire.unfinished:
            chunk, message = (b"", message) if wire.unfinished else (message[:CHUNK_BYTES], message[CHUNK_BYTES:])
            began = time.thread_time_ns()
            wire.receive(chunk, 0)
            door.receive(0)
            self.taken.append((time.thread_time_ns() - began, wire.work.spent))
        door.close()

    def row(self, name: str) -> str:
        """One line of the table."""
        real, estimate = np.array(self.taken).T / 1e6
        times = f"{np.median(real):.2f} / {np.percentile(real, 99):.2f} / {real.max():.2f}"
        return (
            f"| {name} | {len(real)} | {times} | {np.median(estimate):.2f} / {estimate.max():.2f}"
            f" | {real.sum() / estimate.sum():.2f} |"
        )


def main() -> None:
    """Print the table."""
    pin_malloc()
    gc.disable()
    print(f"vnc_steps: CPU ms of a step; one ends when its estimate reaches {WORK_MAX / 1e6:.0f} ms")
    print("| what | steps | median / p99 / longest | estimate: median / longest | real for each estimated |")
    print("|---|---|---|---|---|")
    for name, (_, say) in DEAR.items():
        steps = Steps(WIDTH, HEIGHT)
        steps.run(say())
        print(steps.row(name), flush=True)
    for name, made in ordinary().items():
        steps = Steps(WIDE, HIGH)
        steps.run(made())
        print(steps.row(name), flush=True)
    gc.enable()
