"""Where the time of a picture goes, from the paint to the picture that is drawn: stamps in both processes, one clock.

A picture is known by the time of its paint. The daemon's stamps are taken around the functions of its encoder, and are
written to the file $STAMPS when it ends; the viewer's by `StampedViewer`.
"""

from __future__ import annotations

import atexit
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millrace.client.viewer import Viewer

STAGES = ("paint", "wait", "to thread", "encode", "to loop", "network", "to decoder", "decode", "draw")
"""Between two stamps each: when the paint began and ended, the picture was begun, a thread took it and had made it, the
loop had it, it was received, given to the decoder, decoded, and drawn."""


def spread(values: Sequence[float]) -> str:
    """Median, 95th and 99th percentile."""
    if not len(values):
        return "–"
    return "/".join(f"{value:.1f}" for value in np.percentile(values, (50, 95, 99)))


def stamp_daemon(path: str) -> None:
    """Take the daemon's stamps in this process, and write them to `path` at its end."""
    from millrace.graph.screen import Screen
    from millrace.outlets import pictures

    clock, encoder = time.monotonic_ns, pictures.PictureEncoder
    painted: dict[int, int] = {}
    worked: dict[int, tuple[int, int, int]] = {}
    rows: list[tuple[int, ...]] = []
    publish, make, send = Screen.painted, pictures._made, encoder._send

    def published(self: Screen, rects: Any, now_ns: int, *more: Any) -> None:
        painted[now_ns] = clock()
        publish(self, rects, now_ns, *more)

    def made(work: Any, task: Any, *more: Any) -> Any:
        began, cpu = clock(), time.thread_time_ns()
        out = make(work, task, *more)
        worked[task.now_ns] = began, clock(), time.thread_time_ns() - cpu
        return out

    def sent(self: Any, made_: Any, job: Any) -> Any:
        now, work = clock(), worked.pop(job.begun_ns)
        if job.picture is not None:
            key = self._painted_ns
            rows.append((key, painted.get(key, key), job.begun_ns, work[0], work[1], now, work[2]))
        return send(self, made_, job)

    Screen.painted, encoder._send, pictures._made = published, sent, made  # type: ignore[method-assign,assignment]
    atexit.register(lambda: Path(path).write_text(json.dumps(rows)))


class StampedViewer(Viewer):
    """A viewer that notes when it received each picture, began to decode it, had it, and had drawn it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stamps: dict[int, list[int]] = {}
        """By the time of the paint: received, begun, decoded, drawn."""
        self._at: dict[int, list[int]] = {}

    async def _decode(self, whole: Any) -> None:
        self._at[whole.last.serial] = [whole.arrived_ns, time.monotonic_ns()]
        await super()._decode(whole)

    def _acknowledge(self, one: Any, began: int, now: int, drawn: bool) -> None:
        piece = one.picture.piece
        self.stamps.setdefault(piece.painted_ns, [*self._at.pop(piece.serial), one.picture.decoded_ns, now])
        super()._acknowledge(one, began, now, drawn)


def stages(path: Path, viewer: StampedViewer, since_ns: int) -> str:
    """A line of what each stage took, median/95th/99th percentile in ms, of pictures painted since then."""
    rows, cpu = [], []
    for key, *daemon, used in json.loads(path.read_text()):
        if key >= since_ns and (seen := viewer.stamps.get(key)) is not None:
            rows.append([key, *daemon, *seen])
            cpu.append(used / 1e6)
    if not rows:
        return "no picture has all its stamps"
    spent = np.diff(np.array(rows, np.float64), axis=1) / 1e6
    told = [f"{name} {spread(column)}" for name, column in zip(STAGES, spent.T, strict=True)]
    total = spent[:, :-1].sum(axis=1)
    return f"decoded {spread(total)} = {', '.join(told)}; encoder CPU {spread(cpu)}"
