"""A picture in memory that another process shares with us, and may paint into, or shrink, at any time.

It is read, not mapped: the other process could shrink mapped memory under us, and its reader would die of SIGBUS. A
read just ends early.
"""

from __future__ import annotations

import contextlib
import fcntl
import os


class SharedPicture:
    """Owns the descriptor of such memory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, at: int, into: memoryview) -> bool:
        """Fill `into` from there on; False if the memory ends before that, or can't be read."""
        rest = into.cast("B")
        while len(rest):
            try:
                count = os.preadv(self._fd, [rest], at)
            except OSError:
                return False
            if not count:
                return False
            rest, at = rest[count:], at + count
        return True

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def shared_picture(fd: int) -> SharedPicture | None:
    """The memory behind `fd`, which this owns from now on; None, with the descriptor closed, if it is not memory.

    Reading a file system that never answers would block the daemon; only memfds have seals to ask for.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return SharedPicture(fd)
    os.close(fd)
    return None
