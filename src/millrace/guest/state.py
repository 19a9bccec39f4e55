"""The state of a guest as a plain value, with which another guest can continue.

Connections are frozen first, with their streams and the requests that wait for a decision. Modules that programs have
loaded are not part of it yet.
"""

from __future__ import annotations

import msgspec

from millrace.doors.admission import Admission
from millrace.doors.frozen import read_frozen
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.samples import Sample
from millrace.graph.state import GraphState
from millrace.media.format import AudioFormat
from millrace.rights.grants import Permission, Verdict
from millrace.wire.pulse.tagstruct import Props

VERSION = 1
VERSIONS = range(max(1, VERSION - 1), VERSION + 1)
"""A guest continues from its own version and the one before. New fields have defaults."""


class SampleState(msgspec.Struct, frozen=True):
    """An uploaded sound."""

    index: int
    name: str
    format: AudioFormat
    data: bytes
    props: Props


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


class PulseDoorState(msgspec.Struct):
    """What the PulseAudio door holds for all its connections."""

    cookie: bytes
    samples: list[SampleState]
    default_source: int | None
    declared: dict[int, AudioFormat]

    @classmethod
    def of(cls, door: PulseDoor) -> PulseDoorState:
        """The state of a guest's door."""
        samples = [SampleState(one.index, one.name, one.format, bytes(one.data), one.props) for one in door.samples]
        default = door.default_source
        return cls(door.cookie, samples, None if default is None else default.id, door.declared)

    def give(self, door: PulseDoor) -> None:
        """Apply it to a new guest's, whose graph has the same nodes."""
        for one in self.samples:
            door.samples.store(Sample(one.index, one.name, one.format, one.data, one.props))
        door.default_source = next((mix for mix in door.graph.mixes() if mix.id == self.default_source), None)
        door.declared.update(self.declared)


class GuestState(msgspec.Struct, kw_only=True):
    """A guest between two cycles."""

    version: int = VERSION
    id: int
    microphone: int
    graph: GraphState
    admission: AdmissionState
    pulse: PulseDoorState


def read_guest(data: bytes) -> GuestState:
    """The state of a guest from its encoding; ConfigError if that is damaged or of an unknown version."""
    return read_frozen(data, GuestState, VERSIONS, "guest")
