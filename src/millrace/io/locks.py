"""File locks, for things that one process at a time may use. The kernel releases them when the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from millrace.errors import ConfigError


# flock and not fcntl's record locks: those belong to the process and are lost when it closes *any* descriptor of the
# file.
class FileLock:
    """A lock, held from construction until `release`."""

    def __init__(self, path: Path, taken: str) -> None:
        """Raises ConfigError if it can't be locked; `taken` is the message if another process holds it."""
        self._path = path
        self._descriptor = -1
        while self._descriptor < 0:
            try:
                self._descriptor = self._locked()
            except BlockingIOError:
                raise ConfigError(f"{taken} (process {self._holder()} holds {path})") from None
            except OSError as error:
                raise ConfigError(f"{path} can't be locked: {error.strerror}") from None
        # Only for the message above: on a full disk the file stays empty, and the lock is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    # Between opening and locking, the file may have been removed by a program that cleans the directory: the lock would
    # then be on a file that no other process can find. So it counts only if the path still leads to the locked file.
    def _locked(self) -> int:
        """The locked file, or −1 if it was removed or replaced between opening and locking."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(descriptor), os.stat(self._path)
        except FileNotFoundError:
            os.close(descriptor)
            return -1
        except OSError:
            os.close(descriptor)
            raise
        if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
            return descriptor
        os.close(descriptor)
        return -1

    def _holder(self) -> str:
        try:
            return self._path.read_text(errors="replace")[:20].strip() or "?"
        except OSError:
            return "?"

    def release(self) -> None:
        """Release the lock. The file stays: if it were removed, two processes could hold the lock at once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
