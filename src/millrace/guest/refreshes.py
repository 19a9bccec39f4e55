"""How often a viewer may have a key picture: encoding one takes time from the other viewers."""

from __future__ import annotations

from millrace.units import NS_PER_S, HostNs

REFRESH_NS = NS_PER_S


class Refreshes:
    """The key pictures that one viewer asks for. The first comes at once."""

    def __init__(self) -> None:
        self.due_ns: HostNs | None = None
        """When the one that it has asked for comes; None if it waits for none."""
        self._last_ns: HostNs | None = None

    def allowed(self, now_ns: HostNs) -> bool:
        """It needs one: whether it comes now. If not, `due_ns` says when."""
        if self._last_ns is not None and now_ns < self._last_ns + REFRESH_NS:
            self.due_ns = self._last_ns + REFRESH_NS
            return False
        self._last_ns, self.due_ns = now_ns, None
        return True
