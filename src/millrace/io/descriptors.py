"""File descriptors with a single owner: those not handed over are closed at the end of the `with` block."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self


# A descriptor is in here or has been given on, never both: the caller of `give` must store or close it before anything
# else can fail. What has not been given on is closed by `with`, also on the way out of an exception.
class Descriptors:
    """Open file descriptors, in order."""

    def __init__(self, fds: Iterable[int] = ()) -> None:
        self._fds = deque(fds)

    def __len__(self) -> int:
        return len(self._fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._fds:
            os.close(self._fds.popleft())

    def add(self, fd: int) -> None:
        """Take ownership of another descriptor."""
        self._fds.append(fd)

    @property
    def first(self) -> int:
        """The first one, still owned here."""
        return self._fds[0]

    def give(self) -> int:
        """Hand over the first one: the caller owns it from now on."""
        return self._fds.popleft()

    def give_all(self) -> tuple[int, ...]:
        """Hand over all of them."""
        given = tuple(self._fds)
        self._fds.clear()
        return given
