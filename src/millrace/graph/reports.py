"""What a graph reports besides changes of its nodes: audible trouble, and errors of what it calls."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from millrace.graph.model import Node
from millrace.units import HostNs

Trouble: TypeAlias = Literal["underrun", "late", "ring_corrupted", "unread", "overrun", "microphone"]
"""What a feed or a consumer noticed of its peer: a program's queue ran empty, a machine's sound was late, a ring had
impossible positions, a recorder did not read, a program wrote too much, a microphone's sound was late."""


class Reports(Protocol):
    """The receiver of reports."""

    def report_node(self, node: Node, what: Trouble, since_ns: HostNs) -> None:
        """Something was audible at a node. What caused it is not known here: `observe/diagnosis.py` finds out.

        `since_ns` is when its cause began, if known; 0 means now.
        """
        ...

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """This much sound was skipped; `cut` if that is because its cycles exceeded its share for too long."""
        ...

    def failed(self, node: Node, error: Exception) -> None:
        """A bug: a node's feed or consumer raised, and the node was removed; or an observer of the node raised."""
        ...


class Unreported:
    """Discards all reports, but raises errors again."""

    def report_node(self, node: Node, what: Trouble, since_ns: HostNs) -> None:
        """See `Reports`."""

    def left_out(self, left_out_ns: HostNs, cut: bool) -> None:
        """See `Reports`."""

    def failed(self, node: Node, error: Exception) -> None:
        """See `Reports`."""
        raise error


UNREPORTED = Unreported()
