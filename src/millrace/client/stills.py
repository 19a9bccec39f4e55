"""`--to x.png` and `--to y4m:`: one picture, or a stream of them at a steady rate, from a viewer."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from io import RawIOBase
from pathlib import Path

import av
import numpy as np
from PIL import Image

from millrace.client.canvas import Canvas, blend, rows_of
from millrace.client.faces import Unseen
from millrace.errors import OutputLost
from millrace.io.files import open_output
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect
from millrace.units import NS_PER_S, MediaNs
from millrace.wire.peer.pictures import CursorChanged

log = logging.getLogger("millrace.client")
BEHIND_MAX_S = 1.0


def over_it(picture: Plane, canvas: Canvas, cursor: CursorChanged | None) -> Plane:
    """Draw the screen's cursor into a copy of the canvas."""
    if cursor is not None and cursor.shown:
        blend(picture, canvas.shapes.get(cursor.shape), cursor.x - cursor.hot_x, cursor.y - cursor.hot_y)
    return picture


class PngFile(Unseen):
    """Writes the first whole picture to a file, and is `done`."""

    def __init__(self, path: Path, done: Callable[[], None]) -> None:
        self.name, self._path, self._done = str(path), path, done
        self._cursor: CursorChanged | None = None
        self.written = False

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        """See `Face`."""
        self._cursor = cursor

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""
        if self.written or not canvas.whole:
            return
        picture = over_it(canvas.pixels.copy(), canvas, self._cursor)
        # Written beside it and renamed: a file that is there is whole.
        beside = self._path.with_name(f".{self._path.name[:200]}.{secrets.token_hex(4)}")
        try:
            with beside.open("xb") as file:
                Image.fromarray(np.ascontiguousarray(picture[:, :, 2::-1])).save(file, "PNG", compress_level=6)
            os.replace(beside, self._path)
        except OSError as error:
            raise OutputLost(f"{self.name}: {error.strerror or error}; no picture was written") from None
        finally:
            beside.unlink(missing_ok=True)
        self.written = True
        self._done()


class Y4mStream(Unseen):
    """Writes YUV4MPEG2 pictures, `fps` a second, whatever changes or not: what a pipe into another program wants.

    Colours are 4:4:4, so that text stays sharp. The size is that of the first picture; later ones are cut or filled up.
    """

    def __init__(self, file: RawIOBase, name: str, fps: int, ended: Callable[[OutputLost | None], None]) -> None:
        self.name, self._file, self._fps, self._ended = name, file, fps, ended
        self._picture: Plane | None = None
        self._cursor: CursorChanged | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        """See `Face`."""
        self._cursor = cursor
        if self._picture is not None:
            self._keep(canvas)

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""
        if self._picture is None:
            self._picture = np.zeros_like(canvas.pixels)
            self._keep(canvas)
            self._thread = threading.Thread(target=self._run, name="y4m", daemon=True)
            self._thread.start()
        else:
            self._keep(canvas)

    def _keep(self, canvas: Canvas) -> None:
        assert self._picture is not None
        picture = over_it(canvas.pixels.copy(), canvas, self._cursor)
        with self._lock:
            kept = self._picture
            high, wide = min(len(kept), len(picture)), min(kept.shape[1], picture.shape[1])
            kept[:] = 0
            kept[:high, :wide] = picture[:high, :wide]

    def _run(self) -> None:
        try:
            self._write_all()
        except BrokenPipeError:
            log.info("%s: the reader is gone", self.name)
            self._ended(None)
        except OSError as error:
            self._ended(OutputLost(f"{self.name}: {error.strerror}; the stream ends here"))
        except Exception:
            log.exception("%s ended because of an internal error", self.name)
            self._ended(OutputLost(f"{self.name}: an internal error; see the log"))

    def _write_all(self) -> None:
        assert self._picture is not None
        high, wide = self._picture.shape[:2]
        self._write(f"YUV4MPEG2 W{wide} H{high} F{self._fps}:1 Ip A1:1 C444\n".encode())
        began, count = time.monotonic_ns(), 0
        while not self._stop.is_set():
            with self._lock:
                picture = self._picture.copy()
            self._write(b"FRAME\n" + planes_of(picture))
            count += 1
            wait_s = (began + count * NS_PER_S // self._fps - time.monotonic_ns()) / NS_PER_S
            if wait_s < -BEHIND_MAX_S:
                # The reader is too slow to be caught up with: shift the schedule.
                began -= round(wait_s * NS_PER_S)
            elif wait_s > 0:
                self._stop.wait(wait_s)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while len(left) and not self._stop.is_set():
            left = left[self._file.write(left) or 0 :]

    def close(self) -> None:
        """End the stream."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)
        # Its thread may be stuck in a pipe that nobody reads: the file is left open for it.
        if self._thread is None or not self._thread.is_alive():
            self._file.close()


def planes_of(picture: Plane) -> bytes:
    """Y, U and V of a BGRX picture, in full, BT.601 limited."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgra").reformat(format="yuv444p")
    return b"".join(rows_of(plane)[:, : plane.width].tobytes() for plane in frame.planes)


def y4m_file(where: str, replace: bool = True) -> RawIOBase:
    """The file of `y4m:FILE`, or for `-` standard output; ConfigError if it can't be written."""
    if where == "-":
        # A private, unbuffered duplicate of stdout, which nothing else in this process writes to.
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    return open_output(Path(where), replace)
