"""Locks on files: what one process at a time may use. They end with their process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from millrace.errors import ConfigError


class FileLock:
    """Held from when it is made until `release`."""

    def __init__(self, path: Path, taken: str) -> None:
        """ConfigError where it can't be had: `taken` says so if another process has it, and what to do."""
        self._path = path
        self._descriptor = -1
        while self._descriptor < 0:
            try:
                self._descriptor = self._locked()
            except BlockingIOError:
                raise ConfigError(f"{taken} (process {self._holder()} holds {path})") from None
            except OSError as error:
                raise ConfigError(f"{path} can't be locked: {error.strerror}") from None
        # Only for the message above: on a full disk it is left empty, and the lock is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def _locked(self) -> int:
        """The locked file, or −1 where it was taken away between opening and locking."""
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
        """Let go. The file stays: to remove a lock's file would let two in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
