"""What a graph reports besides changes of its nodes: audible trouble."""

from __future__ import annotations

from typing import Protocol

from millrace.graph.model import Node
from millrace.units import HostNs


class Reports(Protocol):
    """The receiver of reports."""

    def troubled(self, node: Node, what: str, since_ns: HostNs) -> None:
        """Something was audible at a node: underrun, late, ring_corrupted, unread, overrun, microphone.

        `since_ns` is when its cause began, if known; 0 means now.
        """
        ...

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """This much sound was skipped; `cut` if that is because its cycles exceeded its share for too long."""
        ...


class Unreported:
    """Discards all reports."""

    def troubled(self, node: Node, what: str, since_ns: HostNs) -> None:
        """See `Reports`."""

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """See `Reports`."""


UNREPORTED = Unreported()
