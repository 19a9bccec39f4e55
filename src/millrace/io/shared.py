"""Memory shared with a client, and the two pipes with which the two sides wake each other.

The daemon creates the memory and seals its size: if a client could shrink it, the reader would die of SIGBUS. Pipes are
used instead of an eventfd because both sides would share the eventfd's file description, and with it O_NONBLOCK: a
client could clear that flag and block the daemon in its next write. The two ends of a pipe are separate descriptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable

from millrace.errors import GraphError


def shared_memory(size: int) -> tuple[int, mmap.mmap]:
    """A sealed memfd of `size` bytes and its mapping."""
    try:
        fd = os.memfd_create("millrace-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise GraphError(f"can't create shared memory: {error.strerror}") from None
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd, mmap.mmap(fd, size)
    except (OSError, ValueError) as error:
        os.close(fd)
        raise GraphError(f"can't create shared memory: {error}") from None


def mapped(fd: int, size: int) -> mmap.mmap:
    """Map memory that the other side created, and close its descriptor. ValueError if it is smaller than stated."""
    try:
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)


def duplicate(fd: int) -> int:
    """Another descriptor of the same file."""
    try:
        return os.dup(fd)
    except OSError as error:
        raise GraphError(f"no file descriptor left for the stream: {error.strerror}") from None


def pipe() -> tuple[int, int]:
    """The (read, write) ends of a non-blocking pipe."""
    try:
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise GraphError(f"no file descriptor left for the stream: {error.strerror}") from None


class Bell:
    """Our ends of the two pipes: `ring` wakes the other side; `rung` is called when it wakes us."""

    def __init__(self, hear_fd: int, ring_fd: int, rung: Callable[[], None]) -> None:
        self._hear_fd, self._ring_fd, self._rung = hear_fd, ring_fd, rung
        self._loop = asyncio.get_running_loop()
        os.set_blocking(hear_fd, False)
        os.set_blocking(ring_fd, False)
        self._loop.add_reader(hear_fd, self._heard)

    # A pipe is used as a flag, not as a count: one that is full has a wake-up in it that was not read yet, and one is
    # enough, because the side that wakes looks at the ring buffer and not at the number of bytes.
    def ring(self) -> None:
        """Wake the other side. It is not an error if that is gone, or has not read earlier wake-ups."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._ring_fd, b"\1")

    def _heard(self) -> None:
        try:
            data = os.read(self._hear_fd, 4096)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            # The other end is closed. The connection itself reports why.
            self._loop.remove_reader(self._hear_fd)
            return
        self._rung()

    def hand_on(self) -> tuple[int, int]:
        """Release both ends, the one to hear and the one to ring, for another bell to continue."""
        self._loop.remove_reader(self._hear_fd)
        return self._hear_fd, self._ring_fd

    def close(self) -> None:
        """Close both ends."""
        for fd in self.hand_on():
            os.close(fd)
