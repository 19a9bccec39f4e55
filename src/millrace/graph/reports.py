"""What a graph tells of, besides the changes of its nodes: what could be heard."""

from __future__ import annotations

from typing import Protocol

from millrace.graph.model import Node
from millrace.units import HostNs


class Reports(Protocol):
    """Who hears of it."""

    def troubled(self, node: Node, what: str, since_ns: HostNs) -> None:
        """Something could be heard of a node: underrun, late, ring_corrupted, unread, overrun, microphone.

        `since_ns` is when its cause began, as far as that is known; 0 for now.
        """
        ...

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """So much sound was left out; whether that is because its cycles took more than its share for long."""
        ...


class Unreported:
    """Nobody."""

    def troubled(self, node: Node, what: str, since_ns: HostNs) -> None:
        """See `Reports`."""

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """See `Reports`."""


UNREPORTED = Unreported()
