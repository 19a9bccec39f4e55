"""The state of a guest as a plain value, with which another guest can continue.

The connections of the guest's own doors are part of it; their sockets are handed over separately. Those of the native
protocol are frozen by their servers, which are not the guest's.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from millrace.doors.admission import Admission
from millrace.doors.frozen import decoded, read_frozen
from millrace.doors.programs import DoorState, FrozenDoor
from millrace.graph.state import GraphState
from millrace.rights.grants import Permission, Verdict

VERSION = 2
VERSIONS = range(max(1, VERSION - 1), VERSION + 1)
"""A guest continues from its own version and the one before. New fields have defaults."""


class AdmissionState(msgspec.Struct):
    """The guest's grants, and its counters of refusals."""

    rules: list[tuple[Permission, str, Verdict]]
    refused_logins: int
    refused_captures: int

    @classmethod
    def of(cls, admission: Admission) -> AdmissionState:
        """The state of a guest's admission control."""
        return cls(list(admission.grants), admission.refused_logins, admission.refused_captures)

    def give(self, admission: Admission) -> None:
        """Apply it to a new guest's."""
        for what, program, verdict in self.rules:
            admission.grants.set(what, program, verdict)
        admission.refused_logins, admission.refused_captures = self.refused_logins, self.refused_captures


class GuestState(msgspec.Struct, kw_only=True):
    """A guest between two cycles."""

    version: int = VERSION
    id: int
    microphone: int
    graph: GraphState
    admission: AdmissionState
    doors: dict[str, DoorState] = {}
    """By the kind of the door."""


class FrozenGuest(NamedTuple):
    """A guest that is handed on, with what can't be put into a value."""

    state: GuestState
    fds: dict[str, list[int]]
    """The sockets of its connections, by the kind of the door. Whoever has this owns them."""

    def doors(self) -> dict[str, FrozenDoor]:
        """Its doors, by kind."""
        return {kind: FrozenDoor(door, self.fds.get(kind, [])) for kind, door in self.state.doors.items()}


class _Version1(msgspec.Struct):
    """What version 1 had in another place: only this door was part of it, without its connections."""

    pulse: msgspec.Raw


def read_guest(data: bytes) -> GuestState:
    """The state of a guest from its encoding; ConfigError if that is damaged or of an unknown version."""
    state = read_frozen(data, GuestState, VERSIONS, "guest")
    if state.version == 1:
        state.doors["pulse"] = DoorState(decoded(data, _Version1, "guest").pulse)
    return state
