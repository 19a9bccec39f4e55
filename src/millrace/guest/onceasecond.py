"""What one viewer may have once a second only, as it takes time from the other viewers: key pictures, and encoders."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs


class OnceASecond:
    """What one viewer asks for. The first comes at once."""

    def __init__(self) -> None:
        self.due_ns: HostNs | None = None
        """When the one that it has asked for comes; None if it waits for none."""
        self._last_ns: HostNs | None = None

    def allowed(self, now_ns: HostNs) -> bool:
        """It needs one: whether it comes now. If not, `due_ns` says when."""
        if self._last_ns is not None and now_ns < self._last_ns + NS_PER_S:
            self.due_ns = self._last_ns + NS_PER_S
            return False
        self._last_ns, self.due_ns = now_ns, None
        return True

    def came_due(self, now_ns: HostNs) -> bool:
        """Whether what it waited for comes now; it waits no more then."""
        due = self.due_ns is not None and now_ns >= self.due_ns
        if due:
            self.due_ns = None
        return due
