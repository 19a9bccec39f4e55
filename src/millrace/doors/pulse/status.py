"""Status and wording of the PulseAudio door's playback streams."""

from __future__ import annotations

from millrace.doors.ingress import IngressStatus, Stage, described, round_ms
from millrace.rights.grants import Identity
from millrace.units import HostNs


class PulseStatus(IngressStatus, frozen=True):
    """See `IngressStatus`."""

    identity: Identity | None = None
    """The program that owns the stream; None if no client does."""
    tlength_ns: HostNs = 0
    prebuf_ns: HostNs = 0

    @property
    def origin(self) -> str:
        """See `IngressStatus`."""
        return "it uses PulseAudio" + ("" if self.identity is None else f" from {described(self.identity)}")

    @property
    def buffer(self) -> str:
        """See `IngressStatus`."""
        asked, begins, fill = (round_ms(ns) for ns in (self.tlength_ns, self.prebuf_ns, self.fill_ns))
        return f"the application asked for {asked} and starts at {begins}; the buffer holds {fill} now"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """See `IngressStatus`."""
        return (Stage("client buffer", self.fill_ns, f"the application asked for {round_ms(self.tlength_ns)}"),)
