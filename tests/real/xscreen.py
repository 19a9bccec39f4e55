"""What an X server shows, read from the framebuffer file of Xvfb: nothing that a browser says about itself."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType

import numpy as np


class XScreen:
    """Xvfb with one screen of 24 bits."""

    def __init__(self, home: Path, width: int = 1024, height: int = 768) -> None:
        self._home, self.width, self.height = home, width, height

    def __enter__(self) -> XScreen:
        self._home.mkdir(parents=True, exist_ok=True)
        read, write = os.pipe()
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{self.width}x{self.height}x24"]
        self._process = subprocess.Popen(
            [*command, "-fbdir", str(self._home), "-nocursor", "-nolisten", "tcp"],
            pass_fds=(write,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(write)
        with os.fdopen(read) as told:
            self.display = f":{told.readline().strip()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def pixels(self) -> np.ndarray:
        """The screen as (height, width, 3): B, G, R. The file is an XWD dump (X11/XWDFile.h), big-endian."""
        data = (self._home / "Xvfb_screen0").read_bytes()
        head = struct.unpack_from(">25I", data)
        size, width, height, stride, colours = head[0], head[4], head[5], head[12], head[19]
        rows = np.frombuffer(data, np.uint8, stride * height, size + colours * 12)
        return rows.reshape(height, stride)[:, : width * 4].reshape(height, width, 4)[..., :3]

    def find(self, picture: np.ndarray, seconds: float = 15.0) -> tuple[int, int]:
        """Wait until the screen shows exactly these pixels (B, G, R) somewhere; returns where."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            place = self._place(picture)
            if place is not None:
                return place
            time.sleep(0.1)
        raise AssertionError("the X server does not show the picture")

    def _place(self, picture: np.ndarray) -> tuple[int, int] | None:
        pixels, (height, width) = self.pixels(), picture.shape[:2]
        same = (pixels == picture[0, 0]).all(2) & np.roll((pixels == picture[0, 17]).all(2), -17, 1)
        for y, x in np.argwhere(same[: self.height - height + 1, : self.width - width + 1]):
            if np.array_equal(pixels[y : y + height, x : x + width], picture):
                return int(x), int(y)
        return None
