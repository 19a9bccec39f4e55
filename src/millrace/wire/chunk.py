"""The output of a core that sends descriptors."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Chunk:
    """Bytes to write, with the descriptors to send along; with `give`, those are closed here once they are sent."""

    data: bytearray = field(default_factory=bytearray)
    fds: tuple[int, ...] = ()
    give: bool = False
