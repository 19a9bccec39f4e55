"""A screen of a daemon in this process, with somebody who watches it and has the keyboard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from millrace.daemon.app import Daemon
from millrace.graph.pictures import KeyPress
from millrace.graph.screen import Reader, Screen
from millrace.wire.keys import BY_KEYSYM, BY_NAME
from tests.gops import WATCHER

from .xserver import Picture

PAINT_S = 20


# Until it is what is waited for, it is looked at again and again, on the loop of the daemon that shows it.
def colours(picture: Picture) -> int:
    """How many colours a picture of (rows, columns, 3) has."""
    return len(np.unique(picture @ np.array([1, 1 << 8, 1 << 16], np.uint32)))


class Watched:
    """A screen with somebody who watches it and has the keyboard."""

    def __init__(self, daemon: Daemon, screen: Screen) -> None:
        self.guest = daemon.worker.guests["alice"]
        self.screen = screen
        self.reader: Reader = screen.read(WATCHER)
        self.guest.screens.seat.take(WATCHER)

    @property
    def picture(self) -> Picture:
        assert self.screen.memory is not None
        return self.screen.memory.picture[:, :, :3]

    async def until(self, told: Callable[[], bool], what: str, seconds: float = PAINT_S) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not told():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {seconds} s") from None

    async def shows(self, server: Callable[[], Picture]) -> None:
        """Wait until the screen is, pixel by pixel, what the server shows; a cursor that blinks makes it wait."""

        def same() -> bool:
            shown, own = self.picture, server()
            return shown.shape == own.shape and np.array_equal(shown, own)

        try:
            async with asyncio.timeout(PAINT_S):
                while not await asyncio.to_thread(same):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            own = server()
            if self.picture.shape != own.shape:
                raise AssertionError(f"{self.picture.shape} instead of {own.shape}") from None
            wrong = np.argwhere((self.picture != own).any(axis=2))
            raise AssertionError(
                f"{len(wrong)} pixels differ, from {wrong.min(axis=0)} to {wrong.max(axis=0)}: the first is"
                f" {self.picture[tuple(wrong[0])]} instead of {own[tuple(wrong[0])]}"
            ) from None

    def type(self, text: str) -> None:
        for char in text:
            key = BY_NAME["Enter"] if char == "\n" else BY_KEYSYM[ord(char)]
            shift = key.shifted == ord(char) != key.keysym
            keys = [BY_NAME["ShiftLeft"].code] * shift + [key.code]
            for code in keys:
                self.reader.key(KeyPress(code, True))
            for code in reversed(keys):
                self.reader.key(KeyPress(code, False))
