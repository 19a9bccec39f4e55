"""The sound that is played beside a picture, as a viewer sees it."""

from __future__ import annotations

from typing import Protocol

from millrace.units import HostNs, MediaNs


class OwnSound(Protocol):
    """The sound that is played beside the picture: `Listener` is one."""

    @property
    def number(self) -> int | None:
        """The number of its listener; None while it has none."""
        ...

    @property
    def picture_first(self) -> bool:
        """Whether no picture waits for it."""
        ...

    def heard_ns(self, now: HostNs) -> MediaNs | None:
        """The capture time, on the daemon's clock, of what is heard now; None without sound."""
        ...


class NoSound:
    """No sound is played beside the picture."""

    number = None
    picture_first = True

    def heard_ns(self, now: HostNs) -> MediaNs | None:
        """See `OwnSound`."""
        return None
