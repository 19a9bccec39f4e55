"""What all streams of a guest share."""

from __future__ import annotations

GUEST_BYTES_MAX = 256 * 1024 * 1024
"""Sound that all streams of one guest may have queued: 23 minutes of CD quality."""


class Budget:
    """Memory that all streams of a guest share, so that no guest can take the host's."""

    def __init__(self, limit: int = GUEST_BYTES_MAX) -> None:
        self.left = limit

    def change(self, more: int) -> bool:
        """Take `more` bytes, or give some back with a negative number; False where there are not so many."""
        if more > self.left:
            return False
        self.left -= more
        return True
